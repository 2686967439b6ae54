"""The public face: what ``import mcuprune`` offers, as a stranger's script or notebook uses it."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import small_nets
from conftest import difference, feed, run
from graphs import Graph

import mcuprune
from mcuprune import options as declared
from mcuprune.cli import main
from mcuprune.costs import resources
from mcuprune.costs.resources import RESOURCES, columns
from mcuprune.data.preprocessing import from_metadata
from mcuprune.graph import network
from mcuprune.graph.network import Network
from mcuprune.train.request import Request

ROOT = Path(__file__).parents[1]
RESNET, DSCNN = (str(ROOT / "models" / f"{name}_digits.onnx") for name in ("resnet8", "dscnn"))


def python(program: str) -> str:
    """What a program prints that a new interpreter runs beside the models."""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


def arrays(seed: int = 0, examples: int = 60) -> dict[str, Any]:
    """Noise and labels for ``small_nets.residual``."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((examples, 3, 8, 8)).astype(np.float32)
    y = np.arange(examples) % 10
    return {"x_train": x, "y_train": y, "x_test": x[:20], "y_test": y[:20]}


@pytest.fixture
def in_memory() -> Network:
    """A network that is in no file."""
    return network.from_proto(small_nets.residual(), "built.onnx")


# ---------------------------------------------------------------------------------------------------------------- imports


def test_the_import_brings_no_module_and_profiles_bring_nothing_heavy() -> None:
    said = python(
        "import sys, mcuprune; print([m for m in sys.modules if m.startswith('mcuprune.')]);"
        "net = mcuprune.load('models/resnet8_digits.onnx'); mcuprune.profile(net)._repr_html_();"
        "assert mcuprune.check(net, mcuprune.Budget(sram='64KB', macs='99%')).excess; mcuprune.groups(net);"
        "print(sorted({'torch', 'onnxruntime', 'onnx2torch', 'sklearn', 'typer', 'rich'} & set(sys.modules)))"
    )
    assert said.splitlines() == ["[]", "[]"]


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Importing such a module would put it in the function's place."""
    folder = Path(mcuprune.__file__).parent
    assert not {path.stem for path in folder.iterdir()} & set(mcuprune.__all__)


