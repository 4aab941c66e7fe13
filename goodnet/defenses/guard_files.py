"""Keeping a guard, and scores of images, in files of plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from goodnet.defenses.discriminant import Discriminant
from goodnet.defenses.guard import Guard, Scores
from goodnet.storage.files import atomic_path

_HELD = "held."
_ARRAYS = ("kernel", "bias", "means", "seen")


def write_guard(path: Path, guard: Guard, held: Scores) -> None:
    """Write a guard to an .npz file.

    Args:
        path: the file.
        guard: what `fit_guard` gave.
        held: the scores that it gave with it, of the images that calibrate.
    """
    arrays: dict[str, Any] = {
        "order": np.array(guard.order),
        "expert": np.array(guard.expert),
        "depths": np.array([fitted.depth for fitted in guard.discriminants], np.int64),
        **{f"{_HELD}{name}": values for name, values in held.items()},
    }
    for fitted in guard.discriminants:
        arrays |= {f"{name}.{fitted.depth}": getattr(fitted, name) for name in _ARRAYS}
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def read_guard(path: Path) -> tuple[Guard, Scores]:
    """Read what `write_guard` wrote."""
    with np.load(path, allow_pickle=False) as file:
        discriminants = tuple(
            Discriminant(int(depth), *(file[f"{name}.{depth}"] for name in _ARRAYS))
            for depth in file["depths"]
        )
        held = {
            name.removeprefix(_HELD): file[name] for name in file.files if name.startswith(_HELD)
        }
        order = tuple(int(channel) for channel in file["order"])
        return Guard(order, int(file["expert"]), discriminants), held


def write_scores(path: Path, scores: Scores) -> None:
    """Write the scores of the images of a set to an .npz file."""
    with atomic_path(path) as temporary:
        np.savez(temporary, **scores)  # type: ignore[arg-type]


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
