"""Sound as features: log-mel spectra and MFCC, in numpy, with every setting that firmware needs to compute the same.

The steps are those of TensorFlow's ``tf.signal`` (and so of MLPerf Tiny's keyword spotting, Banbury et al. 2021, section 3.3):
frames, a periodic Hann window, magnitudes of a real FFT, triangular mel bands by HTK's formula, the natural logarithm; for MFCC
a DCT-II times 1 / sqrt(2 * bands) after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np

from mcuprune.errors import DataError, UsageError
from mcuprune.immutable import immutable

Array = np.ndarray[Any, Any]
KINDS = ("mfcc", "logmel", "raw")
#: Windows and hops in milliseconds that people use, commonest first.
_FRAMES = (
    (30, 20),
    (25, 10),
    (32, 16),
    (40, 20),
    (30, 10),
    (20, 10),
    (32, 20),
    (64, 32),
    (25, 20),
    (32, 32),
    (40, 40),
    (20, 20),
)
#: With so many features or fewer they are cepstral coefficients.
_MOST_COEFFICIENTS = 20


@immutable
class Settings:
    """How sound becomes features.

    rate: samples a second. samples: of a clip; shorter ones get zeros at both ends, of longer ones the middle is taken.
    window, hop, fft: samples of a frame, between frames, and of the transform. mels: bands between low and high hertz.
    coefficients: of an MFCC. offset: what is added before the logarithm. peak: 1 where a clip is divided by its largest value.
    centred: 1 where frames reach over both ends. features_first: 1 where the input has features before time.
    """

    kind: str = "mfcc"
    rate: int = 16000
    samples: int = 16000
    window: int = 480
    hop: int = 320
    fft: int = 512
    mels: int = 40
    low: float = 20.0
    high: float = 4000.0
    coefficients: int = 10
    offset: float = 1e-6
    peak: int = 0
    centred: int = 0
    features_first: int = 0

    @property
    def frames(self) -> int:
        """How many frames a clip has."""
        return 1 + (self.samples + (self.fft if self.centred else 0) - (self.fft if self.centred else self.window)) // self.hop

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what ``features`` gives."""
        if self.kind == "raw":
            return (self.samples,)
        size = (self.frames, self.coefficients if self.kind == "mfcc" else self.mels)
        return size[::-1] if self.features_first else size

    def document(self) -> dict[str, Any]:
        """JSON values; those that the kind has no use for are left out."""
        values = asdict(self)
        unused = {"raw": set(values) - {"kind", "rate", "samples", "peak"}, "logmel": {"coefficients"}, "mfcc": set()}
        return {key: value for key, value in values.items() if key not in unused[self.kind]}


def parsed(text: str) -> dict[str, Any]:
    """Settings of text such as ``mfcc,window=30ms,hop=20ms,mels=40``. Raises UsageError for what is none of them."""
    settings: dict[str, Any] = {}
    lengths: dict[str, tuple[Any, float, float | None]] = {}
    kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(Settings)}
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, text_value = part.partition("=")
        if not equals and key in KINDS:
            settings["kind"] = key
            continue
        number = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-?\d+)?)(ms|s)?", text_value)
        if key not in kinds or key == "kind" or not number or len(text_value) > 20:
            names = ", ".join(name for name in kinds if name != "kind")
            raise UsageError(f"--frontend: {part!r} is unknown; write {', '.join(KINDS)}, or NAME=NUMBER of {names}")
        lengths[key] = (kinds[key], float(number[1]), {"ms": 1e-3, "s": 1.0}.get(number[2] or ""))
    rate = lengths.get("rate", (int, float(Settings.rate), None))[1]
    return settings | {
        key: kind(value if seconds is None else round(value * seconds * rate))
        for key, (kind, value, seconds) in lengths.items()
    }


def settings_for(shape: tuple[int, ...], asked: Mapping[str, Any], where: str) -> Settings:
    """Settings whose features have the shape of the model's input without its batch axis; ``asked`` ones stay.

    Raises DataError where none have.
    """
    wanted = tuple(size for size in shape if size != 1)
    given = Settings(**asked)
    if len(wanted) == 1 and asked.get("kind", "raw") == "raw":
        return replace(given, kind="raw", samples=int(asked.get("samples", wanted[0])))
    tried = []
    for first in (0, 1):
        time_features = wanted[::-1] if first else wanted
        for window, hop in _FRAMES:
            for centred in (0, 1):
                candidate = _tried(given, asked, time_features, window, hop, centred, first)
                if candidate is not None and candidate.shape == wanted:
                    return candidate
                tried.append(candidate)
    raise DataError(
        f"{where}: no usual front end makes features of the model's input {list(shape)} from {given.samples} samples at "
        f"{given.rate} Hz; describe it, as in --frontend mfcc,window=30ms,hop=20ms,mels=40,coefficients=10"
    )


