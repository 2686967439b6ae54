"""mcuprune.toml and [tool.mcuprune]: what is found, what goes before what, what is refused."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

from mcuprune import config
from mcuprune.deploy.boards import board
from mcuprune.errors import UsageError
from mcuprune.units import Limit

PRUNE_KEYS = ("data", "no-train")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("a", "b"):
        (tmp_path / "models" / f"{name}.onnx").touch()
    return tmp_path


def read(text: str) -> config.Config:
    path = Path("mcuprune.toml").absolute()
    path.write_text(text)
    return config.load(path, PRUNE_KEYS)


def size(value: int) -> Limit:
    return Limit(Fraction(value), relative=False)


def test_a_model_inherits_what_it_does_not_say():
    found = read(
        'budget = { sram = "64KB", flash = "256KB" }\nsram-model = "tflm"\nmax-growth = "2%"\n'
        '[[model]]\npath = "models/a.onnx"\nbudget = { sram = "16KB" }\nagainst = "old/a.onnx"\n'
    )
    wanted = found.wanted("models/a.onnx")
    assert wanted.limits == {"sram": size(16384), "flash": size(262144)}
    assert wanted.sram_model == "tflm"
    assert wanted.max_growth == Fraction(1, 50)
    assert wanted.against == "old/a.onnx"


def test_a_model_that_the_file_does_not_name_has_the_common_budget():
    found = read('budget = { sram = "64KB" }\n[[model]]\npath = "models/a.onnx"\nbudget = { sram = "16KB" }\n')
    assert found.wanted("models/b.onnx").limits == {"sram": size(65536)}


def test_globs_name_several_models():
    found = read('budget = { sram = "64KB" }\n[[model]]\npath = "models/*.onnx"\n')
    assert [path for path, _ in found.models] == ["models/a.onnx", "models/b.onnx"]


@pytest.mark.parametrize("again", ["models/a.onnx", "./models/../models/a.onnx", "models/a*"])
def test_a_file_that_several_tables_match_is_held_to_all_of_them_a_later_one_first(again):
    found = read(
        '[[model]]\npath = "models/*.onnx"\nbudget = { sram = "64KB", macs = "1M" }\nruntime = "c"\n'
        f'[[model]]\npath = "{again}"\nbudget = {{ sram = "16KB", flash = "1KB" }}\n'
    )
    assert [path for path, _ in found.models] == ["models/a.onnx", "models/b.onnx"]
    assert found.wanted("models/a.onnx").limits == {"sram": size(16384), "macs": size(10**6), "flash": size(1024)}
    assert found.wanted("models/a.onnx").runtime == "c"
    assert set(found.wanted("models/b.onnx").limits) == {"sram", "macs"}


def test_paths_are_relative_to_the_file(here, monkeypatch):
    read('[[model]]\npath = "models/a.onnx"\n')
    (here / "sub").mkdir()
    monkeypatch.chdir(here / "sub")
    found = config.find(Path.cwd(), PRUNE_KEYS)
    assert os.path.samefile(found.models[0][0], here / "models" / "a.onnx")


def test_a_board_is_a_budget_and_a_limit_goes_before_it():
    found = read('board = "Nucleo-F767ZI"\nbudget = { sram = "10KB", macs = "10M" }\n')
    on = board("nucleo-f767zi")
    assert found.common.board == on.name
    assert found.common.limits == {"sram": size(10240), "flash": size(on.flash), "macs": Limit(Fraction(10**7), False)}


def test_a_models_own_board_goes_before_the_common_budget():
    found = read('budget = { sram = "10KB" }\n[[model]]\npath = "models/a.onnx"\nboard = "nucleo-f767zi"\n')
    assert found.wanted("models/a.onnx").limits["sram"] == size(board("nucleo-f767zi").block)


def test_numbers_and_shares_are_limits_too():
    found = read('budget = { sram = 65536, macs = "50%" }\n')
    assert found.common.limits == {"sram": size(65536), "macs": Limit(Fraction(1, 2), relative=True)}


def test_input_shapes_are_text_or_a_list():
    found = read('[[model]]\npath = "models/a.onnx"\ninput-shape = { x = "1,3,96,96", y = [1, 4] }\n')
    assert found.wanted("models/a.onnx").input_shapes == {"x": (1, 3, 96, 96), "y": (1, 4)}


def test_prune_has_the_flags_by_their_names():
    assert read('[prune]\ndata = "digits"\nno-train = true\n').prune == {"data": "digits", "no_train": True}


def test_the_nearest_file_counts_alone(here):
    (here / "mcuprune.toml").write_text('budget = { sram = "1KB" }\n')
    inner = here / "one" / "two"
    inner.mkdir(parents=True)
    (here / "one" / "pyproject.toml").write_text('[tool.mcuprune]\nbudget = { flash = "2KB" }\n')
    (inner / "pyproject.toml").write_text('[project]\ndependencies = ["mcuprune"]\n')
    assert config.find(inner, PRUNE_KEYS).common.limits == {"flash": size(2048)}
    assert config.find(here, PRUNE_KEYS).common.limits == {"sram": size(1024)}


def test_no_file_is_an_empty_configuration(tmp_path_factory):
    assert config.find(tmp_path_factory.mktemp("empty"), PRUNE_KEYS) == config.Config()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budgte = {}", "unknown key 'budgte'; did you mean 'budget'?"),
        ("budget = { ram = '1KB' }", "budget: unknown key 'ram'; did you mean 'sram'?"),
        ("xyz = 1", "unknown key 'xyz'; there are budget, "),
        ("[[model]]\npath = 'models/a.onnx'\nbudegt = {}", "model 1: unknown key 'budegt'; did you mean 'budget'?"),
        ("[prune]\ndate = 'digits'", "prune: unknown key 'date'; did you mean 'data'?"),
        ("[[model]]\nbudget = {}", "model 1: needs a path"),
        ("[[model]]\npath = 'none.onnx'", "model 1: no file matches path 'none.onnx'"),
        ("[model]\npath = 'models/a.onnx'", "'model' must be a list of tables"),
        ("model = [1]", "'model' must be a list of tables"),
        ("prune = 3", "'prune' must be a table"),
        ("budget = '64KB'", "'budget' must be a table"),
        ("budget = { sram = '64XB' }", "budget: sram: '64XB' is not a size"),
        ("budget = { sram = 1.5 }", "budget: sram = 1.5 is neither"),
        ("budget = { sram = true }", "budget: sram = True is neither"),
        ("sram-model = 'tflite'", "sram-model: 'tflite' is not known; did you mean 'tflm'?"),
        ("sram-model = ['peak']", "sram-model: ['peak'] is not known"),
        ("board = ''", "board: the name of the board is empty; `mcuprune boards` lists those that there are"),
        ("board = 'nucleo-f767'", "board: no board 'nucleo-f767'; did you mean nucleo-f767zi?"),
        ("board = 7", "board: 7 is not a string"),
        ("max-growth = '2'", "max-growth: '2' is not a share"),
        ("input-shape = { x = '1,b' }", "input-shape: '1,b' is not a shape"),
        ("budget = ", "not valid TOML"),
    ],
)
def test_what_can_not_be_understood_is_refused(text, said):
    with pytest.raises(UsageError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith(f"{Path.cwd() / 'mcuprune.toml'}: {said}")


def test_bytes_that_are_no_text_are_refused(here):
    (here / "mcuprune.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not valid TOML"):
        config.find(here, PRUNE_KEYS)


@pytest.mark.parametrize(("text", "share"), [("2%", Fraction(1, 50)), ("0%", Fraction(0)), (" 12.5 % ", Fraction(1, 8))])
def test_growth(text, share):
    assert config.growth(text) == share


@pytest.mark.parametrize("text", ["", "2", "-2%", "%", "two%"])
def test_what_is_no_growth_is_refused(text):
    with pytest.raises(UsageError, match="is not a share"):
        config.growth(text)
