"""An option is one field: what follows from it, and what each field promises."""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import sys
from collections.abc import Sequence
from dataclasses import field, replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import pytest
import small_nets

import mcuprune
from mcuprune import cli, options, pruning
from mcuprune.cli import COMMANDS, main
from mcuprune.costs.resources import Basis
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.options import Option, option
from mcuprune.train import request, tracking
from mcuprune.train.course import course
from mcuprune.train.methods import METHODS
from mcuprune.train.optimizers import OPTIMIZERS
from mcuprune.train.request import Request

ROOT = Path(__file__).parents[1]
#: Those that a configuration may set too.
SETTABLE = [one for one in options.of(Request) if one.in_config]


@pytest.fixture(autouse=True)
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    small_nets.save(small_nets.residual(), tmp_path / "net.onnx")


def configure(text: str) -> None:
    Path("mcuprune.toml").write_text(f"[prune]\n{text}\n")


def asked(monkeypatch, *words: str) -> Any:
    """The request that a command line comes to."""
    requests = []

    def prune(request, on_step, **more):
        requests.append(request)
        raise UsageError("seen")

    with monkeypatch.context() as patch:
        patch.setattr(pruning, "prune", prune)
        patch.setattr(tracking, "TRACKERS", {"stem": Mock(package="json"), "c1": Mock(package="json")})
        assert main(["prune", "net.onnx", "--macs", "50%", *words]) == 2
    (one,) = requests
    return one


# ----------------------------------------------------------------------------------------------- one field, and everywhere


@immutable
class Longer(Request):
    """A request with one option more, which is said here and nowhere else."""

    patience: int = option(
        5, help="Epochs without a gain before training stops.", group="Training", metavar="EPOCHS", least=1, needs="training"
    )


@pytest.fixture
def one_more(monkeypatch):
    for found in pkgutil.walk_packages(mcuprune.__path__, "mcuprune."):
        if not found.name.endswith("__main__"):
            import_module(found.name)  # whatever binds the class by its name would keep this one, were it imported later
    monkeypatch.setattr(request, "Request", Longer)
    for name in ("prune", "reference"):  # they see this one, and go with it
        monkeypatch.delitem(sys.modules, f"mcuprune.cli.{name}")
        monkeypatch.delattr(cli, name)


def test_a_field_is_a_flag_with_its_help(one_more, monkeypatch, capsys):
    assert main(["prune", "--help"]) == 0
    headings = capsys.readouterr().out.split("\n\n")
    (training,) = (part for part in headings if part.startswith("Training:"))
    (line,) = (line for line in training.splitlines() if "--patience" in line)
    assert line.split("  ")[1].strip() == "--patience EPOCHS"
    assert "Epochs without a gain before training stops." in " ".join(training.split())
    assert "[default: 5; from 1]" in " ".join(training.split())
    assert asked(monkeypatch, "--patience", "7").patience == 7
    assert asked(monkeypatch).patience == 5


@pytest.mark.parametrize("words", [["--patience", "0"], ["--patience", "soon"], ["--patience=1.0"], ["--patience="]])
def test_a_flag_takes_what_its_field_takes(one_more, words, capsys):
    assert main(["prune", "net.onnx", "--macs", "50%", *words]) == 2
    message = capsys.readouterr().err
    assert "'--patience'" in message
    assert message.endswith("is not a whole number from 1\n")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ('weight-bits = "7"', "weight-bits = '7' is a string, where a whole number is wanted; write it without quotes"),
        (
            'epochs = "3"',
            "epochs = '3' is a string, where a whole number from 1 to 2147483647 is wanted; write it without quotes",
        ),
        ('lr = "0.1"', "lr = '0.1' is a string, where a number is wanted; write it without quotes"),
        ("weight-bits = 9", "weight-bits = 9 is not known; there are 7, 8"),
        ('weight-bits = "9"', "weight-bits = '9' is a string, where a whole number is wanted; there are 7, 8"),
    ],
)
def test_a_number_in_quotes_is_told_to_be_a_string(capsys, said, wanted):
    configure(said)
    assert main(["prune", "net.onnx", "--macs", "50%"]) == 2
    assert capsys.readouterr().err == f"mcuprune: {Path.cwd()}/mcuprune.toml: prune: {wanted}\n"


def test_a_number_as_text_in_a_script_is_told_to_be_a_string():
    with pytest.raises(UsageError, match="'--weight-bits': '7' is a string, where a whole number is wanted"):
        mcuprune.prune("net.onnx", {"macs": "50%"}, train=False, weight_bits="7")  # type: ignore[arg-type]


