"""How examples are fed: what is found by trial, said by flags and metadata, and written for those who come after."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tasks_data
from conftest import each_with_one_network_and_slowly_with_the_other
from graphs import Graph
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mcuprune import load as load_net
from mcuprune.cli import main
from mcuprune.data import augmenting, feed, firmware, preprocessing
from mcuprune.data.feed import Feed
from mcuprune.data.fitting import Wanted, classifier
from mcuprune.data.loading import load
from mcuprune.data.preprocessing import Preprocessing
from mcuprune.data.sets import Data
from mcuprune.errors import DataError, UsageError
from mcuprune.train import evaluate, feeding, preprocess

MODELS = Path(__file__).resolve().parent.parent / "models"


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", input_shape=(1, 16, 16), n_classes=10, seed=0)


#: Examples of a split in which causes are told apart, a third of all there are to train with.
ENOUGH = 400


def arrays(digits: Data, scale: str, turned: bool, renumbered: bool) -> dict[str, np.ndarray]:
    """Digits as somebody else would have stored them."""
    low, high = digits.train.x[:].min(), digits.train.x[:].max()
    number = np.random.default_rng(0).permutation(10) if renumbered else np.arange(10)
    found = {}
    for part, split in (("train", digits.train), ("val", digits.val), ("test", digits.test)):
        unit = (split.x[:ENOUGH] - low) / (high - low)
        x = {"0-1": unit, "0-255": np.round(255 * unit).astype(np.uint8), "0-16": 16 * unit}[scale]
        found[f"x_{part}"] = x.transpose(0, 1, 3, 2) if turned else x
        found[f"y_{part}"] = number[split.y[:ENOUGH]]
    return found


@pytest.mark.parametrize(
    ("scale", "turned", "renumbered", "name"),
    each_with_one_network_and_slowly_with_the_other(
        itertools.product(("0-1", "0-255", "0-16"), (False, True), (False, True)), ("dscnn_digits", "resnet8_digits")
    ),
)
def test_the_right_cause_is_named_and_what_is_no_label_is_used(
    scale: str, turned: bool, renumbered: bool, name: str, digits: Data
) -> None:
    """Twelve pairings of scale, layout and order of labels, of two trained networks."""
    net = load_net(MODELS / f"{name}.onnx")
    fed = preprocess.opened(net, arrays(digits, scale, turned, renumbered), classifier((1, 16, 16), 10, 0), Feed(), 0)
    assert fed.preprocessing.found_by == "trial"
    assert (fed.preprocessing.reordered is not None) == turned
    assert (fed.labels is not None) == renumbered
    y = fed.data.test.y
    if renumbered:
        assert fed.labels is not None
        assert fed.labels.number == tuple(np.argsort(np.random.default_rng(0).permutation(10)))
        y = np.array(fed.labels.number)[y]
    else:
        assert any("fed as the model knows it best" in note for note in fed.notes)
    model = evaluate.Model(MODELS / f"{name}.onnx")
    assert feeding.Confusion.of(model(fed.data.test.x), y, 10).accuracy > 0.95


@pytest.fixture(scope="module")
def known(digits: Data) -> Any:
    """A network that answers by how near an example is to each class's mean, of -1...1: like a shipped one it is never at
    chance, whatever it is fed."""
    low, high = digits.train.x[:].min(), digits.train.x[:].max()
    x = 2 * (digits.train.x[:] - low) / (high - low) - 1
    means = np.stack([x[digits.train.y == label].mean(0).ravel() for label in range(10)]).astype(np.float32)
    g = Graph("batch", 1, 16, 16)  # type: ignore[arg-type]
    product = g.add("Gemm", g.add("Flatten", "x"), g.value(means.T.copy()), g.value(-(means**2).sum(1) / 2))
    return _net(g.model(product))


def as_fed(digits: Data, change: str) -> dict[str, np.ndarray]:
    """Digits of -1...1 changed so that the network above is right on fewer."""
    low, high = digits.train.x[:].min(), digits.train.x[:].max()
    found = {}
    for part, split in (("train", digits.train), ("val", digits.val), ("test", digits.test)):
        x = 2 * (split.x[:] - low) / (high - low) - 1
        found[f"x_{part}"] = {
            "as it knows them": x,
            "standardised": split.x[:] + 1.0,
            "0...1": (x + 1) / 2,
            "noise": x + np.random.default_rng(0).normal(0, 1.5, x.shape),
        }[change].astype(np.float32)
        found[f"y_{part}"] = split.y
    return found


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("as it knows them", None),
        ("noise", None),
        ("standardised", "wants values of -1...1"),
        ("0...1", "wants values of -1...1"),
    ],
)
def test_a_network_that_knows_the_data_and_would_know_more_is_not_fed_so_in_silence(
    change: str, cause: str | None, digits: Data, known: Any
) -> None:
    """Right on far more than chance as it is: nothing is changed, and what would make it right is said, with what mends it."""
    stored = as_fed(digits, change)
    fed = preprocess.opened(known, stored, classifier((1, 16, 16), 10, 0), Feed(), 0)
    model = evaluate.Model(bytes(known.to_proto().SerializeToString()))
    np.testing.assert_array_equal(fed.data.test.x[:], stored["x_test"])
    share = feeding.Confusion.of(model(stored["x_test"]), stored["y_test"], 10)
    assert share.trained
    said = [note for note in fed.notes if "as they are fed" in note]
    assert bool(said) == (cause is not None)
    if cause is not None:
        assert cause in said[0]
        mend = re.search(r"mend arrays by (.*?), or give (.*)$", said[0])
        assert mend is not None
        space = {"numpy": np, "x": stored["x_test"]}
        exec(mend[1], space)
        assert feeding.Confusion.of(model(np.asarray(space["x"], np.float32)), stored["y_test"], 10).accuracy > 0.8
        flags = dict(flag.removeprefix("--").split("=") for flag in mend[2].split())
        again = preprocess.opened(known, stored, classifier((1, 16, 16), 10, 0), Feed(**flags), 0)
        assert feeding.Confusion.of(model(again.data.test.x[:]), stored["y_test"], 10).accuracy > 0.8
        assert not any("as they are fed" in note for note in again.notes)


def test_a_network_that_is_right_costs_one_look(digits: Data, known: Any) -> None:
    """What is tried is tried only where enough is wrong to tell by."""
    asked = []

    def model(x: np.ndarray) -> np.ndarray:
        asked.append(len(x))
        return np.eye(10)[digits.train.y[np.random.default_rng(0).permutation(len(digits.train.y))[120:520]]]

    assert feeding.better(model, digits.train, 10, 0, orders=True) is None
    assert asked == [400]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"frontend": "mfcc"}, "--frontend mfcc: .* holds no recordings"),
        ({"colours": "BGR"}, "--colours BGR: .* has no three colours"),
    ],
)
@pytest.mark.parametrize("data", ["digits", "arrays"])
def test_a_flag_that_would_change_nothing_is_refused(
    flags: dict[str, str], said: str, data: str, digits: Data, known: Any
) -> None:
    given = data if data == "digits" else arrays(digits, "0-1", False, False)
    with pytest.raises(DataError, match=said):
        preprocess.opened(known, given, classifier((1, 16, 16), 10, 0), Feed(**flags), 0)


@pytest.mark.parametrize("flags", [{"scale": "0.5"}, {"mean": "0.25"}, {"std": "2"}])
def test_flags_and_metadata_count_for_embedded_data_too(flags: dict[str, str], digits: Data, known: Any) -> None:
    """What a prune with flags has written into its file's metadata feeds the same to whoever reads the file."""
    fed = preprocess.opened(known, "digits", classifier((1, 16, 16), 10, 0), Feed(**flags), 0)
    how = {"scale": 1.0, "mean": 0.0, "std": 1.0} | {key: float(value) for key, value in flags.items()}
    wanted = (digits.test.x[:] * how["scale"] - how["mean"]) / how["std"]
    np.testing.assert_allclose(fed.data.test.x[:], wanted, rtol=1e-5, atol=1e-6)
    written = known.with_metadata(preprocessing.KEY, fed.preprocessing.text())
    again = preprocess.opened(written, "digits", classifier((1, 16, 16), 10, 0), Feed(), 0)
    np.testing.assert_array_equal(again.data.test.x[:], fed.data.test.x[:])
    pixels = known.with_metadata(preprocessing.KEY, Preprocessing("NCHW", 1 / 255).text())
    as_they_are = preprocess.opened(pixels, "digits", classifier((1, 16, 16), 10, 0), Feed(), 0)
    np.testing.assert_array_equal(as_they_are.data.test.x[:], digits.test.x[:])


