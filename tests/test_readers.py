"""Every format of files that data comes in: written here by other libraries or by hand, read back by ours."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import time
import wave
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks_data

from mcuprune.cli import main
from mcuprune.data import cache, decoding, frontend, loading, pictures, waves
from mcuprune.data.fitting import Wanted, classifier, label_check
from mcuprune.data.readers.table import READERS
from mcuprune.data.sets import Data
from mcuprune.errors import DataError, MissingExtra, UsageError

Image = pytest.importorskip("PIL.Image")
SIZE = (8, 8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCUPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(value: int, size: tuple[int, int] = SIZE) -> Any:
    """An image of three planes: its number, its number doubled, a gradient."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = value, 2 * value % 256, np.arange(size[1]) * 3
    return Image.fromarray(pixels)


def folder_of(root: Path, classes: list[str], count: int = 6, suffix: str = "png") -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            picture(10 * number + index).save(root / name / f"{index}.{suffix}")
    return root


def opened(path: Path | str, n_classes: int = 3, shape: tuple[int, ...] = (3, *SIZE), **more: Any) -> Data:
    return loading.opened(str(path), Wanted((shape,), (label_check(n_classes),), n_classes, 0, **more))


def everything(data: Data) -> tuple[np.ndarray, np.ndarray]:
    splits = (data.train, data.val, data.test)
    return np.concatenate([split.x[:] for split in splits]), np.concatenate([split.y for split in splits])