def test_a_misspelt_flag_is_told_the_nearest(one_more, capsys):
    assert main(["prune", "net.onnx", "--patienc", "3"]) == 2
    assert "did you mean '--patience'?" in capsys.readouterr().err


def test_a_field_is_a_key_of_the_configuration(one_more, monkeypatch, capsys):
    configure("patience = 3")
    assert asked(monkeypatch).patience == 3
    assert asked(monkeypatch, "--patience", "4").patience == 4
    capsys.readouterr()
    for value in ("'soon'", "0", "2.5", "true"):
        configure(f"patience = {value}")
        assert main(["prune", "net.onnx", "--macs", "50%"]) == 2
        message = capsys.readouterr().err
        assert f"{Path.cwd()}/mcuprune.toml: prune: patience = " in message
        assert message.endswith("is not a whole number from 1\n")
    configure("patient = 3")
    for command in ("prune", "profile", "check"):
        assert main([command, "net.onnx"]) == 2
        assert "prune: unknown key 'patient'; did you mean 'patience'?" in capsys.readouterr().err


def told(request: Request) -> dict[str, str]:
    """What a run depends on."""
    return course(request, None)


def test_a_field_is_part_of_the_fingerprint_and_of_the_report(one_more, monkeypatch):
    first = asked(monkeypatch)
    assert told(first) == told(first)
    assert told(first) != told(replace(first, patience=6))
    flags = ["--no-train", "--float", "--report", "told", "--patience", "9", "-q"]
    assert main(["prune", "net.onnx", "--macs", "50%", *flags]) == 0
    report = json.loads(Path("told/report.json").read_text())
    assert report["options"]["patience"] == 9
    assert "| `patience` | 9 |" in Path("told/report.md").read_text()
    assert report["notes"][-1] == "no effect without training: --patience"


def test_a_field_is_a_line_of_the_reference(one_more):
    page = import_module("mcuprune.cli.reference").reference()
    prune = page[page.index("## prune") : page.index("## export")]
    assert (
        "| `--patience` | `5` | `EPOCHS` from 1 | `patience` | Epochs without a gain before training stops. |"
        in prune.splitlines()
    )


def test_a_field_is_checked_for_python_too(one_more, monkeypatch):
    with pytest.raises(UsageError, match="'--patience': 0 is not a whole number from 1"):
        pruning.prune(replace(asked(monkeypatch), patience=0))


# -------------------------------------------------------------------------------------------------- every option of a prune


def another(one: Option) -> Any:
    """A value that the option takes and doesn't have by default."""
    if one.choices:
        return one.choices[-1] if one.choices[-1] != one.default else one.choices[0]
    if one.kind is bool:
        return not one.default
    if one.repeated:
        return ("stem", "c1")
    texts = {"device": "cpu", "augment": "flip", "data": "digits", "optimizer": "sgd", "method": "uniform"}
    texts |= {"teacher": "net.onnx", "time": "30m"}
    shares = {"prune_start": 0.125, "prune_stop": 0.5}
    return {int: 4, float: shares.get(one.name, 0.25), str: texts.get(one.name, "elsewhere")}[one.kind]


def as_words(one: Option, value: Any) -> list[str]:
    if one.kind is bool:
        return [one.flag if value != one.switches_off else one.opposite]
    return [word for item in (value if one.repeated else [value]) for word in (one.flag, str(item))]


def as_toml(one: Option, value: Any) -> str:
    return f"{one.key} = {json.dumps(value != one.switches_off if one.kind is bool else value)}"


@pytest.mark.parametrize("one", SETTABLE, ids=lambda one: one.key)
def test_a_flag_and_a_key_come_to_the_same(one, monkeypatch):
    value = another(one)
    assert value != one.default
    by_flag = asked(monkeypatch, *as_words(one, value))
    configure(as_toml(one, value))
    by_key = asked(monkeypatch)
    assert getattr(by_flag, one.name) == getattr(by_key, one.name) == value
    assert type(getattr(by_flag, one.name)) is type(getattr(by_key, one.name))
    assert by_flag == replace(by_key, configuration=None)


@pytest.mark.parametrize("one", [one for one in SETTABLE if one.kind is bool], ids=lambda one: one.key)
def test_a_flag_switches_back_what_the_configuration_switches(one, monkeypatch):
    for value in (True, False):
        configure(as_toml(one, value))
        assert getattr(asked(monkeypatch), one.name) is value
        assert getattr(asked(monkeypatch, *as_words(one, not value)), one.name) is not value


