"""Detectors: how suspicious an image is, from what B and a repaired net give the classes."""

from __future__ import annotations

import numpy as np

from goodnet.arrays import FloatArray


def margin(before: FloatArray, after: FloatArray) -> FloatArray:
    """Return how much more B gives its class than the next one, without any repair: (n,).

    The control: what anybody has. Backdoored images are often answered with more certainty than
    any clean one.

    Args:
        before: (n, N), what B gives the classes before softmax.
        after: (n, N), not used.
    """
    second, best = np.partition(before, -2, axis=1)[:, -2:].T
    return np.asarray(best - second, np.float32)


def disagreement(before: FloatArray, after: FloatArray) -> FloatArray:
    """Return 1 where B and the repaired net answer different classes, else 0: (n,).

    The GoodNet of the lab, as a score: its threshold is anything between 0 and 1.

    Args:
        before: (n, N), what B gives the classes.
        after: (n, N), what the repaired net gives them.
    """
    return (before.argmax(axis=1) != after.argmax(axis=1)).astype(np.float32)