# -------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg"])
def test_a_folder_of_classes_gives_every_image_its_label(tmp_path: Path, suffix: str) -> None:
    data = opened(folder_of(tmp_path / "d", ["ant", "bee", "cat"], 10, suffix))
    x, y = everything(data)
    assert data.classes == ("ant", "bee", "cat")
    assert sorted(y) == [0] * 10 + [1] * 10 + [2] * 10
    red = x[:, 0].mean((1, 2))
    assert np.abs(red // 10 - y).max() <= (0 if suffix in ("png", "bmp") else 1)
    if suffix in ("png", "bmp"):
        assert sorted(red) == sorted(10 * number + index for number in range(3) for index in range(10))


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "validation", "testing"), ("trn", "dev", "tst")])
def test_parts_are_found_in_common_spellings(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, count in zip(names, (5, 3, 4), strict=True):
        folder_of(tmp_path / name, ["a", "b", "c"], count)
    data = opened(tmp_path)
    assert [len(split) for split in (data.train, data.val, data.test)] == [15, 9, 12]


def test_a_split_that_nobody_brings_is_the_same_for_every_seed(tmp_path: Path) -> None:
    folder_of(tmp_path / "d", ["a", "b", "c"], 10)
    splits = [loading.opened(str(tmp_path / "d"), classifier((3, *SIZE), 3, seed)) for seed in (0, 1)]
    np.testing.assert_array_equal(splits[0].test.x[:], splits[1].test.x[:])
    assert np.bincount(splits[0].test.y).tolist() == [2, 2, 2]
    assert not np.array_equal(splits[0].val.x[:], splits[1].val.x[:])


def test_folders_of_numbers_are_labels_by_value(tmp_path: Path) -> None:
    data = opened(folder_of(tmp_path / "d", [str(n) for n in range(11)], 4), 11)
    assert data.classes == tuple(str(n) for n in range(11))
    x, y = everything(data)
    np.testing.assert_array_equal(x[:, 0].mean((1, 2)) // 10, y)


def test_the_models_names_number_the_labels(tmp_path: Path) -> None:
    folder_of(tmp_path / "d", ["ant", "bee", "cat"], 10)
    data = opened(tmp_path / "d", classes=("cat", "ant", "bee"))
    x, y = everything(data)
    np.testing.assert_array_equal(np.array([1, 2, 0])[(x[:, 0].mean((1, 2)) // 10).astype(int)], y)
    assert data.classes == ("cat", "ant", "bee")


def test_names_that_the_model_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has classes bee that the model doesn't name"):
        opened(folder_of(tmp_path / "d", ["ant", "bee", "cat"], 10), classes=("ant", "cat", "dog"))


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for index in range(20):
        picture(index).save(tmp_path / f"{index}.png")
    assert opened(tmp_path, unlabelled=True).train.targets is None
    with pytest.raises(DataError, match="no labels"):
        opened(tmp_path)


def test_images_are_resized_as_pillow_does_and_grey_ones_made_grey(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for index in range(12):
        picture(index, (30, 20)).save(tmp_path / "a" / f"{index}.png")
    data = opened(tmp_path, 1, (1, 8, 8))
    x, _ = everything(data)
    wanted = [
        np.asarray(picture(index, (30, 20)).convert("L").resize((8, 8), Image.Resampling.BILINEAR)) for index in range(12)
    ]
    assert sorted(map(bytes, x.astype(np.uint8))) == sorted(bytes(np.ascontiguousarray(one)) for one in wanted)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"\xff\xd8\xff\xe0" + b"\0" * 100])
def test_what_is_no_image_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    folder_of(tmp_path / "d", ["a", "b", "c"], 10)
    (tmp_path / "d" / "a" / "3.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a/3\.png: not a readable image"):
        opened(tmp_path / "d")


def huge_png(side: int) -> bytes:
    """A PNG of a few kilobytes that claims side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 10**6)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9000, 12_000, 60_000, 2**30])
def test_a_picture_that_would_be_huge_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bomb.png").write_bytes(huge_png(side))
    started = time.monotonic()
    with pytest.raises(DataError, match=r"bomb\.png"):
        opened(tmp_path, 1)
    assert time.monotonic() - started < 1


def test_formats_that_pillow_knows_and_nobody_needs_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture(1).save(tmp_path / "a" / "x.gif")
    (tmp_path / "a" / "x.gif").rename(tmp_path / "a" / "x.png")
    with pytest.raises(DataError, match="not a readable image"):
        opened(tmp_path, 1)


def test_damaged_images_raise_nothing_but_dataerror() -> None:
    random = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "BMP", "WEBP"):
        file = io.BytesIO()
        picture(7, (20, 30)).save(file, kind)
        content = bytearray(file.getvalue())
        for _ in range(60):
            damaged = bytearray(content)
            for place in random.integers(0, len(damaged), 4):
                damaged[place] = random.integers(0, 256)
            with contextlib.suppress(DataError):
                assert pictures.decoded(bytes(damaged[: random.integers(1, len(damaged) + 1)]), 8, 8, 3, "x").shape == (8, 8, 3)


def test_many_images_are_decoded_once_and_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_SMALL", 0)
    root = folder_of(tmp_path / "d", ["a", "b", "c"], 10)
    first, _ = everything(opened(root))
    monkeypatch.setattr(pictures, "decoded", None)
    again, _ = everything(opened(root))
    np.testing.assert_array_equal(first, again)
    picture(99).save(root / "a" / "0.png")
    with pytest.raises(TypeError):  # a changed file is decoded again
        opened(root)


@pytest.fixture
def several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of three cores, where even a few files are worth processes."""
    monkeypatch.setattr(cache.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(decoding, "_WORTH_PROCESSES", 0)


def test_processes_decode_what_one_would(tmp_path: Path, several_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(folder_of(tmp_path / "d", ["a", "b é"], 60).rglob("*.png"))
    here = [pictures.decoded(file, 9, 7, 3, where="") for file in files]
    monkeypatch.setattr(pictures, "decoded", None)  # of this process
    np.testing.assert_array_equal([*decoding.stream(files, (9, 7, 3))], here)


def test_what_a_process_can_not_decode_is_named(tmp_path: Path, several_processes: None) -> None:
    files = sorted(folder_of(tmp_path / "d", ["a"], 99).rglob("*.png"))
    files[70].write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{files[70].name}: not a readable image"):
        list(decoding.stream(files, (9, 7, 3)))


def test_without_its_processes_a_folder_is_read_all_the_same(
    tmp_path: Path, several_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(folder_of(tmp_path / "d", ["a"], 99).rglob("*.png"))
    here = [pictures.decoded(file, 9, 7, 3, where="") for file in files]
    for executable in (shutil.which("false"), str(tmp_path / "nothing")):  # a process that ends at once, and none
        monkeypatch.setattr(decoding.sys, "executable", executable)
        np.testing.assert_array_equal([*decoding.stream(files, (9, 7, 3))], here)


def test_threads_keep_the_order_of_what_they_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)

    def slow(index: int) -> int:
        time.sleep(0.002 * (index % 3))
        return index * index

    assert list(cache.in_order(slow, range(600))) == [index * index for index in range(600)]


# --------------------------------------------------------------------------------------------------------------- tables


def test_a_csv_of_files_and_labels(tmp_path: Path) -> None:
    folder_of(tmp_path / "pictures", ["x", "y"], 10)
    with (tmp_path / "d.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", "label", "split"])
        for number, name in enumerate(("x", "y")):
            for index in range(10):
                rows.writerow([f"pictures/{name}/{index}.png", ["zebra", "ape"][number], "train" if index < 7 else "test"])
    data = opened(tmp_path / "d.csv", 2)
    assert data.classes == ("ape", "zebra")
    np.testing.assert_array_equal(1 - data.test.x[:][:, 0].mean((1, 2)) // 10, data.test.y)
    assert len(data.test) == 6


def test_json_lines_with_several_columns_give_several_outputs(tmp_path: Path) -> None:
    folder_of(tmp_path / "p", ["x"], 20)
    rows = [{"file": f"p/x/{index}.png", "colour": ["red", "blue"][index % 2], "age": index / 2} for index in range(20)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    numbers: Callable[[str, str, Any], np.ndarray] = lambda where, name, values: np.asarray(values, np.float32)  # noqa: E731
    wanted = Wanted(((3, *SIZE),), (label_check(2), numbers), 2, 0)
    data = loading.opened(str(tmp_path / "d.jsonl"), wanted)
    colour, age = (np.concatenate([s.targets[i] for s in (data.train, data.val, data.test)]) for i in (0, 1))
    np.testing.assert_array_equal(1 - (2 * age) % 2, colour)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows"),
        ("name,label\nx.png,1\n", "no column of files"),
        ("file,label\nx.png,1,2\n", "row 1 has 3 columns, the head 2; give every row one value for each of file, label"),
        ("file,label\nx.png\n", "row 1 has 1 columns, the head 2; give every row one value for each of file, label"),
        ("file,label\nx.png,\n", "row 1 has no label; write a class or a number there, or leave the row out"),
        ("file,label\n../../etc/passwd,1\n", "is no image or WAV file"),
        ("file,file\nx.png,1\n", "two columns of one name among file, file; give each column of the head a name of its own"),
        ("file,label,split\nx.png,1,test\n", "no row is of split train; write train into column split"),
        ("file,label,split\nx.png,1,maybe\n", "split is 'maybe'"),
    ],
)
def test_tables_that_make_no_sense_are_refused(tmp_path: Path, text: str, says: str) -> None:
    picture(1).save(tmp_path / "x.png")
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        opened(tmp_path / "d.csv")


# -------------------------------------------------------------------------------------------------------------- arrays


class Trap:
    """What writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("unpickled"),))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda place: np.save(place, np.array([Trap()] * 8), allow_pickle=True),
            r"holds pickled Python objects, which are never",
        ),
        (
            lambda place: place.write_bytes(pickle.dumps(Trap())),
            r"not a readable \.npy of plain numbers \(.*write it with numpy",
        ),
        (lambda place: os.truncate(place, 400), r"claims shape \(20, 4\) of float32, 320 bytes, but has 272; write it again"),
        (lambda place: os.truncate(place, 3), r"not a readable \.npy of plain numbers \(.*\); write it with numpy.save"),
        (lambda place: place.write_bytes(place.read_bytes() + b"more"), r"320 bytes, but has 324; write it again"),
    ],
)
def test_an_npy_file_of_no_plain_numbers_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "x.npy"
    np.save(place, np.zeros((20, 4), np.float32))
    change(place)
    with pytest.raises(DataError, match=rf"x\.npy: .*{says}"):
        opened(place, shape=(4,))
    assert not Path("unpickled").exists()


def arrays(n: int = 30, shape: tuple[int, ...] = (3, *SIZE)) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    sizes = {"train": n, "test": n // 2}
    return {
        key: value
        for part, size in sizes.items()
        for key, value in (
            (f"x_{part}", random.integers(0, 256, (size, *shape), np.uint8)),
            (f"y_{part}", np.arange(size) % 3),
        )
    }


@pytest.mark.parametrize("name", ["{letter}_{part}", "{letter}-{part}", "{part}_{letter}", "{part}_{word}", "{word}.{part}"])
def test_npy_pairs_stay_on_disk(tmp_path: Path, name: str) -> None:
    given = arrays()
    for key, value in given.items():
        letter, part = key.split("_")
        word = {"x": "images", "y": "labels"}[letter]
        np.save(tmp_path / f"{name.format(letter=letter.upper(), part=part, word=word)}.npy", value)
    data = opened(tmp_path)
    np.testing.assert_array_equal(data.test.x[:], given["x_test"])
    np.testing.assert_array_equal(data.test.y, given["y_test"])
    assert isinstance(data.test.x.source, np.memmap)  # type: ignore[attr-defined]


def test_stored_arrays_of_an_archive_stay_in_it(tmp_path: Path) -> None:
    given = arrays(40_000)
    np.savez(tmp_path / "d.npz", **{**given, "x_train": np.asfortranarray(given["x_train"])})
    data = opened(tmp_path / "d.npz")
    np.testing.assert_array_equal(data.test.x[:], given["x_test"])
    assert isinstance(data.train.x.source.source, np.memmap)  # type: ignore[attr-defined]
    rows = np.arange(0, 40_000, 777)
    kept = data.train.x.indices  # type: ignore[attr-defined]
    np.testing.assert_array_equal(data.train.x[np.searchsorted(kept, kept[rows // 2])], given["x_train"][kept[rows // 2]])


def test_an_archive_that_would_swell_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in arrays().items():
            with archive.open(f"{key}.npy", "w") as file:
                if key == "x_train":
                    shape = (300 * 2**20 // 192, 3, 8, 8)
                    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                    for _ in range(300):
                        file.write(bytes(2**20))
                else:
                    np.lib.format.write_array(file, value)
    started = time.monotonic()
    with pytest.raises(DataError, match="no real data is that dense"):
        opened(tmp_path / "d.npz")
    assert time.monotonic() - started < 0.5


@pytest.mark.slow
def test_a_bomb_of_three_gigabytes_is_refused_within_two_seconds(tmp_path: Path) -> None:
    size = 3 * 10**9 // 192
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key, count in (("x_train", size), ("y_train", size), ("x_test", 9), ("y_test", 9)):
            shape = (count, 3, 8, 8) if key[0] == "x" else (count,)
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                left = int(np.prod(shape))
                while left:
                    left -= file.write(bytes(min(left, 2**22)))
    started = time.monotonic()
    with pytest.raises(DataError, match="no real data is that dense"):
        opened(tmp_path / "d.npz")
    assert time.monotonic() - started < 2


def test_several_inputs_and_outputs_have_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    given = {"x0_train": random.normal(size=(20, 4)), "x1_train": random.normal(size=(20, 2, 3)), "y0_train": np.arange(20) % 2}
    given |= {"y1_train": random.normal(size=(20, 2))}
    np.savez(tmp_path / "d.npz", **given)
    numbers: Callable[[str, str, Any], np.ndarray] = lambda where, name, values: np.asarray(values, np.float32)  # noqa: E731
    wanted = Wanted(((4,), (2, 3)), (label_check(2), numbers), 2, 0)
    data = loading.opened(str(tmp_path / "d.npz"), wanted)
    assert [column.shape[1:] for column in data.train.inputs] == [(4,), (2, 3)]
    assert data.train.targets is not None
    order = {tuple(row): index for index, row in enumerate(given["x0_train"].astype(np.float32).tolist())}
    rows = [order[tuple(row)] for row in data.test.inputs[0][:].tolist()]
    np.testing.assert_allclose(data.test.inputs[1][:], given["x1_train"][rows], rtol=1e-6)


def idx(array: np.ndarray, kind: int) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("form", ["{part}-{what}-idx{rank}-ubyte", "{part}-{what}.idx{rank}-ubyte"])
def test_mnists_format(tmp_path: Path, zipped: bool, form: str) -> None:
    given = arrays(shape=SIZE)
    for part, name in (("train", "train"), ("test", "t10k")):
        for what, rank, array in (("images", 3, given[f"x_{part}"]), ("labels", 1, given[f"y_{part}"].astype(np.uint8))):
            place = tmp_path / (form.format(part=name, what=what, rank=rank) + (".gz" if zipped else ""))
            content = idx(array, 8)
            place.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    data = opened(tmp_path, shape=(1, *SIZE))
    np.testing.assert_array_equal(data.test.x[:][:, 0], given["x_test"])
    np.testing.assert_array_equal(data.test.y, given["y_test"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x07\x01\0\0\0\x01a",
        b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        idx(np.zeros((30, 8, 8), np.uint8), 8)[:-1],
        gzip.compress(idx(np.zeros((30, 8, 8), np.uint8), 8), mtime=0)[:-9],
        gzip.compress(idx(np.zeros((30, 8, 8), np.uint8), 8) + b"x", mtime=0),
        gzip.compress(b"\0\0\x08\x03" + struct.pack(">III", 2**20, 32, 32), mtime=0),
    ],
    ids=["empty", "short head", "other type", "huge", "one byte short", "gzip cut short", "a byte too many", "bomb"],
)
def test_lying_idx_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match="train-images"):
        opened(tmp_path, shape=(1, *SIZE), unlabelled=True)


def test_cifars_binary_format(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (70, 3, 32, 32), np.uint8), (np.arange(70) % 10).astype(np.uint8)
    records = np.concatenate([labels[:, None], images.reshape(70, -1)], 1)
    for number in (1, 2, 3):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(records[20 * (number - 1) : 20 * number].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(records[60:].tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"kind {n}" for n in range(10)))
    data = opened(tmp_path, 10, (3, 32, 32))
    np.testing.assert_array_equal(data.test.x[:], images[60:])
    assert data.classes[3] == "kind 3"
    x, y = everything(data)
    assert sorted(zip(map(bytes, x.astype(np.uint8)), y.tolist(), strict=True)) == sorted(
        zip(map(bytes, images), labels.tolist(), strict=True)
    )
    (tmp_path / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(DataError, match="no whole number of records"):
        opened(tmp_path, 10, (3, 32, 32))


# ----------------------------------------------------------------------------------------------------- other libraries


def test_coco_gives_images_and_their_boxes(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for part, count in (("train", 20), ("val", 6)):
        (tmp_path / f"{part}2017").mkdir()
        listed, boxes = [], []
        for index in range(count):
            picture(index, (20, 40)).save(tmp_path / f"{part}2017" / f"{index}.png")
            listed.append({"id": 100 + index, "file_name": f"{index}.png", "width": 40, "height": 20})
            boxes.append({"image_id": 100 + index, "category_id": 7, "bbox": [10, 5, 20, 10]})
        found = {"images": listed, "annotations": boxes, "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]}
        (tmp_path / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(found))
    data = opened(tmp_path, unlabelled=True)
    assert data.train.targets is None
    assert data.classes == ("cat", "dog")
    np.testing.assert_allclose(data.boxes["val"].corners, [[0.25, 0.25, 0.75, 0.75]] * 6)
    assert set(data.boxes["val"].kind) == {1}


def test_coco_opens_no_file_outside_the_data_set(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "secret.png")
    (tmp_path / "d" / "annotations").mkdir(parents=True)
    found = {"images": [{"id": 1, "file_name": "../../secret.png", "width": 8, "height": 8}]}
    (tmp_path / "d" / "annotations" / "train.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match="no image"):
        opened(tmp_path / "d", unlabelled=True)


@pytest.mark.parametrize("form", ["{part}/{what}", "{what}/{part}"])
@pytest.mark.parametrize("names", ["names: ['cat', \"dog\"]", "names:\n  - cat\n  - dog", "names:\n  0: cat\n  1: dog"])
def test_yolo_gives_images_and_their_boxes(tmp_path: Path, form: str, names: str) -> None:
    for part, count in (("train", 20), ("valid", 6)):
        for what in ("images", "labels"):
            (tmp_path / form.format(part=part, what=what)).mkdir(parents=True)
        for index in range(count):
            picture(index).save(tmp_path / form.format(part=part, what="images") / f"{index}.jpg")
            (tmp_path / form.format(part=part, what="labels") / f"{index}.txt").write_text("1 0.5 0.5 0.5 0.25\n")
    (tmp_path / "data.yaml").write_text(f"train: x\n{names}\nnc: 2\n")
    data = opened(tmp_path, unlabelled=True)
    assert data.classes == ("cat", "dog")
    assert len(data.val) == 6
    np.testing.assert_allclose(data.boxes["val"].corners, [[0.25, 0.375, 0.75, 0.625]] * 6)


@pytest.mark.parametrize("label", ["cls", "json"])
def test_webdataset_shards(tmp_path: Path, label: str) -> None:
    for shard in range(3):
        with tarfile.open(tmp_path / f"train-{shard:06}.tar", "w") as archive:
            for index in range(10):
                file = io.BytesIO()
                picture(10 * shard + index).save(file, "PNG")
                text = json.dumps({"label": shard}) if label == "json" else str(shard)
                for suffix, content in (("png", file.getvalue()), (label, text.encode())):
                    member = tarfile.TarInfo(f"{index:05}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    x, y = everything(opened(tmp_path))
    np.testing.assert_array_equal(x[:, 0].mean((1, 2)) // 10, y)
    assert len(y) == 30


def test_hugging_face_data_sets_on_disk(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for part, count in (("train", 30), ("test", 9)):
        (tmp_path / part).mkdir()
        cells = []
        for index in range(count):
            file = io.BytesIO()
            picture(index).save(file, "PNG")
            cells.append({"bytes": file.getvalue(), "path": None})
        table = pa.table({"image": cells, "label": [index % 3 for index in range(count)]})
        place = str(tmp_path / part / "data-00000-of-00001.arrow")
        with pa.OSFile(place, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        info = {"features": {"label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}}
        (tmp_path / part / "dataset_info.json").write_text(json.dumps(info))
    data = opened(tmp_path)
    assert data.classes == ("ant", "bee", "cat")
    np.testing.assert_array_equal(data.test.x[:][:, 0].mean((1, 2)), np.arange(9))
    np.testing.assert_array_equal(data.test.y, np.arange(9) % 3)


def test_arrow_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.arrow").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"mcuprune\[arrow\]"):
        opened(tmp_path)


def test_a_table_of_lists_of_numbers(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    x = np.random.default_rng(0).normal(size=(30, 2, 3))
    parquet.write_table(pa.table({"x": x.tolist(), "label": [n % 3 for n in range(30)]}), tmp_path / "train-0.parquet")
    found, _ = everything(opened(tmp_path, shape=(2, 3)))
    assert sorted(map(bytes, found)) == sorted(map(bytes, x.astype(np.float32)))


# ------------------------------------------------------------------------------------------------------------- objects


class Items:
    """What a torch Dataset is, without torch."""

    classes = ("ant", "bee", "cat")

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        if index >= 30:
            raise IndexError(index)
        return np.full((3, *SIZE), index, np.float32), index % 3


def batches() -> Any:
    for start in range(0, 30, 8):
        rows = np.arange(start, min(30, start + 8))
        yield np.tile(rows[:, None, None, None], (1, 3, *SIZE)).astype(np.float32), rows % 3


FORMS: dict[str, Callable[[], Any]] = {
    "a Dataset": Items,
    "Datasets by part": lambda: {"train": Items(), "test": Items()},
    "an iterator of examples": lambda: iter([Items()[index] for index in range(30)]),
    "an iterator of batches": batches,
    "a list of two Datasets": lambda: (Items(), Items()),
    "two arrays": lambda: (np.stack([Items()[i][0] for i in range(30)]), np.arange(30) % 3),
    "items as mappings": lambda: [{"image": Items()[i][0], "label": i % 3} for i in range(30)].__iter__(),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_function_may_return(form: str) -> None:
    data = loading.opened(FORMS[form](), classifier((3, *SIZE), 3, 0))
    x, y = everything(data)
    np.testing.assert_array_equal(x[:, 0, 0, 0] % 3, y)
    assert sorted(set(x[:, 0, 0, 0])) == list(range(30))


def test_a_torch_loader() -> None:
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(Items(), batch_size=7, shuffle=True)
    x, y = everything(loading.opened(loader, classifier((3, *SIZE), 3, 0)))
    np.testing.assert_array_equal(x[:, 0, 0, 0] % 3, y)
    assert len(y) == 30


@pytest.mark.parametrize(
    "given", [3, None, [], (1, 2, 3), iter([]), {"test": Items()}, iter([(np.zeros(2), 1), (np.zeros(3), 1)])]
)
def test_objects_that_are_no_data_are_refused(given: Any) -> None:
    with pytest.raises(DataError):
        loading.opened(given, classifier((3, *SIZE), 3, 0))


# --------------------------------------------------------------------------------------------------------------- sound


def write_wave(path: Path, sound: np.ndarray, rate: int = 16000, width: int = 2, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        values = np.repeat(np.round(sound * (2 ** (8 * width - 1) - 1)).astype(np.int64), channels)
        if width == 1:
            file.writeframes((values + 128).astype(np.uint8).tobytes())
        else:
            file.writeframes(values.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes())


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_of_every_width_are_read(tmp_path: Path, width: int, channels: int) -> None:
    sound = np.sin(np.arange(4000) / 7) * 0.8
    write_wave(tmp_path / "x.wav", sound, 8000, width, channels)
    found, rate = waves.read(tmp_path / "x.wav")
    assert rate == 8000
    np.testing.assert_allclose(found, sound, atol=2.0 ** (2 - 8 * width))


@pytest.mark.parametrize(("old", "new"), [(8000, 16000), (44100, 16000), (48000, 16000), (16000, 22050)])
def test_resampled_tones_are_the_same_tones(old: int, new: int) -> None:
    found = frontend.resampled(np.sin(2 * np.pi * 440 * np.arange(old // 2) / old), old, new)
    wanted = np.sin(2 * np.pi * 440 * np.arange(len(found)) / new)
    assert abs(len(found) - new // 2) <= 1
    np.testing.assert_allclose(found[200:-200], wanted[200:-200], atol=2e-3)


def test_what_a_lower_rate_cannot_hold_is_filtered_out() -> None:
    high = np.sin(2 * np.pi * 11_000 * np.arange(44_100) / 44_100)
    assert np.abs(frontend.resampled(high, 44_100, 16_000)[500:-500]).max() < 0.02


def test_features_are_what_a_loop_over_the_definitions_gives() -> None:
    """Frames, window, discrete Fourier sums, triangles on the mel scale and cosines, each by its formula."""
    s = frontend.Settings(samples=2000, window=400, hop=300, fft=512, mels=12, coefficients=5)
    sound = np.random.default_rng(0).normal(0, 0.1, 2000)
    rows = []
    for start in range(0, 2000 - 400 + 1, 300):
        frame = [sound[start + n] * (0.5 - 0.5 * np.cos(2 * np.pi * n / 400)) for n in range(400)]
        spectrum = [abs(sum(v * np.exp(-2j * np.pi * k * n / 512) for n, v in enumerate(frame))) for k in range(257)]
        mel = [1127 * np.log(1 + k * 16000 / 512 / 700) for k in range(257)]
        edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 4000 / 700), 14)
        bands = []
        for band in range(12):
            left, middle, right = edges[band : band + 3]
            weights = [max(0, min((m - left) / (middle - left), (right - m) / (right - middle))) for m in mel]
            bands.append(np.log(sum(w * v for w, v in zip(weights[1:], spectrum[1:], strict=True)) + 1e-6))
        scale = 1 / np.sqrt(2 * 12)
        rows.append([2 * scale * sum(b * np.cos(np.pi * k * (2 * n + 1) / 24) for n, b in enumerate(bands)) for k in range(5)])
    np.testing.assert_allclose(frontend.features(sound, s), rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "kind", "window", "hop"),
    [
        ((1, 49, 10), "mfcc", 480, 320),
        ((49, 10), "mfcc", 480, 320),
        ((1, 98, 40), "logmel", 400, 160),
        ((1, 40, 98), "logmel", 400, 160),
        ((1, 101, 64), "logmel", 400, 160),
        ((1, 61, 13), "mfcc", 512, 256),
        ((1, 16000), "raw", 480, 320),
    ],
)
def test_front_ends_are_found_by_the_models_input(shape: tuple[int, ...], kind: str, window: int, hop: int) -> None:
    found = frontend.settings_for(shape, {}, "x")
    assert (found.kind, found.window, found.hop) == (kind, window, hop)
    sound = np.random.default_rng(0).normal(size=9000)
    assert frontend.features(sound, found).shape == tuple(size for size in shape if size != 1)


def test_a_front_end_that_is_asked_for_counts() -> None:
    asked = frontend.parsed("mfcc,window=40ms,hop=20ms,mels=20,rate=8000,samples=8000")
    found = frontend.settings_for((1, 49, 10), asked, "x")
    assert (found.rate, found.window, found.hop, found.mels, found.fft) == (8000, 320, 160, 20, 512)
    with pytest.raises(DataError, match="--frontend"):
        frontend.settings_for((1, 77, 10), {}, "x")
    for wrong in ("mfc", "window=", "window=x", "window=1h", "kind=3", "fft=1e999999999999999999999"):
        with pytest.raises(UsageError, match="--frontend"):
            frontend.parsed(wrong)


def words(root: Path, names: list[str], speakers: int = 12) -> Path:
    random = np.random.default_rng(0)
    for number, name in enumerate(names):
        for speaker in range(speakers):
            tone = 0.5 * np.sin(2 * np.pi * (300 + 150 * number) * np.arange(8000) / 8000)
            write_wave(root / name / f"{speaker:08x}_nohash_0.wav", tone + random.normal(0, 0.01, 8000), 8000)
    return root


def test_words_are_classes_and_speakers_stay_together(tmp_path: Path) -> None:
    root = words(tmp_path / "d", ["go", "no", "yes"], 40)
    data = opened(root, 3, (1, 49, 10))
    assert data.classes == ("go", "no", "yes")
    assert data.kind == "audio"
    assert len(data.test) % 3 == 0
    assert {split.x.shape[1:] for split in (data.train, data.val, data.test)} == {(1, 49, 10)}


def test_strange_words_are_unknown_and_noise_is_silence(tmp_path: Path) -> None:
    root = words(tmp_path / "d", ["go", "no", "tree", "wow", "yes"])
    noise = np.random.default_rng(0).normal(0, 0.1, 40_000)
    write_wave(root / "_background_noise_" / "hiss.wav", noise)
    names = ("yes", "no", "go", "silence", "unknown")
    data = opened(root, 5, (1, 49, 10), classes=names)
    assert data.classes == names
    _, y = everything(data)
    counts = np.bincount(y, minlength=5)
    assert counts[:3].tolist() == [12, 12, 12]
    assert counts[4] <= 14
    assert counts[3] >= 8


def test_a_folder_of_words_is_pruned_and_written_as_c_by_two_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten words, three that no class has, and noise: the classes and the front end reach the C header."""
    monkeypatch.chdir(tmp_path)
    ten = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes"]
    root = words(tmp_path / "speech", [*ten, "cat", "dog", "tree"], 6)
    write_wave(root / "_background_noise_" / "hiss.wav", np.random.default_rng(0).normal(0, 0.1, 40_000))
    layers = tasks_data.Layers()
    y = layers.conv(layers.conv("x", 1, 8, stride=2), 8, 8, stride=2)
    y = layers.dense(layers.add("Flatten", [layers.add("GlobalAveragePool", [y])]), 8, 12)
    layers.net({"x": [1, 49, 10]}, {"y": (y, [12])}).save("net.onnx")
    command = ["prune", "net.onnx", "--macs", "70%", "--data", "speech", "--epochs", "1", "-o", "small.onnx", "--report", "r"]
    assert main([*command, "-q"]) == 0
    found = json.loads(Path("r/report.json").read_text())
    assert found["classes"] == [*ten, "silence", "unknown"]
    assert found["preprocessing"]["frontend"]["kind"] == "mfcc"
    assert found["int8_layers"]["layers"]
    assert not [note for note in found["notes"] if "alphabet" in note]  # the folders' order is not the model's
    assert main(["export", "small.onnx", "-o", "net.c"]) == 0
    header = Path("net.h").read_text()
    for setting in ("RATE 16000", "WINDOW 480", "HOP 320", "COEFFICIENTS 10"):
        assert f"NET_FRONTEND_{setting}" in header
    assert '"silence", "unknown"}' in header


def test_words_that_fit_no_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 3 words .* the model 7 classes; name the classes"):
        opened(words(tmp_path / "d", ["go", "no", "yes"], 3), 7, (1, 49, 10))


def test_twelve_words_or_ten_with_silence_and_unknown_is_asked_where_it_is_open(tmp_path: Path) -> None:
    """Both are what somebody means by a folder with Speech Commands' ten words, two more and background noise."""
    ten = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes"]
    root = words(tmp_path / "d", [*ten, "cat", "tree"], 3)
    assert set(opened(root, 12, (1, 49, 10)).classes) == {*ten, "cat", "tree"}  # without noise there is no silence
    write_wave(root / "_background_noise_" / "hiss.wav", np.random.default_rng(0).normal(0, 0.1, 40_000))
    with pytest.raises(DataError, match=r"may be these words .*cat.* or Speech Commands' ten, silence .*--classes FILE"):
        opened(root, 12, (1, 49, 10))
    for classes in ((*ten, "silence", "unknown"), (*ten, "cat", "tree")):
        data = opened(root, 12, (1, 49, 10), classes=classes)
        assert data.classes == classes
        assert np.bincount(everything(data)[1], minlength=12).min() > 0


def test_folders_that_are_called_silence_and_unknown_are_these_classes(tmp_path: Path) -> None:
    ten = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes"]
    root = words(tmp_path / "d", [*ten, "silence", "unknown"], 3)
    write_wave(root / "_background_noise_" / "hiss.wav", np.random.default_rng(0).normal(0, 0.1, 40_000))
    assert set(opened(root, 12, (1, 49, 10)).classes) == {*ten, "silence", "unknown"}


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x03\0\x01\0" + b"\0" * 40])
def test_what_is_no_sound_is_refused(tmp_path: Path, content: bytes) -> None:
    root = words(tmp_path / "d", ["go", "no"], 4)
    (root / "go" / "00000001_nohash_0.wav").write_bytes(content)
    with pytest.raises(DataError, match="not a readable WAV file"):
        opened(root, 2, (1, 49, 10))


# --------------------------------------------------------------------------------------------------------------- links


def recordings(root: Path) -> Path:
    return words(root, ["a", "b", "c"], 4)


def cifar_batches(root: Path) -> Path:
    root.mkdir()
    for number in (1, 2):
        (root / f"data_batch_{number}.bin").write_bytes(bytes(3073 * 20))
    return root


def yolo_images(root: Path) -> Path:
    (root / "labels").mkdir(parents=True)
    return folder_of(root, ["images"], 20)


@pytest.mark.parametrize("target", ["nowhere", "itself", "a folder that is gone"])
@pytest.mark.parametrize(
    ("make", "name", "shape"),
    [
        (lambda root: folder_of(root, ["a", "b", "c"]), "a/x.png", (3, *SIZE)),
        (lambda root: folder_of(root, ["a", "b", "c"]), "d", (3, *SIZE)),  # a class's folder, on a disk that is not there
        (recordings, "a/x.wav", (1, 49, 10)),
        (recordings, "_background_noise_/x.wav", (1, 49, 10)),
        (cifar_batches, "data_batch_3.bin", (3, 32, 32)),
        (yolo_images, "images/x.png", (3, *SIZE)),
    ],
    ids=["image", "folder", "sound", "noise", "cifar", "yolo"],
)
def test_a_link_to_nothing_is_refused_by_its_name(
    tmp_path: Path, make: Callable[[Path], Path], name: str, shape: tuple[int, ...], target: str
) -> None:
    link = make(tmp_path / "d") / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to({"nowhere": "gone.png", "itself": link.name}.get(target, str(tmp_path / "disk" / "x")))
    with pytest.raises(DataError, match=rf"{name}: a link to '.*', where no file can be found; repair or remove the link"):
        opened(tmp_path / "d", 4 if "noise" in name else 3, shape, unlabelled=True)  # noise counts where silence is a class


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
@pytest.mark.parametrize("name", ["x.png", "x.wav"])
def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    root = folder_of(tmp_path / "d", ["a"]) if name == "x.png" else words(tmp_path / "d", ["a"], 4)
    os.mkfifo(root / "a" / name)
    with pytest.raises(DataError, match=rf"a/{name}: no regular file"):
        opened(root, 1, (3, *SIZE) if name == "x.png" else (1, 49, 10))


def test_a_folder_that_may_not_be_read_is_named_and_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path / "d", ["a", "b", "c"])
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"d/b: can't be read \(Permission denied\)"):
        opened(root)


# ----------------------------------------------------------------------------------------- names in files, and numbers


LONG = "x" * 300


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("d.csv", f"file,label\nx.png,1\n{LONG}.png,1\n", r"d\.csv: row 2: 'x{77}\.\.\.' is no image or WAV file"),
        ("d.csv", f"{LONG}.png,1\nx.png,1\n", "no column of files"),
        ("d.csv", f"{'/'.join([LONG] * 20)},1\nx.png,1\n", "no column of files"),
        ("d.jsonl", json.dumps({"file": LONG, "label": 1}), "row 1: 'x{77}"),
        ("d.csv", "file,label\nx.png,1\nfolder.png,1\n", r"row 2: 'folder\.png' is no image or WAV file"),
        ("d.csv", "file,label\nx.png,1\nnul\0.png,1\n", "row 2: 'nul"),
    ],
)
def test_what_can_be_no_name_of_a_file_is_refused_by_its_row(tmp_path: Path, file: str, text: str, says: str) -> None:
    picture(1).save(tmp_path / "x.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=says):
        opened(tmp_path / file)


def coco(root: Path, **changes: Any) -> Path:
    """A folder of twenty images, their annotations with some entries changed: those of a list by number, or the whole."""
    folder_of(root, ["images"], 20)
    found: dict[str, Any] = {
        "images": [{"id": index, "file_name": f"{index}.png", "width": 8, "height": 8} for index in range(20)],
        "annotations": [{"image_id": index, "category_id": 7, "bbox": [1, 2, 3, 4]} for index in range(20)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    for key, change in changes.items():
        if not isinstance(change, dict) or not isinstance(next(iter(change)), int):
            found[key] = change
            continue
        for index, entry in change.items():
            found[key][index] = {**found[key][index], **entry} if isinstance(entry, dict) else entry
    (root / "annotations").mkdir()
    (root / "annotations" / "train.json").write_text(json.dumps(found))
    return root


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"categories": {1: {"id": INFINITE}}}, r"categories\[1\]: id is inf; write a whole number"),
        ({"categories": {1: {"id": NAN}}}, r"categories\[1\]: id is nan"),
        ({"categories": {1: {"id": 1.5}}}, r"categories\[1\]: id is 1.5"),
        ({"categories": {1: {"id": None}}}, r"categories\[1\]: id is None"),
        ({"categories": {1: {"id": 3}}}, r"categories\[1\]: id 3 is given twice"),
        ({"categories": {"a": 1}}, "categories is an object, where a list of objects belongs"),
        ({"categories": {0: 5}}, r"categories\[0\] is a number, where an object belongs"),
        ({"annotations": None}, "annotations is null, where a list of objects belongs"),
        ({"annotations": {2: {"category_id": INFINITE}}}, r"annotations\[2\]: category_id is inf; write a whole number"),
        ({"annotations": {2: {"category_id": -1}}}, r"annotations\[2\]: category_id -1 is the id of none of the categories"),
        ({"annotations": {2: {"image_id": 1234}}}, r"annotations\[2\]: image_id 1234 is the id of none of the images; add it,"),
        ({"annotations": {2: {"image_id": [1]}}}, r"annotations\[2\]: image_id is \[1\]"),
        ({"annotations": {2: {"bbox": [NAN] * 4}}}, r"annotations\[2\]: bbox is \[nan, nan, nan, nan\]; write \[left, top,"),
        ({"annotations": {2: {"bbox": [1, 2, INFINITE, 4]}}}, r"annotations\[2\]: bbox is"),
        ({"annotations": {2: {"bbox": [1, 2, -3, 4]}}}, r"annotations\[2\]: bbox is"),
        ({"annotations": {2: {"bbox": [1, 2, 1e300, 4]}}}, r"annotations\[2\]: bbox is"),
        ({"annotations": {2: {"bbox": [1, 2, 10**400, 4]}}}, r"annotations\[2\]: bbox is"),
        ({"annotations": {2: {"bbox": [1, 2, 3]}}}, r"annotations\[2\]: bbox is"),
        ({"annotations": {2: {"bbox": "abcd"}}}, r"annotations\[2\]: bbox is"),
        ({"images": {3: {"id": INFINITE}}}, r"images\[3\]: id is inf"),
        ({"images": {3: {"id": 2}}}, r"images\[3\]: id 2 is given twice"),
        ({"images": {3: {"width": 0}}}, r"images\[3\]: width is 0; write a number above 0"),
        ({"images": {3: {"height": NAN}}}, r"images\[3\]: height is nan"),
        ({"images": {3: {"file_name": LONG}}}, "no image 'x{77}"),
        ({"images": {3: {"file_name": "nul\0.png"}}}, "no image 'nul"),
        ({"images": {3: {"file_name": 5}}}, r"images\[3\]: file_name is 5; write the name of a file"),
        ({"images": 3}, "images is a number, where a list of objects belongs"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_annotations_that_make_no_sense_are_refused_by_their_place(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=rf"train\.json: {says}"):
        opened(coco(tmp_path / "d", **changes), unlabelled=True)


@pytest.mark.parametrize("text", ["[1]", "3", "{", "null", "\xff", "[" * 10**5, '{"annotations": []}'])
def test_what_is_no_annotations_is_refused(tmp_path: Path, text: str) -> None:
    root = coco(tmp_path / "d")
    (root / "annotations" / "train.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"train\.json: (no readable JSON|not COCO's annotations)"):
        opened(root, unlabelled=True)


@pytest.mark.parametrize(
    "line",
    [
        "0 nan nan nan nan",
        "0 .5 .5 inf .2",
        "-1 .5 .5 .2 .2",
        "0 .5 .5 -.2 .2",
        "0 -.5 .5 .2 .2",
        "0 320 240 100 50",
        "0.5 .5 .5 .2 .2",
        "1" * 900 + " .5 .5 .2 .2",
        "1" * 9000 + " .5 .5 .2 .2",
        "0 1",
        "cat .5 .5 .2 .2",
    ],
)
@pytest.mark.filterwarnings("error")
def test_lines_that_are_no_boxes_are_refused_by_their_number(tmp_path: Path, line: str) -> None:
    root = yolo_images(tmp_path / "d")
    (root / "labels" / "3.txt").write_text(f"0 .5 .5 .2 .2\n{line}\n")
    with pytest.raises(DataError, match=r"3\.txt: line 2: .* is not class, centre and size") as refused:
        opened(root, unlabelled=True)
    assert len(str(refused.value)) < 600


# ----------------------------------------------------------------------------------------------------- forms of WAV files


PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
LONG_NAME = bytes.fromhex("000000001000800000aa00389b71")


def wav(samples: bytes, kind: int = PCM, bits: int = 16, channels: int = 1, rate: int = 8000, **more: Any) -> bytes:
    """A WAV file by its specification; ``inner`` makes it extensible, of that kind, others say what is wrong with it."""
    block = bits // 8 * channels
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * block, more.get("block", block), bits)
    if "inner" in more:
        form += struct.pack("<HHIH", 22, bits, 0, more["inner"]) + more.get("name", LONG_NAME)
    form = form[: more.get("form", 99)]
    chunks = [(b"LIST", b"odd"), (b"fmt ", form), (b"data", samples)]
    content = b"WAVE"
    for name, held in chunks:
        length = more.get("claims", len(held)) if name == b"data" else len(held)
        content += name + struct.pack("<I", length) + held + b"\0" * (len(held) % 2)
    return b"RIFF" + struct.pack("<I", len(content)) + content


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(("kind", "bits"), [(PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)])
def test_floats_and_the_extensible_form_are_read(tmp_path: Path, kind: int, bits: int, extensible: bool, channels: int) -> None:
    sound = np.sin(np.arange(4000) / 7) * 0.8
    values = np.repeat(sound, channels)
    if kind == FLOAT:
        samples = values.astype(f"<f{bits // 8}").tobytes()
    else:
        whole = np.round(values * 2 ** (bits - 1)).astype("<i8")
        samples = whole.view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes()
    more = {"inner": kind} if extensible else {}
    (tmp_path / "x.wav").write_bytes(wav(samples, EXTENSIBLE if extensible else kind, bits, channels, **more))
    found, rate = waves.read(tmp_path / "x.wav")
    assert rate == 8000
    np.testing.assert_allclose(found, sound, atol=2.0**-15 if bits == 16 else 2.0**-22)
    np.testing.assert_array_equal(waves.read(tmp_path / "x.wav", 1000, 50)[0], found[1000:1050])


SAMPLES = bytes(8000)
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "a head alone": (wav(SAMPLES)[:12], "no samples follow its head"),
    "a page of the web": (b"<html>not found</html>", "it begins with b'<html>not fo'"),
    "a form cut short": (wav(SAMPLES, form=10), "its form is cut short"),
    "cut short": (wav(SAMPLES)[:-100], "it claims 8000 bytes of samples and has 7900: it is cut short"),
    "a length nobody knew": (wav(SAMPLES, claims=2**32 - 1), "it claims 4294967295 bytes of samples"),
    "no samples": (wav(b""), "it has no samples"),
    "less than a sample": (wav(b"a"), "it has no samples"),
    "no form": (b"RIFF\x20\0\0\0WAVEdata\x04\0\0\0abcd", "before a word of their form"),
    "mu-law": (wav(SAMPLES, 7, 8), "its samples are mu-law, format 7"),
    "an unknown kind": (wav(SAMPLES, 0x1234), "of a kind that is unknown, format 4660"),
    "an extensible kind without its name": (wav(SAMPLES, EXTENSIBLE), "extensible, and of no kind that is known"),
    "an unknown extensible kind": (wav(SAMPLES, EXTENSIBLE, inner=1, name=b"x" * 14), "extensible, and of no kind"),
    "floats of 16 bits": (wav(SAMPLES, FLOAT, 16), "floats of 16 bits"),
    "64 bits": (wav(SAMPLES, PCM, 64), "64 bits, 1 channels at 8000 Hz are no sound"),
    "no channel": (wav(SAMPLES, channels=0), "0 channels"),
    "no rate": (wav(SAMPLES, rate=0), "at 0 Hz"),
    "a contradiction": (wav(SAMPLES, block=3), "contradicts itself"),
    "no number": (wav(np.full(99, np.nan, "<f4").tobytes(), FLOAT, 32), "a sample is no number"),
    "whole numbers as floats": (wav(np.full(99, 9e3, "<f4").tobytes(), FLOAT, 32), "a sample is no number, or beyond 64"),
}


@pytest.mark.parametrize("place", ["go/x.wav", "_background_noise_/x.wav"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_sound_is_refused_with_the_reason(tmp_path: Path, damage: str, place: str) -> None:
    root = words(tmp_path / "d", ["go", "no"], 4)
    (root / place).parent.mkdir(exist_ok=True)
    content, says = DAMAGED[damage]
    (root / place).write_bytes(content)
    with pytest.raises(DataError, match=rf"{place}: not a readable WAV file \(.*{says}.*\); \w+"):
        opened(root, 3, (1, 49, 10), classes=("go", "no", "silence"))


def test_damaged_sound_raises_nothing_but_dataerror(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    good = wav(bytes(random.integers(0, 256, 400, np.uint8)), EXTENSIBLE, 24, inner=PCM)
    for _ in range(300):
        damaged = bytearray(good)
        for place in random.integers(0, 80, 3):
            damaged[place] = random.integers(0, 256)
        (tmp_path / "x.wav").write_bytes(damaged[: random.integers(1, len(damaged) + 1)])
        with contextlib.suppress(DataError):
            assert len(waves.read(tmp_path / "x.wav")[0])


# -------------------------------------------------------------------------------------------------- shards and their labels


def shards(root: Path, *labels: Any, name: str = "train-0.tar", image: bytes | None = None) -> Path:
    """A shard of twenty images, with labels by turns: each the content of a .cls, (its suffix, the content), or None."""
    root.mkdir(exist_ok=True)
    with tarfile.open(root / name, "w") as archive:
        for index in range(20 if labels else 0):
            file = io.BytesIO()
            picture(index).save(file, "PNG")
            members = [("png", image if image is not None and index == 3 else file.getvalue())]
            if (label := labels[index % len(labels)]) is not None:
                members.append(("cls", label) if isinstance(label, bytes) else label)
            for suffix, content in members:
                member = tarfile.TarInfo(f"in/{index:03}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return root


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ((), r"train-0\.tar: holds no examples"),
        ((b"0", None), r"train-0\.tar: in/001\.png has no label, as others have"),
        ((None, b"0"), r"train-0\.tar: in/000\.png has no label, as others have"),
        ((b"0", b""), r"train-0\.tar: in/001\.cls is empty"),
        ((b"0", b" \n"), r"train-0\.tar: in/001\.cls is empty"),
        ((b"0", b"-1"), r"train-0\.tar: in/001\.cls holds -1"),
        ((b"3.0",), r"train-0\.tar: in/000\.cls holds 3\.0"),
        ((b"nan",), r"train-0\.tar: in/000\.cls holds nan"),
        ((b"1" * 30,), r"train-0\.tar: in/000\.cls holds 1{30}"),
        ((b"0", b"cat"), r"train-0\.tar: in/001\.png has the label 'cat', and in/000\.png 0"),
        ((("json", b"[1]"),), r"train-0\.tar: in/000\.json is a list"),
        ((("json", b'{"label": 0}'), ("json", b"{}")), r"train-0\.tar: in/001\.png has no label, as others have"),
        ((("json", b'{"label": 1000000000000000000000000}'),), r"train-0\.tar: in/000\.json holds 1000000000000000000000000"),
        ((("json", b'{"label": null}'),), r"train-0\.tar: in/000\.json holds null"),
        ((("json", b'{"label": 1.0}'),), r"train-0\.tar: in/000\.json holds 1\.0"),
        ((("json", b'{"label": true}'),), r"train-0\.tar: in/000\.json holds true"),
        ((("json", b'{"label": -1}'),), r"train-0\.tar: in/000\.json holds -1"),
        ((("json", b'{"label": [1]}'),), r"train-0\.tar: in/000\.json holds \[1\]"),
        ((("json", b'{"label": ""}'),), r"train-0\.tar: in/000\.json is empty"),
        ((("json", b"{"),), r"train-0\.tar: in/000\.json is no readable label"),
        ((b"\xff",), r"train-0\.tar: in/000\.cls is no readable label"),
    ],
)
def test_labels_of_shards_that_make_no_sense_are_refused_by_their_member(
    tmp_path: Path, labels: tuple[Any, ...], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        opened(shards(tmp_path / "d", *labels), unlabelled=True)


@pytest.mark.parametrize("label", [None, ("json", b'{"caption": "x"}')])
def test_shards_without_any_label_have_none(tmp_path: Path, label: Any) -> None:
    assert opened(shards(tmp_path / "d", label), unlabelled=True).train.targets is None


def test_a_class_counts_more_than_what_describes_the_image(tmp_path: Path) -> None:
    """Members of one example in any order: a class, metadata and a caption."""
    root = shards(tmp_path / "d", b"0", b"1", b"2")
    with tarfile.open(root / "train-0.tar") as old, tarfile.open(root / "train-1.tar", "w") as new:
        for member in old:
            held = old.extractfile(member)
            assert held is not None
            if member.name.endswith("cls"):
                for suffix, content in (("txt", b"a photo of it"), ("json", b'{"width": 8}')):
                    more = tarfile.TarInfo(member.name.replace("cls", suffix))
                    more.size = len(content)
                    new.addfile(more, io.BytesIO(content))
            new.addfile(member, held)
    (root / "train-0.tar").unlink()
    assert np.bincount(everything(opened(root))[1]).tolist() == [7, 7, 6]


def test_shards_without_a_part_to_train_on_are_refused(tmp_path: Path) -> None:
    root = shards(tmp_path / "d", b"0", b"1", b"2", name="test-0.tar")
    with pytest.raises(DataError, match="test and no train; name"):
        opened(root)
    assert len(everything(opened(root / "test-0.tar"))[1]) == 20  # who names one file means it


def test_the_order_of_words_is_said_whatever_they_come_from(tmp_path: Path) -> None:
    note = "labels are numbered by the alphabet: ape, bee, cow"
    folder_of(tmp_path / "p", ["cow", "ape", "bee"])
    rows = [(f"p/{name}/{index}.png", name) for name in ("cow", "ape", "bee") for index in range(6)]
    (tmp_path / "d.csv").write_text("file,label\n" + "".join(f"{file},{name}\n" for file, name in rows))
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps({"file": file, "label": name}) for file, name in rows))
    root = shards(tmp_path / "s", b"cow", b"ape", b"bee")
    for path in (tmp_path / "p", tmp_path / "d.csv", tmp_path / "d.jsonl", root):
        assert note in opened(path).notes
        assert not [line for line in opened(path, classes=("cow", "ape", "bee")).notes if "alphabet" in line]


def test_the_order_of_words_in_several_columns_is_said_of_each(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "x.png")
    rows = [{"file": "x.png", "colour": ["red", "blue"][index % 2], "animal": ["cow", "ape"][index % 2]} for index in range(20)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = loading.opened(str(tmp_path / "d.jsonl"), Wanted(((3, *SIZE),), (label_check(2), label_check(2)), 2, 0))
    for note in (
        "colour: labels are numbered by the alphabet: blue, red",
        "animal: labels are numbered by the alphabet: ape, cow",
    ):
        assert note in data.notes


@pytest.mark.parametrize("kind", ["shard", "parquet", "folder"])
@pytest.mark.parametrize("content", [b"no image", b"", b"\xff\xd8\xff\xe0" + b"\0" * 100])
def test_what_is_no_image_is_named_alike_at_every_run(tmp_path: Path, kind: str, content: bytes) -> None:
    if kind == "shard":
        root, place = shards(tmp_path / "d", b"0", b"1", b"2", image=content), r"train-0\.tar: in/003\.png"
    elif kind == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        (root := tmp_path / "d").mkdir()
        cells = []
        for index in range(20):
            picture(index).save(file := io.BytesIO(), "PNG")
            cells.append(content if index == 3 else file.getvalue())
        parquet.write_table(pa.table({"image": cells, "label": [n % 3 for n in range(20)]}), root / "test-0.parquet")
        shutil.copy(root / "test-0.parquet", root / "train-0.parquet")
        place = "d: example 3 of (train|test)"
    else:
        (folder_of(tmp_path / "d", ["a", "b", "c"]) / "a" / "3.png").write_bytes(content)
        root, place = tmp_path / "d", r"a/3\.png"
    said = set()
    for _ in range(2):
        with pytest.raises(DataError, match=rf"{place}: not a readable image \(\w.*\); remove or repair it") as refused:
            opened(root)
        said.add(str(refused.value))
    assert len(said) == 1
    assert "0x" not in said.pop()


@pytest.mark.parametrize("side", [9000, 12_000, 60_000])
def test_a_picture_that_would_be_huge_is_refused_with_its_size_and_what_to_do(side: int) -> None:
    with pytest.raises(
        DataError, match=r"x: claims .* pixels; at most 64000000 are decoded: make it smaller, or remove it"
    ) as said:
        pictures.decoded(huge_png(side), 8, 8, 3, "x")
    assert "DOS" not in str(said.value)


# ------------------------------------------------------------------------------------------- what messages say of labels


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["0", "nan"], r"row 2: label is 'nan', as missing values are written; write"),
        (["cat", "NaN"], r"row 2: label is 'NaN'"),
        (["0", "1e999"], r"row 2: label is '1e999'"),
        (["0", "-inf"], r"row 2: label is '-inf'"),
        ([0, NAN], r"row 2: label is nan"),
        (["cat", NAN], r"row 2: label is nan"),
        ([0, INFINITE], r"row 2: label is inf"),
        ([0, None], r"row 2 has no label"),
        ([[0.0], [NAN]], r"row 2: label holds a null or NaN, or an infinite"),
        ([[0.0], [INFINITE]], r"row 2: label holds a null or NaN, or an infinite"),
        (["0.0", "1.0"], r"column 'label' has dtype float64; .* 0 to 2: write them as whole numbers, 3 and not 3\.0"),
        (["0.5", "1.0"], r"column 'label' has fractions"),
        (["1" + "0" * 30], r"column 'label' has labels from 1\d{30} to 1\d{30}; the model has 3 outputs"),
        (["7"], r"column 'label' has labels from 7 to 7; the model has 3 outputs"),
        ([[0, 1], [2, 3]], r"column 'label' has shape"),
        ([[0, 1, 1], [1, 1, 0]], r"column 'label' has shape \(20, 3\) but its rows aren't one-hot"),
    ],
)
def test_labels_of_tables_are_refused_by_row_or_column(tmp_path: Path, labels: list[Any], says: str) -> None:
    picture(1).save(tmp_path / "x.png")
    rows = [("x.png", labels[index % len(labels)]) for index in range(20)]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps({"file": file, "label": label}) for file, label in rows))
    (tmp_path / "d.csv").write_text("file,label\n" + "".join(f"{file},{label}\n" for file, label in rows))
    text = all(isinstance(label, str) for label in labels)
    for name in ("d.jsonl", "d.csv") if text else ("d.jsonl",):  # CSV holds nothing but text
        with pytest.raises(DataError, match=says) as refused:
            opened(tmp_path / name)
        assert "y_train" not in str(refused.value)


