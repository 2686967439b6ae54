"""What running a file in a microcontroller's runtimes showed, and what of it counts as equal.

Outputs are compared as the integers that the output's quantiser stores: differences are in its steps (LSB). They are equal
within two steps, or else, where there is data, where both name the same class on as good as all examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from mcuprune.deploy.cplan import MAX_ABOVE_PEAK
from mcuprune.deploy.tflite import Converted
from mcuprune.immutable import immutable
from mcuprune.notebook import Drawn
from mcuprune.run.layerwise import Layer
from mcuprune.train.tasks.metrics import Metric

#: Outputs that differ by no more than this many steps are equal: a layer or two that round the other way.
MAX_LSB = 2
#: Otherwise both must name the same class on this share of real examples. It is refuted where the whole interval lies below it.
MIN_AGREEMENT = 0.99
#: The two-sided 95 % quantile of a normal distribution, for Wilson's interval.
_Z = 1.96


@immutable
class Difference:
    """How far one output is from onnxruntime's.

    max_lsb: the largest difference in steps of the output's quantiser. exact: the share of values without any.
    agreement: the share of examples whose largest value is the same, None for an output that isn't one row of classes.
    examples: of how many that is a share. judged: whether it counts. On random inputs it doesn't: the largest two are often a
    step apart.
    """

    output: str
    max_lsb: int
    exact: float
    agreement: float | None
    examples: int
    judged: bool

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the agreement (Wilson, 1927): the shares that these examples don't refute."""
        return None if self.agreement is None else wilson(self.agreement, self.examples)

    @property
    def ok(self) -> bool | None:
        """Whether the outputs are equal; None where they differ by more steps and no real examples tell what that means."""
        if self.max_lsb <= MAX_LSB:
            return True
        if self.interval is None or not self.judged:
            return None
        return self.interval[1] >= MIN_AGREEMENT


@immutable
class Taken:
    """Bytes of arena in generated C, and the peak of the network, which it should be."""

    arena: int
    peak: int

    @property
    def ok(self) -> bool:
        """Whether it is."""
        return self.arena <= self.peak + MAX_ABOVE_PEAK


@immutable
class Compared:
    """What one runtime computed, against onnxruntime.

    layers: each alone; empty where they couldn't be compared. steady: whether outputs stay the same to the bit when the tensors
    between are kept, and with the memory plan that is written; None where that wasn't tried. metric: on the data's examples.
    taken: the arena of generated C.
    """

    key: str
    version: str
    differences: tuple[Difference, ...]
    layers: tuple[Layer, ...]
    steady: bool | None
    metric: Metric | None
    taken: Taken | None = None

    @property
    def accuracy(self) -> float | None:
        """The share of right classes, where there are any."""
        return None if self.metric is None else self.metric.accuracy

    @property
    def diverges_at(self) -> str | None:
        """The first node that computes something else than onnxruntime from the same inputs."""
        return next((layer.node for layer in self.layers if not layer.ok), None)

    @property
    def ok(self) -> bool:
        """Whether nothing but rounding lies between the runtime and onnxruntime."""
        verdicts = [difference.ok for difference in self.differences]
        # without a look at the layers, outputs that nothing vouches for don't count as equal
        outputs = all(verdict is not False for verdict in verdicts) if self.layers else all(verdicts)
        return outputs and self.diverges_at is None and self.steady is not False


@immutable
class Memory:
    """Bytes of arena. predicted: on a 32-bit core with CMSIS-NN. measured: by the runtime here, None where it doesn't tell.

    same_pointers: predicted for the runtime here: reference kernels, pointers of ``pointer_bytes``. The heads are activations
    and scratch of kernels; the one predicted is that of the runtime here too, for a device's look at ``head_on_device``.
    start_on_device: what the interpreter there needs to start, an upper bound; more than predicted where activations are few.
    """

    predicted: int
    head_predicted: int
    same_pointers: int
    pointer_bytes: int
    measured: int | None = None
    head_measured: int | None = None
    head_on_device: int = 0
    start_on_device: int = 0

    @property
    def ok(self) -> bool:
        """Whether the runtime here takes no more than was predicted for it; where it doesn't tell, it counts as so."""
        return self.measured is None or self.measured <= self.same_pointers


@immutable
class Verification(Drawn):
    """What running the file showed. examples: how many, by where they come from: "random", or the name of a data set."""

    path: str
    examples: Mapping[str, int]
    converted: Converted
    runtimes: tuple[Compared, ...]
    onnxruntime: str | None
    metric: Metric | None
    default_session_metric: Metric | None
    memory: Memory
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        sides = ", ".join(f"{compared.key} {'as stored' if compared.ok else 'DIFFERS'}" for compared in self.runtimes)
        return f"<Verification of {self.path!r}: {'ok' if self.ok else 'not ok'}: {sides}, arena {self.memory.predicted}>"

    def __bool__(self) -> bool:
        """``ok``, so that ``if mcuprune.verify(...)`` means what it says."""
        return self.ok

    @property
    def ok(self) -> bool:
        """Whether all runtimes computed the same, in the arena that was predicted."""
        fits = all(compared.taken is None or compared.taken.ok for compared in self.runtimes)
        return all(compared.ok for compared in self.runtimes) and self.memory.ok and fits

    @property
    def accuracy(self) -> float | None:
        """The share of right classes in onnxruntime, where there are any."""
        return None if self.metric is None else self.metric.accuracy

    @property
    def default_session_accuracy(self) -> float | None:
        """The same in a session without options."""
        return None if self.default_session_metric is None else self.default_session_metric.accuracy

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Those of the first runtime."""
        return self.runtimes[0].differences


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share that was seen in ``n`` examples (Wilson 1927, J. Am. Stat. Assoc. 22, 209)."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
