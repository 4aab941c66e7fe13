"""Keeping a guard, and what it makes of images, in files of plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from goodnet.arrays import IntArray
from goodnet.defenses.discriminant import Discriminant, Look
from goodnet.defenses.fine_tuning import TunedAnswers
from goodnet.defenses.guard import FittedDepth, Guard, Seen
from goodnet.storage.files import atomic_path

_ARRAYS = ("kernel", "bias", "means", "seen")


def write_guard(path: Path, guard: Guard, held: Seen) -> None:
    """Write a guard to an .npz file.

    Args:
        path: the file.
        guard: what `fit_guard` gave.
        held: what it gave with it, of the images that calibrate.
    """
    arrays: dict[str, Any] = {
        "order": np.array(guard.order),
        "expert": np.array(guard.expert),
        "layers": np.array([fitted.layer for fitted in guard.discriminants], np.str_),
    }
    for fitted in guard.discriminants:
        arrays |= {f"{name}.{fitted.depth}": getattr(fitted, name) for name in _ARRAYS}
    _write(path, arrays | _seen_arrays(held))


def read_guard(path: Path) -> tuple[Guard, Seen]:
    """Read what `write_guard` wrote."""
    with np.load(path, allow_pickle=False) as file:
        discriminants = tuple(
            Discriminant(depth, str(layer), *(file[f"{name}.{depth}"] for name in _ARRAYS))
            for depth, layer in enumerate(file["layers"])
        )
        order = tuple(int(channel) for channel in file["order"])
        return Guard(order, int(file["expert"]), discriminants), _seen(file)


def write_fitted(path: Path, fitted: FittedDepth) -> None:
    """Write what was fitted at one depth to an .npz file."""
    found = fitted.discriminant
    arrays = {name: getattr(found, name) for name in _ARRAYS}
    depth = {"depth": np.array(found.depth), "layer": np.array(found.layer, np.str_)}
    _write(path, arrays | depth | fitted.look._asdict())


def read_fitted(path: Path) -> FittedDepth:
    """Read what `write_fitted` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = (file[name] for name in _ARRAYS)
        discriminant = Discriminant(int(file["depth"]), str(file["layer"]), *arrays)
        return FittedDepth(discriminant, Look(*(file[name] for name in Look._fields)))


def write_seen(path: Path, seen: Seen) -> None:
    """Write what is made of the images of a set to an .npz file."""
    _write(path, _seen_arrays(seen))


def read_seen(path: Path) -> Seen:
    """Read what `write_seen` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return _seen(file)


def write_tuned(path: Path, answers: TunedAnswers) -> None:
    """Write what a fine-tuned net makes of images to an .npz file."""
    _write(path, vars(answers))


def read_tuned(path: Path) -> TunedAnswers:
    """Read what `write_tuned` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return TunedAnswers(**{name: file[name] for name in file.files})


def write_answers(path: Path, answers: Sequence[IntArray]) -> None:
    """Write what some nets answer to the images of a set, (n,) each, to an .npz file."""
    _write(path, {str(number): values for number, values in enumerate(answers)})


def read_answers(path: Path) -> list[IntArray]:
    """Read what `write_answers` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return [file[str(number)] for number in range(len(file.files))]


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def _seen_arrays(seen: Seen) -> dict[str, Any]:
    # Names of layers are a stranger's, so they are values here and no names of arrays.
    arrays = {
        "score_names": np.array([*seen.scores], np.str_),
        "scores": np.stack([*seen.scores.values()]),
        "nearest_layers": np.array([*seen.nearest], np.str_),
        "nearest": np.array([*seen.nearest.values()], np.int64),
    }
    known = {"tuned": seen.tuned, "instead": seen.instead}
    return arrays | {name: values for name, values in known.items() if values is not None}


def _seen(file: Any) -> Seen:
    scores = dict(zip(map(str, file["score_names"]), file["scores"], strict=True))
    nearest = dict(zip(map(str, file["nearest_layers"]), file["nearest"], strict=True))
    tuned, instead = (file[name] if name in file.files else None for name in ("tuned", "instead"))
    return Seen(scores, nearest, tuned, instead)