def test_a_table_with_more_columns_than_the_model_has_outputs_names_them(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "x.png")
    (tmp_path / "d.csv").write_text("file,label,age\n" + "x.png,1,2\n" * 20)
    with pytest.raises(DataError, match=r"has 2 columns of targets \(label, age\); the model has 1 outputs: give one for each"):
        opened(tmp_path / "d.csv")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, None], "example 2 of train has no label"),
        ([0.0, 1.0, NAN], "column 'label' has NaN or infinite values in 10 of 30 examples, the first at index 2"),
        ([0.0, 1.0, 2.0], "column 'label' has dtype float64; .* write them as whole numbers"),
    ],
)
def test_labels_of_hugging_face_data_sets_are_refused_by_example(tmp_path: Path, labels: list[Any], says: str) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    x = np.zeros((30, 3, 8, 8)).tolist()
    parquet.write_table(pa.table({"x": x, "label": labels * 10}), tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=says):
        opened(tmp_path)


@pytest.mark.parametrize("value", [NAN, INFINITE])
def test_labels_that_are_no_numbers_are_not_called_fractions(value: float) -> None:
    given = arrays()
    given["y_train"] = np.where(np.arange(30) == 7, value, given["y_train"])
    with pytest.raises(DataError, match="y_train has NaN or infinite values in 1 of 30 examples, the first at index 7"):
        loading.opened(given, classifier((3, *SIZE), 3, 0))