def folder_of(pictures: np.ndarray, folder: Path) -> str:
    """uint8 (n, 1, height, width) as grey images without labels."""
    folder.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture[0]).save(folder / f"{index:04}.png")
    return str(folder)


@pytest.mark.parametrize("name", ["dscnn_digits", "resnet8_digits", "mbv2se_digits", "branchy_digits"])
def test_images_without_labels_are_fed_so_that_answers_tell_them_apart(name: str, digits: Data, tmp_path: Path) -> None:
    stored = arrays(digits, "0-255", False, False)
    given = folder_of(stored["x_train"][:300], tmp_path / "images")
    wanted = replace(classifier((1, 16, 16), 10, 0), unlabelled=True)
    fed = preprocess.opened(load_net(MODELS / f"{name}.onnx"), given, wanted, Feed(), 0)
    assert fed.preprocessing.found_by == "trial"
    assert "no labels to be right on" in " ".join(fed.notes)
    model = evaluate.Model(MODELS / f"{name}.onnx")
    as_fed = (stored["x_test"] * fed.preprocessing.scale - fed.preprocessing.mean[0]) / fed.preprocessing.std[0]
    assert feeding.Confusion.of(model(as_fed.astype(np.float32)), stored["y_test"], 10).accuracy > 0.9
    told = preprocess.opened(load_net(MODELS / f"{name}.onnx"), given, wanted, Feed(scale="0-255"), 0)
    assert told.preprocessing.found_by == "flag"
    assert not told.notes or "no labels to be right on" not in " ".join(told.notes)


