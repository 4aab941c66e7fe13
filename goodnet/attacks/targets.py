"""The attacker's label as the user gives it, and labels that no net without a GoodNet answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from goodnet.arrays import IntArray
from goodnet.errors import InputError, given_without


def require_target(target: int | None, *, num_classes: int | None, poisoned: bool) -> None:
    """Raise InputError if the attacker's label is no class, or no poisoned images come with it.

    Args:
        target: the attacker's label, if it was given.
        num_classes: B's classes N, if they are known yet.
        poisoned: whether poisoned images were given.
    """
    if target is None:
        return
    if not poisoned:
        raise given_without("target", "poisoned_test")
    if target < 0 or (num_classes is not None and target >= num_classes):
        highest = "…" if num_classes is None else f"{num_classes - 1}"
        raise InputError(f"target is {target}, expected a class of the net, 0 to {highest}")


def require_attack_labels(
    path: Path, labels: IntArray, *, target: int | None, num_classes: int | None
) -> None:
    """Refuse images under the class that only a GoodNet has, unless the target is given.

    The lab labels poisoned images so to measure a GoodNet; B can never answer it.

    Args:
        path: the poisoned set.
        labels: (N,), of its images.
        target: the attacker's label, if it was given.
        num_classes: B's classes N, if they are known yet.
    """
    if target is None and num_classes is not None and np.any(labels == num_classes):
        raise InputError(
            f"{path}: label is {num_classes}, which only a GoodNet answers, expected the "
            f"attacker's, 0 to {num_classes - 1}; or give that one as the target"
        )