@pytest.mark.parametrize("form", ["folder", "csv", "shards"])
def test_more_classes_than_the_model_has_outputs_are_counted(tmp_path: Path, form: str) -> None:
    names = ["ant", "bee", "cat", "dog", "eel"]
    root = folder_of(tmp_path / "d", names)
    if form == "csv":
        rows = "".join(f"d/{name}/{index}.png,{name}\n" for name in names for index in range(6))
        (root := tmp_path / "d.csv").write_text(f"file,label\n{rows}")
    elif form == "shards":
        root = shards(tmp_path / "s", *(name.encode() for name in names))
    what = {"folder": "class folders", "csv": "classes", "shards": "classes"}[form]
    with pytest.raises(DataError, match=rf"has 5 {what} \(ant, bee, cat, dog, eel\); the model has 3 outputs: leave out"):
        opened(root)


# ----------------------------------------------------------------------------------------- what is no data of a known form


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "d.json",
            '[\n {"file": "x.png", "label": "a"}\n]',
            r"d\.json: a file \.json is not read; .*one object a line.*\.jsonl",
        ),
        ("d.py", "def load(): ...", r"d\.py: a file of Python; name the module and a function in it: --data d:FUNCTION"),
        ("d.tar.gz", "x", r"d\.tar\.gz: packed; unpack it"),
        ("d.zip", "x", r"d\.zip: packed; unpack it"),
        ("d.h5", "\x89HDF\r\n", r"d\.h5: a file \.h5 is not read"),
        ("d.pkl", "\x80\x04K\x01.", r"d\.pkl: a file \.pkl is not read"),
        ("d.parquet", "PAR1", r"d\.parquet: a file \.parquet is not read"),
        ("d.png", "x", r"d\.png: a file \.png is not read"),
        ("d", "x", r"d: a file without a known ending is not read"),
    ],
)
def test_files_of_no_known_form_are_not_called_archives(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=says) as refused:
        opened(tmp_path / name)
    assert ".npz archive" not in str(refused.value)
    if "is not read" in says:
        for reader in READERS:
            assert reader.what in str(refused.value)