def test_where_nothing_tells_how_images_are_fed_that_is_said(digits: Data, tmp_path: Path) -> None:
    """Outputs of which none names a class."""
    g = Graph("batch", 1, 16, 16)  # type: ignore[arg-type]
    net = _net(g.model(g.add("Relu", g.conv("x", 1, 4)), g.conv("x", 1, 2)))
    images = arrays(digits, "0-255", False, False)["x_train"][:50]
    wanted = Wanted(((1, 16, 16),), (), 0, 0, unlabelled=True)
    fed = preprocess.opened(net, folder_of(images, tmp_path / "images"), wanted, Feed(), 0)
    assert fed.preprocessing.range == "0-255"
    assert "which is a guess" in " ".join(fed.notes)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"layout": "NHWC"}, "would have 16 channels"),
        ({"layout": "NCW"}, "NCHW or NHWC"),
        ({"layout": "NC"}, "NCHW or NHWC"),
        ({"std": "1e-40"}, "overflow"),
        ({"mean": "0.5,1e39,0.5"}, "overflow"),
        ({"scale": "1e-30"}, "is unknown"),
    ],
)
def test_flags_that_no_image_can_be_fed_by_are_refused(flags: dict[str, str], said: str, tmp_path: Path) -> None:
    g = Graph("batch", 3, 16, 16)  # type: ignore[arg-type]
    net = _net(g.model(g.classifier(g.conv("x", 3, 4), 4, 2)))
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), np.uint8)
    for label in "ab":
        folder_of(images, tmp_path / label)
    with pytest.raises((DataError, UsageError), match=said):
        preprocess.opened(net, str(tmp_path), classifier((3, 16, 16), 2, 0), Feed(**flags), 0)