@pytest.mark.parametrize(
    ("said", "typed", "kept"),
    [
        ("no-train = true\nmax-drop = '1%'", "--train", {"train": True, "max_drop": "1%"}),
        ("keep-weights = true", "--no-from-scratch", {"keep_weights": True}),
        ("from-scratch = true", "--no-keep-weights", {"from_scratch": True}),
    ],
)
def test_a_switch_that_is_typed_as_it_is_by_default_displaces_nothing(said, typed, kept, monkeypatch):
    configure(said)
    known = asked(monkeypatch, typed)
    assert {name: getattr(known, name) for name in kept} == kept


def test_a_whole_number_in_the_configuration_is_a_number(monkeypatch):
    """So that the same run is the same, whichever way it was asked for."""
    configure("lr = 1")
    by_key = asked(monkeypatch)
    Path("mcuprune.toml").unlink()
    assert told(by_key) == told(asked(monkeypatch, "--lr", "1"))


@pytest.mark.parametrize("one", options.of(Request), ids=lambda one: one.key)
def test_the_fingerprint_changes_with_all_that_changes_a_run(one):
    usual = Request("net.onnx", {}, "o.onnx")
    changed = replace(usual, **{one.name: another(one)})
    same = told(usual) == told(changed)
    # on another device a run may go on, though last digits differ
    assert same == (one.name in ("device", "output", "report", "resume", "track"))


def test_what_no_flag_sets_is_part_of_the_fingerprint_unless_it_says_otherwise():
    usual = Request("net.onnx", {}, "o.onnx")
    for change in ({"basis": Basis(sram="tflm")}, {"outputs": ("y",)}, {"input_shapes": {"x": (1, 3, 8, 8)}}):
        assert told(usual) != told(replace(usual, **change))
    assert told(usual) == told(replace(usual, configuration="mcuprune.toml"))


@pytest.mark.parametrize("text", ["３", "1_0", "1e3", " 3", "3 ", "0x3", "", "9" * 40])
def test_a_count_is_typed_in_plain_digits(text, capsys):
    assert main(["prune", "net.onnx", "--macs", "50%", f"--epochs={text}"]) == 2
    assert "'--epochs'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0.１", "1_0.0", "fast", ""])
def test_a_number_is_typed_in_plain_digits(text, capsys):
    assert main(["prune", "net.onnx", "--macs", "50%", f"--weight-decay={text}"]) == 2
    assert "is not a number from 0 to below 1" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "value"), [(["--lr", "1e-3"], 1e-3), (["--lr=.5"], 0.5), (["--lr", "+2"], 2.0)])
def test_numbers_may_have_an_exponent_and_a_sign(words, value, monkeypatch):
    assert asked(monkeypatch, *words).lr == value


def test_the_last_of_a_flag_counts_and_a_repeatable_one_gathers(monkeypatch):
    last = asked(monkeypatch, "--epochs", "2", "--keep", "stem", "--distill", "--epochs=3", "--keep=c1", "--no-distill")
    assert (last.epochs, last.keep, last.distill) == (3, ("stem", "c1"), False)


# ------------------------------------------------------------------------------------------------------------- the fields


@immutable
class Kinds:
    word: str = option("a", help="")
    words: Sequence[str] = option((), help="")
    maybe: float | None = option(None, help="")
    one_of: Literal["x", "y"] | None = option(None, help="")
    share: Fraction = option(Fraction(1), help="", parse=Fraction)
    off: bool = option(True, help="", key="no-off")
    hidden: int = field(default=3)


def test_a_field_says_its_name_type_and_default_itself():
    known = {one.name: one for one in options.of(Kinds)}
    assert list(known) == ["word", "words", "maybe", "one_of", "share", "off"]
    assert [(one.kind, one.repeated) for one in known.values()][:3] == [(str, False), (str, True), (float, False)]
    assert known["one_of"].choices == ("x", "y")
    assert known["one_of"].flag == "--one-of"
    assert known["off"].switches_off
    assert known["off"].of_words(True) is False
    assert known["off"].of_setting(False, "here") is True


