"""Weights that an ONNX file keeps in other files beside it: which files, and reading them within bounds.

A model's words about other files are a stranger's: a location that leaves the model's folder, or a length that its tensor's
shape doesn't bear out, is refused before anything is opened.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from mcuprune.errors import ModelError, cause

#: What all external tensors of a model may hold together: far more than any microcontroller's network.
_MAX_BYTES = 2**32
_MAX_NAME = 255
#: No ONNX file is larger: protobuf can't write one.
MAX_FILE_BYTES = 2**31


def files(path: str | Path) -> list[str]:
    """The files besides ``path`` that hold this model's weights, as paths; none where it is no readable model.

    Locations that ``load`` would refuse are left out: nothing is read there.
    """
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > MAX_FILE_BYTES:
            return []
        model = ModelProto.FromString(Path(path).read_bytes())
        locations = dict.fromkeys(_fields(tensor).get("location", "") for tensor in _external(model))
    except Exception:  # unreadable in any way: whoever loads the model says how
        return []
    return [os.path.join(Path(path).parent, location) for location in locations if not _unsafe(location)]


def load(model: ModelProto, path: Path) -> None:
    """Read the external tensors of ``model``, the file at ``path``, into it. Raises ModelError."""
    tensors = list(_external(model))
    if not tensors:
        return
    if sum(_checked(tensor, path) for tensor in tensors) > _MAX_BYTES:
        raise ModelError(f"{path}: its external data takes more than {_MAX_BYTES} bytes; no microcontroller's model does")
    try:
        with warnings.catch_warnings(action="ignore"):  # onnx warns of keys that it doesn't know
            onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # the C++ side has kinds of its own for what it won't open
        text = str(error).strip().splitlines()
        reason = text[0] if text else type(error).__name__
        raise ModelError(f"{path}: its external data can't be read ({reason}); export it again") from None


def _checked(tensor: TensorProto, path: Path) -> int:
    """The bytes that reading ``tensor`` takes. Raises ModelError where its location or its sizes are no good."""
    what = f"{path}: external data of tensor '{tensor.name}'"
    fields = _fields(tensor)
    location = fields.get("location", "")
    if reason := _unsafe(location):
        raise ModelError(f"{what} is at '{location[:80]}', {reason}; keep it in the model's own folder")
    try:
        offset, length = (int(fields[key]) if fields.get(key) else None for key in ("offset", "length"))
    except ValueError:  # no number, or one of thousands of digits
        raise ModelError(f"{what} has an offset or length that is no number; export it again") from None
    if (offset or 0) < 0 or (length or 0) < 0:
        raise ModelError(f"{what} has a negative offset or length; export it again")
    wanted = math.prod(tensor.dims) * _item_bytes(tensor, what)
    place = path.parent / location
    _refuse_links(path, place, location)
    if length is None:
        try:
            length = max(0, os.path.getsize(place) - (offset or 0))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path}: its external data can't be read ({location}: {cause(error)}); put it there, or name another file"
            ) from None
    if length > max(wanted, 0):
        raise ModelError(f"{what} has {length} bytes, its shape {list(tensor.dims)} takes {wanted}; export it again")
    return length


def _refuse_links(path: Path, place: Path, location: str) -> None:
    """Raise ModelError where a link stands in the way: a folder of somebody else's could read any file of the user's by it."""
    if os.path.islink(place):
        raise ModelError(
            f"{path}: its external data {location} is a symbolic link, which isn't followed; name the model where the files "
            "themselves lie, or put a copy in the link's place"
        )
    real = Path(os.path.realpath(path))
    if os.path.islink(path) and not os.path.lexists(place) and os.path.exists(real.parent / location):
        raise ModelError(f"{path}: its external data {location} isn't beside this link; name the model itself, {real}")


def _item_bytes(tensor: TensorProto, what: str) -> int:
    """An upper bound of what one element takes."""
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except Exception:
        raise ModelError(f"{what} is of a type that isn't known ({tensor.data_type}); export it again") from None


def _unsafe(location: str) -> str:
    """Why a location is no file beside the model or below; empty where it is one."""
    windows = PureWindowsPath(location)
    if not location or "\0" in location:
        return "which names no file"
    if PurePosixPath(location).is_absolute() or windows.is_absolute() or windows.drive:
        return "which is no relative path"
    if ".." in windows.parts:  # of both kinds of separators
        return "which leaves its folder"
    if any(len(os.fsencode(part)) > _MAX_NAME for part in windows.parts) or len(os.fsencode(location)) > 4000:
        return "a name too long for a file"
    return ""


def _fields(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _external(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of the model, in attributes and graphs inside too, whose data is in another file."""
    waiting: list[GraphProto | NodeProto] = [model.graph, *(node for function in model.functions for node in function.node)]
    while waiting:
        here = waiting.pop()
        if isinstance(here, GraphProto):
            tensors = list(here.initializer)
            waiting.extend(here.node)
        else:
            tensors = []
            for attribute in here.attribute:
                tensors += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
                waiting += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
        yield from (tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL)