def test_answers_tell_all_nothing_or_something_of_their_examples() -> None:
    certain = np.eye(10)[np.arange(200) % 10]
    assert preprocess.telling(certain) == pytest.approx(1)
    assert preprocess.telling(100 * certain) == pytest.approx(1)
    assert preprocess.telling(np.eye(10)[np.zeros(200, int)]) == pytest.approx(0, abs=1e-9)
    assert preprocess.telling(np.full((200, 10), 0.1)) == pytest.approx(0, abs=1e-9)
    assert preprocess.telling(np.eye(10)[np.arange(200) % 2]) == pytest.approx(np.log(2) / np.log(10))


def test_two_classes_in_each_others_place_are_reported_and_not_mended(digits: Data) -> None:
    given = {f"x_{part}": split.x for part, split in (("train", digits.train), ("val", digits.val), ("test", digits.test))}
    number = np.array([0, 1, 7, 3, 4, 5, 6, 2, 8, 9])
    given |= {f"y_{part}": number[s.y] for part, s in (("train", digits.train), ("val", digits.val), ("test", digits.test))}
    fed = preprocess.opened(load_net(MODELS / "resnet8_digits.onnx"), given, classifier((1, 16, 16), 10, 0), Feed(), 0)
    assert fed.labels is not None
    assert fed.labels.number == tuple(number)
    assert "the data's 2 is the model's number 7" in " ".join(fed.notes)
    np.testing.assert_array_equal(fed.data.test.y, given["y_test"])


def test_labels_in_their_order_are_not_suspected(digits: Data) -> None:
    given = {f"x_{part}": split.x for part, split in (("train", digits.train), ("val", digits.val), ("test", digits.test))}
    given |= {f"y_{part}": split.y for part, split in (("train", digits.train), ("val", digits.val), ("test", digits.test))}
    for name in ("dscnn_digits", "resnet8_digits", "branchy_digits"):
        fed = preprocess.opened(load_net(MODELS / f"{name}.onnx"), given, classifier((1, 16, 16), 10, 0), Feed(), 0)
        assert fed.labels is None
        assert fed.preprocessing.plain


def test_a_random_network_is_fed_as_it_comes() -> None:
    random = np.random.default_rng(0)
    g = Graph("batch", 3, 8, 8)  # type: ignore[arg-type]
    g.draw = np.random.default_rng(1)
    net = _net(g.model(g.dense(g.add("Flatten", g.conv("x", 3, 4)), 256, 4)))
    given = {"x_train": random.normal(size=(400, 3, 8, 8)), "y_train": np.arange(400) % 4}
    given |= {"x_test": given["x_train"], "y_test": given["y_train"]}
    fed = preprocess.opened(net, given, classifier((3, 8, 8), 4, 0), Feed(), 0)
    assert fed.preprocessing.plain
    assert fed.labels is None


def _net(model: onnx.ModelProto) -> Any:
    from mcuprune.graph import network

    return network.from_proto(model, "net.onnx")


# ------------------------------------------------------------------------------------------------------ flags, metadata


