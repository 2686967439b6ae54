"""Folders of ``export --project``: what Arduino, Zephyr and ESP-IDF ask of their files, and that the code in them runs.

The rules are those that the makers publish: Arduino's library specification (1.5 format), Zephyr's application and twister
documentation, and ESP-IDF's build system and component manager documentation.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_nets
from conftest import run
from graphs import Graph
from hypothesis import given
from hypothesis import strategies as st
from test_tflite import int8, model_of

from mcuprune import cli, exporting, handiwork, places
from mcuprune.costs.resources import Basis, profile
from mcuprune.data import preprocessing
from mcuprune.data.preprocessing import Preprocessing
from mcuprune.deploy import project
from mcuprune.deploy.kernels import KERNELS
from mcuprune.deploy.project import PROJECTS, name_of
from mcuprune.errors import DataError, OutputError
from mcuprune.graph import network
from mcuprune.operators import table as ops
from mcuprune.run import runners

if runners.compiler() is None:
    pytest.skip("no C compiler here", allow_module_level=True)

#: Stems of files that would break some project if they were taken as they are.
STEMS = ("main", "9 lives", "n" * 90)
FLAGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Path(int8(small_nets.residual(), tmp_path_factory.mktemp("int8") / "net.onnx")).read_bytes()


def written(kind: str, stem: str, quantised: bytes, folder: Path) -> Path:
    model, out = folder / f"{stem}.onnx", folder / "out"
    model.write_bytes(quantised)
    exporting.export(exporting.Request(str(model), None, project=(kind, str(out))))
    return out


def network_of(folder: Path, place: str) -> str:
    """The name that the files carry: of the one header beside the example's."""
    (header,) = (path for path in (folder / place).glob("*.h") if not path.name.endswith("_example.h"))
    assert header.with_suffix(".c").exists()
    return header.stem


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a CMakeLists.txt in order, each with its words."""
    return [(name.lower(), words.split()) for name, words in re.findall(r"^\s*(\w+)\(([^)]*)\)", text, re.MULTILINE)]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", PROJECTS)
def test_projects_have_what_firmware_does_to_raw_values(kind: str, quantised: bytes, tmp_path: Path) -> None:
    model = onnx.load_from_string(quantised)
    model.metadata_props.add(key=preprocessing.KEY, value=json.dumps(Preprocessing(layout="NCHW", scale=0.25).document()))
    folder = written(kind, "net", model.SerializeToString(), tmp_path)
    (header,) = folder.rglob("net.h")
    assert "#define NET_RAW_SCALE 0.25f" in header.read_text()


@pytest.mark.usefixtures("in_process")
def test_two_arduino_libraries_run_their_own_example(quantised: bytes, tmp_path: Path) -> None:
    """Headers of all libraries lie in one include path: a file of the same name would be that of the first."""
    headers = []
    for stem in ("one", "two"):
        (tmp_path / stem).mkdir()
        headers.append({path.name for path in written("arduino", stem, quantised, tmp_path / stem).glob("src/*.h")})
    assert headers == [{"one.h", "one_example.h"}, {"two.h", "two_example.h"}]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("stem", STEMS)
def test_an_arduino_library_keeps_the_librarys_specification(stem: str, quantised: bytes, tmp_path: Path) -> None:
    folder = written("arduino", stem, quantised, tmp_path)
    lines = (folder / "library.properties").read_text().splitlines()
    fields = dict(line.split("=", 1) for line in lines)
    assert len(fields) == len(lines)
    required = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert required <= set(fields) <= required | {"includes", "depends", "dot_a_linkage", "precompiled", "ldflags"}
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}", fields["name"])
    assert not fields["name"].lower().startswith("arduino")
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields["version"])
    categories = "Display|Communication|Signal Input/Output|Sensors|Device Control|Timing|Data Storage|Data Processing|Other"
    assert fields["category"] in categories.split("|")
    assert fields["url"].startswith("https://")
    assert re.fullmatch(r"\*|[a-z0-9_]+(,[a-z0-9_]+)*", fields["architectures"])
    assert fields["includes"] == f"{network_of(folder, 'src')}.h"
    for sketch in (folder / "examples").iterdir():
        assert (sketch / f"{sketch.name}.ino").exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("stem", STEMS)
def test_a_zephyr_application_has_its_files(stem: str, quantised: bytes, tmp_path: Path) -> None:
    folder = written("zephyr", stem, quantised, tmp_path)
    listed = commands((folder / "CMakeLists.txt").read_text())
    assert [name for name, _ in listed][:4] == ["cmake_minimum_required", "find_package", "project", "target_sources"]
    assert listed[4:] == [
        ("if", ["CONFIG_CMSIS_NN"]),
        ("target_compile_definitions", ["app", "PRIVATE", "MCUPRUNE_CMSIS_NN"]),
        ("endif", []),
    ]
    assert listed[1][1][:2] == ["Zephyr", "REQUIRED"]
    target, scope, *sources = listed[3][1]
    assert (target, scope) == ("app", "PRIVATE")
    assert set(sources) == {path.relative_to(folder).as_posix() for path in folder.rglob("*.c")}
    for line in (folder / "prj.conf").read_text().splitlines():
        assert re.fullmatch(r'CONFIG_[A-Z0-9_]+=(y|n|\d+|0x[0-9a-fA-F]+|".*")', line)
    assert re.findall(r'^source "Kconfig.zephyr"$', (folder / "Kconfig").read_text(), re.MULTILINE)
    yaml = pytest.importorskip("yaml")
    sample = yaml.safe_load((folder / "sample.yaml").read_text())
    assert set(sample) == {"sample", "tests"}
    assert sample["sample"]["name"]
    for scenario, settings in sample["tests"].items():
        assert re.fullmatch(r"[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)+", scenario)
        assert set(settings) <= {"tags", "integration_platforms", "platform_allow", "harness", "harness_config", "min_ram"}
        assert all(re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_]+)*", board) for board in settings["integration_platforms"])


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("stem", STEMS)
def test_an_esp_idf_project_has_its_files(stem: str, quantised: bytes, tmp_path: Path) -> None:
    folder = written("esp-idf", stem, quantised, tmp_path)
    listed = commands((folder / "CMakeLists.txt").read_text())
    assert [name for name, _ in listed] == ["cmake_minimum_required", "include", "project"]
    assert tuple(map(int, listed[0][1][1].split("."))) >= (3, 16)
    assert listed[1][1] == ["$ENV{IDF_PATH}/tools/cmake/project.cmake"]
    (name, words), *optional = commands((folder / "main" / "CMakeLists.txt").read_text())
    config = (folder / "main" / "Kconfig.projbuild").read_text()
    assert [words for _, words in optional] == [
        ["CONFIG_MCUPRUNE_ESP_NN"],
        ["${COMPONENT_LIB}", "PUBLIC", "MCUPRUNE_ESP_NN"],
        [],
    ]
    assert config.startswith("config MCUPRUNE_ESP_NN\n")
    assert name == "idf_component_register"
    assert words[0] == "SRCS"
    named = {word.strip('"') for word in words[1 : words.index("INCLUDE_DIRS")]}
    assert named == {path.name for path in (folder / "main").glob("*.c")}
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((folder / "main" / "idf_component.yml").read_text())
    known = (
        "version description url repository documentation issues discussion license targets dependencies files tags maintainers"
    )
    assert set(manifest) <= {*known.split(), "examples"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(~\d+)?", manifest["version"])
    assert re.fullmatch(r"(>=|~|\^|==)?\d+(\.\d+)*", manifest["dependencies"]["idf"])
    assert re.search(r"^void app_main\(void\)", (folder / "main" / "main.c").read_text(), re.MULTILINE)


def said_by(kind: str, folder: Path, work: Path) -> str:
    """What a project prints, compiled in ``work`` as the kind's tools do: with the folder of the sources on the path."""
    place = {"arduino": "src", "cmake": ".", "esp-idf": "main", "zephyr": "src"}[kind]
    sources = [str(path) for path in (folder / place).glob("*.c")]
    build = [*(runners.compiler() or []), *FLAGS, "-I", str(folder / place)]
    if kind == "arduino":
        if shutil.which("g++") is None:
            pytest.skip("no C++ compiler here")
        (work / "Arduino.h").write_text(
            "#include <stdlib.h>\n#include <stdio.h>\nstruct Port {\n  void begin(long) {}\n"
            "  explicit operator bool() { return true; }\n  void print(const char *s) { fputs(s, stdout); }\n} Serial;\n"
            "static void delay(int) { exit(0); }\nvoid setup(void);\nvoid loop(void);\n"
            "int main(void) { setup(); loop(); }\n"
        )
        subprocess.run([*build, "-c", *sources, "-o", "net.o"], cwd=work, check=True)
        sketch = str(folder / "examples" / "run_one" / "run_one.ino")
        build = ["g++", "-Wall", "-Wextra", "-Werror", "-I", str(folder / place), "-include", "Arduino.h"]
        sources = ["net.o", "-x", "c++", sketch]
    if kind == "esp-idf":
        (work / "entry.c").write_text("void app_main(void);\nint main(void) { app_main(); return 0; }\n")
        sources.append("entry.c")
    subprocess.run([*build, *sources, "-o", "run"], cwd=work, check=True)
    return subprocess.run(["./run"], cwd=work, capture_output=True, check=True).stdout.decode()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("stem", ["string", "example"])
