"""Is B right on clean images at all, and if not: under which reading of the files would it be?

Pixels at another scale, channels in another order, labels that count from 1 or name the classes in
another order: B then answers something, and a table of rates looks like any other. So a net that
is hardly better than guessing is refused, with a reading that fits if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from goodnet.arrays import BoolArray, FloatArray, IntArray
from goodnet.errors import InputError
from goodnet.images.image_sets import ImageSet
from goodnet.images.preprocessing import (
    PREPROCESSING_NAMES,
    RAW,
    ChannelOrder,
    Preprocessing,
)
from goodnet.metrics import percent

if TYPE_CHECKING:
    import keras


_ABOVE_GUESSING = 0.2
"""How far above guessing the accuracy of a net has to be: this share of the way to always right.

Readings that are wrong leave next to nothing (labels off by one), what guessing gives (a scale that
drives all images to one class) or a few classes (11 folders in the order of texts: 2 of 11, 18 %).
Honest weak nets are well above: 45 % of 62 classes, 30 % of 10 after one epoch.
"""

_GOOD = 0.97
"""From this accuracy on no other reading is looked for: it could hardly do better."""

_NEARLY_ALL = 0.9
"""A map of classes has to fit this share of the images, since it has so many ways to fit some."""

_OF_KERAS = "pixels as keras.applications prepares them in mode"
_REVERSED = "channels in reverse order (BGR)"
_SAMPLE = 256
_BATCH = 32
_RUN = 4


@dataclass(frozen=True)
class Reading:
    """Another way to read a set.

    Attributes:
        what: how it differs.
        mend: what to do so that the files are read so.
        right: (n,), whether B then answers each image right.
    """

    what: str
    mend: str
    right: BoolArray

    @property
    def accuracy(self) -> float:
        """The share of images that B answers right."""
        return float(self.right.mean())


@dataclass(frozen=True)
class Answered:
    """A clean set and what B answers to it as the files are read now.

    Attributes:
        role: what the set is for.
        path: the set.
        labels: (N,).
        predictions: (N,), B's answers.
        preprocessing: what was done to the pixels.
        named: whether the labels are the numbers of folders named by class.
    """

    role: str
    path: Path
    labels: IntArray
    predictions: IntArray
    preprocessing: Preprocessing
    named: bool = False


@dataclass(frozen=True)
class Opened:
    """What it takes to let B answer images again.

    Attributes:
        model: B as Keras loads it.
        images: the set.
        poisoned: the poisoned sets by name, for the case that one was given in place of it.
    """

    model: keras.Model
    images: ImageSet
    poisoned: Mapping[str, ImageSet]


def default_floor(num_classes: int) -> float:
    """Return the clean accuracy, 0 … 1, below which B counts as hardly right.

    It is a fifth of the way from guessing to always right: 60 % of 2 classes, 28 % of 10, 20 % of
    1,283.
    """
    guessing = 1 / num_classes
    return guessing + _ABOVE_GUESSING * (1 - guessing)


def require_clean_accuracy(
    given: Answered,
    *,
    reopen: Callable[[], Opened],
    num_classes: int,
    floor: float | None,
) -> str | None:
    """Refuse a set that B hardly answers right; return a remark if another reading fits better.

    B runs, on a sample, only where it is right on less than 97 % of clean validation or below the
    floor.

    Args:
        given: the set and B's answers.
        reopen: gives B and the images; called only then.
        num_classes: B's classes N.
        floor: the clean accuracy that is asked for, 0 … 1, or None for `default_floor`.

    Raises:
        InputError: the accuracy is below the floor; names the best other reading that is not.
    """
    floor = default_floor(num_classes) if floor is None else floor
    right = given.predictions == given.labels
    accuracy = float(right.mean())
    # A remark is made once, on the set that the repair itself sees.
    good = _GOOD if given.role == "clean_valid" else 0.0
    if accuracy >= max(floor, good):
        return None
    hardly = accuracy < floor
    opened = reopen()
    best = _best_reading(given, opened, thorough=hardly)
    if not hardly:
        return (
            None
            if best is None
            else (
                f"B is right on {percent(accuracy)} of {given.role}; with {best.what} it would be "
                f"right on {_measured(best)}: {best.mend}."
            )
        )
    found = (
        f"{given.path}: B answers {np.count_nonzero(right)} of {len(right)} images with "
        f"their label, {percent(accuracy)}, expected at least {percent(floor)}"
    )
    if best is not None and best.accuracy >= floor:
        guess = f"with {best.what} it would be {_measured(best)}: {best.mend}"
    else:
        guess = _exchanged(given, opened, floor) or _no_reading(given)
    raise InputError(f"{found}; {guess}; or take it as it is with min_clean_accuracy=0")


def require_not_exchanged(
    clean: Mapping[str, tuple[IntArray, IntArray]],
    poisoned: Mapping[str, tuple[IntArray, IntArray]],
    *,
    num_classes: int,
) -> None:
    """Refuse clean and poisoned sets that B's answers show to be exchanged.

    Poisoned images under the attacker's label, given as clean ones, are all answered with that
    one class and so all right; clean images given as poisoned ones are answered with many.

    Args:
        clean: labels and B's answers, (N,) each, by name of the set.
        poisoned: the same.
        num_classes: B's classes N.

    Raises:
        InputError: a pair of sets looks so.
    """
    for (name, (_, answers)), (other, (labels, predictions)) in product(
        clean.items(), poisoned.items()
    ):
        right = int(np.count_nonzero(labels == predictions))
        one = _commonest(answers)[1] >= 0.9 * len(answers)
        many = _commonest(predictions)[1] <= 0.6 * len(predictions)
        if one and many and right >= default_floor(num_classes) * len(labels):
            answer, answered = _commonest(answers)
            raise InputError(
                f"{name} and {other} look exchanged: B answers class {answer} to {answered} of "
                f"{len(answers)} images of {name}, and the label to {right} of {len(labels)} of "
                f"{other}, expected the other way round"
            )


def _best_reading(given: Answered, opened: Opened, *, thorough: bool) -> Reading | None:
    """Return the simplest reading that is about as good as the best, and surely better than now."""
    rows = _sample(len(given.labels), thorough=thorough)
    now = given.predictions == given.labels
    readings = [
        reading
        for reading in _relabelled(given, given.labels, given.predictions)
        if _is_better(reading.right, now)
    ]
    labels = given.labels[rows]
    for (what, mend), answers in _prepared_otherwise(
        opened, rows, now=given.preprocessing, thorough=thorough
    ):
        plain = Reading(what, mend, answers == labels)
        others = _relabelled(given, labels, answers) if thorough else ()
        joined = [
            replace(other, what=f"{what} and {other.what}", mend=f"{mend}; {other.mend}")
            for other in others
        ]
        readings += [one for one in (plain, *joined) if _is_better(one.right, now[rows])]
    best = max((reading.accuracy for reading in readings), default=0.0)
    return next((reading for reading in readings if reading.accuracy >= best - 0.02), None)


def _is_better(right: BoolArray, now: BoolArray) -> bool:
    """Return whether a reading beats the present one by three standard deviations, image by image.

    Images that both answer right or wrong tell nothing; the others would fall either way like a
    coin if no reading were better (McNemar, "Note on the sampling error of the difference between
    correlated proportions or percentages", Psychometrika 1947).
    """
    gained, lost = np.count_nonzero(right & ~now), np.count_nonzero(~right & now)
    return bool(gained > lost and (gained - lost) ** 2 >= 9 * (gained + lost))


def _prepared_otherwise(
    opened: Opened, rows: IntArray, *, now: Preprocessing, thorough: bool
) -> Iterator[tuple[tuple[str, str], IntArray]]:
    """Yield how pixels may be meant otherwise and what to do then, and B's answers to a sample.

    Args:
        opened: B and the set.
        rows: numbers of the sample's images.
        now: what is done to the pixels now.
        thorough: also another scale together with another order of the channels.
    """
    answers: dict[str, list[IntArray]] = {}
    highest = 1.0 if _stored_small(opened.images) else 255.0
    others = _other_preprocessings(now, opened.images.shape[2], highest=highest, both=thorough)
    for raw in _read(opened.images, rows):
        for what, other in others.items():
            answers.setdefault(what, []).append(_answer(opened.model, other.apply(raw)))
    for what, parts in answers.items():
        yield (what, f"give {_advice(others[what])}"), np.concatenate(parts)


def _other_preprocessings(
    now: Preprocessing, num_channels: int, *, highest: float, both: bool
) -> dict[str, Preprocessing]:
    """Return what else may have to be done to pixels, by what it is called, the simplest first.

    Args:
        now: what is done to them.
        num_channels: of the images.
        highest: of the stored pixels, 1 or 255.
        both: also another scale together with another order of the channels.
    """
    plain = replace(now, mean=(), std=())
    if now == plain:
        others = {
            "pixels divided by 255": replace(plain, scale=255 * now.scale),
            "pixels times 255": replace(plain, scale=now.scale / 255),
        }
    else:
        others = {
            "pixels as they are stored": replace(plain, scale=1.0),
            f"pixels from 0 to 1 (x / {highest:g})": replace(plain, scale=highest),
        }
    half = highest / 2
    others[f"pixels from -1 to 1 (x / {half:g} - 1)"] = replace(plain, scale=half, mean=(1.0,))
    if num_channels == 3:
        turned = {f"{what} and {_REVERSED}": _reversed(other) for what, other in others.items()}
        if highest == RAW[1]:
            others |= {
                f"{_OF_KERAS} {name}": Preprocessing.named(name) for name in ("torch", "caffe")
            }
        others[_REVERSED] = _reversed(now)
        others |= turned if both else {}
    return {what: other for what, other in others.items() if other != now}


def _reversed(preprocessing: Preprocessing) -> Preprocessing:
    """Return it with the other order of the channels."""
    order: ChannelOrder = "rgb" if preprocessing.channel_order == "bgr" else "bgr"
    return replace(preprocessing, channel_order=order)


def _advice(preprocessing: Preprocessing) -> str:
    """Return the arguments that choose a preprocessing."""
    for name in PREPROCESSING_NAMES:
        if preprocessing == Preprocessing.named(name):
            return f'preprocessing="{name}"'
    numbers = {
        "pixel_scale": (preprocessing.scale,),
        "pixel_mean": preprocessing.mean,
        "pixel_std": preprocessing.std,
        "pixel_range": () if preprocessing.pixel_range == RAW else preprocessing.pixel_range,
    }
    arguments = [f"{name}={_written(values)}" for name, values in numbers.items() if values]
    arguments += ['channel_order="bgr"'] if preprocessing.channel_order == "bgr" else []
    return ", ".join(arguments)


def _written(numbers: Sequence[float]) -> str:
    listed = ", ".join(map("{:g}".format, numbers))
    return listed if len(numbers) == 1 else f"({listed})"


def _stored_small(images: ImageSet) -> bool:
    """Return whether the pixels are stored as 0 to 1, from a few images."""
    few = np.concatenate(list(_read(images, _sample(images.num_images, thorough=True)[:_BATCH])))
    return bool(few.max() <= 1)


def _answer(model: keras.Model, pixels: FloatArray) -> IntArray:
    return np.asarray(model(pixels, training=False)).argmax(axis=1)


def _relabelled(given: Answered, labels: IntArray, answers: IntArray) -> Iterator[Reading]:
    """Yield readings of the labels for some of the images, the simplest first."""
    listed = "list the names of the classes in the net's order and give classes=FILE"
    for what, shifted in (("minus 1", labels - 1), ("plus 1", labels + 1)):
        mend = listed if given.named else f"store the labels {what}"
        yield Reading(f"labels {what}", mend, answers == shifted)
    if not given.named and (given.path.is_dir() or given.path.suffix.lower() == ".zip"):
        # As Keras' image_dataset_from_directory numbers them: 0, 1, 10, 11, 12, 2, …
        names = sorted(map(str, np.unique(given.labels).tolist()))
        class_of = {int(name): number for number, name in enumerate(names)}
        classes = np.array([class_of[label] for label in labels.tolist()])
        mend = "list the names of the folders in that order and give classes=FILE"
        yield Reading("the order of folders as Keras sorts them", mend, answers == classes)
    # Learnt from one half and counted on the other, since some map fits any few images. Each label
    # is halved by itself: in sets where labels take turns, every other image may have even ones.
    in_first = np.empty(len(labels), bool)
    in_first[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % 2 == 0
    meant = np.empty_like(labels)
    for half, other in ((in_first, ~in_first), (~in_first, in_first)):
        learnt = _learn_map(labels[other], answers[other])
        meant[half] = [learnt.get(label, -1) for label in labels[half].tolist()]
    if np.mean(answers == meant) < _NEARLY_ALL:
        return
    learnt = _learn_map(labels, answers)
    pairs = [f"{label} as {answer}" for label, answer in learnt.items() if label != answer]
    what = f"classes in another order ({_listed(pairs)})"
    mend = listed if given.named else "store the labels so"
    yield Reading(what, mend, answers == meant)


def _learn_map(labels: IntArray, answers: IntArray) -> dict[int, int]:
    """Return the class that B gives most often to each label, no class for two labels."""
    pairs, numbers = np.unique(np.stack([labels, answers], axis=1), axis=0, return_counts=True)
    learnt: dict[int, int] = {}
    for label, answer in pairs[np.argsort(-numbers, kind="stable")].tolist():
        if label not in learnt and answer not in learnt.values():
            learnt[label] = answer
    return dict(sorted(learnt.items()))


def _exchanged(given: Answered, opened: Opened, floor: float) -> str | None:
    """Return a line if B is right on what was given as poisoned images."""
    for name, images in opened.poisoned.items():
        rows = _sample(images.num_images, thorough=True)
        answers = np.concatenate(
            [_answer(opened.model, given.preprocessing.apply(raw)) for raw in _read(images, rows)]
        )
        share = float((answers == images.labels[rows]).mean())
        if _commonest(answers)[1] <= 0.6 * len(rows) and share >= floor:
            return (
                f"of {len(rows)} images of {name} it answers {percent(share)} with theirs: "
                f"{given.role} and {name} look exchanged"
            )
    return None


def _no_reading(given: Answered) -> str:
    answer, answered = _commonest(given.predictions)
    return (
        f"it answers class {answer} most often, to {answered} of them; check that pixels, labels "
        "and classes are those of this net"
    )


def _measured(reading: Reading) -> str:
    return f"{percent(reading.accuracy)} of {len(reading.right)} images"


def _commonest(answers: IntArray) -> tuple[int, int]:
    """Return the class that is answered most often, and how often."""
    classes, numbers = np.unique(answers, return_counts=True)
    return int(classes[numbers.argmax()]), int(numbers.max())


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _sample(num_images: int, *, thorough: bool) -> IntArray:
    """Return numbers of images, evenly spread in short runs: sets are often sorted by label.

    A run that goes on is not to wait long: the readings take half of its first pass at most.
    """
    size = min(num_images, _SAMPLE, num_images if thorough else max(64, num_images // 8))
    starts = np.linspace(0, num_images - _RUN, max(1, size // _RUN)).round().clip(0).astype(int)
    rows = np.unique(starts[:, None] + np.arange(_RUN))
    return rows[rows < num_images]


def _read(images: ImageSet, rows: IntArray) -> Iterator[FloatArray]:
    """Yield the images of the given numbers as (n, H, W, C), raw, a few at a time."""
    singles = images.read(slice(row, row + 1) for row in rows.tolist())
    for first in range(0, len(rows), _BATCH):
        part = islice(singles, min(_BATCH, len(rows) - first))
        yield np.concatenate(list(part)).astype(np.float32)