def _tried(
    given: Settings, asked: Mapping[str, Any], size: tuple[int, ...], window: int, hop: int, centred: int, first: int
) -> Settings | None:
    if len(size) != 2:
        return None
    features = size[1]
    usual: dict[str, Any] = {"kind": "mfcc" if features <= _MOST_COEFFICIENTS else "logmel"}
    usual |= {"window": window * given.rate // 1000, "hop": hop * given.rate // 1000, "centred": centred}
    usual |= {"coefficients": features} if (asked.get("kind") or usual["kind"]) == "mfcc" else {"mels": features}
    candidate = replace(given, **{**usual, "features_first": first, **asked})
    if "fft" not in asked:
        candidate = replace(candidate, fft=1 << (candidate.window - 1).bit_length())
    if "high" not in asked and candidate.kind == "logmel":
        candidate = replace(candidate, high=candidate.rate / 2)
    return (
        candidate
        if candidate.coefficients <= candidate.mels and candidate.window <= candidate.fft and candidate.hop > 0
        else None
    )


def features(sound: Array, settings: Settings) -> Array:
    """float32 ``settings.shape`` of a clip: float (samples,) in -1...1."""
    clip = _of_length(sound, settings.samples)
    if settings.peak:
        clip = clip / max(float(np.abs(clip).max(initial=0)), 1e-9)
    if settings.kind == "raw":
        return clip.astype(np.float32)
    if settings.centred:
        clip = np.pad(clip, settings.fft // 2, mode="reflect")
        pad = (settings.fft - settings.window) // 2
        window = np.pad(_hann(settings.window), (pad, settings.fft - settings.window - pad))
    else:
        window = _hann(settings.window)
    frames = np.lib.stride_tricks.sliding_window_view(clip, len(window))[:: settings.hop][: settings.frames]
    spectrum = np.abs(np.fft.rfft(frames * window, settings.fft))
    mel = np.log(spectrum @ mel_bands(settings) + settings.offset)
    if settings.kind == "mfcc":
        mel = mel @ cosines(settings.mels, settings.coefficients)
    return np.ascontiguousarray(mel.T if settings.features_first else mel, np.float32)


def _hann(size: int) -> Any:
    """The periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def mel_bands(settings: Settings) -> Array:
    """float64 (fft // 2 + 1, mels): triangles, equally wide on HTK's mel scale, 1127 ln(1 + f / 700)."""

    def mel(hertz: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    bins = mel(np.arange(settings.fft // 2 + 1) * settings.rate / settings.fft)[:, None]
    edges = np.linspace(mel(settings.low), mel(settings.high), settings.mels + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    bands: Array = np.maximum(0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    bands[0] = 0
    return bands


def cosines(mels: int, coefficients: int) -> Any:
    """float64 (mels, coefficients): the DCT-II, 2 sum x cos(pi k (2n + 1) / 2N), times 1 / sqrt(2 N)."""
    angle = np.pi * (2 * np.arange(mels)[:, None] + 1) * np.arange(coefficients) / (2 * mels)
    return 2 * np.cos(angle) / np.sqrt(2 * mels)


def _of_length(sound: Array, samples: int) -> Array:
    missing = samples - len(sound)
    if missing > 0:
        return np.pad(sound, (missing // 2, missing - missing // 2))
    start = -missing // 2
    return sound[start : start + samples]


def resampled(sound: Array, old: int, new: int) -> Array:
    """A clip at another rate, by a Hann-windowed sinc of 16 zero crossings, low enough for the lower of both rates.

    Smith, "Digital Audio Resampling": x(t) is the sum of samples times the kernel at their distance from t.
    """
    if old == new:
        return sound
    kernels, offsets = _kernels(old // gcd(old, new), new // gcd(old, new))
    reach = len(offsets) // 2
    ticks = np.arange(len(sound) * new // old) * (old // gcd(old, new))
    nearest, phase = np.divmod(ticks, len(kernels))
    kernel = kernels[phase]
    padded = np.pad(sound, (reach, reach + 1))
    return np.asarray(np.einsum("ij,ij->i", padded[nearest[:, None] + offsets + reach], kernel))


@lru_cache(4)
def _kernels(old: int, new: int) -> tuple[Array, Array]:
    """(float64 (new, taps), taps): the kernel at each of the places between two samples that a new sample can have."""
    cutoff = min(1.0, new / old)
    reach = int(np.ceil(16 / cutoff))
    offsets = np.arange(-reach + 1, reach + 1)
    distance = (np.arange(new) / new)[:, None] - offsets
    return cutoff * np.sinc(cutoff * distance) * (0.5 + 0.5 * np.cos(np.pi * np.clip(distance / reach, -1, 1))), offsets
