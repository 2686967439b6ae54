"""How a data set's raw values are to reach a network: what flags and metadata say, else what a trained network shows by trial.

A network that was trained is run on a few hundred examples in each plausible way; where it is clearly right in one of them,
and not by luck (``head``), that one is used and named. Labels are never renumbered here: that is reported.

Without labels nothing tells what is right. But a network that is fed wrongly answers alike to everything, or doubts everything;
images are fed to a trained classifier in the way in which its answers tell most of the examples apart. Where even that says
nothing, they are fed as they are stored, and a note says that this is a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from mcuprune.data import fitting
from mcuprune.data import loading as datasets
from mcuprune.data.columns import Lazy, chunks, taken
from mcuprune.data.feed import Feed, class_names, only_layout, preprocessing
from mcuprune.data.named import DATASETS
from mcuprune.data.preprocessing import IMAGE_CHANNELS, RANGES, Preprocessing, layout_of
from mcuprune.data.sets import Column, Data, Given, Split
from mcuprune.errors import DataError
from mcuprune.graph.network import Network
from mcuprune.immutable import immutable
from mcuprune.train import evaluate, feeding, head
from mcuprune.train.feeding import Change, Explanation
from mcuprune.train.tasks.heads import answer_shape

#: Examples of the play-off between the best ways, and how far from the best one those lie that take part.
_PLAY_OFF, _NEAR = 1500, 0.06
#: Examples without labels that a network is asked about.
_UNLABELLED = 120
#: Answers tell examples apart from this share on of what they could, and clearly better than others by this share.
_TELLING, _BETTER = 0.3, 0.1
#: Scales from here on down are for pixels of 0 to 255.
_SMALL = 1 / 100
#: How a note ends that says how values are fed where nothing tells.
_A_GUESS = (
    "which is a guess. If it was trained otherwise its answers mean nothing: say how with --scale 0-1 (or -1-1, 0-255), or "
    "--mean and --std"
)
#: Axes of an input of images or sounds, batch aside, from here on; whole numbers in one axis may be words' or of a table.
_SIGNALS = 2
#: What pixels become for a network that knows nothing yet: on the chip it is the pixel minus 128.
_FRESH = "-1-1"


@immutable
class Tried:
    """A way of feeding, and how often the network was right on these examples. cause: in words, for people."""

    cause: str
    accuracy: float
    examples: int
    preprocessing: Preprocessing


@immutable
class Fed:
    """A data set as it reaches the network. tried: ways, best first, where several were. labels: where labels are numbered
    otherwise than the network's answers; notes: for the user."""

    data: Data
    preprocessing: Preprocessing
    tried: tuple[Tried, ...] = ()
    labels: Explanation | None = None
    notes: tuple[str, ...] = ()


def opened(net: Network, given: Given, wanted: fitting.Wanted, feed: Feed, seed: int, *, from_scratch: bool = False) -> Fed:
    """The data set of a network of one classifying output, fed as flags, metadata or a trial say.

    from_scratch: whether the network counts as one that knows nothing, so that its answers say nothing.
    Raises what ``loading.opened`` raises, and DataError for flags that don't fit the network.
    """
    names = class_names(feed, net.metadata)
    if feed.classes is None and names and _rows(net) not in (0, 1, len(names)):
        names = ()  # whatever wrote them into the file, they name other classes
    known = preprocessing(feed, net.metadata, wanted.inputs[0])
    data = as_said(given, wanted, feed, known, names)
    if known is not None and known.found_by == "metadata":
        _refuse_scaled_twice(net, data, known)
    now = fitting.preprocessing_of(data) or Preprocessing(layout=layout_of(wanted.inputs[0]))
    fed = Fed(data, now, notes=data.notes)
    scaled = known is not None and (known.found_by != "flag" or not only_layout(feed))
    asked = names_classes(net, data.train)
    told = asked and not (from_scratch or feeding.looks_fresh(net) or data.n_classes < 2 or data.name in DATASETS)
    if asked and not scaled:
        fed = tried(net, fed, seed) if told else _used(fed, _for_untrained(fed))
    elif not scaled and _pixels(data) and data.name not in DATASETS:
        untrained = from_scratch or feeding.looks_fresh(net)
        fed = _used(fed, _for_untrained(fed)) if untrained else _guessed(net, fed, seed)
    if not (scaled or from_scratch or (told and not fed.tried)):
        fed = _told_raw(net, fed, wanted.inputs[0])
    if told:
        fed = _labels_checked(net, fed, seed)
    if asked and not (fed.tried or from_scratch or feeding.looks_fresh(net) or data.n_classes < 2):
        fed = _doubted(net, fed, seed)
    fed = replace(fed, preprocessing=replace(fed.preprocessing, classes=fed.data.classes))
    return replace(fed, data=replace(fed.data, preprocessing=fed.preprocessing, notes=fed.notes))