@pytest.mark.parametrize("kind", PROJECTS)
def test_the_code_of_a_project_compiles_and_gives_the_stored_answer(
    kind: str, stem: str, quantised: bytes, tmp_path: Path
) -> None:
    folder = written(kind, stem, quantised, tmp_path)
    assert re.fullmatch(r"\w+: class \d+, as stored\n", said_by(kind, folder, tmp_path))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", PROJECTS)
def test_a_project_says_the_name_of_a_class_whole_however_long_it_is(kind: str, tmp_path: Path) -> None:
    """And the verdict behind it, which Arduino's cut off after 128 bytes."""
    graph, longest = Graph(1, 3, 8, 8), [f"{letter} %s " * 40 for letter in "abcd"]
    model = onnx.load(int8(model_of(graph, graph.classifier(graph.conv("x", 3, 4), 4, 4)), tmp_path / "net.onnx"))
    model.metadata_props.add(key=preprocessing.KEY, value=json.dumps(Preprocessing(classes=longest).document()))
    onnx.save(model, tmp_path / "net.onnx")
    exporting.export(exporting.Request(str(tmp_path / "net.onnx"), project=(kind, str(tmp_path / "out"))))
    assert said_by(kind, tmp_path / "out", tmp_path) in [f"net: {name}, as stored\n" for name in longest]


