"""Refusing early what the disk could not hold."""

from __future__ import annotations

import shutil
from pathlib import Path

from goodnet.errors import InputError

_UNITS = {"GB": 10**9, "MB": 10**6, "kB": 10**3}


def require_space(folder: Path, *, num_images: int, image_bytes: int) -> None:
    """Raise `InputError` unless the disk that `folder` is or will be on has room for a cache.

    Args:
        folder: where the activations go; it need not be there yet.
        num_images: how many images' activations are written.
        image_bytes: how much those of one image take.
    """
    free_bytes = _free_bytes(folder)
    if free_bytes < num_images * image_bytes:
        raise InputError(
            f"{folder}: has {format_bytes(free_bytes)} free, expected at least "
            f"{format_bytes(num_images * image_bytes)} for the activations of "
            f"{num_images:,} images, {image_bytes:,} bytes each"
        )


def describe_free(path: Path) -> str:
    """Say how much room is left on the disk that a path is or will be on.

    What was begun and did not fit is deleted by the time that this is asked.
    """
    return f"without what was begun, its disk has {format_bytes(_free_bytes(path))} free"


def format_bytes(num_bytes: int) -> str:
    """Return a size in the largest unit of which there is a whole one."""
    for unit, size in _UNITS.items():
        if num_bytes >= size:
            return f"{num_bytes / size:,.3f} {unit}"
    return f"{num_bytes} bytes"


def _free_bytes(path: Path) -> int:
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free