def as_said(given: Given, wanted: fitting.Wanted, feed: Feed, known: Preprocessing | None, classes: tuple[str, ...]) -> Data:
    """The data set fed as is known, or as it is stored where that is None; no network is asked.

    classes: names in the network's order, where they are known. Raises what ``loading.opened`` raises, and DataError for flags
    that don't fit the data.
    """
    data = datasets.opened(given, replace(wanted, preprocessing=known, classes=classes, frontend=feed.frontend or ""))
    data = replace(data, classes=data.classes or classes)
    if known is not None and data.name in DATASETS and (known.found_by == "flag" or not _of_pixels(known)):
        data = fitting.refed(data, known)
    if feed.layout is not None and _pixels(data):
        _refuse_layout(feed.layout, wanted.inputs[0])
    _refuse_idle(feed, data, wanted.inputs[0])
    return data


def _rows(net: Network) -> int:
    """How many numbers the only output gives for an example, as a row; 0 where it gives something else."""
    sizes = [size for size in answer_shape(net, net.outputs[0]) if size > 1]
    return 0 if len(net.outputs) > 1 or len(sizes) > 1 else prod(sizes)


def _refuse_layout(layout: str, shape: tuple[int, ...]) -> None:
    """Raise DataError where images can't lie so in the network's input, of this shape without its batch axis."""
    channels = shape[-1] if layout.endswith("C") else shape[0]
    if channels not in IMAGE_CHANNELS:
        raise DataError(
            f"--layout {layout}: the model's input {list(shape)} would have {channels} channels, and images have 1, 3 or 4; "
            "leave --layout out, its shape tells"
        )


def _refuse_idle(feed: Feed, data: Data, shape: tuple[int, ...]) -> None:
    """Raise DataError for a flag that changes nothing of this data in the network's first input, without its batch axis."""
    how = fitting.preprocessing_of(data)
    if feed.frontend is not None and not (how and how.frontend):
        raise DataError(
            f"--frontend {feed.frontend}: {data.name} holds no recordings that features would be computed of; leave it out"
        )
    layout = feed.layout or (how.layout if how else "") or layout_of(shape)
    if feed.colours is not None and (len(shape) != 3 or shape[-1 if layout.endswith("C") else 0] != 3):
        raise DataError(
            f"--colours {feed.colours}: the model's input {list(shape)} has no three colours to be in any order; leave it out"
        )


def _refuse_scaled_twice(net: Network, data: Data, known: Preprocessing) -> None:
    """Raise DataError where the file's metadata bring pixels down to small numbers, and the data's are that small already."""
    if not _small(known):
        return
    raw = fitting.refed(data, replace(known, scale=1.0, mean=(0.0,), std=(1.0,))).train.x
    first = taken(raw, np.arange(min(len(raw), _PLAY_OFF)))
    if max(float(np.abs(part).max(initial=0.0)) for part in chunks(first)) <= 1:
        raise DataError(
            f"{data.name}: its values are within 1 of 0, and by the metadata of {net.path} they are multiplied by "
            f"{known.scale:g}, as pixels of 0 to 255 are: they would be scaled twice. Give the pixels as they were, or leave "
            "values as they are with --scale 0-255"
        )


def _small(known: Preprocessing) -> bool:
    """Whether it brings pixels of 0 to 255 down to small numbers."""
    return known.scale / max(map(abs, known.std)) <= _SMALL


def _of_pixels(known: Preprocessing) -> bool:
    """Whether it is for pixels of 0 to 255, which embedded data are no more."""
    return bool(known.range) or _small(known)


def names_classes(net: Network, split: Split) -> bool:
    """Whether examples of one input have labels that the only output names: what can be tried is about these alone."""
    if split.targets is None or len(split.targets) != 1 or len(split.inputs) != 1 or len(net.outputs) != 1:
        return False
    y = split.targets[0]
    row = sum(size > 1 for size in answer_shape(net, net.outputs[0])) == 1
    return row and y.dtype.kind in "iu" and len(y.shape) == 1