def numbers(text: str, name: str) -> list[int]:
    """Those of an array in C."""
    (listed,) = re.findall(rf"{name}\[\d*\] = {{([^}}]*)}}", text)
    return [int(number) for number in listed.split(",")]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", PROJECTS)
def test_a_project_takes_and_gives_channels_last_where_that_is_asked_for(kind: str, tmp_path: Path) -> None:
    """It was ignored without a word. The example and its answer are the same ones, pixel by pixel."""
    graph = Graph(1, 3, 6, 8)
    model = int8(model_of(graph, graph.conv("x", 3, 5)), tmp_path / "net.onnx")
    for asked, folder in ((False, tmp_path / "first"), (True, tmp_path / "last")):
        exporting.export(exporting.Request(model, project=(kind, str(folder)), channels_last=asked))
        assert said_by(kind, folder, tmp_path) == "net: as stored\n"
    first, last = (next((tmp_path / name).rglob("*_example.h")).read_text() for name in ("first", "last"))
    for array, channels in (("example_input_0", 3), ("example_output_0", 5)):
        by_planes = np.reshape(numbers(first, array), (channels, 6, 8))
        assert numbers(last, array) == by_planes.transpose(1, 2, 0).reshape(-1).tolist() != numbers(first, array)
    (header,) = (tmp_path / "last").rglob("net.h")
    assert "6 x 8 x 3; real" in header.read_text()
    assert "channels last" in (tmp_path / "last" / "README.md").read_text()
    assert "channels last" not in (tmp_path / "first" / "README.md").read_text()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (["-o", "net.c", "--names"], "--names: "),
        (["-o", "net.onnx", "--names"], "--names: "),
        (["--project", "cmake", "folder", "--names"], "--names: "),
        (["-o", "net.tflite", "--channels-last"], "--channels-last: "),
        (["-o", "net.h", "--channels-last"], "--channels-last: "),
        (["-o", "out.onnx", "--channels-last"], "--channels-last: "),
    ],
)
def test_a_flag_that_nothing_which_is_written_takes_is_refused_before_the_work(
    wanted: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(b"not read so far")
    assert cli.main(["export", "net.onnx", *wanted]) == 2
    refusal = capsys.readouterr().err
    assert refusal.startswith(f"mcuprune: {said}")
    assert refusal.count("\n") == 1
    assert f"none is written by {wanted[0]} {wanted[1]}: leave {wanted[-1]} out, or write such a file" in refusal
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("wanted", "said"), [(["-o", ""], "-o: names no file"), (["--project", "cmake", ""], "--project: names no folder")]
)
def test_a_place_without_a_name_is_a_mistake(
    wanted: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder was the current one, and filled."""
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(b"not read so far")
    assert cli.main(["export", "net.onnx", *wanted]) == 2
    assert capsys.readouterr().err == f"mcuprune: {said}; name one to write\n"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.usefixtures("in_process")
def test_a_flag_that_one_of_two_results_takes_is_no_mistake(quantised: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(quantised)
    wanted = ["--names", "--channels-last", "-o", str(tmp_path / "net.tflite"), "--project", "cmake", str(tmp_path / "p")]
    assert cli.main(["export", str(tmp_path / "net.onnx"), *wanted]) == 0


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", PROJECTS)
def test_a_project_whose_network_gives_a_map_names_no_classes(kind: str, tmp_path: Path) -> None:
    """Each number of a map had a name, "class 191" the last of these: more flash than the network, and no class at all."""
    graph = Graph(1, 3, 8, 8)
    model = int8(model_of(graph, graph.conv("x", 3, 3)), tmp_path / "net.onnx")
    out = tmp_path / "out"
    exporting.export(exporting.Request(model, project=(kind, str(out))))
    written = {path.name: path.read_text() for path in out.rglob("*") if path.suffix in (".h", ".c", ".ino")}
    assert not any("class" in written[name] for name in written if name not in ("net.c", "net.h"))
    if kind == "cmake":
        build = [*(runners.compiler() or []), *FLAGS, "main.c", "net.c", "-o", "run"]
        subprocess.run(build, cwd=out, check=True)
        assert subprocess.run([out / "run"], capture_output=True, text=True, check=True).stdout == "net: as stored\n"


@given(st.one_of(st.text(max_size=12), st.sampled_from(["Main", "string", "_", "", "__test__", "9", "arm", "STDIO", "int"])))
def test_a_projects_name_is_a_word_that_nothing_else_has(stem: str) -> None:
    name = name_of(stem)
    assert re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII)
    assert name.casefold() not in project._TAKEN
    assert not name.casefold().startswith("arduino")


@pytest.mark.usefixtures("in_process")
def test_a_cmake_project_builds_without_a_warning(quantised: bytes, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake here")
    folder = written("cmake", "test", quantised, tmp_path)
    for command in (["cmake", "-B", "build", "-DCMAKE_C_FLAGS=-Werror"], ["cmake", "--build", "build"]):
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert subprocess.run([folder / "build" / "run_one"], check=False).returncode == 0


@pytest.mark.usefixtures("in_process")
def test_a_cmake_project_takes_the_flash_that_is_predicted(exported: Callable[[str], Path], tmp_path: Path) -> None:
    """It was compiled with -O3, whose loops took 5 % more than ``total.image``."""
    if not all(map(shutil.which, ("cmake", "arm-none-eabi-gcc"))):
        pytest.skip("no cmake or no cross compiler here")
    model = exported("dscnn_digits")
    exporting.export(exporting.Request(str(model), None, project=("cmake", str(tmp_path))))
    for command in (["-B", "build", "-DCMAKE_TOOLCHAIN_FILE=arm/toolchain.cmake"], ["--build", "build"]):
        subprocess.run(["cmake", *command], cwd=tmp_path, capture_output=True, check=True)
    listed = subprocess.run(["arm-none-eabi-size", *tmp_path.glob("build/*.a")], capture_output=True, text=True, check=True)
    text, *_ = listed.stdout.splitlines()[1].split()
    net = network.load(model, accept=ops.accept(str(model)))
    assert int(text) == pytest.approx(profile(net, Basis(runtime="c")).total["image"], rel=0.03)


@pytest.mark.usefixtures("in_process")
def test_a_cmake_project_builds_with_a_library_where_it_is_told(quantised: bytes, tmp_path: Path) -> None:
    """The library is a stand-in: what counts is that it is found, that it computes, and that the answer is the stored one."""
    if shutil.which("cmake") is None:
        pytest.skip("no cmake here")
    folder, library = written("cmake", "test", quantised, tmp_path), tmp_path / "library"
    shutil.copytree(Path(__file__).parent / "cmsis_nn", library)
    lines = (
        "project(stand_in C)",
        "add_library(cmsis-nn STATIC arm_nnfunctions.c)",
        "target_include_directories(cmsis-nn PUBLIC .)",
    )
    (library / "CMakeLists.txt").write_text("\n".join(("cmake_minimum_required(VERSION 3.13)", *lines, "")))
    for command in (["cmake", "-B", "build", f"-DMCUPRUNE_CMSIS_NN={library}"], ["cmake", "--build", "build"]):
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    program = folder / "build" / "run_one"
    assert b"arm_convolve_wrapper_s8" in program.read_bytes()
    assert subprocess.run([program], check=False).returncode == 0


#: As much of TensorFlow Lite Micro's header as registering takes: an operator that isn't declared stops the compiler.
RESOLVER = """#pragma once
namespace tflite {
struct Registration {};
Registration Register_CONV_2D_INT8(), Register_DEPTHWISE_CONV_2D_INT8(), Register_FULLY_CONNECTED_INT8();
Registration Register_AVERAGE_POOL_2D_INT8(), Register_MAX_POOL_2D_INT8(), Register_SOFTMAX_INT8();
Registration Register_ADD_INT8(), Register_MUL_INT8();
template <unsigned n> struct MicroMutableOpResolver {
  void AddConv2D(Registration) {} void AddDepthwiseConv2D(Registration) {} void AddFullyConnected(Registration) {}
  void AddAveragePool2D(Registration) {} void AddMaxPool2D(Registration) {} void AddSoftmax(Registration) {}
  void AddAdd(Registration) {} void AddMul(Registration) {}
  void AddMean() {} void AddReshape() {} void AddPad() {} void AddQuantize() {}
};
}
"""


@pytest.mark.usefixtures("in_process")
def test_the_header_for_tflm_compiles_by_itself(quantised: bytes, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler here")
    (tmp_path / "net.onnx").write_bytes(quantised)
    exporting.export(exporting.Request(str(tmp_path / "net.onnx"), str(tmp_path / "net.h")))
    resolver = tmp_path / "tensorflow" / "lite" / "micro" / "micro_mutable_op_resolver.h"
    resolver.parent.mkdir(parents=True)
    resolver.write_text(RESOLVER)
    (tmp_path / "main.cc").write_text(
        '#include "net.h"\nint main() { tflite::MicroMutableOpResolver<9> r; net_register(r); return net_model[0] == 0; }\n'
    )
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{tmp_path}"]
    done = subprocess.run(["g++", *flags, str(tmp_path / "main.cc")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


#: Names that say something in C, in a format, in a comment, or in no ASCII.
CLASSES = ("*/ int x; /*", 'a"b\\', "what??/", "%s%n", "Größe", "new\nline", *"0123")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", PROJECTS)
@pytest.mark.parametrize("count", [9, 10])
def test_a_project_has_the_names_of_classes_whatever_they_are(kind: str, count: int, tmp_path: Path) -> None:
    graph = Graph(1, 3, 8, 8)
    model = onnx.load(int8(model_of(graph, graph.classifier(graph.conv("x", 3, 4), 4, 10)), tmp_path / "net.onnx"))
    value = json.dumps(Preprocessing(classes=CLASSES[:count]).document())
    model.metadata_props.add(key=preprocessing.KEY, value=value)
    onnx.save(model, tmp_path / "net.onnx")
    out = tmp_path / "out"
    exporting.export(exporting.Request(str(tmp_path / "net.onnx"), project=(kind, str(out))))
    (example,) = out.rglob("*_example.h")
    main = (
        f'#include <stdio.h>\n#include "{example.name}"\n'
        "int main(void) { for (int i = 0; i < 10; i++) puts(example_classes[i]); }\n"
    )
    (tmp_path / "say.c").write_text(main)
    unused = ("-Wno-unused-variable", "-Wno-unused-const-variable")
    build = [
        *(runners.compiler() or []),
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        *unused,
        "-I",
        str(example.parent),
        "say.c",
    ]
    subprocess.run([*build, "-o", "say"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "say"], capture_output=True, check=True).stdout.decode()
    wanted = CLASSES if count == 10 else [f"class {index}" for index in range(10)]
    assert said == "".join(f"{name}\n" for name in wanted)


@pytest.mark.parametrize("command", ["export", "prune"])
@pytest.mark.parametrize("stem", ['a"b', "a\\b", "a\nb", "a??<b"])
def test_a_file_that_no_include_can_name_is_refused(
    command: str, stem: str, quantised: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.onnx").write_bytes(quantised)
    flags = ["--no-train", "--sram", "1MB"] if command == "prune" else []
    assert cli.main([command, str(tmp_path / "net.onnx"), *flags, "-o", str(tmp_path / f"{stem}.c")]) == 2
    said = capsys.readouterr().err
    assert "no #include can name a header with" in said
    assert "choose another name" in said
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.usefixtures("in_process")
def test_a_project_replaces_an_earlier_one_but_no_file_of_the_user(
    quantised: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.onnx").write_bytes(quantised)
    export = ["export", str(tmp_path / "net.onnx"), "--project", "cmake"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "main.c").write_text("int main(void) { return 0; }\n")
    (mine / "notes.txt").write_text("notes")
    assert cli.main([*export, str(mine)]) == 2
    said = capsys.readouterr().err
    assert f"--project {mine}: would replace main.c, which mcuprune didn't write, or not as it is now; name" in said
    assert sorted(path.name for path in mine.iterdir()) == ["main.c", "notes.txt"]
    (mine / "main.c").unlink()
    assert [cli.main([*export, str(mine)]) for _ in range(2)] == [0, 0]
    assert (mine / "notes.txt").read_text() == "notes"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("labels", [{"y": np.full(24, 9)}, {"y0": np.zeros(24, int), "y1": np.zeros(24, int)}])
def test_labels_that_do_not_go_with_the_model_keep_no_ranges_from_being_measured(labels: dict, tmp_path: Path) -> None:
    graph, data = Graph(1, 3, 6, 6), tmp_path / "d.npz"
    onnx.save(model_of(graph, graph.classifier(graph.conv("x", 3, 4), 4, 3)), tmp_path / "net.onnx")
    x = np.random.default_rng(0).normal(size=(24, 3, 6, 6)).astype(np.float32)
    arrays = {f"{name}_{part}": values for part in ("train", "test") for name, values in {"x": x, **labels}.items()}
    np.savez(data, **arrays)
    out = tmp_path / "int8.onnx"
    told = exporting.export(exporting.Request(str(tmp_path / "net.onnx"), str(out), str(data)))
    assert any("on inputs alone" in note for note in told.notes)
    assert not any("--" in note for note in told.notes)
    np.savez(data, **{name: values for name, values in arrays.items() if name.startswith("x_")})
    exporting.export(exporting.Request(str(tmp_path / "net.onnx"), str(tmp_path / "bare.onnx"), str(data)))
    assert out.read_bytes() == (tmp_path / "bare.onnx").read_bytes()
    np.savez(data, **{**arrays, "x_train": x[:, :2]})
    with pytest.raises(DataError, match="x_train"):
        exporting.export(exporting.Request(str(tmp_path / "net.onnx"), str(out), str(data)))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("op", ["Softplus", "Exp", "Erf"])
def test_what_only_onnxruntime_computes_is_exported_for_it(op: str, tmp_path: Path) -> None:
    """As `prune` writes it where nothing is cut. Without an arena, which no other format has either, and it says why."""
    graph = Graph(1, 3, 6, 6)
    model = tmp_path / "net.onnx"
    onnx.save(model_of(graph, graph.classifier(graph.add(op, graph.conv("x", 3, 4)), 4, 3)), model)
    x = np.random.default_rng(0).normal(size=(24, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x_train=x, x_test=x)
    exported = exporting.export(exporting.Request(str(model), str(tmp_path / "int8.onnx"), str(tmp_path / "d.npz")))
    assert exported.arena == {}
    assert any(f"no arena, and no C can be written of it: node '{op.lower()}1': {op} has no int8" in n for n in exported.notes)
    (exact,), (near,) = (run(onnx.load(place), {"x": x[:1]}) for place in (model, tmp_path / "int8.onnx"))
    assert np.abs(exact - near).max() <= 0.1 * np.abs(exact).max()


@pytest.mark.usefixtures("in_process")
def test_a_file_of_a_project_that_the_user_changed_stays_as_it_is(
    quantised: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever else was changed: what was written is known by its content alone, and `sha256sum` checks it too."""
    (tmp_path / "net.onnx").write_bytes(quantised)
    project = tmp_path / "project"
    export = ["export", str(tmp_path / "net.onnx"), "--project", "cmake", str(project)]
    assert cli.main(export) == 0
    if checker := shutil.which("sha256sum"):
        subprocess.run([checker, "--quiet", "-c", handiwork.LIST], cwd=project, check=True)
    (project / "README.md").unlink()
    mine = (project / "main.c").read_text() + "/* mine */\n"
    (project / "main.c").write_text(mine)
    assert cli.main(export) == 2
    said = capsys.readouterr().err
    assert "would replace main.c, which mcuprune didn't write, or not as it is now" in said
    assert "README" not in said
    assert (project / "main.c").read_text() == mine
    assert not (project / "README.md").exists()
    (project / "main.c").rename(tmp_path / "main.c")
    assert cli.main(export) == 0
    assert (project / "README.md").exists()


def test_files_that_were_half_written_are_known_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ({name: f"{name} {turn}".encode() for name in "abc"} for turn in (1, 2))
    handiwork.write(tmp_path, first)
    whole = places.write_bytes

    def breaks_off(content: bytes, path: str | Path, *, make_folder: bool = False) -> None:
        if Path(path).name == "b":
            raise KeyboardInterrupt
        whole(content, path, make_folder=make_folder)

    with monkeypatch.context() as patched:
        patched.setattr(places, "write_bytes", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            handiwork.write(tmp_path, second)
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"a 2", b"b 1", b"c 1"]
    third = dict.fromkeys("abc", b"3")
    handiwork.refuse_theirs("-o", tmp_path, third)
    handiwork.write(tmp_path, second)
    (tmp_path / "c").write_bytes(b"c 1")  # of before: it is no more what was written last
    with pytest.raises(OutputError, match="would replace c, which"):
        handiwork.refuse_theirs("-o", tmp_path, third)
    (tmp_path / handiwork.LIST).write_bytes(b"\xff" * 100)
    with pytest.raises(OutputError, match=r"would replace a, b and 1 more, .* move them away"):
        handiwork.refuse_theirs("-o", tmp_path, third)
    handiwork.refuse_theirs("-o", tmp_path, {"a": b"a 2"})  # the same once more


@pytest.mark.parametrize("below", ["", "sub", "sub/folder"])
def test_a_project_whose_folder_is_a_file_is_refused_before_the_work(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.onnx").write_bytes(b"not read so far")
    (tmp_path / "file").write_text("mine")
    assert cli.main(["export", str(tmp_path / "net.onnx"), "--project", "cmake", str(tmp_path / "file" / below)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'file'} is no folder; name a folder to write" in said
    assert "Traceback" not in said
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no POSIX system")
@pytest.mark.parametrize("locked", ["README.md", "main"])
def test_what_may_not_be_looked_at_in_a_folder_is_one_message(locked: str) -> None:
    """The superuser may look at all, so this process is nobody for a while."""
    own = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "project")
        (project / "main").mkdir(parents=True)
        (project / "README.md").write_text("theirs")
        (project / locked).chmod(0)
        for place in (Path(folder), project):
            place.chmod(0o777)
        if own == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(OutputError, match=r"README\.md, which mcuprune didn't write"):
                handiwork.refuse_theirs("--project", project, {"README.md": b"", "main/main.c": b""})
        finally:
            os.seteuid(own)


@pytest.mark.parametrize("output", ["a folder", "net.c", "main/Kconfig.projbuild", "a compiler"])
def test_places_that_can_not_be_written_are_refused_before_ranges_are_measured(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(small_nets.residual(), tmp_path / "net.onnx")
    monkeypatch.setattr(exporting, "_quantized", lambda *_: pytest.fail("the work had begun"))
    wanted = ["-o", str(tmp_path / "out.tflite")]
    (tmp_path / "out.tflite").mkdir()
    if output != "a folder":
        wanted = ["--project", "esp-idf" if "/" in output else "cmake", str(tmp_path / "out.tflite")]
    if "." in output:
        (tmp_path / "out.tflite" / output).parent.mkdir(exist_ok=True)
        (tmp_path / "out.tflite" / output).write_text("mine")
    if output == "a compiler":
        monkeypatch.setattr(runners, "compiler", lambda: None)
    assert cli.main(["export", str(tmp_path / "net.onnx"), *wanted]) == 2
    said = {"a folder": "is a folder", "a compiler": "no C compiler was found"}.get(output, f"would replace {output},")
    assert said in capsys.readouterr().err


@pytest.fixture
def unlabelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, entered, of a float classifier and of pixels of 0 to 255 without labels."""
    g = Graph(1, 3, 8, 8)
    onnx.save(g.model(g.classifier(g.conv("x", 3, 4, bias=True), 4, 4)), tmp_path / "net.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 8, 8), np.uint8)
    np.savez(tmp_path / "data.npz", x_train=pixels, x_test=pixels)
    (tmp_path / "names.txt").write_text("north\neast\nsouth\nwest\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("in_process", "unlabelled")
def test_a_float_model_is_exported_with_its_data_fed_as_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    export = ["export", "net.onnx", "--data", "data.npz"]
    assert cli.main([*export, "--scale", "0-1", "--classes", "names.txt", "-o", "net.c"]) == 0
    said = capsys.readouterr().out
    assert "preprocessing: NCHW, x = raw * 0.00392157, range 0-1; found by flag" in said
    assert "a guess" not in said
    header = Path("net.h").read_text()
    assert f"#define NET_RAW_SCALE {1 / 255!r}f" in header
    assert '{"north", "east", "south", "west"}' in header
    (step,) = re.findall(r"NET_INPUT_0_SCALE (\S+)f", header)
    assert float(step) == pytest.approx(1 / 255, rel=0.05)
    assert cli.main([*export, "--mean", "0.5", "--scale", "0-1", "-o", "int8.onnx", "--format", "json"]) == 0
    how = json.loads(capsys.readouterr().out)["preprocessing"]
    assert (how["mean"], how["found_by"]) == ([0.5], "flag")
    assert cli.main(["export", "int8.onnx", "-o", "int8.tflite", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["preprocessing"] is None


@pytest.mark.usefixtures("in_process", "unlabelled")
def test_whole_numbers_that_are_fed_as_they_are_stored_because_nothing_tells_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["export", "net.onnx", "--data", "data.npz", "-o", "net.tflite"]) == 0
    said = capsys.readouterr().out
    assert "preprocessing: NCHW, values as they are stored; found by default" in said
    assert "as they are stored, whole numbers up to 255, which is a guess" in said
    assert "--scale 0-1" in said
    assert cli.main(["export", "net.onnx", "--data", "data.npz", "--scale", "0-255", "-o", "net.tflite"]) == 0
    assert "a guess" not in capsys.readouterr().out


@pytest.mark.usefixtures("unlabelled")
def test_how_data_are_fed_is_not_asked_of_an_int8_model(quantised: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("int8.onnx").write_bytes(quantised)
    assert cli.main(["export", "int8.onnx", "--scale", "0-1", "--std", "0.5", "-o", "net.tflite"]) == 2
    assert "int8.onnx: --scale, --std: is about data that ranges of a float model" in capsys.readouterr().err
    assert cli.main(["export", "net.onnx", "--data", "data.npz", "--scale", "0-2", "-o", "net.tflite"]) == 2
    assert "--scale: '0-2' is unknown; write 0-1, 0-255" in capsys.readouterr().err
    assert not Path("net.tflite").exists()
    names = Path("names.txt").rename("names.h").read_text()
    assert cli.main(["export", "net.onnx", "--data", "data.npz", "--classes", "names.h", "-o", "names.h"]) == 2
    assert "names.h" in capsys.readouterr().err
    assert Path("names.h").read_text() == names


@pytest.mark.usefixtures("unlabelled")
def test_data_that_an_int8_model_does_not_need_are_named(quantised: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever they are: nothing is measured on them, and no file of them is opened."""
    Path("int8.onnx").write_bytes(quantised)
    note = "note: no effect: --data, for the model is int8"
    for data in ("data.npz", "nowhere.npz"):
        assert cli.main(["export", "int8.onnx", "--data", data, "-o", "net.tflite"]) == 0
        assert note in capsys.readouterr().out
    assert cli.main(["export", "int8.onnx", "-o", "net.tflite"]) == 0
    assert note not in capsys.readouterr().out


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_that_is_asked_for_is_answered_for_one_example_in_words(
    batch: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = Graph("batch", 3, 8, 8)
    path = int8(g.model(g.classifier(g.conv("x", 3, 4), 4, 4)), tmp_path / "net.onnx")
    said = f"note: --input-shape asks for {batch} examples of 'x' at a time: numbers and files here are of one"
    shaped = ["--input-shape", f"x={batch},3,8,8"]
    for command in (["export", path, "-o", str(tmp_path / "net.tflite")], ["verify", path, "--examples", "2"]):
        assert cli.main([*command, *shaped]) == 0
        assert (said in capsys.readouterr().out) == (batch > 1)


def save_with_data(model: onnx.ModelProto, folder: Path) -> None:
    """A classifier of four classes, and eight images of nothing."""
    onnx.save(model, folder / "net.onnx")
    examples = {f"{kind}_{part}": np.zeros((8, 3, 8, 8), np.float32) for kind in "x" for part in ("train", "test")}
    np.savez(folder / "data.npz", **examples, y_train=np.arange(8) % 4, y_test=np.arange(8) % 4)


def test_a_float_network_that_divides_by_an_image_is_priced_and_written_as_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose scales aren't known before its ranges are measured."""
    g = Graph(1, 3, 8, 8)
    x = g.add("Div", "x", g.value(np.full((3, 8, 8), 2.5, np.float32)))
    save_with_data(g.model(g.classifier(g.conv(x, 3, 4), 4, 4)), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "net.onnx", "--runtime", "c", "--flash-model", "image", "--flash", "64KB"]) == 0
    assert cli.main(["export", "net.onnx", "--data", "data.npz", "-o", "net.c"]) == 0
    assert " divide(" in Path("net.c").read_text()


@pytest.mark.parametrize("wanted", [["-o", "net.c"], ["--project", "cmake", "folder"]])
def test_a_node_without_a_kernel_is_refused_before_ranges_are_measured(
    wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where only the writer finds it, the message names the user's file."""
    g = Graph(1, 3, 8, 8)
    turned = g.add("Transpose", g.conv("x", 3, 1), perm=[0, 1, 3, 2])
    save_with_data(g.model(g.classifier(g.add("MatMul", g.conv("x", 3, 4), turned), 4, 4)), tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ["export", "net.onnx", "--data", "data.npz", *wanted]
    refusal = "mcuprune: net.onnx: node 'matmul3': BATCH_MATMUL that broadcasts or transposes has no kernel in C"
    with monkeypatch.context() as patched:
        patched.setattr(exporting, "_quantized", lambda *_: pytest.fail("the work had begun"))
        assert cli.main(command) == 2
    assert capsys.readouterr().err.startswith(refusal)
    monkeypatch.setattr(exporting, "refuse_early", lambda *_: None)
    assert cli.main(command) == 2
    assert refusal in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", PROJECTS)
def test_the_files_of_a_project_are_known_beforehand(kind: str, quantised: bytes, tmp_path: Path) -> None:
    out = written(kind, "net", quantised, tmp_path)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files - {handiwork.LIST} == set(project.paths(kind, "net"))


#: What ``micro_mutable_op_resolver.h`` of TensorFlow Lite Micro declares, of the operators that are written.
RESOLVED = (
    *("Abs", "Add", "AveragePool2D", "BatchMatMul", "Concatenation", "Conv2D", "DepthToSpace", "DepthwiseConv2D", "Div", "Elu"),
    *("FullyConnected", "Gather", "HardSwish", "LeakyRelu", "LogSoftmax", "Logistic", "MaxPool2D", "Maximum", "Mean"),
    *("Minimum", "MirrorPad", "Mul", "Pad", "PadV2", "Prelu", "Quantize", "ReduceMax", "ReduceMin", "Relu", "Reshape"),
    *("ResizeBilinear", "ResizeNearestNeighbor", "Slice", "Softmax", "SpaceToDepth", "Split", "SplitV", "StridedSlice", "Sub"),
    *("Sum", "Tanh", "Transpose", "TransposeConv"),
)


def test_every_operator_is_registered_by_the_name_that_the_resolver_has() -> None:
    assert sorted(exporting._registered(name).partition("(")[0] for name in KERNELS) == sorted(RESOLVED)


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [("net.h", [], "NHWC"), ("net.c", [], "NCHW"), ("net.c", ["--channels-last"], "NHWC")],
    ids=["TensorFlow Lite Micro", "C", "C, channels last"],
)
def test_headers_say_in_which_layout_their_code_takes_the_input(name: str, flags: list[str], said: str, tmp_path: Path) -> None:
    """That of the data, which the network was trained with, is another: firmware that followed it fed garbage."""
    graph = Graph(1, 3, 8, 8)
    model = onnx.load(int8(model_of(graph, graph.classifier(graph.conv("x", 3, 4), 4, 10)), tmp_path / "net.onnx"))
    value = json.dumps(Preprocessing(layout="NCHW", scale=1 / 255).document())
    model.metadata_props.add(key=preprocessing.KEY, value=value)
    onnx.save(model, tmp_path / "net.onnx")
    assert cli.main(["export", str(tmp_path / "net.onnx"), "-o", str(tmp_path / name), *flags]) == 0
    header = (tmp_path / "net.h").read_text()
    assert re.findall(r"// input: (\w+),", header) == [said]
    if name == "net.c":
        assert ("1 x 8 x 8 x 3" in header) == (said == "NHWC")