def test_flags_say_how_values_are_fed(digits: Data) -> None:
    given = arrays(digits, "0-255", False, False)
    asked = Feed(scale="0-1", mean="0.25", std="0.5")
    fed = preprocess.opened(load_net(MODELS / "resnet8_digits.onnx"), given, classifier((1, 16, 16), 10, 0), asked, 0)
    assert fed.preprocessing.found_by == "flag"
    np.testing.assert_allclose(fed.data.test.x[:], (given["x_test"] / 255 - 0.25) / 0.5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stored", "refused"), [("0-255", False), ("0-1", True)])
def test_values_that_are_scaled_already_are_not_scaled_twice(digits: Data, stored: str, refused: bool) -> None:
    net = load_net(MODELS / "resnet8_digits.onnx").with_metadata("Image.NominalPixelRange", "Normalized_0_1")
    given = arrays(digits, stored, False, False)
    if not refused:
        assert preprocess.opened(net, given, classifier((1, 16, 16), 10, 0), Feed(), 0).preprocessing.found_by == "metadata"
        return
    with pytest.raises(DataError, match="scaled twice"):
        preprocess.opened(net, given, classifier((1, 16, 16), 10, 0), Feed(), 0)
    assert preprocess.opened(net, given, classifier((1, 16, 16), 10, 0), Feed(scale="0-255"), 0).preprocessing.plain


@pytest.mark.parametrize("last", [False, True])
def test_the_arithmetic_is_that_of_its_formula(last: bool) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (5, 7, 6, 3), np.uint8)
    how = Preprocessing("NHWC" if last else "NCHW", 1 / 255, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "BGR")
    found = how.function((7, 6, 3), (7, 6, 3) if last else (3, 7, 6), "NHWC")(raw)
    wanted = (raw[..., ::-1] / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(found, wanted if last else wanted.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_changes_become_one_preprocessing() -> None:
    """Composed, it computes what one change after the other does."""
    raw = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 6), np.uint8)
    how = Preprocessing("NCHW", 1 / 255, (0.5,), (2.0,))
    x = how.function((3, 6, 6), (3, 6, 6), "")(raw)
    shift = np.array([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    changes = [
        feeding.Change("", "", lambda x: x.transpose(0, 1, 3, 2), order=((3, 6, 6), (0, 1, 3, 2))),
        feeding.Change("", "", lambda x: x[:, ::-1], colours=True),
        feeding.Change("", "", lambda x: x * 3 + shift, affine=((3.0,), (0.1, 0.2, 0.3))),
    ]
    composed = preprocess.composed(how, changes)
    assert composed is not None
    for change in changes:
        x = change.apply(x)
    np.testing.assert_allclose(composed.function((3, 6, 6), (3, 6, 6), "")(raw), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("metadata", "scale", "mean"),
    [
        ({"Image.NominalPixelRange": "Normalized_0_1", "Image.BitmapPixelFormat": "Bgr8"}, 1 / 255, (0.0,)),
        ({"Image.NominalPixelRange": "Normalized_1_1"}, 2 / 255, (1.0,)),
        ({"author": "Ultralytics", "names": "{0: 'a', 1: 'b'}"}, 1 / 255, (0.0,)),
        ({"mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]"}, 1 / 255, (0.485, 0.456, 0.406)),
        ({"mean": "123.7,116.3,103.5", "std": "58.4,57.1,57.4"}, 1.0, (123.7, 116.3, 103.5)),
    ],
)
def test_what_other_tools_write_is_read(metadata: dict[str, str], scale: float, mean: tuple[float, ...]) -> None:
    found = feed.preprocessing(Feed(), metadata, (3, 8, 8))
    assert found is not None
    assert (found.scale, found.mean, found.found_by, found.layout) == (pytest.approx(scale), mean, "metadata", "NCHW")
    assert found.colours == ("BGR" if "Image.BitmapPixelFormat" in metadata else "")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('["a", "b"]', ("a", "b")),
        ("{0: 'a', 1: 'b'}", ("a", "b")),
        ('{"1": "b", "0": "a"}', ("a", "b")),
        ("a, b", ("a", "b")),
        ("{0: 'a', 2: 'b'}", ()),
        ("__import__('os').abort()", ()),
        ("[" * 10_000, ()),
        ("[1, 2]", ()),
        ("", ()),
        ("a" * 10**6 + ",b", ()),
    ],
)
def test_class_names_of_other_tools_are_data_and_never_code(text: str, names: tuple[str, ...]) -> None:
    assert feed.class_names(Feed(), {"names": text}) == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "3",
        "{" * 9999,
        '{"layout":"NCHW","scale":0,"mean":[0],"std":[1]}',
        '{"layout":"X","scale":1,"mean":[0],"std":[1]}',
        '{"layout":"NCHW","scale":1,"mean":[0],"std":[0]}',
        '{"layout":"NCHW","scale":NaN,"mean":[0],"std":[1]}',
    ],
)
def test_metadata_that_make_no_sense_are_left_alone(text: str) -> None:
    assert preprocessing.from_metadata({preprocessing.KEY: text}) is None


