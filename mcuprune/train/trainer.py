"""What trains.

A ``Trainer`` owns everything that changes while a network trains: the torch module, its optimiser, the order of the examples,
the account of multiply-accumulates. It trains on one learning-rate schedule from the first step to the last, whatever happens
to the network on the way; ``shrink`` cuts channels out of the running training (weights, BatchNormalization statistics, the
optimiser's memory), so that what follows costs what the smaller network costs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mcuprune.channels.labelling import Channels
from mcuprune.costs.resources import macs
from mcuprune.data.sets import Augment, Split
from mcuprune.errors import UsageError
from mcuprune.immutable import immutable
from mcuprune.operators.table import OPS
from mcuprune.train import ranks, revival
from mcuprune.train.batches import Batch, Batches
from mcuprune.train.evaluate import batch_of
from mcuprune.train.length import Length
from mcuprune.train.module import Trainable, as_inputs, by_pixel
from mcuprune.train.optimizers import OPTIMIZERS
from mcuprune.train.smaller import Smaller, smaller
from mcuprune.train.task import PRECISIONS, Stage, Step, Task
from mcuprune.train.tasks.metrics import Metric
from mcuprune.train.tasks.objective import Objective, classification
from mcuprune.train.teacher import Teacher, batches

_CLIP_NORM = 5.0
#: A training that is ended early takes so much longer for its learning rate to fall.
_WIND_DOWN = 0.1


def cosine(step: int, total: int, *, peak: float, warm_up: float = 0.1, stride: int = 1) -> float:
    """Learning rate: linear to ``peak`` over the first ``warm_up`` of all steps, then a cosine down to nothing.

    step, total: in any unit; stride: what this one step counts for in it.
    """
    first = max(1, int(total * warm_up))
    if step < first:
        return peak * min(first, step + stride) / first
    return peak * 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, total - first)))


@immutable
class Lesson:
    """What a batch's answers are held against.

    targets: of each output; None without labels. taught: a teacher's answers to the same examples; None where nobody teaches.
    share: of the loss of the batch.
    """

    targets: Sequence[Tensor] | None
    taught: Sequence[Tensor] | None
    share: float = 1.0


class Trainer:
    """Trains a ``Trainable``.

    module: what is trained. make: builds it from channels, again after every shrink.
    total: steps of the whole schedule; ``length`` may be given another unit before the first step.
    optimizer: one of OPTIMIZERS. lr: its peak learning rate.
    label_smoothing: the part of each label that is spread over all classes.
    augment: varies the examples of each batch. mixup: how strongly they are mixed, and with them their losses; 0 for not.
    objective: what it is trained towards; by default to name the class.
    answers: a teacher, or its answers to every training example, such as logits, float32 (examples, classes); they count as
        much as the targets, until the network has been less wrong in an epoch than the teacher is on average: then targets
        alone teach. Without targets there is nothing but a teacher to learn from.
    device: where all of it happens; everything that leaves is a numpy array.
    precision: of PRECISIONS, in which layers are computed while training; weights, their gradients and losses are float32.
    """

    def __init__(
        self,
        channels: Channels,
        train: Split,
        *,
        total: int,
        batch: int,
        lr: float,
        weight_decay: float,
        seed: int,
        make: Callable[[Channels], Trainable] = Trainable,
        warm_up: float = 0.1,
        optimizer: str = "muon",
        label_smoothing: float = 0.0,
        augment: Augment | None = None,
        mixup: float = 0.0,
        answers: np.ndarray | Teacher | None = None,
        objective: Objective | None = None,
        device: str = "cpu",
        precision: str = PRECISIONS[0],
    ) -> None:
        torch.manual_seed(seed)
        self.objective = objective or classification(channels.network)
        self._make, self._train, self._warm_up = make, train, warm_up
        if isinstance(answers, np.ndarray):
            answers = Teacher.of_answers([answers], train, self.objective)
        self._teacher = answers
        self._teacher_wrong = 0.0 if answers is None else answers.misses / answers.examples
        self._wrong = 0.0  # in this epoch, while there is a teacher to compare with
        self._alone_since: int | None = None
        self._revived: tuple[int, int] = 0, 0  # layers that began anew, and in which step for the last time
        self.length = Length("steps", total)
        self.batch, self.lr, self.weight_decay = min(batch, len(train)), lr, weight_decay
        if self.batch < ranks.size():
            raise UsageError(
                f"a batch of {self.batch} is too small for {ranks.size()} ranks; give a larger --batch or start fewer"
            )
        self.step, self.loss = 0, 0.0  # steps done, and the loss of the last
        self.before = 0  # steps of the stages before, which count too in what is said of steps and epochs
        self.training_macs = 0
        self.position = 0  # in the unit of the length
        self._ending: tuple[int, int] | None = None  # from which position to which training winds down
        self._earlier, self._began = 0.0, -1.0  # seconds of earlier sittings; when this one took its first step
        self._smaller: Smaller | None = None
        self._small_until = 0.0  # share of the length
        self._half = precision == "bfloat16"
        self._seed, self._kind, self._smoothing, self._device = seed, optimizer, label_smoothing, device
        self._batches, self._next = Batches(train, augment, mixup), -1
        self._start(channels)

    @property
    def taught(self) -> bool:
        """Whether a teacher's answers count at this moment."""
        return self._teacher is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how training went."""
        said = () if self._alone_since is None else (self._how_taught(self._alone_since),)
        if self._smaller is not None:
            height, width = self._smaller.size
            said = (*said, f"images were {height} x {width} in the first {self._small_until:.0%} of float training")
        layers, step = self._revived
        if not layers:
            return said
        return (
            *said,
            f"layers had died, which no gradient reached any more, and began anew: {layers} times, the last in step "
            f"{self.before + step}; a lower --lr or wider first layers may spare that",
        )

    def _how_taught(self, alone_since: int) -> str:
        classes = self.objective.task == "classify"
        how = f", right on {1 - self._teacher_wrong:.1%} of the training examples," if classes else ""
        more = "knew more" if classes else "erred less on the training examples"
        return (
            f"the teacher{how} taught until the pruned network {more}, after epoch "
            f"{(self.before + alone_since) // self.steps_per_epoch}; then {'labels' if classes else 'targets'} alone did"
        )

    @property
    def steps_per_epoch(self) -> int:
        """How many whole batches the training examples make, at least one."""
        return max(1, len(self._train) // self.batch)

    @property
    def epoch(self) -> float:
        """How many epochs the steps of this stage make so far, with their fraction."""
        return self.step / self.steps_per_epoch

    @property
    def epochs(self) -> float:
        """How many epochs the whole schedule has; where it is no number of steps, as many as the share that is over tells."""
        if self.length.fixed:
            return self.length.amount / self.steps_per_epoch
        return self.epoch if self.finished else self.epoch / max(self.length.share(self.position), 1e-9)

    @property
    def finished(self) -> bool:
        """Whether the schedule is over."""
        return self.position >= (self.length.amount if self._ending is None else self._ending[1])

    @property
    def winds_down(self) -> bool:
        """Whether it was told to end, early or in the last part of its length, which is spent all the same."""
        return self._ending is not None

    @property
    def ends_early(self) -> bool:
        """Whether the end lies before the planned one."""
        return self._ending is not None and self._ending[1] < self.length.amount

    def begin_small(self, until: float) -> None:
        """Train on smaller images, if the network takes any, for this first share of the length. Called before it starts."""
        self._small_until = until
        self._smaller = smaller(self.module.source) if until else None

    @property
    def images(self) -> Smaller | None:
        """The smaller images that the step which comes is to see; None where it sees them as they are."""
        return self._smaller if not self.winds_down and self.length.share(self.position) < self._small_until else None

    def wind_down(self) -> None:
        """End earlier: from now on the learning rate falls to nothing within a tenth of what training took so far."""
        now = self.position
        self._ending = now, min(self.length.amount, now + max(1, int(_WIND_DOWN * now)))

    @property
    def _seconds(self) -> float:
        """Of training, validation between two steps included, over all sittings."""
        return self._earlier + (time.monotonic() - self._began if self._began >= 0 else 0.0)

    def _start(self, channels: Channels) -> None:
        self.module = self._make(channels)
        self.module.measure(self.objective.units(channels.network))
        self.module.to(self._device)
        self.module.over_ranks = True
        self.module.want_answers(self.objective.heads)
        net = channels.network
        self._macs = macs(net)
        self._smaller = smaller(net) if self._small_until else None
        blocks = {
            name: int(node.get("group"))
            for node in net.nodes
            for i, name in enumerate(node.inputs)
            if OPS[node.op].role(node, i) == "weight"
        }
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.module.named_weights():
            groups.setdefault(blocks.get(name, 0), []).append(parameter)
        self._optimizer = OPTIMIZERS[self._kind].make(groups, self.weight_decay, self.lr)

    def _next_batch(self) -> Batch:
        """The next examples, varied; every epoch has its own order, and drops its last, short batch.

        What chance does in an epoch depends on the seed and the epoch alone, so a run can be taken up at any epoch's start.
        """
        position = self.step % self.steps_per_epoch
        if position == 0 or self._next != self.step:
            random = np.random.default_rng((self._seed, self.step // self.steps_per_epoch))
            self._batches.start(random.permutation(len(self._train)), position, self.batch, random)
        self._next = self.step + 1
        return self._batches.next()

    def train_step(self) -> float:
        """One step on the next batch. Returns its loss. Raises UsageError where training has diverged."""
        if self._began < 0:
            self._began = time.monotonic()
        prepared = self._next_batch()
        inputs, lessons = prepared.inputs, self._lessons(prepared)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.batch)
        self.module.train()
        answers, loss = self._pass(inputs, lessons)
        wrong = 0.0 if self._teacher is None else sum(lesson.share * self._misses(answers, lesson) for lesson in lessons)
        total, wrong = self._over_ranks(loss.detach(), wrong)
        self._refuse_divergence("the loss is", total)
        self._optimizer.zero_grad(set_to_none=True)
        (loss if ranks.size() == 1 else loss * ranks.share(self.batch)).backward()  # type: ignore[no-untyped-call]
        ranks.sum_gradients(self.module)
        early = not self.winds_down and self.length.share(self.position) < revival.UNTIL
        if early and self.step % revival.EVERY == revival.EVERY - 1:
            self._revive()
        nn.utils.clip_grad_norm_(self.module.parameters(), _CLIP_NORM)
        self._optimizer.step()
        self.step += 1
        self.training_macs += self.step_macs(self.batch)
        counts = {"steps": self.step, "macs": self.training_macs, "milliseconds": int(1000 * self._seconds)}
        self.position = (
            counts[self.length.unit] if self.length.unit != "milliseconds" else ranks.of_first(counts["milliseconds"])
        )
        if self._teacher is not None and lessons[0].targets is not None:
            self._weigh_teacher(wrong)
        if self.finished:  # of the last step's weights no further loss tells
            self.module.eval()
            with torch.no_grad():
                outputs = torch.stack([answer.sum() for answer in self.answers(inputs)]).sum()
                self._refuse_divergence("an output is", ranks.summed(outputs))
        self.loss = float(total)
        return self.loss

    def _revive(self) -> None:
        """Let layers that no gradient reaches begin anew."""
        if layers := revival.revive(self.module, self._optimizer):
            self._revived = self._revived[0] + len(layers), self.step

    def _computed(
        self, answers: Callable[[Sequence[np.ndarray]], tuple[Tensor, ...]], inputs: Sequence[np.ndarray]
    ) -> tuple[Tensor, ...]:
        """What losses are taken of, in the precision of the training. answers: computes it for a batch."""
        if not self._half:
            return answers(inputs)
        with torch.autocast(torch.device(self._device).type, torch.bfloat16):
            return tuple(answer.float() for answer in answers(inputs))

    def _over_ranks(self, loss: Tensor, wrong: float) -> tuple[Tensor, float]:
        """The loss of the whole batch and how wrong it is in all, from those of this rank's part."""
        if ranks.size() == 1:
            return loss, wrong
        both = ranks.summed(torch.stack([loss.double() * ranks.share(self.batch), loss.new_tensor(wrong).double()]))
        return both[0], float(both[1])

    def step_macs(self, examples: int) -> int:
        """Forward multiply-accumulates of the step that comes, on so many examples."""
        return (self._macs if self.images is None else self.images.macs) * examples

    def _lessons(self, prepared: Batch) -> list[Lesson]:
        """What a batch is to teach: the examples' own targets, and those of the examples that are mixed into them."""
        own = self._lesson(prepared.chosen, prepared, prepared.share)
        if prepared.partners is None:
            return [own]
        if self._teacher is not None and not self._teacher.remembers:  # it was asked about the mixed examples themselves
            return [own, Lesson(self._targets(prepared.partners), own.taught, 1 - prepared.share)]
        return [own, self._lesson(prepared.partners, prepared, 1 - prepared.share)]

    def _lesson(self, chosen: np.ndarray, prepared: Batch, share: float) -> Lesson:
        taught = None if self._teacher is None else self._teacher(chosen, prepared.inputs)
        return Lesson(self._targets(chosen), taught, share)

    def _targets(self, chosen: np.ndarray) -> list[Tensor] | None:
        return None if self._train.targets is None else self.tensors([array[chosen] for array in self._train.targets])

    def _misses(self, answers: Sequence[Tensor], lesson: Lesson) -> float:
        return 0.0 if lesson.targets is None else self.objective.misses(answers, lesson.targets)

    def _pass(self, inputs: Sequence[np.ndarray], lessons: Sequence[Lesson]) -> tuple[tuple[Tensor, ...], Tensor]:
        """The forward pass of a step: the network's answers, and the loss whose gradient the step takes."""
        answers = self._computed(self.answers, inputs)
        return answers, self._taught_loss(answers, lessons)

    def _taught_loss(self, answers: Sequence[Tensor], lessons: Sequence[Lesson]) -> Tensor:
        """The losses of all lessons, each by its share (mixup's labels, of a loss that is linear in them)."""
        each = [self._loss(answers, lesson.targets, lesson.taught) for lesson in lessons]
        if len(each) == 1:
            return each[0]
        return torch.stack([lesson.share * loss for lesson, loss in zip(lessons, each, strict=True)]).sum()

    def _rate(self, examples: int) -> float:
        """The learning rate of the step that comes, on so many examples."""
        stride = self.step_macs(examples) if self.length.unit == "macs" else 1

        def planned(position: int) -> float:
            return cosine(position, self.length.amount, peak=self.lr, warm_up=self._warm_up, stride=stride)

        if self._ending is None:
            return planned(self.position)
        start, end = self._ending
        return planned(start) * (end - self.position) / max(1, end - start)

    def _weigh_teacher(self, wrong: float) -> None:
        """Count how wrong the network was in this epoch, and let go of a teacher that is more so: it would hold it back."""
        self._wrong += wrong
        if self.step % self.steps_per_epoch == 0:
            if self._wrong < self._teacher_wrong * self.batch * self.steps_per_epoch:
                self._teacher, self._alone_since = None, self.step
            self._wrong = 0.0

    def _refuse_divergence(self, what: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise UsageError(
                f"training diverged at step {self.before + self.step}: {what} {value.item()}; give a lower --lr, or scale "
                "the data"
            )

    def line(self, loss: float, costs: Mapping[str, int], phase: str, val: Split | None = None) -> Step:
        """The history's line for this moment; with ``val`` the module is evaluated on it."""
        metric = None if val is None else self.measure(val)
        accuracy, score = (None, None) if metric is None else (metric.accuracy, metric.value)
        better = "higher" if metric is None else metric.better
        share = None if self.length.fixed else 1.0 if self.finished else self.length.share(self.position)
        at = (self.step, self.epoch, loss, costs)
        macs, waited = self.training_macs, self._batches.waiting.share
        return Step(*at, accuracy, phase, self.epochs, score, macs, share, waited, better=better)

    def _loss(
        self, answers: Sequence[Tensor], targets: Sequence[Tensor] | None, taught: Sequence[Tensor] | None = None
    ) -> Tensor:
        """That of the targets; with a teacher half of it, and half against the teacher's answers."""
        if targets is None:
            assert taught is not None
            return self.objective.teach(answers, [answer.to(self._device) for answer in taught])
        loss = self.objective.loss(answers, targets, self._smoothing)
        if taught is None:
            return loss
        return 0.5 * loss + 0.5 * self.objective.teach(answers, [answer.to(self._device) for answer in taught])

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array as a tensor on the device that trains."""
        return torch.from_numpy(np.asarray(array)).to(self._device)

    def tensors(self, arrays: Sequence[np.ndarray]) -> list[Tensor]:
        """Arrays as tensors on the device that trains."""
        return [self.tensor(array) for array in arrays]

    def answers(self, inputs: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
        """What losses are taken of, for a batch: one array (batch, ...) for each input -> one tensor for each output.

        A module in training mode sees images in the size that they have in this step, in evaluation mode always all of them.
        """
        fed = as_inputs(self.module.source, inputs, self._device)
        if self.module.training and self.images is not None:
            fed = tuple(by_pixel(self.images(x)) for x in fed)
        return self.objective.answers(self.module(*fed))

    def logits(self, x: np.ndarray) -> Tensor:
        """The first of ``answers`` for one input: of a classifier float32 (batch, classes), before any softmax."""
        return self.answers([x])[0]

    @torch.no_grad()
    def measure(self, split: Split) -> Metric:
        """The figure of the module as it stands, in evaluation mode. split: with targets."""
        assert split.targets is not None
        self.module.eval()
        tallies = self.objective.tallies()
        for chosen in batches(len(split), batch_of([column.shape[1:] for column in split.inputs])):
            own = chosen[ranks.part(len(chosen))]
            answers = self.answers([array[own] for array in split.inputs])
            outputs = [kind.output(x).cpu().numpy() for kind, x in zip(self.objective.kinds, answers, strict=True)]
            outputs = [ranks.gathered(output, len(chosen)) for output in outputs]
            self.objective.count(tallies, outputs, [np.asarray(array[chosen]) for array in split.targets])
        return self.objective.metric(tallies)

    def accuracy(self, split: Split) -> float:
        """The share of right classes; of what is no classifier its figure."""
        metric = self.measure(split)
        return metric.value if metric.accuracy is None else metric.accuracy

    def state(self) -> dict[str, np.ndarray]:
        """All that the next step depends on, at an epoch's start, but for the labelled network: arrays by name."""
        return self.counters() | self.learned()

    def counters(self) -> dict[str, np.ndarray]:
        """The part of ``state`` that says how far training is."""
        alone = -1 if self._alone_since is None else self._alone_since
        milliseconds = int(1000 * self._seconds) if self.length.unit == "milliseconds" else 0
        arrays = {"steps": np.array([self.step, self.training_macs, alone, self.position, milliseconds])}
        arrays["ending"] = np.array(self._ending or (), dtype=np.int64)
        arrays["revived"] = np.array(self._revived)
        return arrays

    def learned(self) -> dict[str, np.ndarray]:
        """The part of ``state`` that steps have made: weights, the optimiser's memory, ranges."""
        arrays = {f"constant/{name}": value for name, value in self.module.network().constants.items()}
        arrays |= {f"moment/{name}": value for name, value in self._moments().items()}
        return arrays | {f"module/{name}": value for name, value in self.module.extra_state_arrays().items()}

    def restore(self, state: Mapping[str, np.ndarray], channels: Channels) -> None:
        """Go on from ``state``, which ``channels`` (the network as it was then, labelled) fits."""

        def part(kind: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(kind): value for name, value in state.items() if name.startswith(kind)}

        self._start(channels.with_network(channels.network.with_constants(part("constant/"))))
        self._set_moments(part("moment/"))
        self.module.load_extra_state_arrays(part("module/"))
        self.step, self.training_macs, alone, self.position, milliseconds = (int(value) for value in state["steps"])
        self._earlier, self._began = milliseconds / 1000, -1.0
        start_and_end = [int(value) for value in state.get("ending", ())]
        self._ending = (start_and_end[0], start_and_end[1]) if start_and_end else None
        layers, last = (int(value) for value in state.get("revived", (0, 0)))
        self._revived = layers, last
        if alone >= 0:
            self._teacher, self._alone_since = None, alone

    def _moments(self) -> dict[str, np.ndarray]:
        """What the optimiser remembers of each weight, as "kind of moment/weight": the weight's shape, or ()."""
        return {
            f"{kind}/{name}": value.cpu().numpy()
            for name, parameter in self.module.named_weights()
            for kind, value in self._optimizer.state[parameter].items()
            if value is not None
        }

    def _set_moments(self, moments: Mapping[str, np.ndarray]) -> None:
        parameters = dict(self.module.named_weights())
        for label, value in moments.items():
            kind, name = label.split("/", 1)
            moment = torch.from_numpy(np.array(value))
            # torch's optimisers count their steps on the CPU, wherever the weights are
            self._optimizer.state[parameters[name]][kind] = moment if kind == "step" else moment.to(self._device)

    def begin(self, channels: Channels) -> None:
        """Train another network from here on: nothing is remembered of the one before."""
        self._start(channels)

    def shrink(self, keep: np.ndarray) -> None:
        """Cut the network to a selection of its components and train on.

        Exact: the cut module computes what the gated one did, and the optimiser remembers of each weight what it did.
        """
        channels = self.module.channels
        network = self.module.network()
        moments = {
            label: channels.cut_constant(label.split("/", 1)[1], value, keep) if value.ndim else value
            for label, value in self._moments().items()
        }
        self._start(channels.with_network(network).cut_channels(keep))
        self._set_moments(moments)


@torch.no_grad()
def reestimated(channels: Channels, inputs: Sequence[np.ndarray], batch: int, device: str = "cpu") -> Channels:
    """The network with BatchNormalization statistics of ``inputs`` as its weights now are: the mean over all batches.

    Running statistics follow the weights at a distance, which a training of a few steps never makes good.
    """
    module = Trainable(channels).to(device).train()
    for index, start in enumerate(range(0, max(1, len(inputs[0]) - batch + 1), batch)):
        module.norm_momentum = 1 / (index + 1)
        module(*as_inputs(channels.network, [x[start : start + batch] for x in inputs], device))
    return channels.with_network(module.network())


@torch.no_grad()
def answers_of(channels: Channels, x: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The logits of a network as it stands: float32 examples (batch, ...) -> float32 (batch, classes)."""
    module = Trainable(channels).to(device).eval()
    module.want_logits()
    parts = [module(*as_inputs(channels.network, x[i : i + 256], device))[0].flatten(1) for i in range(0, len(x), 256)]
    return np.asarray(torch.cat(parts).cpu().numpy())


def trainer_for(task: Task, channels: Channels, kind: type[Trainer] = Trainer, stage: Stage = "float") -> Trainer:
    """A trainer of ``channels``, the task's network or a cut of it, for a stage in floats of the task's schedule."""
    schedule = task.schedule
    trainer = kind(
        channels,
        task.data.train,
        total=1,
        batch=schedule.batch,
        lr=schedule.lr,
        weight_decay=schedule.weight_decay,
        optimizer=schedule.optimizer,
        label_smoothing=schedule.label_smoothing,
        seed=task.seed,
        augment=task.data.augment,
        mixup=task.data.mixup,
        answers=task.answers,
        objective=task.objective,
        device=task.device,
        precision=task.precision,
    )
    full = task.model.sums(task.model.full)["macs"] * trainer.batch * trainer.steps_per_epoch
    trainer.length = schedule.length(trainer.steps_per_epoch, full, stage)
    return trainer


@torch.no_grad()
def output_moments(
    module: Trainable, names: set[str], examples: np.ndarray | Sequence[np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance, per channel, of each named tensor (batch, channel, ...) over examples.

    examples: (examples, ...), one array for each input of the network.
    """
    arrays = [examples] if isinstance(examples, np.ndarray) else list(examples)
    sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def watch(tensor: str, value: Tensor) -> Tensor:
        if tensor in names:
            axes = [axis for axis in range(value.ndim) if axis != 1]
            wide = value.double()
            total, squares, count = sums.get(tensor, (torch.zeros(()), torch.zeros(()), 0))
            sums[tensor] = (total + wide.sum(axes), squares + (wide**2).sum(axes), count + value.numel() // value.shape[1])
        return value

    module.eval()
    previous, module.computed = module.computed, watch  # type: ignore[method-assign]
    try:
        for start in range(0, len(arrays[0]), 128):
            module(*as_inputs(module.source, [array[start : start + 128] for array in arrays], module.device))
    finally:
        module.computed = previous  # type: ignore[method-assign]
    moments = {}
    for name, (total, squares, count) in sums.items():
        mean = (total / count).cpu().numpy()
        moments[name] = (mean, np.maximum((squares / count).cpu().numpy() - mean**2, 0.0))
    return moments
