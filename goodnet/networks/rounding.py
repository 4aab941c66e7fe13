"""What rounding explains: the same sums, added in another order, can flip a near-tie."""

from __future__ import annotations

import numpy as np

from goodnet.arrays import BoolArray, FloatArray, IntArray

TOLERANCE = 1e-4
"""How far apart, as a share of the largest value, two ways to the same float32 numbers may end.

A float32 has 1.2e-7. Sums of some thousand terms, layer behind layer, lose two digits of it; the
rest is reserve. Whatever is computed wrongly, by a layer left in training mode or a channel
mistaken for another, is off by parts of a hundred.
"""

_SOFTMAX_STEP = 1e-6
"""How far apart two scores may be so that softmax, in float32, may give them one probability.

Scores of a net that was never trained can all be closer than that; then plain Keras answers the
first class to every image, and ours the one that is ahead by nothing.
"""


def largest_difference(found: FloatArray, expected: FloatArray) -> float:
    """Return the largest difference of two arrays as a share of the largest expected value."""
    difference = float(np.abs(found - expected).max())
    return difference / max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))


def explains(scores: FloatArray, answers: IntArray, plain: FloatArray) -> BoolArray:
    """Return for which images rounding explains that plain Keras answers another class.

    Args:
        scores: (n, N), what our own computation gives the classes, before softmax.
        answers: (n,), the classes that follow from it.
        plain: (n, N), what plain Keras answers, probabilities or scores.

    Returns:
        (n,), true where both name the same class, or neither way separates their two classes by
        more than rounding. Probabilities differ by no more than scores do.
    """
    rows, other = np.arange(len(scores)), plain.argmax(axis=1)
    gaps = [np.abs(found[rows, answers] - found[rows, other]) for found in (scores, plain)]
    return np.max(gaps, axis=0) <= _reach(scores)


def strays(scores: FloatArray, plain: FloatArray) -> BoolArray:
    """Return for which images plain Keras answers other numbers than rounding explains: (n,).

    Where a channel is mistaken for another, the numbers of most trained nets show it on a few
    images, where the classes that follow from them may all be the same.

    Args:
        scores: (n, N), what our own computation gives the classes, before softmax.
        plain: (n, N), what plain Keras answers, probabilities or scores.
    """
    from scipy.special import softmax  # 0.15 s of a run that has no net to check

    away = [np.abs(plain - found).max(axis=1) for found in (scores, softmax(scores, axis=1))]
    return np.min(away, axis=0) > _reach(scores)


def near_ties(scores: FloatArray) -> BoolArray:
    """Return for which images the two best classes are no further apart than rounding: (n,).

    Args:
        scores: (n, N), what a net gives the classes, before softmax.
    """
    second, best = np.partition(scores, -2, axis=1)[:, -2:].T
    return best - second <= _reach(scores)


def _reach(scores: FloatArray) -> FloatArray:
    return np.maximum(TOLERANCE * np.abs(scores).max(axis=1), _SOFTMAX_STEP)
