"""What ``mcuprune.data.loading`` accepts, what it makes of it, and what it says to the rest."""

from __future__ import annotations

import bz2
import io
import itertools
import math
import os
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcuprune.data import loading as data
from mcuprune.data.fitting import Wanted, classifier, fitted
from mcuprune.data.loading import load
from mcuprune.data.raw import Part, Raw
from mcuprune.data.sets import Data
from mcuprune.errors import DataError, MissingExtra

SHAPE = (1, 4, 6)
N_CLASSES = 3
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def arrays(n: int = 30, *, shape: tuple[int, ...] = SHAPE) -> dict[str, np.ndarray]:
    """A whole data set with validation, all values different, labels 0, 1, 2, 0, ..."""
    x = np.arange(n * np.prod(shape), dtype=np.float32).reshape(n, *shape)
    y = np.arange(n) % N_CLASSES
    return {"x_train": x, "y_train": y, "x_val": x[:6] + 0.25, "y_val": y[:6], "x_test": x[:9] + 0.5, "y_test": y[:9]}


def saved(path: Path, **changes: Any) -> str:
    """The path of an archive of ``arrays()`` with some replaced, or left out where None."""
    np.savez(path, **{key: value for key, value in {**arrays(), **changes}.items() if value is not None})
    return str(path)


def read(spec: str | Path, *, shape: tuple[int, ...] = SHAPE, n_classes: int = N_CLASSES, seed: int = 0) -> Data:
    return load(str(spec), input_shape=shape, n_classes=n_classes, seed=seed)


def complaint(spec: str | Path, **keywords: Any) -> str:
    """The message of the DataError that reading raises; it is one line and names the source."""
    with pytest.raises(DataError) as caught:
        read(spec, **keywords)
    message = str(caught.value)
    assert str(spec) in message
    assert "\n" not in message
    return message


def rows(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in x}


# --- digits -----------------------------------------------------------------------------------------------------------


def digits(shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> Data:
    pytest.importorskip("sklearn")
    return load("digits", input_shape=shape, n_classes=10, seed=seed)


def test_digits_gives_every_image_of_scikit_learn_to_one_split_with_its_label() -> None:
    found = digits()
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    parts = (found.train, found.val, found.test)
    images = np.concatenate([part.x for part in parts])[:, 0]
    labels = np.concatenate([part.y for part in parts])
    scale = (images.max() - images.min()) / 16  # the set has both a 0 and a 16
    pixels = np.rint((images - images.min()) / scale).astype(int)
    ours = sorted((label, image.tobytes()) for label, image in zip(labels, pixels, strict=True))
    theirs = sorted((label, image.astype(int).tobytes()) for label, image in zip(bunch.target, bunch.images, strict=True))
    assert ours == theirs


def test_digits_splits_into_1100_200_and_497() -> None:
    found = digits()
    assert [len(part.y) for part in (found.train, found.val, found.test)] == [1100, 200, 497]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_digits_has_every_class_by_its_share(part: str) -> None:
    found = digits()
    everything = np.concatenate([found.train.y, found.val.y, found.test.y])
    y = getattr(found, part).y
    assert np.abs(np.bincount(y) - np.bincount(everything) * len(y) / len(everything)).max() < 2


def test_digits_training_pixels_are_standardised() -> None:
    x = digits().train.x
    assert (x.mean(), x.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))


def test_digits_splits_the_same_for_every_seed() -> None:
    np.testing.assert_array_equal(digits(seed=0).test.x, digits(seed=7).test.x)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (28, 28), (5, 13), (1, 8)])
def test_digits_are_resized_as_torch_resizes_bilinearly(height: int, width: int) -> None:
    torch = pytest.importorskip("torch")
    small, resized = digits().test.x, digits((1, height, width)).test.x
    wanted = torch.nn.functional.interpolate(torch.from_numpy(small), (height, width), mode="bilinear")
    np.testing.assert_allclose(resized, wanted.numpy(), atol=1e-5)


def test_digits_are_repeated_over_channels() -> None:
    x = digits((3, 16, 16)).test.x
    np.testing.assert_array_equal(x, np.repeat(digits((1, 16, 16)).test.x, 3, axis=1))