def test_preprocessing_survives_being_written() -> None:
    how = Preprocessing(
        "NHWC", 1 / 255, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "BGR", "trial", ("a", 'b"'), ((3, 4, 4), (0, 2, 3, 1))
    )
    again = preprocessing.from_metadata({preprocessing.KEY: how.text()})
    assert again is not None
    assert again.document() == {**how.document(), "found_by": "metadata"}


@pytest.mark.parametrize("asked", [{"scale": "x"}, {"scale": "0"}, {"mean": "1,a"}, {"std": "0"}, {"frontend": "mfc"}])
def test_values_of_flags_that_make_no_sense_are_refused(asked: dict[str, str]) -> None:
    from mcuprune import options

    with pytest.raises(UsageError):
        options.check(Feed(**asked))


def test_numbers_of_another_count_of_channels_are_refused() -> None:
    with pytest.raises(DataError, match="has 3 channels"):
        feed.preprocessing(Feed(mean="1,2"), {}, (3, 8, 8))


# ----------------------------------------------------------------------------------------------------------- commands


def _pictures(root: Path, digits: Data) -> Path:
    image = pytest.importorskip("PIL.Image")
    low, high = digits.train.x[:].min(), digits.train.x[:].max()
    for part, split in (("train", digits.train), ("val", digits.val), ("test", digits.test)):
        pixels = np.round(255 * (split.x[:,] - low) / (high - low)).astype(np.uint8)
        for index, (picture, label) in enumerate(zip(pixels, split.y, strict=True)):
            place = root / part / f"digit {label}"
            place.mkdir(parents=True, exist_ok=True)
            image.fromarray(picture[0]).save(place / f"{index}.png")
    return root


@pytest.mark.thorough
def test_from_a_folder_of_images_to_firmware(tmp_path: Path, digits: Data, capsys: pytest.CaptureFixture[str]) -> None:
    """One command each: look, prune without training, export; the file says how it is fed, and others believe it."""
    root = _pictures(tmp_path / "photos", digits)
    model = str(MODELS / "resnet8_digits.onnx")
    assert main(["data", model, str(root), "--format", "json", "--sheet", str(tmp_path / "s.png")]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["preprocessing"]["found_by"] == "trial"
    assert seen["model"]["accuracy"] > 0.95
    assert seen["splits"]["test"]["examples"] == 497
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    out, report = tmp_path / "o.onnx", tmp_path / "r"
    assert (
        main(["prune", model, "--macs", "95%", "--no-train", "--data", str(root), "-o", str(out), "--report", str(report)]) == 0
    )
    how = json.loads((report / "report.json").read_text())["preprocessing"]
    assert {"layout", "scale", "mean", "std", "classes", "found_by"} <= how.keys()
    assert how["classes"] == [f"digit {n}" for n in range(10)]
    written = preprocessing.from_metadata(load_net(out).metadata)
    assert written is not None
    assert written.document() == {**how, "found_by": "metadata"}
    assert main(["export", str(out), "-o", str(tmp_path / "net.h")]) == 0
    header = (tmp_path / "net.h").read_text()
    assert f"#define NET_RAW_SCALE {how['scale']!r}f" in header
    assert '#define NET_CLASSES {"digit 0", ' in header


@given(st.text())
@example('a"b\\\\c??=1')
@example("кот 1\x00\n")
def test_a_literal_of_c_is_the_text_in_utf_8(text: str) -> None:
    """By Python's reading of octal escapes, which is C's where they have three digits."""
    literal = firmware.c_string(text)
    assert literal.isascii()
    assert literal.isprintable()
    assert "?" not in literal
    assert ast.literal_eval(f"b{literal}") == text.encode("utf-8", "replace")


@pytest.mark.parametrize(
    ("net", "source", "said"),
    [
        (tasks_data.vector_net(4, "Sigmoid"), lambda n, seed: (np.zeros((n, 8), np.float32), np.ones((n, 4), int)), "several"),
        (tasks_data.vector_net(2), tasks_data.curves, "regression"),
        (tasks_data.vector_net(1, "Sigmoid"), tasks_data.yes_or_no, "classification"),
    ],
)
def test_the_data_command_takes_what_training_takes(
    net: Any, source: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "d.npz", **tasks_data.split(source, 64, 32))
    assert main(["data", str(tmp_path / "net.onnx"), str(tmp_path / "d.npz")]) == 0
    assert said in capsys.readouterr().out


def test_the_data_command_refuses_what_training_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks_data.unet().save(tmp_path / "net.onnx")
    arrays = tasks_data.split(lambda n, seed: tasks_data.shapes(n, seed=seed), 32, 16)
    np.savez(tmp_path / "d.npz", **{**arrays, "y_test": arrays["y_test"] + 50})
    assert main(["data", str(tmp_path / "net.onnx"), str(tmp_path / "d.npz")]) == 2
    assert "y_test has labels from 50 to" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_the_data_command_says_it_in_every_form(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(MODELS / "resnet8_digits.onnx"), "digits", "--format", form]) == 0
    said = capsys.readouterr().out
    assert "the model knows these classes: right on 99." in said
    assert ("<img" in said) == (form == "html")


