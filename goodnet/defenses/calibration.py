"""Calibration: scores joined into one, and a threshold that holds a budget of false alarms.

All of it comes from clean validation, from images that what gives the scores was not fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from goodnet.arrays import BoolArray, DoubleArray, FloatArray, IntArray

FALSE_ALARM_BUDGET = 0.03
"""The share of clean images that a GoodNet may flag, by default."""
CONFIDENCE = 0.95
"""With which a threshold holds its budget, over the draws of clean validation."""
NUM_FOLDS = 5
MANY_IMAGES = 2000
"""From so many on a third of clean validation fixes a threshold as well as it needs to be."""
FIT_SHARE = 0.7
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
    image is held out once, from statistics fitted to the others, and the final ones are fitted to
    all. Those know a little more than each of the former, whose scores of held-out images are so
    the higher, if anything: the threshold errs towards fewer false alarms.

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
    return Folds(used, np.ones(len(labels), np.bool_))


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

    A score is put on a scale on which the median of clean images is 0 and the 97th of a hundred
    is 1; the joined score is the largest.

    Attributes:
        names: of the scores.
        medians: of each score over the images that calibrate.
        spreads: by how much the 97th percentile exceeds the median.
        threshold: of the joined score; an image above it is flagged.
        budget: the share of false alarms that was asked for.
        held: the share that the threshold holds with 95 % confidence, larger than `budget` where
            the images are too few for that.
        images: how many calibrated.
        above: how many of them are above the threshold.
    """

    names: tuple[str, ...]
    medians: tuple[float, ...]
    spreads: tuple[float, ...]
    threshold: float
    budget: float
    held: float
    images: int
    above: int

    def join(self, scores: Mapping[str, FloatArray]) -> FloatArray:
        """Return the joined score of images, (n,), from their scores by name, (n,) each."""
        scaled = [
            (scores[name] - np.float32(median)) * np.float32(1 / spread)
            for name, median, spread in zip(self.names, self.medians, self.spreads, strict=True)
        ]
        return np.max(scaled, axis=0).astype(np.float32)


def calibrate(
    scores: Mapping[str, FloatArray], *, budget: float = FALSE_ALARM_BUDGET
) -> Calibration:
    """Fix the scales of scores and the threshold of the largest of them.

    Args:
        scores: by name, (n,) each, of clean images to which nothing was fitted.
        budget: the share of clean images that may be flagged, 0 … 1.
    """
    names = tuple(scores)
    medians = tuple(float(np.median(scores[name])) for name in names)
    spreads = tuple(_spread(scores[name]) for name in names)
    unset = Calibration(names, medians, spreads, 0.0, budget, budget, len(scores[names[0]]), 0)
    joined = unset.join(scores)
    threshold, held = find_threshold(joined, budget=budget)
    above = int(np.count_nonzero(joined > np.float32(threshold)))
    return Calibration(names, medians, spreads, threshold, budget, held, len(joined), above)


def _spread(values: FloatArray) -> float:
    median, high = np.quantile(values.astype(np.float64), [0.5, 0.97])
    if high > median:
        return float(high - median)
    # Where nearly all images have one score, the rest of them says how large a difference is.
    return float(max(values.max() - median, 1e-6))


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