@pytest.mark.parametrize("n_channels", [1, 3])
def test_digits_fit_a_channels_last_model(n_channels: int) -> None:
    last, first = digits((12, 16, n_channels)).test.x, digits((n_channels, 12, 16)).test.x
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))


def test_digits_refuse_a_model_without_ten_outputs() -> None:
    assert "12 outputs" in complaint("digits", shape=(1, 16, 16), n_classes=12)


@pytest.mark.parametrize("shape", [(64,), (16, 16), (1, 1, 16, 16)])
def test_digits_refuse_a_model_without_an_image_input(shape: tuple[int, ...]) -> None:
    assert str(shape) in complaint("digits", shape=shape, n_classes=10)


def test_digits_refuse_an_input_that_memory_cannot_hold() -> None:
    assert "(3, 100000, 100000)" in complaint("digits", shape=(3, 100_000, 100_000), n_classes=10)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'mcuprune[prune]'")):
        load("digits", input_shape=(1, 8, 8), n_classes=10, seed=0)


def test_importing_data_imports_neither_torch_nor_scikit_learn() -> None:
    program = "import sys, mcuprune.data.loading; print(*{'torch', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# --- archives: what arrives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_archive_arrives_as_it_stands(tmp_path: Path, part: str) -> None:
    split = getattr(read(saved(tmp_path / "d.npz")), part)
    np.testing.assert_array_equal(split.x, arrays()[f"x_{part}"])
    np.testing.assert_array_equal(split.y, arrays()[f"y_{part}"])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float64", "bool", ">f4"])
def test_inputs_of_every_number_type_become_float32_unscaled(tmp_path: Path, dtype: str) -> None:
    x = (np.arange(9 * 24).reshape(9, *SHAPE) % 250).astype(dtype)
    found = read(saved(tmp_path / "d.npz", x_test=x)).test.x
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x.astype(np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64"])
def test_labels_of_every_integer_type_become_int64(tmp_path: Path, dtype: str) -> None:
    found = read(saved(tmp_path / "d.npz", y_test=arrays()["y_test"].astype(dtype))).test.y
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, arrays()["y_test"])


def test_fortran_ordered_inputs_keep_their_axes(tmp_path: Path) -> None:
    x = np.asfortranarray(arrays()["x_test"])
    np.testing.assert_array_equal(read(saved(tmp_path / "d.npz", x_test=x)).test.x, x)


@pytest.mark.parametrize(
    ("stored", "wanted"), [((4, 6), (1, 4, 6)), ((4, 6), (4, 6, 1)), ((1, 24), (1, 1, 24)), ((24,), (1, 1, 24))]
)
def test_missing_axes_of_size_one_are_added(tmp_path: Path, stored: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    x = {key: value.reshape(-1, *stored) for key, value in arrays().items() if key.startswith("x")}
    found = read(saved(tmp_path / "d.npz", **x), shape=wanted).test.x
    np.testing.assert_array_equal(found, arrays()["x_test"].reshape(-1, *wanted))


def test_labels_in_a_column_are_flattened(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "d.npz", y_test=arrays()["y_test"][:, None])).test.y
    np.testing.assert_array_equal(found, arrays()["y_test"])


@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool"])
def test_one_hot_labels_become_indices(tmp_path: Path, dtype: str) -> None:
    rows_of_one = np.eye(N_CLASSES, dtype=dtype)[arrays()["y_test"]]
    found = read(saved(tmp_path / "d.npz", y_test=rows_of_one)).test.y
    np.testing.assert_array_equal(found, arrays()["y_test"])


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_archives_are_read(tmp_path: Path, method: int) -> None:
    path = Path(saved(tmp_path / "plain.npz"))
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "small.npz", "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    np.testing.assert_array_equal(read(tmp_path / "small.npz").test.x, arrays()["x_test"])


def test_arrays_of_other_names_are_not_even_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "d.npz", notes=np.array([{"pickled": 1}], dtype=object))
    assert len(read(path).test.y) == 9


def test_keyword_spotting_archive_fits_a_model_with_a_channel_axis() -> None:
    path = SHARED / "kws12-mfcc.npz"
    if not path.exists():
        pytest.skip("no benchmark data beside this checkout")
    found = read(path, shape=(1, 49, 10), n_classes=12)
    assert [part.x.shape for part in (found.train, found.val, found.test)] == [
        (3221, 1, 49, 10),
        (499, 1, 49, 10),
        (566, 1, 49, 10),
    ]


