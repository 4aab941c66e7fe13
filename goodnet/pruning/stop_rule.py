"""The stop rule: at which pruning steps a budget of clean validation accuracy is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Checkpoint:
    """The first step whose drop is at least `drop` points; `step` is None if there is none."""

    drop: float
    step: int | None


def describe_budget(*drops: float) -> str:
    """Return what people call one or more budgets of clean accuracy, and a net at them.

    Example:
        >>> describe_budget(2.5)
        'budget 2.5 points'
    """
    amounts = ", ".join(f"{drop:g}" for drop in drops)
    return f"budget {amounts} {'point' if drops == (1,) else 'points'}"


def find_checkpoint(correct: Sequence[int], *, images: int, drop: float) -> Checkpoint:
    """Find the first step at which clean validation accuracy has dropped by `drop` points.

    Compared in whole images, never in rounded floats.

    Args:
        correct: clean validation images answered right at steps 0 … C.
        images: clean validation images in all.
        drop: percentage points of clean validation accuracy, above 0.

    Example:
        Of 50 images one is 2 points, so that the first step to lose one is the checkpoint.

        >>> find_checkpoint([49, 49, 48, 40], images=50, drop=2)
        Checkpoint(drop=2, step=2)
        >>> find_checkpoint([49, 49, 48, 40], images=50, drop=20).step is None
        True
    """
    exact = Fraction(str(drop))
    for step, right in enumerate(correct):
        if 100 * (correct[0] - right) >= exact * images:
            return Checkpoint(drop, step)
    return Checkpoint(drop, None)