def test_every_public_name_is_there_and_documented() -> None:
    for name in set(mcuprune.__all__) - {"__version__"}:
        assert name in dir(mcuprune)
        assert getattr(mcuprune, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mcuprune.nothing


@pytest.mark.parametrize("name", ["small.tflite", "small.c", "small.foo"])
def test_prune_writes_onnx_under_no_other_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(mcuprune.UsageError, match=r"what is written is ONNX.*mcuprune\.export"):
        mcuprune.prune(DSCNN, {"macs": "60%"}, train=False, output=tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_profile_is_not_checked_for_what_it_was_not_made_for() -> None:
    small = {"flash": "100KB"}
    of_c = mcuprune.profile(RESNET, runtime="c")
    assert mcuprune.check(of_c, small, flash_model="image").ok
    assert not mcuprune.check(RESNET, small, flash_model="image", runtime="tflm").ok
    with pytest.raises(mcuprune.UsageError, match="the profile was made for 'c'; make it with runtime='tflm'"):
        mcuprune.check(of_c, small, flash_model="image", runtime="tflm")
    fast = mcuprune.Budget(board="nucleo-f446re", latency="4ms")
    with pytest.raises(mcuprune.UsageError, match="the profile estimates no board; make it with board='nucleo-f446re'"):
        mcuprune.check(mcuprune.profile(RESNET), fast)
    assert "latency" in mcuprune.check(mcuprune.profile(RESNET, board="nucleo-f446re"), fast).used


def test_type_checkers_see_every_public_name() -> None:
    (block,) = (
        node
        for node in ast.parse(Path(mcuprune.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {name.asname for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert seen == set(mcuprune.__all__) - {"__version__"}


def test_a_verdict_is_true_where_it_fits(in_memory: Network) -> None:
    assert mcuprune.check(in_memory, mcuprune.Budget(macs="100%"))
    assert not mcuprune.check(in_memory, mcuprune.Budget(macs="50%"))


def test_the_family_of_errors_is_exported() -> None:
    for name in ("ModelError", "UnsupportedOperator", "UsageError", "BudgetError", "DataError", "MissingExtra", "OutputError"):
        assert issubclass(getattr(mcuprune, name), mcuprune.McupruneError)


@pytest.mark.parametrize("module", ["mcuprune", "mcuprune.face", "mcuprune.asking", "mcuprune.data.sets"])
def test_the_examples_of_the_documentation_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = {"np": np} | {name: getattr(mcuprune, name) for name in ("load", "profile", "check", "Budget", "prune", "export")}
    found = doctest.testmod(import_module(module), extraglobs=names)
    assert found.attempted > 0
    assert found.failed == 0


# ---------------------------------------------------------------------------------------------- load, profile and check


def test_a_network_and_its_path_are_answered_alike() -> None:
    net = mcuprune.load(Path(RESNET))
    assert mcuprune.profile(net).total == mcuprune.profile(RESNET).total == mcuprune.profile(Path(RESNET)).total
    assert mcuprune.profile(net).arena == mcuprune.profile(net).memory.arena_tflm
    assert [group.name for group in mcuprune.groups(net)] == [group.name for group in mcuprune.profile(RESNET).groups]
    assert all(group.removable for group in mcuprune.groups(net).removable)


def test_load_fixes_shapes_ends_networks_and_refuses_operators_by_name(tmp_path: Path) -> None:
    path = small_nets.save(small_nets.residual(), tmp_path / "net.onnx")
    assert mcuprune.load(path, outputs=["sum"]).outputs == ("sum",)
    g = Graph(1, 3, 8, 8)
    unknown = g.model(g.add("Det", g.add("MatMul", "x", "x")))
    with pytest.raises(mcuprune.UnsupportedOperator, match=r"unknown\.onnx: node 'det1'.*Det"):
        mcuprune.load(small_nets.save(unknown, tmp_path / "unknown.onnx"))
    with pytest.raises(mcuprune.ModelError, match=r"none\.onnx"):
        mcuprune.load(tmp_path / "none.onnx")


@pytest.mark.parametrize("name", columns())
def test_limits_are_inclusive(name: str) -> None:
    used = mcuprune.profile(RESNET).total[name]
    assert mcuprune.check(RESNET, mcuprune.Budget(**{name: used})).ok
    assert mcuprune.check(RESNET, {name: used - 1}).excess == {name: 1}
    assert mcuprune.check(RESNET, {name: "100%"}).ok
    assert not mcuprune.check(RESNET, {name: "99.9%"}).ok


def test_a_budget_reads_what_the_command_line_reads(capsys: pytest.CaptureFixture[str]) -> None:
    budget = mcuprune.Budget(sram="64KB", flash="256kB", macs="25%")
    own = mcuprune.profile(RESNET).macs
    assert budget.limits_of(RESNET) == {"sram": 65536, "flash": 256_000, "macs": own // 4}
    main(["check", RESNET, "--sram", "64KB", "--flash", "256kB", "--macs", "25%", "--format", "json"])
    limits = json.loads(capsys.readouterr().out)["models"][0]["limits"]
    verdict = mcuprune.check(RESNET, budget)
    assert {key: (row["used"], row["limit"]) for key, row in limits.items()} == {
        key: (verdict.used[key], verdict.limits[key]) for key in limits
    }


def test_what_is_no_budget_is_refused_with_what_would_be() -> None:
    for wrong, said in (
        ({"srma": "64KB"}, "did you mean 'sram'"),
        ({"sram": "64 potatoes"}, "sram: '64 potatoes' is not a size"),
        ({"sram": 0.5}, "write it like '64KB', 65536 or '50%'"),
        ({"sram": True}, "neither text nor a whole number"),
        ({"sram": -1}, "'-1' is not a size"),
        ({"board": "toaster"}, "toaster"),
    ):
        with pytest.raises(mcuprune.UsageError, match=said):
            mcuprune.Budget(**wrong)
    with pytest.raises(mcuprune.UsageError, match="no limit"):
        mcuprune.check(RESNET, {})
    with pytest.raises(mcuprune.BudgetError, match="comes to 0"):
        mcuprune.check(RESNET, {"flash": "0.0001%"})


@pytest.mark.parametrize("given", [{"sram": "64KB", "macs": "12.5%"}, {"board": "nucleo-f767zi"}, {"flash": 3}, {}], ids=str)
def test_the_text_of_a_budget_makes_it_again(given: dict[str, Any]) -> None:
    budget = mcuprune.Budget(**given)
    assert eval(repr(budget), {"Budget": mcuprune.Budget}) == budget


def test_on_a_board_the_arena_has_to_fit_unless_something_else_is_asked_for() -> None:
    budget, cost = mcuprune.Budget(board="nucleo-f767zi", flash="1KB"), mcuprune.profile(RESNET)
    assert budget.limits_of(RESNET)["flash"] == 1024
    assert mcuprune.check(RESNET, budget).used["sram"] == cost.arena
    assert mcuprune.check(cost, budget, sram_model="peak").used["sram"] == cost.sram
    assert mcuprune.check(cost, {"sram": "1KB"}, sram_model="max-in-out").used["sram"] == cost.memory.max_in_out


# ------------------------------------------------------------------------------------------------------------------- prune


@pytest.mark.parametrize("int8", [False, True])
def test_a_network_in_memory_becomes_the_file_that_its_file_becomes(int8: bool, in_memory: Network, tmp_path: Path) -> None:
    path = small_nets.save(small_nets.residual(), tmp_path / "built.onnx")
    options: dict[str, Any] = {"train": False, "int8": int8}
    there = mcuprune.prune(path, {"macs": "50%"}, output=tmp_path / "a.onnx", **options)
    here = mcuprune.prune(in_memory, {"macs": "50%"}, output=tmp_path / "b.onnx", **options)
    assert here.ok
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert here.after.total == there.after.total == mcuprune.profile(here.network).total


def test_it_is_the_network_as_it_is_in_memory_that_is_pruned(tmp_path: Path) -> None:
    path = small_nets.save(small_nets.residual(), tmp_path / "net.onnx")
    net = mcuprune.load(path)
    changed = net.with_constants({"fc.b": np.arange(10, dtype=np.float32)})
    result = mcuprune.prune(changed, {"macs": "50%"}, train=False, int8=False)
    assert result.network.constants["fc.b"].tolist() == list(range(10))


def test_arrays_in_memory_train_the_file_that_an_archive_of_them_trains(in_memory: Network, tmp_path: Path) -> None:
    data = arrays()
    np.savez(tmp_path / "d.npz", **data)
    given = {"npz": str(tmp_path / "d.npz"), "path": tmp_path / "d.npz", "mapping": data, "object": SimpleNamespace(**data)}
    written = {}
    for name, one in given.items():
        output = tmp_path / f"{name}.onnx"
        result = mcuprune.prune(in_memory, {"macs": "60%"}, data=one, output=output, epochs=2, batch=20, seed=3)
        assert result.accuracy_int8 is not None
        written[name] = output.read_bytes()
    assert result.data == "arrays"
    assert len(set(written.values())) == 1


def test_arrays_that_do_not_fit_are_refused_by_name(in_memory: Network) -> None:
    for wrong, said in (
        ({**arrays(), "x_test": np.zeros((20, 3, 9, 9))}, "x_test has shape"),
        ({key: value for key, value in arrays().items() if key != "y_train"}, "no array 'y_train'"),
        (SimpleNamespace(x_train=np.zeros(3)), "x_train has shape"),
        ({**arrays(), "y_train": np.full(60, 11)}, "labels from 11 to 11"),
    ):
        with pytest.raises(mcuprune.DataError, match=said):
            mcuprune.prune(in_memory, {"macs": "60%"}, data=wrong, epochs=1)


class Seen(mcuprune.Callback):
    def __init__(self) -> None:
        self.steps: list[mcuprune.Step] = []
        self.epochs: list[mcuprune.Step] = []
        self.ends: list[mcuprune.Result] = []

    def on_step(self, step: mcuprune.Step) -> None:
        self.steps.append(step)

    def on_epoch(self, step: mcuprune.Step) -> None:
        self.epochs.append(step)

    def on_end(self, result: mcuprune.Result) -> None:
        self.ends.append(result)


def test_callbacks_see_steps_epochs_and_the_end_and_nothing_is_left(
    in_memory: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen, lines = Seen(), []
    result = mcuprune.prune(in_memory, {"macs": "60%"}, data=arrays(), callbacks=[seen, lines.append], epochs=3, batch=20)
    assert list(tmp_path.iterdir()) == []
    assert [step.epoch for step in seen.epochs] == [1.0, 2.0, 3.0]
    assert seen.steps == lines
    assert all(step in seen.steps for step in seen.epochs)
    assert seen.ends == [result]
    assert result.network.path == result.after.path == result.request.output == "built-pruned.onnx"
    assert dict(seen.epochs[-1].costs) == {name: result.after.total[name] for name in RESOURCES if name in result.after.total}


def test_an_interrupted_run_on_what_is_in_memory_goes_on_and_only_on_the_same(in_memory: Network, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 3, "batch": 20, "seed": 1}

    def interrupt(step: mcuprune.Step) -> None:
        if step.epoch >= 2:
            raise KeyboardInterrupt

    whole, part = tmp_path / "whole.onnx", tmp_path / "part.onnx"
    mcuprune.prune(in_memory, {"macs": "60%"}, data=arrays(), output=whole, **options)
    with pytest.raises(KeyboardInterrupt):
        mcuprune.prune(in_memory, {"macs": "60%"}, data=arrays(), output=part, callbacks=[interrupt], **options)
    other = in_memory.with_constants({"fc.b": np.ones(10, np.float32)})
    for net, data in ((other, arrays()), (in_memory, arrays(seed=5))):
        with pytest.raises(mcuprune.UsageError, match="another command, model"):
            mcuprune.prune(net, {"macs": "60%"}, data=data, output=part, resume=True, **options)
    mcuprune.prune(in_memory, {"macs": "60%"}, data=arrays(), output=part, resume=True, **options)
    assert part.read_bytes() == whole.read_bytes()


def test_prune_takes_every_option_of_the_command_line_by_its_name() -> None:
    """So ``tests/typed_face.py`` speaks for all of them; an ``output`` and ``data`` of a script may be objects too."""
    parameters = inspect.signature(mcuprune.prune).parameters
    assert [option.name for option in declared.of(Request) if option.name not in parameters] == []
    assert list(parameters)[:2] == ["net", "budget"]
    assert parameters["epochs"].annotation == "int | None"
    assert parameters["batch"].default == 64
    with pytest.raises(TypeError, match="missing a required argument: 'budget'"):
        mcuprune.prune("net.onnx")  # type: ignore[call-arg]


def test_mistakes_are_said_before_any_work(in_memory: Network) -> None:
    for options, said in (
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"limits": {}}, "no option 'limits'"),
        ({"input_shapes": {"x": (1, 3, 8, 8)}}, "give them to load"),
        ({"callbacks": [3]}, "not an object of type int"),
    ):
        with pytest.raises(mcuprune.UsageError, match=said):
            mcuprune.prune(in_memory, {"macs": "60%"}, train=False, **options)
    with pytest.raises(mcuprune.UsageError, match="needs a limit"):
        mcuprune.prune(in_memory, mcuprune.Budget(), train=False)
    with pytest.raises(mcuprune.BudgetError, match=r"built\.onnx: the budget can't be held"):
        mcuprune.prune(in_memory, {"macs": 100}, train=False)


NO_TRAINING = {"train": False, "int8": False}
HALF = {"macs": "50%"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda net: mcuprune.load(3), "type int is no network"),
        (lambda net: mcuprune.load(net), "has been read"),
        (lambda net: mcuprune.load(onnx.load(RESNET)), "ModelProto is no network.*onnx.save"),
        (lambda net: mcuprune.load(RESNET, input_shapes=(1, 1, 16, 16)), "write shapes by inputs"),
        (lambda net: mcuprune.load(RESNET, input_shapes={"image": "1,1,16,16"}), "write shapes by inputs"),
        (lambda net: mcuprune.load(RESNET, input_shapes={"image": (1, 1, 16.0, 16)}), "write shapes by inputs"),
        (lambda net: mcuprune.profile(None), "type NoneType is no network"),
        (lambda net: mcuprune.profile(net, runtime="tflite"), "runtime = 'tflite' is not known"),
        (
            lambda net: mcuprune.check(net, {"macs": "2M"}, flash_model="image"),
            "flash_model = 'image': the budget has no limit",
        ),
        (lambda net: mcuprune.Budget(board=3), "board = 3 is no name"),
        (lambda net: mcuprune.check(net, "64KB"), "'64KB' is no budget"),
        (lambda net: mcuprune.check(net, HALF, sram_model="arena"), "sram_model = 'arena' is not known"),
        (lambda net: mcuprune.check(net, HALF, flash_model="files"), "flash_model = 'files'.*did you mean 'file'"),
        (lambda net: mcuprune.groups(3), "type int is no network"),
        (lambda net: mcuprune.prune(net, None, **NO_TRAINING), "None is no budget"),
        (lambda net: mcuprune.prune(3, HALF, **NO_TRAINING), "type int is no network"),
        (lambda net: mcuprune.prune(net, HALF, train="no"), "'--no-train': 'no' is not true or false"),
        (lambda net: mcuprune.prune(net, HALF, float=True, **NO_TRAINING), "no option 'float'; write int8=False"),
        (lambda net: mcuprune.prune(net, HALF, no_train=True), "no option 'no_train'; write train=False"),
        (lambda net: mcuprune.prune(net, HALF, keep="stem", **NO_TRAINING), "'--keep': 'stem' is not a list of strings"),
        (lambda net: mcuprune.prune(net, HALF, callbacks=print, **NO_TRAINING), "callbacks is a list"),
        (lambda net: mcuprune.prune(net, HALF, sram_model="arena", **NO_TRAINING), "sram_model = 'arena'"),
        (lambda net: mcuprune.export(mcuprune.prune(net, HALF, **NO_TRAINING), "x.onnx"), "its network is result.network"),
        (lambda net: mcuprune.verify(3), "type int is no network"),
        (lambda net: mcuprune.verify(RESNET, examples=0), "'--examples': 0 is not a whole number from 1"),
        (lambda net: mcuprune.verify(RESNET, task="clasify"), "task = 'clasify' is not known; did you mean 'classify'"),
        (lambda net: mcuprune.verify(net, outputs=["sum"]), "verify: outputs: for a path; give them to load"),
        (lambda net: mcuprune.Pruner(net, "50%"), "'50%' is no budget"),
    ],
)
def test_a_wrong_argument_is_a_message(call: Any, said: str, in_memory: Network) -> None:
    with pytest.raises(mcuprune.UsageError, match=said):
        call(in_memory)


def test_numbers_and_paths_of_other_libraries_are_taken(in_memory: Network, tmp_path: Path) -> None:
    budget = mcuprune.Budget(macs=np.int64(10**6))
    assert budget.limits == mcuprune.Budget(macs=10**6).limits
    told = tmp_path / "told"
    result = mcuprune.prune(in_memory, budget, seed=np.int64(3), min_channels=np.int32(2), report=told, **NO_TRAINING)
    document = json.loads((told / "report.json").read_text())
    assert (document["seed"], document["options"]["min_channels"], result.request.report) == (3, 2, str(told))
    assert mcuprune.check(RESNET, {"board": "nucleo-f446re"}) == mcuprune.check(RESNET, mcuprune.Budget(board="nucleo-f446re"))


def test_a_network_in_memory_that_cannot_be_verified_is_named_as_it_was_read() -> None:
    with pytest.raises(mcuprune.ModelError, match=f"^{RESNET}: is a float model"):
        mcuprune.verify(mcuprune.load(RESNET))


def test_a_report_is_written_where_it_is_asked_for(in_memory: Network, tmp_path: Path) -> None:
    result = mcuprune.prune(in_memory, {"macs": "60%"}, train=False, int8=False, report=str(tmp_path / "r"))
    found = json.loads((tmp_path / "r" / "report.json").read_text())
    assert found["after"]["total"] == result.after.total
    assert (tmp_path / "r" / "report.md").read_text().startswith("#")


# ---------------------------------------------------------------------------------------------------- export and verify


def test_export_writes_the_same_network_and_never_over_the_model(in_memory: Network, tmp_path: Path) -> None:
    path = mcuprune.export(in_memory, tmp_path / "new" / "net.onnx")
    proto, inputs = small_nets.residual(), feed(small_nets.residual())
    assert difference(run(onnx.load(path), inputs), run(proto, inputs)) == 0
    with pytest.raises(mcuprune.OutputError, match="is the model"):
        mcuprune.export(path, path)
    with pytest.raises(mcuprune.UsageError, match=r"suffix says the format; it is one of .onnx, .tflite"):
        mcuprune.export(path, tmp_path / "net.bin")


def test_an_int8_network_in_memory_exports_as_its_file_does(in_memory: Network, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers")
    with pytest.raises(mcuprune.UsageError, match="float model"):
        mcuprune.export(in_memory, tmp_path / "net.tflite")
    assert not (tmp_path / "net.tflite").exists()
    result = mcuprune.prune(in_memory, {"macs": "60%"}, train=False, output=tmp_path / "int8.onnx")
    one, other = tmp_path / "one.tflite", tmp_path / "other.tflite"
    mcuprune.export(result.network, one)
    mcuprune.export(tmp_path / "int8.onnx", other)
    assert one.read_bytes() == other.read_bytes()
    mcuprune.export(in_memory, tmp_path / "quantised.tflite", data=arrays())
    assert (tmp_path / "quantised.tflite").read_bytes()[4:8] == b"TFL3"


@pytest.mark.usefixtures("in_process")
def test_a_script_says_how_what_it_exports_is_fed(in_memory: Network, tmp_path: Path) -> None:
    written = mcuprune.export(in_memory, tmp_path / "int8.onnx", data=arrays(), scale="0-1", std="0.5")
    how = from_metadata(mcuprune.load(written).metadata)
    assert how is not None
    assert (how.scale, how.std) == (1 / 255, (0.5,))
    with pytest.raises(mcuprune.UsageError, match=r"export: --scale: is about data, and none are given"):
        mcuprune.export(in_memory, tmp_path / "same.onnx", scale="0-1")
    with pytest.raises(mcuprune.UsageError, match=r"export: no option 'scales'; did you mean 'scale'\?"):
        mcuprune.export(in_memory, tmp_path / "same.onnx", data=arrays(), scales="0-1")
    with pytest.raises(mcuprune.UsageError, match=r"--layout"):
        mcuprune.export(in_memory, tmp_path / "same.onnx", data=arrays(), layout="NWHC")
    with pytest.raises(mcuprune.UsageError, match=r"--mean"):
        mcuprune.export(in_memory, tmp_path / "same.onnx", data=arrays(), mean=0.5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("in_process")
def test_a_network_is_verified_as_its_file_is(in_memory: Network, tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    result = mcuprune.prune(in_memory, {"macs": "60%"}, train=False, output=tmp_path / "int8.onnx")
    verified = mcuprune.verify(result.network, examples=3, data=arrays())
    assert verified.ok
    assert verified.examples == {"random": 3, "arrays": 3}
    assert "EQUAL" in drawn(verified)
    assert mcuprune.verify(tmp_path / "int8.onnx", examples=3).ok


# ------------------------------------------------------------------------------------------------------------- notebooks

EVIL = '<script>alert("x")</script>&'


def drawn(thing: Any) -> str:
    """What a notebook shows: HTML that parses, with a table, and nothing from elsewhere."""
    html = str(thing._repr_html_())
    ElementTree.fromstring(f"<div>{html}</div>")
    assert "<table>" in html
    outside = html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not any(word in outside for word in ("http", "src=", "@import", "<link"))
    assert "<script" not in html
    return html


def test_objects_draw_themselves_with_names_of_strangers_escaped(in_memory: Network) -> None:
    proto = small_nets.residual()
    for node in proto.graph.node:
        node.name = f"{EVIL}{node.name}"
    net = network.from_proto(proto, f"{EVIL}.onnx")
    cost = mcuprune.profile(net)
    assert "<svg" in drawn(net)
    assert str(cost.memory.peak_node).startswith(EVIL)
    assert drawn(cost) == drawn(net)
    assert drawn(mcuprune.groups(net)).count("<tr>") == 1 + len(cost.groups)
    assert "over by" in drawn(mcuprune.check(net, {"sram": 100, "macs": "100%"}))
    result = mcuprune.prune(net, {"macs": "60%"}, train=False, int8=False)
    assert "<b>fits</b>" in drawn(result)


def test_a_network_that_can_not_be_measured_says_why_in_its_place(in_memory: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(net: Network) -> None:
        raise mcuprune.UnsupportedOperator(f"{EVIL}: no entry")

    monkeypatch.setattr(resources, "profile", refuse)
    html = str(mcuprune.load(RESNET)._repr_html_())
    assert html.startswith("<p>&lt;script&gt;")
    assert html.endswith("no entry</p>")


def test_what_a_prompt_shows_of_an_object_is_a_line() -> None:
    net = mcuprune.load(RESNET)
    budget = mcuprune.Budget(macs="50%")
    result = mcuprune.prune(net, budget, method="magnitude", train=False)
    shown = [
        net,
        mcuprune.profile(net),
        mcuprune.check(net, budget),
        mcuprune.groups(net),
        result,
        mcuprune.Pruner(net, budget),
    ]
    for thing in shown:
        assert len(repr(thing)) < 600
        assert repr(thing).isprintable()
    assert "resnet8_digits.onnx" in repr(net)
    assert f"macs {result.verdict.used['macs']} of {result.verdict.limits['macs']}" in repr(result)


@pytest.mark.parametrize(
    "call",
    [
        lambda net: mcuprune.load("net.onnx", outputs=[3]),
        lambda net: mcuprune.load("net.onnx", outputs=3),
        lambda net: mcuprune.profile(net, board=3),
        lambda net: mcuprune.check(net, {3: "64KB"}),
        lambda net: mcuprune.export(net, None),
        lambda net: mcuprune.export(net, 3),
        lambda net: mcuprune.prune(net, {"macs": "60%"}, train=False, output=3),
        lambda net: mcuprune.prune(net, {"macs": "60%"}, train=False, report=3),
        lambda net: mcuprune.prune(net, {"macs": "60%"}, train=False, track="tensorboard"),
    ],
)
def test_values_of_the_wrong_type_are_a_message(call: Any, in_memory: Network) -> None:
    with pytest.raises(mcuprune.UsageError):
        call(in_memory)