# --- archives: the held-out validation examples -----------------------------------------------------------------------


def held_out(path: Path, n: int, *, seed: int = 0, y: np.ndarray | None = None) -> Data:
    x = np.arange(n, dtype=np.float32).reshape(n, 1)
    y = np.arange(n) % N_CLASSES if y is None else y
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return read(path, shape=(1,), seed=seed)


@pytest.mark.parametrize(("n", "n_held"), [(6, 3), (30, 3), (50, 5), (1000, 100), (20_000, 2000), (25_000, 2000)])
def test_a_tenth_is_held_out_at_least_the_classes_and_at_most_2000(tmp_path: Path, n: int, n_held: int) -> None:
    assert len(held_out(tmp_path / "d.npz", n).val.y) == n_held


@pytest.mark.parametrize("targets", ["none", "one number", "another example"])
@pytest.mark.parametrize("answers", [1, 12, 100_000])
def test_a_tenth_and_a_fifth_are_held_out_however_many_numbers_the_model_answers(answers: int, targets: str) -> None:
    """What isn't told apart by labels has no classes: an autoencoder of 576 numbers kept one example to learn from."""
    x = np.arange(200, dtype=np.float32).reshape(200, 1)
    y = {"none": None, "one number": (x[:, 0],), "another example": (x[::-1],)}[targets]
    wanted = Wanted(((1,),), () if y is None else (lambda where, name, values: values,), answers, 0, unlabelled=y is None)
    both = fitted(Raw("d", {name: Part((x,), y) for name in ("train", "test")}), wanted)
    assert [len(part) for part in (both.train, both.val, both.test)] == [180, 20, 200]
    alone = fitted(Raw("d", {"train": Part((x,), y)}), wanted)
    assert [len(part) for part in (alone.train, alone.val, alone.test)] == [144, 16, 40]


def test_of_classes_that_the_data_has_each_is_held_out(tmp_path: Path) -> None:
    """A model may know a thousand; those that no example shows take none away from the others."""
    x, y = np.arange(60, dtype=np.float32).reshape(60, 1), np.arange(60) % 7
    of_many = fitted(Raw("d", {name: Part((x,), (y,)) for name in ("train", "test")}), classifier((1,), 1000, 0))
    assert sorted(of_many.val.y) == list(range(7))


def test_held_out_and_kept_examples_are_the_training_set(tmp_path: Path) -> None:
    found = held_out(tmp_path / "d.npz", 100)
    assert sorted([*found.train.x[:, 0], *found.val.x[:, 0]]) == list(range(100))


def test_held_out_examples_keep_their_labels(tmp_path: Path) -> None:
    val = held_out(tmp_path / "d.npz", 100).val
    np.testing.assert_array_equal(val.y, val.x[:, 0].astype(int) % N_CLASSES)


def test_holding_out_repeats_with_the_seed(tmp_path: Path) -> None:
    first, again = held_out(tmp_path / "d.npz", 100, seed=3), held_out(tmp_path / "d.npz", 100, seed=3)
    np.testing.assert_array_equal(first.val.x, again.val.x)


def test_holding_out_changes_with_the_seed(tmp_path: Path) -> None:
    assert rows(held_out(tmp_path / "d.npz", 100, seed=3).val.x) != rows(held_out(tmp_path / "d.npz", 100, seed=4).val.x)


def test_holding_out_keeps_the_shares_of_the_classes(tmp_path: Path) -> None:
    y = np.repeat([0, 1, 2], [700, 200, 100])
    assert np.bincount(held_out(tmp_path / "d.npz", 1000, y=y).val.y).tolist() == [70, 20, 10]


def test_the_only_example_of_a_class_is_not_held_out(tmp_path: Path) -> None:
    y = np.array([0] * 12 + [1] * 12 + [2])
    assert 2 in held_out(tmp_path / "d.npz", 25, y=y).train.y


def test_too_few_examples_to_hold_any_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d\.npz: x_train has 3 examples, too few to hold out any"):
        held_out(tmp_path / "d.npz", 3)