def tried(net: Network, fed: Fed, seed: int) -> Fed:
    """The same data fed in the way in which the network knows most, if one is clear; else as it is, with the list."""
    data, pixels = fed.data, _pixels(fed.data)
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()), name=net.path)
    some = np.random.default_rng(seed).permutation(len(data.train))[:520]
    as_it_is = feeding.Confusion.of(model(taken(data.train.x, some)), data.train.y[some], data.n_classes)
    if as_it_is.trained and not pixels:
        return fed
    causes = feeding.explanations(model, data.train, data.n_classes, seed, orders=not pixels)
    ways = [Tried("as it is", as_it_is.accuracy, as_it_is.n, fed.preprocessing)]
    ways += [
        Tried(explanation.cause, explanation.accuracy, explanation.examples, changed)
        for explanation in causes
        if not explanation.number and (changed := composed(fed.preprocessing, explanation.changes)) is not None
    ]
    ways = _played_off(evaluate.Model(bytes(net.to_proto().SerializeToString())), fed, ways, seed)
    best = ways[0]
    right = round(best.accuracy * best.examples)
    clear = feeding.learned(right, best.examples, as_it_is.frequent) and _clear(best.accuracy, as_it_is.frequent)
    if clear and _shows(net, fed, best.preprocessing, seed):
        if best.preprocessing == fed.preprocessing:
            return replace(_used(fed, replace(fed.preprocessing, found_by="trial")), tried=tuple(ways))
        note = (
            f"fed as the model knows it best: right on {best.accuracy:.1%} of {best.examples} training examples if "
            f"{best.cause} (as stored: {as_it_is.accuracy:.1%})"
        )
        chosen = _used(fed, replace(best.preprocessing, found_by="trial"))
        return replace(chosen, tried=tuple(ways), notes=(*fed.notes, note))
    labels = next((explanation for explanation in causes if explanation.number and explanation.clear), None)
    changed = None if labels is None else composed(fed.preprocessing, labels.changes)
    if labels is not None and changed is not None and _shows(net, fed, changed, seed, labels.number):
        chosen = _used(fed, replace(changed, found_by="trial"))
        return replace(chosen, tried=tuple(ways), labels=labels)
    listed = ", ".join(f"{way.accuracy:.1%} {way.cause}" for way in ways[:4])
    note = f"no way of feeding makes the model clearly right ({listed})" if pixels else ""
    if clear:
        note = (
            f"fed as to an untrained model: it is right on {best.accuracy:.1%} of {best.examples} training examples if "
            f"{best.cause}, but the weights of its last layer are like random ones, so that may be luck. If it is trained, say "
            "how it is fed with --scale, --mean, --std, --layout or --colours"
        )
    return replace(_used(fed, _for_untrained(fed)), tried=tuple(ways), notes=(*fed.notes, *([note] if note else [])))


def _guessed(net: Network, fed: Fed, seed: int) -> Fed:
    """The same images fed as a trained network's answers suggest, where there are no labels to be right on; with a note."""
    stored, train = fed.preprocessing, fed.data.train
    told = {}
    if _rows(net) > 1 and len(net.inputs) == 1 and train.targets is None:
        some = np.sort(np.random.default_rng(seed).permutation(len(train))[:_UNLABELLED])
        raw = np.asarray(taken(train.x, some)[:])
        ways = {"": stored} | {
            change.cause: how
            for change in feeding.rescalings(raw)
            # with light and dark exchanged answers may differ as much
            if change.affine is not None and min(change.affine[0]) > 0 and (how := composed(stored, (change,))) is not None
        }
        model = evaluate.Model(bytes(net.to_proto().SerializeToString()), name=net.path)
        told = {cause: telling(model(taken(fitting.refed(fed.data, how).train.x, some))) for cause, how in ways.items()}
    best = max(told, key=lambda cause: told[cause], default="")
    if not told or told[best] < _TELLING:
        said = "nothing tells how images are to reach the model: they are fed as they are stored"
        return replace(fed, notes=(*fed.notes, f"{said}, {_A_GUESS}"))
    if told[best] < told[""] + _BETTER:
        return fed
    note = (
        f"there are no labels to be right on; fed in the way in which the model's answers tell images apart best: {best} "
        f"({told[best]:.0%} of what answers can tell; as stored {told['']:.0%}). If that is wrong, say how with --scale, or "
        "--mean and --std"
    )
    chosen = _used(fed, replace(ways[best], found_by="trial"))
    return replace(chosen, notes=(*fed.notes, note))


def telling(answers: np.ndarray) -> float:
    """How much answers, (examples, classes) probabilities or logits, tell of which example they are to: 0 nothing, 1 all.

    The mutual information of example and class as a share of the entropy of equally frequent classes (Bridle, Heading &
    MacKay 1991, "Unsupervised classifiers, mutual information and 'phantom targets'").
    """
    p = answers.reshape(len(answers), -1).astype(np.float64)
    if p.min() < 0 or not np.allclose(p.sum(1), 1, atol=1e-2):
        p = np.exp(p - p.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True)

    def entropy(shares: np.ndarray) -> np.ndarray:
        return np.asarray(-(shares * np.log(np.maximum(shares, 1e-30))).sum(-1))

    return float((entropy(p.mean(0)) - entropy(p).mean()) / np.log(p.shape[1]))


