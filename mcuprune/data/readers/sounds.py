"""A folder of WAV files for keyword spotting: one subfolder a word, as Speech Commands has them (Warden 2018).

Words that the model has no class for are ``unknown``; pieces of ``_background_noise_`` are ``silence``. Recordings of one
speaker, whom Speech Commands names before ``_nohash_``, are all in one part.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.data import cache, frontend, trees, waves
from mcuprune.data.raw import Asked, Part, Raw, Reader
from mcuprune.errors import DataError

_NOISE = ("_background_noise_", "background_noise", "_noise_")
_SILENCE, _UNKNOWN = ("silence", "_silence_"), ("unknown", "_unknown_")
#: The ten words of Speech Commands' task of twelve classes, in MLPerf Tiny's order, before silence and unknown.
_TEN = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
_LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
#: Shares of speakers, in hundredths, where no list says.
_VAL, _TEST = 10, 20
#: (file, first sample, how many samples; None for all)
Clip = tuple[Path, int, int | None]


def settings_for(asked: Asked, where: str) -> frontend.Settings:
    """The front end that makes features of the model's input."""
    return frontend.settings_for(asked.shape, frontend.parsed(asked.frontend), where)


def column(files: Sequence[Path | Clip], asked: Asked, where: str) -> Any:
    """float32 (n, *features) of clips, on disk where they are many."""
    settings = settings_for(asked, where)
    clips: list[Clip] = [clip if isinstance(clip, tuple) else (clip, 0, None) for clip in files]
    stamps = [(*trees.stamp(file), first, count) for file, first, count in clips]

    def features(clip: Clip) -> np.ndarray[Any, Any]:
        sound, rate = waves.read(*clip)
        return frontend.features(frontend.resampled(sound, rate, settings.rate), settings)

    return cache.cached([settings, *stamps], clips, settings.shape, np.float32, features)


def read(path: Path, asked: Asked) -> Raw:
    """The clips of a folder as features. Raises DataError for files that are no sound and for words that fit no class."""
    tree = trees.classified(path, (".wav",), asked.classes, _NOISE)
    front = settings_for(asked, str(path))
    if not tree.classes:
        parts = {part: Part((column(files, asked, str(path)),)) for part, (files, _) in tree.parts.items()}
        return Raw(str(path), parts, kind="audio", reader="sounds", frontend=front.document())
    classes, notes = _classes(path, tree.classes, asked)
    by_part: dict[str, list[tuple[Path | Clip, int]]] = {}
    for part, (files, labels) in tree.parts.items():
        words = _word_files(files, labels or [], tree.classes, classes)
        noise = [file for file, label in zip(files, labels or [], strict=True) if tree.classes[label] in _NOISE]
        for name, examples in _parted(path, part, words, len(tree.parts) > 1).items():
            by_part[name] = [*_unknown_thinned(examples, classes), *_silent(noise, examples, classes, front, name)]
    parts = {}
    for part in sorted(by_part, key=("train", "val", "test").index):
        clips = by_part[part]
        labels_of = np.array([label for _, label in clips], np.int64)
        parts[part] = Part((column([clip for clip, _ in clips], asked, str(path)),), (labels_of,))
    spoken = tuple(word for word in tree.classes if word not in _NOISE)
    notes = notes if classes[: len(spoken)] != spoken else (*tree.notes, *notes)  # the folders' order may not be the model's
    return Raw(str(path), parts, classes, "audio", "", "sounds", front.document(), notes)