# --- archives: what is refused ----------------------------------------------------------------------------------------


def with_value(value: float) -> np.ndarray:
    x = arrays()["x_train"].astype(np.float64)
    x[17, 0, 2, 3] = value
    return x


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_test": None}, ["no array 'x_test'", "found: x_train", "it needs x_train, y_train, x_test, y_test"]),
        ({"y_train": None}, ["no array 'y_train'"]),
        ({"y_val": None}, ["x_val without y_val"]),
        ({"x_val": None}, ["y_val without x_val"]),
        ({"y_train": arrays()["y_train"][:-1]}, ["x_train has 30 examples but y_train 29 labels"]),
        ({"y_val": np.arange(9) % 3}, ["x_val has 6 examples but y_val 9 labels"]),
        ({"x_train": with_value(np.nan)}, ["x_train has NaN or infinite", "in 1 of 30 examples", "index 17"]),
        ({"x_train": with_value(-np.inf)}, ["x_train has NaN or infinite", "index 17"]),
        ({"x_train": with_value(1e300)}, ["x_train has NaN or infinite values (as float32)", "index 17"]),
        ({"x_test": np.zeros((0, *SHAPE))}, ["x_test is empty (shape (0, 1, 4, 6))"]),
        ({"y_test": np.zeros(0, dtype=int)}, ["y_test is empty"]),
        ({"x_test": np.float32(3)}, ["x_test is empty (shape ())"]),
        ({"x_train": np.full((30, *SHAPE), "a")}, ["x_train has dtype <U1", "plain numbers"]),
        ({"x_train": np.zeros((30, *SHAPE), dtype=complex)}, ["x_train has dtype complex128", "plain numbers"]),
        ({"x_train": np.zeros((30, *SHAPE), dtype="M8[s]")}, ["x_train has dtype datetime64[s]"]),
        ({"x_train": np.zeros((30, *SHAPE), dtype=[("a", "f4")])}, ["x_train has dtype [('a', '<f4')]"]),
        ({"x_train": np.zeros((30, *SHAPE), dtype=object)}, ["x_train holds pickled Python objects"]),
        ({"y_test": np.arange(9)}, ["y_test has labels from 0 to 8", "3 outputs", "labels from 0 to 2"]),
        ({"y_test": np.full(9, 3)}, ["y_test has labels from 3 to 3"]),
        ({"y_test": np.arange(9) % 3 - 1}, ["y_test has labels from -1 to 1"]),
        ({"y_test": np.full(9, 2**63, dtype=np.uint64)}, ["y_test has labels from 9223372036854775808"]),
        ({"y_test": np.arange(9) % 3 / 1}, ["y_test has dtype float64", "y_test.astype('int64')"]),
        ({"y_test": np.arange(9) % 3 / 2}, ["y_test has fractions", "regression"]),
        ({"y_test": np.full(9, "cat")}, ["y_test has dtype <U3", "whole-number labels from 0 to 2"]),
        ({"y_test": np.full((9, 3), 1 / 3)}, ["y_test has shape (9, 3)", "aren't one-hot"]),
        ({"y_test": np.ones((9, 3), dtype=int)}, ["aren't one-hot", "y_test.argmax(1)"]),
        ({"y_test": np.zeros((9, 3), dtype=int)}, ["aren't one-hot"]),
        ({"y_test": np.tile([2, -1, 0], (9, 1))}, ["aren't one-hot"]),
        ({"y_test": np.eye(5, dtype=int)[np.arange(9) % 5]}, ["y_test has shape (9, 5)", "one-hot rows (n, 3)"]),
        ({"y_test": np.zeros((9, 1, 3))}, ["y_test has shape (9, 1, 3)"]),
        ({"x_test": np.zeros((9, 5, 6))}, ["x_test has shape (9, 5, 6); the model wants (n, 1, 4, 6)", "(1, 4, 6)"]),
        ({"x_test": np.zeros((9, 6, 4))}, ["x_test has shape (9, 6, 4); the model wants (n, 1, 4, 6)"]),
        ({"x_test": np.zeros((9, 24))}, ["x_test has shape (9, 24); the model wants (n, 1, 4, 6)"]),
        ({"x_test": np.zeros((9, 1, 1, 4, 6))}, ["x_test.reshape(-1, 1, 4, 6)"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], says: list[str]) -> None:
    message = complaint(saved(tmp_path / "d.npz", **changes))
    assert [part for part in says if part not in message] == []