def _told_raw(net: Network, fed: Fed, shape: tuple[int, ...]) -> Fed:
    """The same, with a note where whole numbers beyond 1 reach a trained network as they are stored, though nothing says so.

    shape: of the network's first input without its batch axis.
    """
    column = _as_stored(fed.data)
    if _pixels(fed.data) or fed.preprocessing.found_by != "default" or fed.data.name in DATASETS or feeding.looks_fresh(net):
        return fed
    if column.dtype.kind not in "iu" or len(shape) < _SIGNALS or not fed.preprocessing.plain:
        return fed
    first = taken(fed.data.train.x, np.arange(min(len(fed.data.train), _PLAY_OFF)))
    most = max(float(np.abs(part).max(initial=0.0)) for part in chunks(first))
    if most <= 1 or most <= _stored_by(net):
        return fed
    said = f"nothing tells how values are to reach the model: they are fed as they are stored, whole numbers up to {most:g}"
    return replace(fed, notes=(*fed.notes, f"{said}, {_A_GUESS}"))


def _stored_by(net: Network) -> float:
    """The largest number that a quantiser right behind the first input stores; 0 where there is none."""
    for node in net.consumers.get(net.inputs[0], ()):
        if node.op == "QuantizeLinear" and net.is_constant(node.inputs[1]):
            zero = net.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
            kind = np.iinfo(np.uint8 if zero is None else zero.dtype)
            offset = 0.0 if zero is None else float(zero.ravel()[0])
            return float(net.constants[node.inputs[1]].ravel()[0]) * (kind.max - offset + 0.5)
    return 0.0


def _for_untrained(fed: Fed) -> Preprocessing:
    """How the data reaches a network that knows nothing yet."""
    return _with_range(fed.preprocessing, _FRESH) if _pixels(fed.data) else fed.preprocessing


def _shows(net: Network, fed: Fed, how: Preprocessing, seed: int, number: tuple[int, ...] = ()) -> bool:
    """Whether the network's weights know the classes (``head.shows``) where data is fed so, labels renumbered where said."""
    train, classes = fitting.refed(fed.data, how).train, fed.data.n_classes
    some = np.random.default_rng(seed).permutation(len(train))[: head.EXAMPLES]
    labels = np.array(number)[train.y[some]] if number else train.y[some]
    ways = feeding.ways(fed.data.train, orders=not _pixels(fed.data))
    return head.shows(net, taken(train.x, some)[:], labels, classes, ways=ways, numbered=bool(number))


def _labels_checked(net: Network, fed: Fed, seed: int) -> Fed:
    """The same, with a note where some labels are numbered otherwise than the network's answers, though it knows the others."""
    data = fed.data
    if fed.labels:
        return fed
    some = np.random.default_rng(seed + 2).permutation(len(data.train))[:_PLAY_OFF]
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()), name=net.path)
    renumbered = feeding.renumbered(model(taken(data.train.x, some)), data.train.y[some], data.n_classes)
    if renumbered is None or not _shows(net, fed, fed.preprocessing, seed, renumbered.number):
        return fed
    moved = [(old, new) for old, new in enumerate(renumbered.number) if old != new]
    name = dict(enumerate(data.classes))
    said = ", ".join(f"the data's {name.get(old, old)} is the model's number {new}" for old, new in moved[:8])
    note = (
        f"labels are numbered otherwise than the model answers: {said}; it would be right on {renumbered.accuracy:.1%} "
        f"instead of {renumbered.as_given:.1%}. Nothing was changed: give the classes in the model's order with --classes FILE"
    )
    return replace(fed, labels=renumbered.explanation(), notes=(*fed.notes, note))


def _doubted(net: Network, fed: Fed, seed: int) -> Fed:
    """The same, with a note where the network knows the data as it is fed, and would know clearly more of it fed otherwise."""
    train, classes, orders = fed.data.train, fed.data.n_classes, not _pixels(fed.data)
    model = evaluate.Model(bytes(net.to_proto().SerializeToString()), name=net.path)
    clearly = feeding.better(model, train, classes, seed, orders=orders)
    if clearly is None:
        return fed
    best, as_fed = clearly
    how = None if best.number else composed(fed.preprocessing, best.changes)
    if not _shows(net, fed, how or fed.preprocessing, seed, best.number):
        return fed
    mend = f"mend arrays by {best.fix}" + (f", or give {_flags(how)}" if how and not how.reordered else "")
    note = (
        f"right on {as_fed:.1%} of {best.examples} training examples as they are fed, and on {best.accuracy:.1%} if "
        f"{best.cause}. Nothing was changed: {mend}"
    )
    return replace(fed, notes=(*fed.notes, note))