def test_an_archive_of_arrays_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays())
    (tmp_path / "d.npz").rename(tmp_path / "d.data")
    assert len(opened(tmp_path / "d.data").test) == 15


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("count", [1, 5, 80])
def test_pairs_that_are_no_parts_are_called_what_they_are(kind: type, count: int) -> None:
    given = kind([(np.zeros((3, *SIZE)), index % 3) for index in range(count)])
    with pytest.raises(DataError, match=rf"a {kind.__name__} of {count} \(tuple.*; return .* iter\(\.\.\.\)") as refused:
        loading.opened(given, classifier((3, *SIZE), 3, 0))
    assert "an iterator of (x, y)" in str(refused.value)


# --------------------------------------------------------------------------------------------------- what is no class


@pytest.mark.parametrize(
    "hidden", [".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "__pycache__", "lost+found"]
)
@pytest.mark.parametrize("kind", ["image", "sound"])
def test_folders_of_a_system_are_no_classes(tmp_path: Path, hidden: str, kind: str) -> None:
    for place in (tmp_path / "d", tmp_path / "d" / "a"):
        if kind == "image":
            folder_of(place, ["a", "b", "c", hidden] if place.name == "d" else [hidden])
        else:
            words(place, ["a", "b", "c", hidden] if place.name == "d" else [hidden], 6)
    data = opened(tmp_path / "d", 3, (3, *SIZE) if kind == "image" else (1, 49, 10))
    assert data.classes == ("a", "b", "c")
    assert len(everything(data)[1]) == 18


@pytest.mark.parametrize("content", [None, "a.gif", "notes.txt"])
def test_a_folder_beside_classes_that_holds_nothing_to_read_is_named(tmp_path: Path, content: str | None) -> None:
    """As it counts for no class, those behind it have other numbers than one might think."""
    folder_of(tmp_path / "d", ["b", "c", "d"], 6)
    (tmp_path / "d" / "a").mkdir()
    if content:
        (tmp_path / "d" / "a" / content).write_bytes(b"x")
    data = opened(tmp_path / "d")
    assert data.classes == ("b", "c", "d")
    assert [note for note in data.notes if note.startswith("no class") and note.endswith("in it: a")]


@pytest.mark.parametrize("count", [1, 7])
def test_images_beside_the_folders_of_classes_are_named(tmp_path: Path, count: int) -> None:
    root = folder_of(tmp_path / "d", ["b", "c", "d"], 6)
    for index in range(count):
        shutil.copy(next((root / "b").iterdir()), root / f"stray {index}.png")
    data = opened(root)
    assert len(everything(data)[1]) == 18
    (note,) = [note for note in data.notes if note.startswith("not used")]
    assert note.endswith("stray 0.png" if count == 1 else "stray 4.png and 2 more")


def test_coco_boxes_are_those_of_instances_where_captions_lie_beside_them(tmp_path: Path) -> None:
    root = coco(tmp_path / "d")
    (root / "annotations" / "train.json").rename(root / "annotations" / "instances_train2017.json")
    for other in ("captions", "person_keypoints"):
        (root / "annotations" / f"{other}_train2017.json").write_text('{"images": [], "annotations": []}')
    (root / "__MACOSX" / "annotations").mkdir(parents=True)
    (root / "__MACOSX" / "annotations" / "instances_train.json").write_text("{")
    assert len(opened(root, unlabelled=True).boxes["train"].kind) == 20


@pytest.mark.parametrize("parts", [("test",), ("val",), ("Validation", "testing")])
@pytest.mark.parametrize("kind", ["image", "flat", "sound", "coco", "yolo"])
def test_a_folder_without_a_part_to_train_on_is_refused(tmp_path: Path, kind: str, parts: tuple[str, ...]) -> None:
    for part in parts:
        if kind == "sound":
            words(tmp_path / "d" / part, ["a", "b", "c"], 4)
        elif kind == "image":
            folder_of(tmp_path / "d" / part, ["a", "b", "c"])
        elif kind == "coco":
            coco(tmp_path / "made")
            (tmp_path / "d" / "annotations").mkdir(parents=True, exist_ok=True)
            (tmp_path / "made" / "annotations" / "train.json").rename(tmp_path / "d" / "annotations" / f"x_{part}.json")
            shutil.copytree(tmp_path / "made" / "images", tmp_path / "d" / part)
            shutil.rmtree(tmp_path / "made")
        else:
            folder_of(tmp_path / "d" / ("images" if kind == "yolo" else ""), [part])
            (tmp_path / "d" / "labels").mkdir() if kind == "yolo" and part == parts[0] else None
    says = "and no train" if kind == "coco" else f"{', '.join(sorted(parts))} and no folder train"
    with pytest.raises(DataError, match=says) as refused:
        opened(tmp_path / "d", 3, (1, 49, 10) if kind == "sound" else (3, *SIZE), unlabelled=True)
    assert "call" in str(refused.value)


def test_a_class_that_is_called_like_a_part_is_one_beside_others(tmp_path: Path) -> None:
    assert opened(folder_of(tmp_path / "d", ["test", "trial", "verdict"])).classes == ("test", "trial", "verdict")


@pytest.mark.parametrize("name", ["classes.txt", "labels.txt", "class_names.txt"])
@pytest.mark.parametrize("form", ["folder", "csv", "shards", "sound"])
def test_a_list_of_classes_that_lacks_some_is_refused(tmp_path: Path, name: str, form: str) -> None:
    names = ["ant", "bee", "cat"]
    root, shape = tmp_path / "d", (1, 49, 10) if form == "sound" else (3, *SIZE)
    if form == "shards":
        shards(root, *(each.encode() for each in names))
    elif form == "sound":
        words(root, names, 6)
    else:
        folder_of(root, names)
    path = root
    if form == "csv":
        rows = "".join(f"{each}/{index}.png,{each}\n" for each in names for index in range(6))
        (path := root / "d.csv").write_text(f"file,label\n{rows}")
    (root / name).write_text("cat\nant\n")
    with pytest.raises(DataError, match=rf"{name}: doesn't name bee; add it, in the order of labels, or remove the list"):
        opened(path, 3, shape)
    assert opened(path, 3, shape, classes=("bee", "ant", "cat")).classes == ("bee", "ant", "cat")  # the model's count
    (root / name).write_text("cat\nant\nbee\n")
    assert opened(path, 3, shape).classes == ("cat", "ant", "bee")
    (root / name).write_text("Katze\nAmeise\nBiene\n")
    data = opened(path, 3, shape)
    assert data.classes == ("ant", "bee", "cat")
    assert [note for note in data.notes if f"{name} names none of the classes" in note]


def test_a_list_of_words_need_not_name_the_noise(tmp_path: Path) -> None:
    root = words(tmp_path / "d", ["go", "no", "yes"], 12)
    write_wave(root / "_background_noise_" / "hiss.wav", np.random.default_rng(0).normal(0, 0.1, 40_000))
    (root / "classes.txt").write_text("yes\nno\ngo\n")
    assert opened(root, 3, (1, 49, 10)).classes == ("yes", "no", "go")
    assert opened(root, 4, (1, 49, 10)).classes == ("yes", "no", "go", "silence")


# ----------------------------------------------------------------------------------------------------------- the table


def test_every_reader_has_its_words_and_an_empty_folder_is_refused_with_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        opened(tmp_path)
    for reader in READERS:
        assert reader.what in str(refused.value) or "..." in str(refused.value)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ([[1], [1, 2]], "lists of several lengths"),
        ([["a"], ["b"]], "not of numbers alone"),
        ([[1], 2], "lists of several lengths"),
        ([{"a": 1}, {"a": 1}], "not of numbers alone"),
        ([10**30, 1], "whole-number labels"),
        ([10**400, 1], "no float can hold"),
        ([float("nan"), 1.0], "row 1: label is nan"),
        ([[1.0, 2.0], [1.0, None]], "a null or NaN"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_targets_that_are_no_labels_are_refused_without_a_warning(tmp_path: Path, targets: list[Any], says: str) -> None:
    picture(1).save(tmp_path / "x.png")
    rows = [{"file": "x.png", "label": targets[index % 2]} for index in range(20)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=says):
        opened(tmp_path / "d.jsonl")