@pytest.mark.parametrize(("shape", "order"), [((3, 4, 6), (0, 2, 3, 1)), ((6, 4, 3), (0, 3, 1, 2)), ((5, 9), (0, 2, 1))])
def test_channels_at_the_other_end_are_moved_where_the_shapes_leave_no_doubt(
    tmp_path: Path, shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    x = {f"x_{part}": random.normal(size=(n, *shape)) for part, n in (("train", 30), ("val", 6), ("test", 9))}
    wanted = x["x_test"].transpose(order).astype(np.float32)
    found = load(saved(tmp_path / "d.npz", **x), input_shape=wanted.shape[1:], n_classes=3, seed=0)
    np.testing.assert_array_equal(found.test.x[:], wanted)


@pytest.mark.parametrize(
    "content",
    [b"", b"x_train,y_train\n1,0\n", b"PK\x03\x04" + bytes(50), b"\x80\x05\x95" + bytes(20)],
    ids=["empty", "text", "zip-start", "pickle"],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    assert "not a readable .npz archive" in complaint(tmp_path / "d.npz")


def test_a_single_array_under_the_name_of_an_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert "not a readable .npz archive" in complaint(tmp_path / "x.npz")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "a folder" in complaint(tmp_path)


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "d.npz")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    trap = np.empty(30, dtype=object)
    trap[:] = Trap()
    complaint(saved(tmp_path / "d.npz", x_train=trap))
    assert not (tmp_path / "sprung").exists()


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "d.npz"))
    content = bytearray(path.read_bytes())
    for start in (found.start() for found in re.finditer(rb"PK\x01\x02", bytes(content))):
        content[start + 8] |= 1  # the flag of the central directory
    path.write_bytes(content)
    assert "encrypted" in complaint(path)