def _flags(how: Preprocessing) -> str:
    """Options that feed so."""
    said = {"scale": (how.scale,), "mean": how.mean, "std": how.std}
    numbers = [f"--{name}={','.join(f'{number:.6g}' for number in values)}" for name, values in said.items()]
    return " ".join([*numbers, *([f"--colours={how.colours}"] if how.colours == "BGR" else [])])


def _clear(accuracy: float, frequent: float) -> bool:
    return (accuracy - frequent) / max(1e-9, 1 - frequent) >= 0.4


def _played_off(model: evaluate.Model, fed: Fed, ways: Sequence[Tried], seed: int) -> list[Tried]:
    """The ways, best first; those near the best one are measured again, on the same examples, more of them."""
    ranked = sorted(ways, key=lambda way: -way.accuracy)
    near = [way for way in ranked if way.accuracy > ranked[0].accuracy - _NEAR][:5]
    if len(near) > 1:
        train = fed.data.train
        some = np.random.default_rng(seed + 1).permutation(len(train))[:_PLAY_OFF]
        again = []
        for way in near:
            split = fitting.refed(fed.data, way.preprocessing).train
            confusion = feeding.Confusion.of(model(taken(split.x, some)), train.y[some], fed.data.n_classes)
            again.append(replace(way, accuracy=confusion.accuracy, examples=confusion.n))
        # of equals the one that has a name, and the one that is simplest
        near = sorted(
            again, key=lambda way: (-round(way.accuracy, 3), not way.preprocessing.range, len(way.preprocessing.mean))
        )
    return [*near, *ranked[len(near) :]]


def _used(fed: Fed, how: Preprocessing) -> Fed:
    return fed if how == fed.preprocessing else replace(fed, data=fitting.refed(fed.data, how), preprocessing=how)


def _pixels(data: Data) -> bool:
    """Whether examples are images that we decoded, bytes in a known order."""
    return data.kind == "image" and _as_stored(data).dtype == np.uint8


def _as_stored(data: Data) -> Column:
    """The first input of the training examples as the data set has it."""
    column = data.train.x
    while isinstance(column, Lazy) and hasattr(column, "source"):
        column = column.source
    return column


def _with_range(how: Preprocessing, name: str) -> Preprocessing:
    scale, mean = RANGES[name]
    return replace(how, scale=scale, mean=(mean,), std=(1.0,))


def composed(how: Preprocessing, changes: Sequence[Change]) -> Preprocessing | None:
    """Preprocessing with changes after it, in the same form; None where it has none.

    x * f + o with x = (raw * scale - mean) / std is (raw * scale - (mean - o * std / f)) / (std / f).
    """
    for change in changes:
        if change.order is not None:
            if how.reordered is not None or len(how.mean) > 1:
                return None
            how = replace(how, reordered=change.order)
        if change.colours:
            how = replace(how, colours="RGB" if how.colours == "BGR" else "BGR", mean=how.mean[::-1], std=how.std[::-1])
        if change.affine is not None:
            factor, offset = (np.array(each) for each in change.affine)
            if not factor.all():
                return None
            std = np.array(how.std) / factor
            mean = np.array(how.mean) - offset * std
            how = _simple(replace(how, mean=tuple(np.ravel(mean).tolist()), std=tuple(np.ravel(std).tolist())))
    return how


def _simple(how: Preprocessing) -> Preprocessing:
    """The same with all of the scaling in ``scale`` where every channel is scaled alike."""
    size = max(len(how.mean), len(how.std))
    mean, std = (np.broadcast_to(np.array(each), size) for each in (how.mean, how.std))
    if not np.allclose(std, std[0], rtol=1e-9):
        if how.scale == 1 and np.abs(std).min() > 3:  # of pixels: write them as one does, for values of 0...1
            mean, std = mean / 255, std / 255
            how = replace(how, scale=1 / 255)
        return replace(how, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    mean = mean / std
    alike = np.allclose(mean, mean[0], rtol=1e-9)
    scale = how.scale / float(std[0])
    return replace(how, scale=scale, mean=(float(mean[0]),) if alike else tuple(mean.tolist()), std=(1.0,))