def _classes(path: Path, words: Sequence[str], asked: Asked) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of the model, by their names where they are known, else by how many there are."""
    spoken = [word for word in words if word not in _NOISE]
    if asked.classes:
        return asked.classes, ()
    ten = asked.n_classes == len(_TEN) + 2 and set(_TEN) <= set(spoken)
    if asked.n_classes == len(spoken):
        if ten and len(spoken) < len(words) and not set(spoken) & {*_SILENCE, *_UNKNOWN}:
            raise DataError(
                f"{path}: the model's {asked.n_classes} classes may be these words ({', '.join(spoken)}), or Speech Commands' "
                "ten, silence and unknown, for there is background noise; say which: the classes in their order, one a line, "
                "in a file: --classes FILE"
            )
        return tuple(spoken), ()
    if asked.n_classes == len(spoken) + 1 and len(spoken) < len(words):
        return (*spoken, "silence"), (f"the last class is silence, pieces of {path}'s background noise",)
    if ten:
        return (*_TEN, "silence", "unknown"), (
            "twelve classes: Speech Commands' ten words, silence, unknown (MLPerf Tiny's order)",
        )
    raise DataError(
        f"{path}: has {len(spoken)} words ({', '.join(spoken[:12])}), the model {asked.n_classes} classes; "
        "name the classes in their order, one a line, in a file: --classes FILE"
    )


def _word_files(
    files: Sequence[Path], labels: Sequence[int], words: Sequence[str], classes: Sequence[str]
) -> list[tuple[Path | Clip, int]]:
    """Files with the number of their class; words without one are unknown, where there is such a class."""
    number = {name: index for index, name in enumerate(classes)}
    unknown = next((number[name] for name in _UNKNOWN if name in number), None)
    numbered: list[tuple[Path | Clip, int]] = []
    for file, label in zip(files, labels, strict=True):
        word = words[label]
        index = number.get(word, None if word in _NOISE else unknown)
        if index is not None:
            numbered.append((file, index))
    return numbered


def _parted(path: Path, part: str, examples: Sequence[tuple[Any, int]], whole: bool) -> dict[str, list[tuple[Any, int]]]:
    """Examples by part: as the folder has them, by Speech Commands' lists, or by speakers; all to train on otherwise."""
    if whole:
        return {part: [*examples]}
    listed = {name: _listed(path / file) for name, file in _LISTS.items() if (path / file).is_file()}
    by_speaker = sum("_nohash_" in file.name for file, _ in examples) > len(examples) / 2
    if not listed and not by_speaker:
        return {part: [*examples]}
    by_part: dict[str, list[tuple[Any, int]]] = {}
    for file, label in examples:
        if listed:
            name = next((name for name, files in listed.items() if file.relative_to(path).as_posix() in files), "train")
        else:
            speaker = re.split("_nohash_", file.name)[0]
            place = int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) % 100
            name = "val" if place < _VAL else "test" if place < _VAL + _TEST else "train"
        by_part.setdefault(name, []).append((file, label))
    return by_part


def _listed(path: Path) -> set[str]:
    return set(path.read_text(encoding="utf-8", errors="replace").split())


def _unknown_thinned(examples: list[tuple[Any, int]], classes: Sequence[str]) -> list[tuple[Any, int]]:
    """Of unknown words only as many as other classes have on average: always the same ones."""
    unknown = next((index for index, name in enumerate(classes) if name in _UNKNOWN), -1)
    others = [example for example in examples if example[1] != unknown]
    strange = [example for example in examples if example[1] == unknown]
    wanted = round(len(others) / max(1, len({label for _, label in others})))
    chosen = np.sort(np.random.default_rng(0).permutation(len(strange))[: max(1, wanted)])
    return [*others, *(strange[index] for index in chosen)]


def _silent(
    noise: Sequence[Path], examples: Sequence[tuple[Any, int]], classes: Sequence[str], front: frontend.Settings, part: str
) -> list[tuple[Clip, int]]:
    """Pieces of background noise, as many as a class has on average; every part takes another stretch of each file."""
    silence = next((index for index, name in enumerate(classes) if name in _SILENCE), None)
    if silence is None or not noise or any(label == silence for _, label in examples):
        return []
    wanted = max(1, round(len(examples) / max(1, len(classes) - 1)))
    draw = np.random.default_rng(["train", "val", "test"].index(part))
    low, high = {"train": (0.0, 0.7), "val": (0.7, 0.8), "test": (0.8, 1.0)}[part]
    pieces: list[tuple[Clip, int]] = []
    forms = {file: waves.form_of(file) for file in noise}
    for index in range(wanted):
        file = noise[index % len(noise)]
        total, rate = forms[file].total, forms[file].rate
        count = int(front.samples * rate / front.rate)
        first, last = int(low * total), max(int(low * total), int(high * total) - count)
        pieces.append(((file, int(draw.integers(first, last + 1)), count), silence))
    return pieces


READER = Reader(
    "sounds",
    "a folder of WAV files, one subfolder a word",
    lambda path: path.is_dir() and trees.holds(path, (".wav",)),
    read,
    form="as Speech Commands has them: `_background_noise_` becomes silence, words that the model doesn't name become unknown "
    "(twelve words, Speech Commands' ten among them, and noise may mean either: `--classes FILE` says which), "
    "speakers stay in one part, `validation_list.txt` and `testing_list.txt` count",
)