def npy(header: str, body: bytes, *, version: tuple[int, int] = (1, 0)) -> bytes:
    """One array file with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + body


HEADER = "{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy(HEADER.format(descr="<f4", shape="(10**9,)").replace("10**9", "1000000000"), bytes(8)), "claims shape"),
        (npy(HEADER.format(descr="<f4", shape="(-1, -2)"), bytes(8)), "claims shape"),
        (npy(HEADER.format(descr="<f4", shape="(2,)"), bytes(7)), "claims shape (2,) of float32, 8 bytes, but has 7"),
        (npy(HEADER.format(descr="<f4", shape="(2,)"), bytes(9)), "claims shape (2,) of float32, 8 bytes, but has 9"),
        (npy(HEADER.format(descr="|O", shape="(2,)"), bytes(16)), "pickled"),
        (npy(HEADER.format(descr="?!", shape="(2,)"), bytes(8)), "not a readable .npz archive"),
        (npy(HEADER.format(descr=",aj", shape="(2,)"), bytes(8)), "not a readable .npz archive"),
        (npy("{'descr': '<f4', b'fortran_order': False, 'shape': (2,)}", bytes(8)), "not a readable .npz archive"),
        (npy("{'descr': '<f4'}", bytes(8)), "not a readable .npz archive"),
        (npy("{'descr': (", bytes(8)), "not a readable .npz archive"),
        (npy("(" * 5000, bytes(8)), "not a readable .npz archive"),
        (npy(" " * 20_000 + HEADER.format(descr="<f4", shape="(2,)"), bytes(8)), "not a readable .npz archive"),
        (npy(HEADER.format(descr="<f4", shape="(2,)"), bytes(8), version=(3, 0)), ".npy format (3, 0)"),
        (b"\x93NUMPY", "not a readable .npz archive"),
        (b"", "not a readable .npz archive"),
    ],
    ids=[
        "huge",
        "negative",
        "short",
        "long",
        "objects",
        "dtype",
        "fields",
        "mixed-keys",
        "keys",
        "open",
        "nested",
        "padded",
        "v3",
        "cut",
        "none",
    ],
)
def test_lying_array_headers_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", content)
    assert says in complaint(path)


def test_arrays_with_a_header_of_the_second_version_are_read(tmp_path: Path) -> None:
    stored = {"x": ("<f4", "(9, 1, 4, 6)", arrays()["x_test"]), "y": ("<i8", "(9,)", arrays()["y_test"])}
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        for part, (kind, (descr, shape, value)) in itertools.product(("train", "val", "test"), stored.items()):
            content = npy(HEADER.format(descr=descr, shape=shape), value.tobytes(), version=(2, 0))
            archive.writestr(f"{kind}_{part}.npy", content)
    np.testing.assert_array_equal(read(tmp_path / "d.npz").test.x, arrays()["x_test"])


def test_an_archive_with_an_offset_beyond_any_file_is_refused(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "d.npz"))
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    name_end = directory + 46 + struct.unpack_from("<H", content, directory + 28)[0]
    content[directory + 42 : directory + 46] = b"\xff" * 4  # the offset stands in an extra field instead
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    struct.pack_into("<H", content, directory + 30, len(extra))
    content[name_end:name_end] = extra
    end = content.index(b"PK\x05\x06")
    struct.pack_into("<I", content, end + 12, struct.unpack_from("<I", content, end + 12)[0] + len(extra))
    path.write_bytes(content)
    assert "not a readable .npz archive" in complaint(path)


def declaring(path: Path, **wanted: tuple[str, tuple[int, ...]]) -> Path:
    """An archive that claims these types and shapes, sizes of its members included, and has hardly any of it."""
    headers = {name: npy(HEADER.format(descr=descr, shape=repr(shape)), b"") for name, (descr, shape) in wanted.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, header in headers.items():
            archive.writestr(f"{name}.npy", header)
    content = bytearray(path.read_bytes())
    for found in re.finditer(rb"PK\x01\x02", bytes(content)):
        name = content[found.start() + 46 :].split(b".npy")[0].decode()
        descr, shape = wanted[name]
        size = len(headers[name]) + math.prod(shape) * np.dtype(descr).itemsize
        content[found.start() + 24 : found.start() + 28] = struct.pack("<I", size)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("descr", ["|b1", "|u1", "<f2"])
def test_an_archive_is_bounded_and_refused_unread(tmp_path: Path, descr: str) -> None:
    labels = {f"y_{part}": ("<i8", (30,)) for part in ("train", "val", "test")}
    n, few = 2**32 // 24 // np.dtype(descr).itemsize - 1000, 2**29 // 24
    many, less = ({f"x_{part}": (descr, (size, 1, 4, 6)) for part in ("train", "val", "test")} for size in (n, few))
    complained = complaint(declaring(tmp_path / "d.npz", **many, **labels))
    assert re.search(r"would take \d{11} bytes, .* at most 8589934592 are used", complained)
    assert "at most" not in complaint(declaring(tmp_path / "e.npz", **less, **labels))


def test_labels_are_bounded_as_they_become_int64(tmp_path: Path) -> None:
    small = ("<f4", (30, 1, 4, 6))
    path = declaring(tmp_path / "d.npz", x_train=small, y_train=("|i1", (10**9,)), x_test=small, y_test=("<i8", (30,)))
    assert "at most 8589934592 are used" in complaint(path)


def test_what_a_function_returns_is_bounded_by_what_it_becomes(write_module: Callable[[str], None]) -> None:
    """A view takes no memory and becomes an array that does."""
    wide = "def wide():\n    return sets() | dict(x_test=np.broadcast_to(np.uint8(1), (2**29, 1, 4, 6)))\n"
    write_module(f"{WHOLE}\n\n{wide}")
    with pytest.raises(DataError, match="at most 8589934592 are used"):
        read("mydata:wide")


def test_an_archive_that_declares_less_than_it_holds_is_refused(tmp_path: Path) -> None:
    content = npy(HEADER.format(descr="|u1", shape="(1000000,)"), bytes(1_000_000))
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_BZIP2) as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", content)
    lying = (tmp_path / "d.npz").read_bytes().replace(struct.pack("<I", len(content)), struct.pack("<I", 1000))
    (tmp_path / "d.npz").write_bytes(lying)
    assert "not a readable .npz archive" in complaint(tmp_path / "d.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_archives_raise_nothing_but_dataerror(tmp_path: Path, method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for key, value in arrays(6).items():
            inner = io.BytesIO()
            np.save(inner, value[:6])
            archive.writestr(f"{key}.npy", inner.getvalue())
    whole, rng = buffer.getvalue(), np.random.default_rng(0)
    n_refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), size=int(rng.integers(1, 4))):
            damaged[at] = rng.integers(0, 256)
        if rng.random() < 0.2:
            del damaged[int(rng.integers(0, len(whole))) :]
        (tmp_path / "d.npz").write_bytes(damaged)
        try:
            read(tmp_path / "d.npz")
        except DataError:
            n_refused += 1
    assert n_refused > 200  # most of the damage must have mattered, or nothing was tested


def test_cut_bzip2_data_is_refused(tmp_path: Path) -> None:
    packed = bz2.compress(b"whatever")
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", packed[:-4])
    content = bytearray(path.read_bytes())
    for signature, offset in ((rb"PK\x01\x02", 10), (rb"PK\x03\x04", 8)):
        for found in re.finditer(signature, bytes(content)):
            content[found.start() + offset] = zipfile.ZIP_BZIP2
    path.write_bytes(content)
    assert "not a readable .npz archive" in complaint(path)


# --- module:function --------------------------------------------------------------------------------------------------

WHOLE = """
import numpy as np
def sets(n=30):
    x, y = np.arange(n * 24.0).reshape(n, 1, 4, 6), np.arange(n) % 3
    return dict(x_train=x, y_train=y, x_val=x, y_val=y, x_test=x, y_test=y)
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes ``mydata.py`` into an empty current directory; forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mydata", raising=False)

    def write(source: str) -> None:
        monkeypatch.setitem(sys.modules, "mydata", None)  # so that monkeypatch takes out what gets imported
        del sys.modules["mydata"]
        (tmp_path / "mydata.py").write_text(WHOLE + source, encoding="utf-8")

    return write