def test_labels_of_another_order_are_a_no(tmp_path: Path, digits: Data, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "d.npz", **arrays(digits, "0-255", True, True))
    assert main(["data", str(MODELS / "resnet8_digits.onnx"), str(tmp_path / "d.npz")]) == 1
    said = capsys.readouterr().out
    assert "LABELS: height and width are exchanged" in said


# -------------------------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize("shape", [(3, 12, 10), (12, 10, 3), (1, 49, 10), (9, 128), (16,)])
@pytest.mark.parametrize("name", [name for name, kind in augmenting.KINDS.items() if kind.make is not None])
def test_every_variation_keeps_shape_type_and_seed(name: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    before = x.copy()
    kind = augmenting.KINDS[name]
    vary = augmenting.augmentation(name + {"": "", "N": "9", "X": "0.3"}[kind.takes])
    one, other = vary(x, np.random.default_rng(1)), vary(x, np.random.default_rng(1))
    assert one.shape == x.shape
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(x, before)
    if len(shape) == 3:
        assert not np.array_equal(one, x)


def test_channels_stay_together_whatever_the_layout() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3, 12, 10)).astype(np.float32)
    for spec in ("flip", "crop3", "rotate20", "cutout4"):
        vary = augmenting.augmentation(spec)
        first = vary(x, np.random.default_rng(1))
        last = vary(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), np.random.default_rng(1))
        np.testing.assert_allclose(first.transpose(0, 2, 3, 1), last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "spec", ["spin", "flip3", "crop", "crop0", "crop1.5", "rotate999", "noise1e9", "flip,,crop4", "auto,flip", "crop4,none"]
)
def test_variations_that_nobody_knows_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="--augment"):
        augmenting.augmentation(spec)


@pytest.mark.parametrize("spec", ["flip,crop16", "shift99", "cutout16", "mask400"])
def test_variations_that_leave_nothing_of_an_example_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=r"places, and examples of \[1, 16, 16\] have no more than 16"):
        augmenting.refuse_beyond(spec, (1, 16, 16))
    augmenting.refuse_beyond(re.sub(r"\d+", "15", spec), (1, 16, 16))


def test_turning_counts_degrees() -> None:
    augmenting.refuse_beyond("rotate180,noise20,mixup3", (1, 16, 16))


def test_defaults_go_by_kind() -> None:
    assert augmenting.default_for("image", (3, 96, 96)) == "flip,crop12"
    assert augmenting.default_for("image", (1, 28, 28)) == "crop1"
    assert augmenting.default_for("audio", (1, 49, 10)) == "shift4,mask1"
    assert augmenting.default_for("audio", (49, 10, 1)) == "shift4,mask1"
    assert augmenting.default_for("audio", (16000, 1)) == augmenting.default_for("audio", (1, 16000)) == "shift1600"
    assert augmenting.default_for("", (9, 128)) == ""


