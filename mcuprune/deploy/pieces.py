"""A flatbuffer as pieces: tables, vectors and strings that refer to each other.

The size of the file and its bytes come from the same pieces, so that a file is priced by the rules that write it. How many
elements a vector has may be a function of widths: then one list of pieces stands for every cut of a network, and
``Pieces.size`` is the size of each.

Who refers comes before what it refers to, as the format asks. Every piece begins and ends at a multiple of 4 bytes, so that
padding depends on nothing but the sizes of vectors that ask for a wider alignment.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from mcuprune.immutable import immutable

#: The kinds of numbers in tables and vectors: struct's letter, which says their size.
NUMBERS: Mapping[str, str] = {
    "bool": "?",
    "int8": "b",
    "uint8": "B",
    "int32": "i",
    "uint32": "I",
    "float32": "f",
    "int64": "q",
}
_WORD = 4
#: The file begins with where its root lies, and its identifier.
_HEADER = 8


class Reference(int):
    """The number of a piece, in place of a number of a table."""


#: Where every piece begins, by its number.
_Places = Sequence[int]


@immutable
class _Piece:
    """lead: bytes before what ``align`` holds for. count, width: of the elements; a piece of fixed size has bytes as such.

    fill: the bytes of the elements, and of what leads, given its own place and those of all.
    """

    count: Any
    width: int
    align: int
    lead: int
    fill: Callable[[int, _Places], bytes]


class Pieces:
    """The pieces of one file while they are collected, from the leaves to the root, and what follows from them.

    zeros: vectors of int64 zeros of these lengths, of which equal ones are stored once; as they may be functions of widths,
    which are equal is known only where they have values.
    """

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self._layouts: dict[tuple[int, ...], int] = {}
        self._zeros: dict[Any, int] = {}
        self._strings: dict[str, Reference] = {}

    # ------------------------------------------------------------------------------------------------------- collecting

    def table(self, fields: Sequence[tuple[int, str, Any]]) -> Reference:
        """A table of (slot, kind, value): a kind of ``NUMBERS``, or any where the value is a ``Reference``."""
        ordered = sorted(fields, key=lambda field: -_width(field[1], field[2]))
        offsets = [0] * (1 + max((slot for slot, _, _ in fields), default=-1))
        at = _WORD
        for slot, kind, value in ordered:
            offsets[slot] = at
            at += _width(kind, value)
        size = _rounded(at)
        layout = (4 + 2 * len(offsets), size, *offsets)
        if layout not in self._layouts:
            self._layouts[layout] = len(self._layouts)
        return self._add(size, 1, _WORD, 0, lambda own, places: self._table(own, places, layout, ordered))

    def _table(self, own: int, places: _Places, layout: tuple[int, ...], fields: Sequence[tuple[int, str, Any]]) -> bytes:
        content = bytearray(struct.pack("<i", own - self._layout_places[layout]))
        for _, kind, value in fields:
            if isinstance(value, Reference):
                content += struct.pack("<I", places[value] - own - len(content))
            else:
                content += struct.pack(f"<{NUMBERS[kind]}", value)
        return bytes(content).ljust(layout[1], b"\0")

    def vector(self, kind: str, count: Any, content: Callable[[], bytes], *, align: int = _WORD) -> Reference:
        """A vector of ``count`` numbers; content: their bytes."""

        def fill(own: int, places: _Places) -> bytes:
            data = content()
            return struct.pack("<I", len(data) // width) + data

        width = struct.calcsize(NUMBERS[kind])
        return self._add(count, width, max(align, width), _WORD, fill)

    def numbers(self, kind: str, values: Sequence[Any]) -> Reference:
        """A vector of these numbers."""
        return self.vector(kind, len(values), lambda: struct.pack(f"<{len(values)}{NUMBERS[kind]}", *values))

    def references(self, items: Sequence[Reference]) -> Reference:
        """A vector of references."""

        def fill(own: int, places: _Places) -> bytes:
            apart = [places[item] - own - _WORD * (1 + index) for index, item in enumerate(items)]
            return struct.pack(f"<I{len(items)}I", len(items), *apart)

        return self._add(len(items), _WORD, _WORD, _WORD, fill)

    def string(self, text: str) -> Reference:
        """A string; equal ones are stored once."""
        if text not in self._strings:
            content = text.encode()
            data = struct.pack("<I", len(content)) + content + b"\0"
            self._strings[text] = self._add(len(content) + 1, 1, _WORD, _WORD, lambda own, places: data)
        return self._strings[text]

    def zeros(self, count: Any) -> Reference:
        """A vector of int64 zeros. Its number is below 0: these vectors come last in the file."""
        return Reference(-1 - self._zeros.setdefault(count, len(self._zeros)))

    def _add(self, count: Any, width: int, align: int, lead: int, fill: Callable[[int, _Places], bytes]) -> Reference:
        self._pieces.append(_Piece(count, width, align, lead, fill))
        return Reference(len(self._pieces) - 1)

    # ------------------------------------------------------------------------------------------------------------- sizes

    @cached_property
    def counts(self) -> tuple[Any, ...]:
        """All lengths that may depend on widths: of vectors in the order of the file, then of vectors of zeros."""
        free = [piece.count for piece in reversed(self._pieces) if not isinstance(piece.count, int)]
        return (*free, *self._zeros)

    def size(self, counts: Sequence[int] = ()) -> int:
        """Bytes of the file where ``counts`` have these values."""
        counts = counts or self.counts
        at = self._after_layouts
        for fixed, align, lead, width, index in self._runs:
            at += fixed
            if index is not None:
                at += -(at + lead) % align
                at = _rounded(at + lead + width * counts[index])
            elif align:
                at += -(at + lead) % align + width
        for length in sorted(set(map(int, counts[len(counts) - len(self._zeros) :]))):
            at += -(at + _WORD) % 8 + _WORD + 8 * length
        return at

    def without_zeros(self, counts: Sequence[int]) -> int:
        """Bytes of the file without vectors of zeros: their lengths may come to be equal, and one of them is stored then."""
        first = len(counts) - len(self._zeros)
        lengths = sorted({*map(int, counts[first:])})
        return self.size(counts) - sum(2 * _WORD + 8 * length for length in lengths)

    def slopes(self, counts: Sequence[int]) -> dict[int, float]:
        """Bytes that one more of each of ``counts`` adds, but for rounding: index -> bytes. Equal vectors of zeros share."""
        slopes = {index: float(width) for _, _, _, width, index in self._runs if index is not None}
        first = len(counts) - len(self._zeros)
        lengths = list(counts[first:])
        return slopes | {first + i: 8 / lengths.count(length) for i, length in enumerate(lengths)}

    @cached_property
    def _runs(self) -> list[tuple[int, int, int, int, int | None]]:
        """(bytes of pieces that need no padding; then one that may: its align, lead, bytes or width, index of its count)."""
        runs: list[tuple[int, int, int, int, int | None]] = []
        fixed, index = 0, 0
        for piece in reversed(self._pieces):
            if isinstance(piece.count, int):
                size = _rounded(piece.lead + piece.width * piece.count)
                if piece.align <= _WORD:
                    fixed += size
                    continue
                runs.append((fixed, piece.align, piece.lead, size, None))
            else:
                runs.append((fixed, piece.align, piece.lead, piece.width, index))
                index += 1
            fixed = 0
        return [*runs, (fixed, 0, 0, 0, None)]

    @cached_property
    def _layout_places(self) -> dict[tuple[int, ...], int]:
        """Where the layout of each kind of table lies."""
        places, at = {}, _HEADER
        for layout in self._layouts:
            places[layout] = at
            at += _rounded(layout[0])
        return places

    @property
    def _after_layouts(self) -> int:
        return _HEADER + sum(_rounded(layout[0]) for layout in self._layouts)

    # ------------------------------------------------------------------------------------------------------------- bytes

    def written(self, root: Reference, identifier: bytes) -> bytes:
        """The file, of lengths that are integers. identifier: 4 bytes."""
        places, at = [0] * len(self._pieces), self._after_layouts
        for number in reversed(range(len(self._pieces))):
            piece = self._pieces[number]
            places[number] = at + -(at + piece.lead) % piece.align
            at = _rounded(places[number] + piece.lead + piece.width * piece.count)
        lengths: dict[int, int] = {}
        for length in sorted(self._zeros):
            lengths[length] = at + -(at + _WORD) % 8
            at = lengths[length] + _WORD + 8 * length
        places += [lengths[length] for length in reversed(self._zeros)]  # numbers below 0 count from the end
        content = bytearray(at)
        struct.pack_into("<I", content, 0, places[root])
        content[_WORD:_HEADER] = identifier
        for layout, place in self._layout_places.items():
            struct.pack_into(f"<{len(layout)}H", content, place, *layout)
        for number, piece in enumerate(self._pieces):
            data = piece.fill(places[number], places)
            assert len(data) == piece.lead + piece.width * piece.count, "a piece is as long as it was priced"
            content[places[number] : places[number] + len(data)] = data
        for length, place in lengths.items():
            struct.pack_into("<I", content, place, length)
        return bytes(content)


def _width(kind: str, value: Any) -> int:
    return _WORD if isinstance(value, Reference) else struct.calcsize(NUMBERS[kind])


def _rounded(size: int) -> int:
    return size + -size % _WORD