def test_a_type_that_no_text_can_mean_is_refused():
    @immutable
    class Odd:
        shapes: dict[str, int] = option(None, help="")

    with pytest.raises(TypeError, match="give it a parse"):
        options.of(Odd)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_all_its_options_under_their_headings(command, capsys):
    reads = getattr(import_module(f"mcuprune.cli.{command}"), command).reads
    assert main([command, "--help"]) == 0
    sections = {part.split(":\n")[0]: " ".join(part.split()) for part in capsys.readouterr().out.split("\n\n")}
    for one in (one for kind in reads for one in options.each(kind)):
        section = sections["Arguments" if one.positional else one.group]
        assert one.help
        assert one.help.replace(" ", "") in section.replace(" ", "")  # a long word may be parted at its hyphen
        assert (one.metavar if one.positional else one.flag) in section


def test_the_parser_is_asked_by_its_public_names_alone():
    """A release that renames what is its own must not stop a command."""
    private = [
        f"{path.name}:{node.lineno} {ast.unparse(node)}"
        for path in sorted((ROOT / "mcuprune" / "cli").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and node.attr not in ("__name__", "__doc__", "__init__", "__signature__", "__annotations__")
        and ast.unparse(node.value) != "self"
    ]
    assert not private


def test_a_help_names_all_that_a_table_has():
    said = {option.name: f"{option.help} {option.metavar}" for option in options.of(Request)}
    for name, table in (("method", METHODS), ("optimizer", OPTIMIZERS), ("track", tracking.TRACKERS)):
        assert not [known for known in table if known not in said[name]]


# ------------------------------------------------------------------------------------------ what is typed, and what was said


@pytest.mark.parametrize(
    ("said", "typed", "left"),
    [
        ("epochs = 2", ["--train-compute", "1"], {"epochs": None, "train_compute": 1.0}),
        ('time = "3m"', ["--epochs", "1"], {"time": None, "epochs": 1}),
        ("no-train = true", ["--epochs", "1"], {"train": True, "epochs": 1}),
        ('max-drop = "1%"\nminimise = "flash"', ["--no-train"], {"max_drop": None, "minimise": None, "train": False}),
        ("from-scratch = true", ["--keep-weights"], {"from_scratch": False, "keep_weights": True}),
        ("epochs = 2", ["--batch", "8"], {"epochs": 2, "batch": 8}),
    ],
)
def test_what_is_typed_goes_before_what_the_configuration_says_of_the_same_question(monkeypatch, said, typed, left):
    configure(said)
    request = asked(monkeypatch, "--data", "digits", *typed)
    assert {name: getattr(request, name) for name in left} == left


def test_an_option_displaces_options_alone():
    names = {one.name for one in options.of(Request)}
    assert all({*one.displaces} <= names - {one.name} for one in options.of(Request))


# ---------------------------------------------------------------------------------------- what has no effect without training

UNTRAINED = ("prune", "net.onnx", "--macs", "50%", "--no-train", "--float", "-q", "-o", "small.onnx", "--report", "told")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--time", "3m", "--patience", "8"], ["training: --time, --patience"]),
        (["--teacher", "net.onnx"], ["training: --teacher"]),
        (["--no-distill"], ["training: --no-distill"]),
        (["--method", "uniform"], ["training: --method"]),
        (["--method", "at-init", "--epochs", "3"], ["training: --epochs"]),
        (["--score", "snip", "--from-scratch"], ["--method at-init: --score", "training: --from-scratch"]),
        (["--scale", "0.1", "--mean", "0.5", "--std", "2"], ["data: --scale, --mean, --std"]),
        (["--layout", "NHWC", "--colours", "BGR", "--classes", "nope.txt"], ["data: --layout, --colours, --classes"]),
        (["--frontend", "mfcc", "--task", "segment", "--unlabelled"], ["data: --frontend, --task, --unlabelled"]),
        (["--method", "at-init", "--score", "magnitude", "--from-scratch"], []),
        (["--seed", "3", "--min-channels", "2", "--multiple-of", "2"], []),
    ],
)
def test_what_has_no_effect_without_training_or_data_is_told_to_have_none(words, said):
    assert main([*UNTRAINED, *words]) == 0
    notes = json.loads(Path("told/report.json").read_text())["notes"]
    told = [note.removeprefix("no effect without ") for note in notes if note.startswith("no effect without ")]
    assert {frozenset(re.split("[:,] ", note)) for note in told} == {frozenset(re.split("[:,] ", note)) for note in said}


def test_a_teacher_that_is_not_there_is_one_message(capsys):
    configure('teacher = "nope"')
    for words in (UNTRAINED, ("prune", "net.onnx", "--macs", "100%", "--data", "digits", "-o", "small.onnx")):
        assert main([*words]) == 2
        assert capsys.readouterr().err == "mcuprune: --teacher nope: is no file; name a trained network that is there\n"