Write = Callable[[str], None]


def test_a_function_in_the_current_directory_is_called(write_module: Write) -> None:
    write_module("")
    np.testing.assert_array_equal(read("mydata:sets").test.x, np.arange(30 * 24).reshape(30, 1, 4, 6))


def test_a_function_in_a_package_is_called(write_module: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module("")
    (tmp_path / "mypack_of_data").mkdir()
    (tmp_path / "mypack_of_data" / "inner.py").write_text("from mydata import sets", encoding="utf-8")
    assert len(read("mypack_of_data.inner:sets").test.y) == 30


def test_a_function_that_takes_seed_gets_it(write_module: Write) -> None:
    write_module("def load(seed): return sets(seed)")
    assert len(read("mydata:load", seed=21).test.y) == 21


def test_a_function_that_takes_any_keyword_gets_the_seed(write_module: Write) -> None:
    write_module("def load(**options): return sets(options['seed'])")
    assert len(read("mydata:load", seed=21).test.y) == 21


def test_lists_are_turned_into_arrays(write_module: Write) -> None:
    write_module("def load(): return {key: value.tolist() for key, value in sets().items()}")
    assert read("mydata:load").test.x.shape == (30, 1, 4, 6)


def test_an_open_archive_is_a_mapping(write_module: Write, tmp_path: Path) -> None:
    saved(tmp_path / "d.npz")
    write_module("def load(): return np.load('d.npz')")
    np.testing.assert_array_equal(read("mydata:load").test.x, arrays()["x_test"])


def test_validation_is_held_out_of_what_a_function_returns(write_module: Write) -> None:
    write_module("def load(): return {key: value for key, value in sets(100).items() if 'val' not in key}")
    assert (len(read("mydata:load").train.y), len(read("mydata:load").val.y)) == (90, 10)


def test_the_import_path_is_restored(write_module: Write) -> None:
    write_module("")
    before = list(sys.path)
    read("mydata:sets")
    assert sys.path == before


def test_the_import_path_is_restored_after_a_failure(write_module: Write) -> None:
    write_module("def load(): raise ValueError('boom')")
    before = list(sys.path)
    complaint("mydata:load")
    assert sys.path == before


def test_a_function_may_import_its_neighbours_late(write_module: Write, tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mydata.py").write_text("n = 12", encoding="utf-8")
    write_module("def load():\n    import neighbour_of_mydata\n    return sets(neighbour_of_mydata.n)")
    assert len(read("mydata:load").test.y) == 12


def test_what_a_function_prints_goes_to_stderr(write_module: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write_module("print('importing')\ndef load():\n    print('loading')\n    return sets()")
    read("mydata:load")
    assert capsys.readouterr() == ("", "importing\nloading\n")


@pytest.mark.parametrize(
    ("source", "spec", "says"),
    [
        ("", "no_such_module_here:load", ["no module 'no_such_module_here'"]),
        ("", "mydata:load", ["module 'mydata'", "mydata.py", "has no 'load'"]),
        ("", "mydata.deeper:load", ["'mydata.deeper'"]),
        ("load = 3", "mydata:load", ["'load' in", "of type int, not a function"]),
        ("def load(path, other): return sets()", "mydata:load", ["(path, other)", "without arguments"]),
        ("def load(): raise ValueError('boom\\nbang')", "mydata:load", ["raised ValueError: boom bang"]),
        ("def load(): raise SystemExit('stop')", "mydata:load", ["raised SystemExit: stop"]),
        ("raise ValueError('boom')", "mydata:load", ["importing 'mydata' raised ValueError: boom"]),
        ("raise SystemExit(3)", "mydata:load", ["importing 'mydata' raised SystemExit: 3"]),
        ("def", "mydata:load", ["importing 'mydata' raised SyntaxError"]),
        ("import no_such_neighbour", "mydata:load", ["importing 'mydata' raised", "'no_such_neighbour'"]),
        ("def load(): return 3", "mydata:load", ["of type int, not a mapping", "x_train"]),
        ("def load(): return tuple(sets().values())[:1]", "mydata:load", ["a tuple of 1 (ndarray)"]),
        ("def load(): return {}", "mydata:load", ["no array 'x_train' (found: nothing)"]),
        ("def load(): return {'X_train': 1, 2: 3}", "mydata:load", ["no array 'x_train' (found: 2, X_train)"]),
        ("def load(): return sets() | {'x_val': [[1], [1, 2]]}", "mydata:load", ["x_val can't be turned into an array"]),
        ("def load(): return sets() | {'y_val': None}", "mydata:load", ["x_val without y_val"]),
        ("def load(): return sets() | {'y_val': np.arange(30)}", "mydata:load", ["y_val has labels from 0 to 29"]),
        (
            "class Lazy(dict):\n    def __getitem__(self, key): raise OSError('disk gone')\ndef load(): return Lazy(sets())",
            "mydata:load",
            ["raised OSError: disk gone"],
        ),
    ],
)
def test_functions_that_fail_are_refused(write_module: Write, source: str, spec: str, says: list[str]) -> None:
    write_module(source)
    message = complaint(spec)
    assert [part for part in says if part not in message] == []


def test_what_a_function_returns_is_refused_in_its_own_words(write_module: Write) -> None:
    write_module("def load(): return {}")
    assert complaint("mydata:load").startswith("mydata:load: no array 'x_train'")


def test_an_interrupt_inside_a_function_is_not_swallowed(write_module: Write) -> None:
    write_module("def load(): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        read("mydata:load")


# --- what a spec may be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["digit", "", "folder/data", "my-module:load", "module:", ":load", "a/b:load", "a:b:c"])
def test_an_unknown_spec_is_refused_with_the_known_names_and_forms(spec: str) -> None:
    message = complaint(spec)
    assert [part for part in (*data.DATASETS, ".npz", "module:function") if part not in message] == []


def test_an_archive_needs_no_suffix(tmp_path: Path) -> None:
    Path(saved(tmp_path / "d.npz")).rename(tmp_path / "d")
    assert len(read(tmp_path / "d").test.y) == 9


def test_a_name_wins_over_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    Path(saved(tmp_path / "d.npz")).rename(tmp_path / "digits")
    assert len(read("digits", shape=(1, 8, 8), n_classes=10).test.y) == 497


@pytest.mark.parametrize("shape", [(), (0, 8, 8), (1, -1, 8)])
def test_a_model_input_that_is_not_fixed_is_refused(shape: tuple[int, ...]) -> None:
    assert "--input-shape" in complaint("digits", shape=shape, n_classes=10)