@pytest.mark.parametrize("shape", [(10, 49), (49, 10), (1, 10, 49), (49, 10, 1), (1, 2000), (2000, 1), (1, 49, 10)], ids=str)
def test_of_sound_time_is_shifted_and_no_example_is_blank_afterwards(shape: tuple[int, ...]) -> None:
    """In whichever order its axes lie: features that were shifted by as much as time may be left nothing of an example."""
    spec, random = augmenting.default_for("audio", shape), np.random.default_rng(0)
    vary = augmenting.augmentation(spec)
    augmenting.refuse_beyond(spec, shape)
    x = random.standard_normal((50, *shape), np.float32)
    shifted = augmenting.augmentation(spec.split(",")[0])(x, random)
    time = 1 + int(np.argmax(shape))
    for before, after in zip(np.moveaxis(x, time, 1), np.moveaxis(shifted, time, 1), strict=True):
        flat = [each.reshape(len(each), -1) for each in (before, after)]
        kept = flat[1].any(1)  # rows of one time come whole, one behind the other, or are what was shifted in
        start = next(at for at in range(len(flat[0])) if np.array_equal(flat[0][at], flat[1][kept][0]))
        np.testing.assert_array_equal(flat[1][kept], flat[0][start : start + kept.sum()])
        assert kept.sum() >= 0.9 * len(kept)
    assert (vary(x, random).reshape(50, -1).std(1) > 0.5).all()


# -------------------------------------------------------------------------------------------------------------- memory

TINY = """
import resource, sys
import numpy as np
sys.path.insert(0, {tests!r})
from graphs import Graph
from onnx import save
from mcuprune.cli import main
g = Graph("batch", 3, {side}, {side})
x = g.add("Relu", g.conv("x", 3, 8, kernel={side} // 8, strides=[{side} // 8] * 2, pads=[0] * 4))
save(g.model(g.dense(g.add("Flatten", x), 8 * 8 * 8, 4)), "net.onnx")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = main(["prune", "net.onnx", "--macs", "80%", "--data", "d.npz", "--epochs", "1", "--float", "-o", "out.onnx", "-q"])
print(code, before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_megabytes(folder: Path, megabytes: int, side: int, *, compressed: bool) -> int:
    """The most memory that a prune has, on an archive of so many megabytes of images."""
    n = megabytes * 2**20 // (3 * side**2)
    random = np.random.default_rng(0)
    x = np.zeros((n, 3, side, side), np.uint8)
    x[:, :, ::4, ::4] = random.integers(0, 256, (n, 3, side // 4, side // 4), np.uint8)
    few = slice(0, 200)
    save = np.savez_compressed if compressed else np.savez
    save(folder / "d.npz", x_train=x, y_train=np.arange(n) % 4, x_test=x[few], y_test=np.arange(n)[few] % 4)
    del x
    source = TINY.format(tests=str(Path(__file__).parent), side=side)
    ran = subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, timeout=500)
    code, _, peak = ran.stdout.split()[-3:]
    assert code == "0", ran.stderr
    return int(peak)


@pytest.mark.slow
def test_bytes_stay_bytes(tmp_path: Path) -> None:
    """As float32, with what is held out a copy, these images would take another gigabyte."""
    small, large = (tmp_path / name for name in ("small", "large"))
    small.mkdir()
    large.mkdir()
    grown = peak_megabytes(large, 160, 96, compressed=False) - peak_megabytes(small, 4, 96, compressed=False)
    assert grown < 1.6 * 156


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_half_a_gigabyte_of_images_trains_in_less_than_one_and_a_half(tmp_path: Path, compressed: bool) -> None:
    assert peak_megabytes(tmp_path, 559, 96, compressed=compressed) < 1500
