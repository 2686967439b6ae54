"""Image files as arrays of a wanted size. They may be hostile: format and size are known before a pixel is decoded."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mcuprune.data.preprocessing import layout_of
from mcuprune.errors import DataError, MissingExtra

Array = np.ndarray[Any, Any]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_NAMES = "PNG, JPEG, BMP or WebP"
#: Pixels of an image, and bytes of its file.
_MOST_PIXELS, _MOST_BYTES = 64 * 10**6, 256 * 1024**2


def size_of(shape: tuple[int, ...], where: str) -> tuple[int, int, int]:
    """(height, width, channels) of images for an input of this shape without its batch axis. Raises DataError for no image."""
    layout = layout_of(shape)
    if layout == "NCHW":
        channels, height, width = shape
    elif layout == "NHWC":
        height, width, channels = shape
    else:
        raise DataError(f"{where}: images, but the model's input without its batch axis is {list(shape)}")
    if channels not in (1, 3):
        raise DataError(f"{where}: images have 1 or 3 channels, but the model's input {list(shape)} has {channels}")
    return height, width, channels


def need_pillow(where: str) -> Any:
    """Pillow's module of images. Raises MissingExtra where it isn't installed."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{where}: reading images needs Pillow: pip install 'mcuprune[prune]'") from error
    return Image


def decoded(source: Path | bytes, height: int, width: int, channels: int, where: str) -> Array:
    """uint8 (height, width, channels): an image, stretched to the size bilinearly. Colours are RGB; transparency is on white.

    where: what messages call it. Raises DataError for what is no image of the four formats, or is too large.
    """
    image_module = need_pillow(where)
    try:
        if isinstance(source, Path) and source.stat().st_size > _MOST_BYTES:
            raise DataError(f"{where}: {source.stat().st_size} bytes; images of at most {_MOST_BYTES} are read")
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise _too_large(where, f"{image.width} x {image.height}")
                mode = "L" if channels == 1 else "RGB"
                image.draft(mode, (2 * width, 2 * height))  # a JPEG far larger than needed is decoded at half its size or less
                if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                    flat = image_module.new("RGBA", image.size, "white")
                    flat.alpha_composite(image.convert("RGBA"))
                    picture = flat.convert(mode)
                elif image.mode.startswith("I;16") or image.mode == "I":
                    picture = image_module.fromarray((np.asarray(image, np.int64) >> 8).astype(np.uint8)).convert(mode)
                else:
                    picture = image.convert(mode)
                if picture.size != (width, height):
                    picture = picture.resize((width, height), image_module.Resampling.BILINEAR)
                return np.asarray(picture, np.uint8).reshape(height, width, channels)
    except DataError:
        raise
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as error:
        claimed = re.search(r"\d+(?= pixels)", str(error))  # Pillow's error and its warning both say "N pixels"
        raise _too_large(where, claimed[0] if claimed else "too many") from error
    except image_module.UnidentifiedImageError as error:  # its text is the address of what was read
        raise DataError(f"{where}: not a readable image (no {_NAMES}, or damaged); remove or repair it") from error
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, MemoryError, OverflowError, ArithmeticError) as error:
        raise DataError(f"{where}: not a readable image ({' '.join(str(error).split())[:200]}); remove or repair it") from error


def _too_large(where: str, claimed: str) -> DataError:
    return DataError(f"{where}: claims {claimed} pixels; at most {_MOST_PIXELS} are decoded: make it smaller, or remove it")


def png(pixels: Array) -> bytes:
    """A PNG file of uint8 (height, width, 3), written by the standard library alone (PNG specification, sections 5 and 11)."""
    import struct
    import zlib

    height, width = pixels.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], 1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
