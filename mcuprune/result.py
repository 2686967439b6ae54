"""What came of a prune: plain data, for reports, for Python, and to go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from mcuprune.bands.rowgraph import Ending
from mcuprune.bands.tape import Choice
from mcuprune.costs import banding
from mcuprune.costs.resources import Budget, Profile, Verdict
from mcuprune.costs.sensitivity import Sensitivity
from mcuprune.data.preprocessing import Preprocessing
from mcuprune.deploy.rowreport import RowReport
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.notebook import Drawn
from mcuprune.run.layer_noise import Int8Layers
from mcuprune.train.request import Request
from mcuprune.train.task import Schedule, Search, Step
from mcuprune.train.tasks.metrics import Metric


@immutable
class GroupResult:
    """A group before and after: widths, and the indices of the channels that stayed."""

    name: str
    before: int
    after: int
    kept: tuple[int, ...]


@immutable
class Training:
    """How a network was trained, with all that the user left open filled in.

    trained: whether it came trained. taught: whether it learned from a teacher. examples: of the training set.
    device: as torch calls it; of a run that was moved, from where to where.
    """

    schedule: Schedule
    search: Search
    trained: bool
    taught: bool
    examples: int
    augment: str | None
    device: str


@immutable
class Bands:
    """How the written file runs in row bands.

    choices: the regions in bands; none where the limits hold without, or where bands need no less. endings: operators that no
    region can contain. plain, written: the same network without bands, and as the file has it. embedded: convolutions whose
    kernels lie among zeros, for TensorFlow Lite's padding. network: without bands, for what runs rows by itself.
    rows: how generated C runs them, where that is written too.
    """

    choices: tuple[Choice, ...]
    embedded: tuple[str, ...]
    endings: tuple[Ending, ...]
    plain: banding.Measured
    written: banding.Measured
    network: Network
    rows: RowReport | None = None


@immutable
class Figures:
    """How good a network is at its task: as it came, cut in floats, and as int8 in both sessions; None where not quantised.

    task: as of ``--task``. title: what the report calls it. labelled: whether it is held against targets of the data; if not,
    against the answers of the network as it came.
    """

    task: str
    title: str
    labelled: bool
    before: Metric
    floats: Metric
    int8: Metric | None
    int8_default_session: Metric | None

    @property
    def after(self) -> Metric:
        """Of the file that was written."""
        return self.int8 or self.floats


@immutable
class Start:
    """A network that was pruned before, as a place to go on from.

    network: in floats. groups: what earlier prunes have left of the groups of the network as it came.
    """

    network: Network
    groups: tuple[GroupResult, ...]


@immutable
class Stage:
    """One budget that a bisection tried.

    share: of what the network as it came costs; limit: the same in base units. used, figure: of the stage's network, on the
    test set; None where no selection of channels holds the limit. holds: whether the figure is above the floor. path: its file.
    """

    number: int
    share: float
    limit: int
    used: int | None
    figure: float | None
    holds: bool
    path: str | None


@immutable
class Bisection:
    """How the smallest network above a floor was found.

    minimise: the resource. drop: what may be lost, points of a share (0.01 is one) or a part of an error. floor: the worst
    figure that is allowed, on the test set. stages: in the order in which they were tried. best: the number of the one that was
    taken; None where none is above the floor: then it is the best figure's.
    """

    minimise: str
    drop: float
    floor: float
    stages: Sequence[Stage]
    best: int | None


@immutable
class Result(Drawn):
    """A finished prune. What is measured is measured on the test set in onnxruntime, and None where there was no data for it.

    figures: of the task, of whatever kind. accuracy and those beside it: shares of right classes, of classifiers alone.
    accuracy_int8: of the written file as ONNX defines it, on every processor (``evaluate``).
    accuracy_int8_default_session: in a session without options on this processor, where integer kernels may saturate.
    int8_layers: what rounding costs in each layer of the written file, None where it is not int8.
    bands: None where none were asked for. sensitivity: of the groups, where the method has measured it.
    asked: the request as it was made; ``request`` has the device that was chosen, and no training where none was needed.
    contents: digests of the ``model`` and of the ``data``, None without data, as they were read.
    classes: names, where the data has them. bisection: of a prune with a floor.
    float_network: what was written, before it was quantised. c_arena: bytes of RAM of generated C, where that was written too.
    """

    request: Request
    budget: Budget
    before: Profile
    after: Profile
    verdict: Verdict
    figures: Figures | None
    groups: tuple[GroupResult, ...]
    history: tuple[Step, ...]
    seconds: float
    training_macs: int
    full_training_macs: int
    notes: tuple[str, ...]
    data: str | None
    preprocessing: Preprocessing | None
    test_examples: int
    training: Training | None
    bands: Bands | None
    network: Network = field(repr=False, compare=False)
    float_network: Network = field(repr=False, compare=False)
    contents: Mapping[str, str | None] = field(default_factory=dict)
    asked: Request | None = None
    classes: tuple[str, ...] = ()
    bisection: Bisection | None = None
    sensitivity: Sensitivity | None = None
    int8_layers: Int8Layers | None = None
    c_arena: int | None = None

    def __repr__(self) -> str:
        known = {"accuracy_float": self.accuracy_float, "accuracy_int8": self.accuracy_int8}
        said = "".join(f", {name} {value:.3f}" for name, value in known.items() if value is not None)
        return f"<Result of {self.before.path!r}: {self.verdict!r}{said}>"

    @property
    def accuracy(self) -> float | None:
        """Of the network as it came."""
        return None if self.figures is None else self.figures.before.accuracy

    @property
    def accuracy_float(self) -> float | None:
        """Of the cut network before it was quantised."""
        return None if self.figures is None else self.figures.floats.accuracy

    @property
    def accuracy_int8(self) -> float | None:
        """Of the int8 file as ONNX defines it."""
        return None if self.figures is None or self.figures.int8 is None else self.figures.int8.accuracy

    @property
    def accuracy_int8_default_session(self) -> float | None:
        """Of the int8 file in a session of onnxruntime without options."""
        metric = None if self.figures is None else self.figures.int8_default_session
        return None if metric is None else metric.accuracy

    @property
    def ok(self) -> bool:
        """Whether what is written holds the budget, generated C among it, and the floor where there is one."""
        above_floor = self.bisection is None or self.bisection.best is not None
        return self.verdict.ok and above_floor and not self.above_in_c

    @property
    def above_in_c(self) -> bool:
        """Whether generated C needs more than the limit of SRAM, which the written file holds."""
        limit = self.budget.limits.get("sram")
        return self.c_arena is not None and limit is not None and self.request.basis.sram == "peak" and self.c_arena > limit
