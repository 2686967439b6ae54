"""Folders of files, one subfolder a class, with or without subfolders train, val and test above them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG

from mcuprune.errors import DataError, cause
from mcuprune.immutable import immutable

#: What people call the parts of a data set, in small letters.
SPELLINGS = {
    **dict.fromkeys(("train", "training", "trn", "train_set", "trainset", "train_images", "training_set", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "val_set", "validation_set"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "test_set", "testset", "holdout"), "test"),
}
#: A file that lists class names in the order of labels, one a line.
_LISTS = ("classes.txt", "labels.txt", "class_names.txt")
_MOST_FILES = 10**7
#: Folders that systems and tools leave behind, besides those that a dot hides.
_LEFT_BEHIND = ("__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


@immutable
class Tree:
    """Files and labels by part. labels is None for a part whose files are in no class's folder."""

    parts: dict[str, tuple[list[Path], list[int] | None]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def part_named(name: str) -> str | None:
    """The part that a folder's or file's name means; None for any other name."""
    return SPELLINGS.get(name.lower().replace("-", "_"))


def files_below(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Files with these suffixes anywhere in a folder, in an order that depends on names alone.

    Hidden ones are left out, and those of a system.
    """
    for base, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(filter(_counts, folders))
        for name in sorted(names):
            if name.lower().endswith(tuple(suffixes)) and not name.startswith("."):
                yield Path(base, name)


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in _LEFT_BEHIND


def stamp(file: Path) -> tuple[str, int, int]:
    """(path without links, bytes, time of the last change) of a file. Raises DataError where there is no such file."""
    try:
        status = file.stat()
        if S_ISREG(status.st_mode):
            return str(file.resolve()), status.st_size, status.st_mtime_ns
    except (OSError, RuntimeError) as error:  # a loop of links is an OSError, or a RuntimeError
        if file.is_symlink():
            raise DataError(f"{file}: {_dead(file)}") from error
        raise DataError(f"{file}: can't be read ({cause(error)}); remove or repair it") from error
    raise DataError(f"{file}: no regular file, but a device or a pipe; remove it")


def _dead(link: Path) -> str:
    return f"a link to {os.readlink(link)!r}, where no file can be found; repair or remove the link"


def _unreadable(error: OSError) -> None:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return  # a folder that is gone holds nothing
    raise DataError(
        f"{error.filename}: can't be read ({cause(error)}); change its permissions, or move it elsewhere"
    ) from error


def holds(folder: Path, suffixes: Sequence[str]) -> bool:
    """Whether a folder has such a file anywhere."""
    return next(files_below(folder, suffixes), None) is not None


def classified(folder: Path, suffixes: Sequence[str], known: Sequence[str] = (), aside: Sequence[str] = ()) -> Tree:
    """The files of a folder, their classes by the names of subfolders; a flat folder has none.

    known: names of classes whose order counts instead of that of the alphabet. aside: folders that are no classes.
    Raises DataError for a folder without files, for one that is half flat, and for classes that only one part has.
    """
    roots = parts_of(folder, suffixes)
    inside = {part: _class_folders(root, suffixes) for part, root in roots.items()}
    if not any(inside.values()):
        flat = {part: (list(files_below(root, suffixes)), None) for part, root in roots.items()}
        if not any(files for files, _ in flat.values()):
            raise DataError(f"{folder}: no files {', '.join(suffixes)} in it")
        return Tree({part: files for part, files in flat.items() if files[0]}, ())
    names_seen = {name for names in inside.values() for name in names}
    classes, notes = ordered(folder, names_seen, known, aside)
    number = {name: index for index, name in enumerate(classes)}
    parts: dict[str, tuple[list[Path], list[int] | None]] = {}
    for part, root in roots.items():
        files: list[Path] = []
        labels: list[int] = []
        for name in sorted(inside[part], key=number.__getitem__):
            of_class = list(files_below(root / name, suffixes))
            files += of_class
            labels += [number[name]] * len(of_class)
        if not files:
            raise DataError(f"{root}: no files {', '.join(suffixes)} in subfolders of classes, as other parts have")
        if len(files) > _MOST_FILES:
            raise DataError(f"{folder}: more than {_MOST_FILES} files")
        parts[part] = files, labels
    if missing := sorted(names_seen - set(inside["train"])):
        raise DataError(f"{folder}: no training examples of class {', '.join(missing[:10])}; every class needs some")
    return Tree(parts, classes, (*notes, *_skipped(roots, inside, suffixes)))


def _skipped(roots: Mapping[str, Path], inside: Mapping[str, Sequence[str]], suffixes: Sequence[str]) -> list[str]:
    """What to say of folders beside those of classes that hold nothing to read, and of files there: they have no label."""
    empty = [
        path.name
        for part, root in roots.items()
        for path in sorted(root.iterdir())
        if path.is_dir() and _counts(path.name) and path.name not in inside[part]
    ]
    stray = [
        path.name
        for root in roots.values()
        for path in sorted(root.iterdir())
        if path.name.lower().endswith(tuple(suffixes)) and not path.name.startswith(".") and path.is_file()
    ]
    said = [f"no class, for there are no files {', '.join(suffixes)} in it: {_few(empty)}"] if empty else []
    return said + ([f"not used, for they lie in no class's folder: {_few(stray)}"] if stray else [])


def _few(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:5]) + (f" and {len(different) - 5} more" if len(different) > 5 else "")


def parts_of(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The folder of each part; the folder itself as train where there are none.

    Raises DataError for folders of other parts alone: none of them is meant to be trained on.
    """
    roots: dict[str, Path] = {}
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        part = part_named(name)
        if part is not None and holds(folder / name, suffixes):
            if part in roots:
                raise DataError(f"{folder}: both {roots[part].name} and {name} may be its {part} part; rename one")
            roots[part] = folder / name
    if "train" in roots:
        return roots
    named = {path.name for path in roots.values()}
    if named and named == set(_class_folders(folder, suffixes)):
        raise DataError(
            f"{folder}: has {', '.join(sorted(named))} and no folder train; call the one to train on train, or give one alone"
        )
    return {"train": folder}


def _class_folders(root: Path, suffixes: Sequence[str]) -> list[str]:
    entries = sorted(path for path in root.iterdir() if _counts(path.name))
    for path in entries:
        if path.is_symlink() and not os.path.exists(path):
            raise DataError(f"{path}: {_dead(path)}")
    names = [path.name for path in entries if path.is_dir()]
    return [name for name in names if holds(root / name, suffixes)]


def ordered(
    folder: Path, names: set[str], known: Sequence[str], aside: Sequence[str] = (), whole: bool = True
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names in the order of labels, and what to say of it.

    By ``known``, else by a list in the folder, else whole numbers by value, else by the alphabet; those of ``aside`` come last.
    Raises DataError for a list that lacks some of them, where it is meant to be ``whole``.
    """
    last, names = tuple(sorted(names & set(aside))), names - set(aside)
    if known and names <= set(known):
        return (*known, *last), ()
    notes: tuple[str, ...] = ()
    for name in lists(folder):
        listed = read_list(folder / name)
        missing = sorted(names - set(listed))
        if listed and not missing:
            return (*listed, *last), (f"labels are numbered by {folder / name}",)
        if listed and whole and not known and len(missing) < len(names):
            raise DataError(
                f"{folder / name}: doesn't name {', '.join(missing[:10])}; add it, in the order of labels, or remove the list"
            )
        if listed and len(missing) == len(names):
            notes = (*notes, f"{folder / name} names none of the classes and is not used")
    if all(re.fullmatch(r"\d{1,9}", name) for name in names):
        return (*sorted(names, key=int), *last), notes
    classes = tuple(sorted(names))
    note = f"labels are numbered by the alphabet: {', '.join(classes[:12])}{', ...' if len(classes) > 12 else ''}"
    return (*classes, *last), (*notes, note)


def lists(folder: Path) -> list[str]:
    """The names of the files in a folder that may list class names."""
    return [name for name in _LISTS if (folder / name).is_file()]


def read_list(path: Path) -> tuple[str, ...]:
    """Names, one a line. Raises DataError for a file that is no such text."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(2**20)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list of class names ({error})") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(set(names)) < len(names):
        raise DataError(f"{path}: names a class twice")
    return names
