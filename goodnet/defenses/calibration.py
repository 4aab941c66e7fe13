"""Calibration: scores joined into one, and a threshold that holds a budget of false alarms.

All of it comes from clean validation, from images that what gives the scores was not fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from goodnet.arrays import BoolArray, DoubleArray, FloatArray, IntArray

CONFIDENCE = 0.95
"""With which a threshold holds its budget, over the draws of clean validation."""
NUM_FOLDS = 5
MANY_IMAGES = 2000
"""From so many on a third of clean validation fixes a threshold as well as it needs to be."""
FIT_SHARE = 0.7
_TAIL = 0.9
_ROUNDING = 1e-3
"""Ten times how far apart two ways to the same float32 numbers end, as a share of the largest."""
_LEAST_EXCESS = 1e-4
_SEED = 0


@dataclass(frozen=True)
class Fold:
    """A split of clean validation.

    Attributes:
        fit: (n,), whether an image is one that statistics are fitted to.
        held_out: (n,), whether it is one that gives a score for the calibration.
    """

    fit: BoolArray
    held_out: BoolArray


@dataclass(frozen=True)
class Folds:
    """How clean validation is shared out between fitting and calibration.

    Attributes:
        parts: one split, or several whose held-out parts are all images together.
        final: (n,), the images to which the statistics are fitted that are used in the end.
    """

    parts: tuple[Fold, ...]
    final: BoolArray

    @property
    def calibrating(self) -> BoolArray:
        """Whether each image is held out in one of the parts: (n,)."""
        return np.logical_or.reduce([part.held_out for part in self.parts])


def share_out(labels: IntArray) -> Folds:
    """Share out clean validation, every class evenly; the same labels are shared out alike.

    Of many images one part fits and the other calibrates. Few are needed for both: then every
    image is held out once, from statistics fitted to the others, and the final ones are those of
    the first part. Fitted to all images they would know a little more than each of the former, so
    that their scores had another scale than those that fix the threshold: on a small set where B
    errs often, two thirds of clean images were above it instead of 3 %.

    Args:
        labels: (n,), of clean validation.
    """
    if len(labels) >= MANY_IMAGES:
        # Of a small class, too, the larger part fits: its statistics fail first.
        fit = _places_in_classes(labels) < FIT_SHARE
        return Folds((Fold(fit, ~fit),), fit)
    number = np.floor(_places_in_classes(labels) * NUM_FOLDS).astype(np.int64)
    parts = [Fold(number != fold, number == fold) for fold in range(NUM_FOLDS)]
    used = tuple(part for part in parts if part.held_out.any() and part.fit.any())
    return Folds(used, used[0].fit if used else np.ones(len(labels), np.bool_))


def _places_in_classes(labels: IntArray) -> DoubleArray:
    """Return a place for each image, 0 up to 1, evenly spread within each class at random: (n,)."""
    generator = np.random.default_rng(_SEED)
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    within = np.arange(len(labels)) - np.repeat(starts, counts)
    # Each class begins somewhere else, or all images of classes of one would share a fold.
    shift = np.repeat(generator.random(len(counts)), counts)
    places = np.empty(len(labels))
    places[by_class] = (within / np.repeat(counts, counts) + shift) % 1
    return places


@dataclass(frozen=True)
class Calibration:
    """How scores become one, and from where on the image is not believed.

    A score is measured from the 90th percentile of clean images on, in units of the mean excess of
    the images beyond it. Were the tails exponential, that would be minus the logarithm of the share
    of clean images with such a score, whatever the score. The joined score is the logarithm of the
    sum of the exponentials: about the largest, and a little more where several are high.

    Attributes:
        names: of the scores.
        starts: the 90th percentile of each.
        excesses: the mean excess of each.
        threshold: of the joined score; an image above it is flagged.
        budget: the share of false alarms that was asked for.
        held: the share that the threshold holds with 95 % confidence, larger than `budget` where
            the images are too few for that.
        images: how many calibrated.
    """

    names: tuple[str, ...]
    starts: tuple[float, ...]
    excesses: tuple[float, ...]
    threshold: float
    budget: float
    held: float
    images: int

    def join(self, scores: Mapping[str, FloatArray]) -> FloatArray:
        """Return the joined score of images, (n,), from their scores by name, (n,) each."""
        return _join([scores[name] for name in self.names], self.starts, self.excesses)


def calibrate(scores: Mapping[str, FloatArray], *, budget: float) -> Calibration:
    """Fix the scales of scores and the threshold of the joined one.

    Scales fit the images that they come from better than others, which costs budget: thresholds
    from the same images broke it in 9 of 100 trials instead of 5. So the joined score of each fifth
    of the images, for the threshold, has the scales of the other four.

    Args:
        scores: by name, (n,) each, of clean images to which nothing was fitted.
        budget: the share of clean images that may be flagged, 0 … 1.
    """
    values = list(scores.values())
    joined = np.empty(len(values[0]), np.float32)
    # At random: images often come in an order of classes, and classes have scores of their own.
    fold = np.random.default_rng(_SEED).permutation(len(joined)) % NUM_FOLDS
    for number in set(fold.tolist()):
        # Of one image nothing is left for its scales but itself.
        others = (fold != number) | (len(joined) == 1)
        scales = zip(*(_scale(column[others]) for column in values), strict=True)
        joined[fold == number] = _join([column[fold == number] for column in values], *scales)
    threshold, held = find_threshold(joined, budget=budget)
    starts, excesses = zip(*map(_scale, values), strict=True)
    return Calibration(tuple(scores), starts, excesses, threshold, budget, held, len(joined))


def _join(
    values: Sequence[FloatArray], starts: Sequence[float], excesses: Sequence[float]
) -> FloatArray:
    scaled = [
        (column - np.float32(start)) * (np.float32(1) / np.float32(excess))
        for column, start, excess in zip(values, starts, excesses, strict=True)
    ]
    largest = np.max(scaled, axis=0)
    return np.asarray(largest + np.log(np.exp(scaled - largest).sum(axis=0)), np.float32)


def _scale(values: FloatArray) -> tuple[float, float]:
    """Return where the tail of a score begins, and the mean excess of the images in it."""
    exact = values.astype(np.float64)
    start = float(np.quantile(exact, _TAIL))
    beyond = exact[exact > start]
    # Where a tenth of the images have the largest score there is nothing beyond; any other score
    # that may come is then as far out as can be told.
    excess = float((beyond - start).mean()) if beyond.size else 0.0
    # A score that is the same for all clean images but for rounding would flag what rounding does.
    rounding = max(_ROUNDING * float(np.abs(exact).max()), _LEAST_EXCESS)
    return start, max(excess, 1e-4 * float(np.ptp(exact)), rounding)


def find_threshold(scores: FloatArray, *, budget: float) -> tuple[float, float]:
    """Return a threshold that holds a budget of false alarms on fresh images, and what it holds.

    It is one of the scores: that which as many others exceed as may, so that the one-sided upper
    bound of Clopper, Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of
    the Binomial", 1934, is within the budget. Where even none may, it is the largest score, and
    what it holds is what the number of images allows.

    Args:
        scores: (n,), of clean images.
        budget: the share that may exceed it, 0 … 1.
    """
    allowed = most_above(len(scores), budget=budget)
    if allowed is None:
        return float(scores.max()), 1 - (1 - CONFIDENCE) ** (1 / len(scores))
    return float(np.sort(scores)[::-1][allowed]), budget


def most_above(num_images: int, *, budget: float) -> int | None:
    """Return how many of the images may exceed a threshold that holds a budget; None if it cannot.

    The share of all clean images above the (c + 1)-th largest of n scores is beta-distributed; it
    exceeds the budget as often as n draws with that chance give at most c.
    """
    from scipy.special import bdtr

    counts = np.arange(num_images)
    sound = np.flatnonzero(bdtr(counts, num_images, budget) <= 1 - CONFIDENCE)
    return int(sound[-1]) if sound.size else None
