"""The stop rule: at which pruning steps there are checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from goodnet.errors import InputError


@dataclass(frozen=True)
class Checkpoint:
    """A step at which B' and G are saved.

    Attributes:
        drop: the budget that it is the first step to spend, in points; None where the step itself
            was asked for, as a number of channels.
        step: how many channels are pruned; None where no step spends the budget.
    """

    drop: float | None
    step: int | None


def require_channels(asked: Sequence[int], *, channels: int, layer: str) -> None:
    """Raise InputError if none, or more channels, are to be pruned than a layer has.

    Args:
        asked: numbers of channels.
        channels: those that the layer has.
        layer: what the message calls it.
    """
    for number in asked:
        if not 1 <= number <= channels:
            raise InputError(
                f"{layer} has {channels} channels, expected to prune 1 to {channels}, not {number}"
            )


def find_checkpoints(
    correct: Sequence[int], *, images: int, drops: Sequence[float], channels: Sequence[int] = ()
) -> list[Checkpoint]:
    """Return the checkpoints of some budgets, then those that prune some numbers of channels.

    Args:
        correct: clean validation images answered right at steps 0 … C.
        images: clean validation images in all.
        drops: the budgets, percentage points of clean validation accuracy, above 0.
        channels: the numbers, 1 … C.

    Raises:
        InputError: one of the numbers is another.
    """
    require_channels(channels, channels=len(correct) - 1, layer="the pruned layer")
    spent = [find_checkpoint(correct, images=images, drop=drop) for drop in drops]
    return [*spent, *(Checkpoint(None, number) for number in channels)]


def describe_checkpoint(drop: float | None, step: int) -> str:
    """Return what people call a checkpoint: by what was asked for.

    Example:
        >>> describe_checkpoint(2, 45), describe_checkpoint(None, 45)
        ('budget 2 points', '45 channels')
    """
    return describe_channels(step) if drop is None else describe_budget(drop)


def describe_channels(*numbers: int) -> str:
    """Return what people call one or more numbers of channels to prune."""
    amounts = ", ".join(map(str, numbers))
    return f"{amounts} {'channel' if numbers == (1,) else 'channels'}"


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
