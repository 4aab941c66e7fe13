"""Refusing early what the disk could not hold."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from goodnet.errors import InputError

if TYPE_CHECKING:
    from goodnet.frontier import Frontier

_FLOAT_BYTES = 4
_GIGABYTE = 10**9


def image_bytes(frontier: Frontier) -> int:
    """Return how much of the activation cache one image takes, at most: it is compressed."""
    kept = {id(tensor): tensor for tensor in (frontier.ranking, frontier.start, *frontier.skips)}
    return _FLOAT_BYTES * sum(math.prod(tensor.shape[1:]) for tensor in kept.values())


def require_space(folder: Path, *, num_images: int, image_bytes: int) -> None:
    """Raise `InputError` unless the disk that `folder` is or will be on has room for a cache.

    Args:
        folder: where the activations go; it need not be there yet.
        num_images: how many images' activations are written.
        image_bytes: how much those of one image take.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < num_images * image_bytes:
        raise InputError(
            f"{folder}: has {free_bytes / _GIGABYTE:,.3f} GB free, expected at least "
            f"{num_images * image_bytes / _GIGABYTE:,.3f} GB for the activations of "
            f"{num_images:,} images, {image_bytes:,} bytes each"
        )
