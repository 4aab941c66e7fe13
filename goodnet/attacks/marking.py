"""What a trigger is, and what triggers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from goodnet.arrays import Images
from goodnet.errors import InputError

_AT_ONCE = 256
"""Images that are marked together: what is computed in between takes tens of times their memory."""


class Trigger(ABC):
    """What an attacker adds to an image: a function of images with settings of its own.

    Triggers are frozen dataclasses of plain values, so that equal settings are equal triggers, the
    same bytes each time, and the same key of a cache.
    """

    @abstractmethod
    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on.

        Args:
            images: (n, H, W, C) uint8, at least 8 x 8, of any number of channels if the trigger has
                no colours. A trigger that is another one on each image goes by its place among
                them: on the first ones it does not depend on how many follow.

        Raises:
            InputError: it cannot be put on images of this shape.
        """

    def for_covers(self) -> Trigger:
        """Return what images show that keep their own label in training."""
        return self


def in_parts(images: Images, mark: Callable[[Images], Any]) -> Images:
    """Return what `mark` makes of images, a part at a time, rounded and clipped to 0..255."""
    marked = np.empty_like(images)
    for first in range(0, len(images), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        marked[part] = np.clip(np.rint(mark(images[part])), 0, 255)
    return marked


def paint(images: Images, picture: Images, *, top: int = 0, left: int = 0) -> Images:
    """Return a copy of images with a picture painted on them.

    Args:
        images: (n, H, W, C), grey or RGB.
        picture: (h, w, 4), RGBA, of which grey images get the brightness.
        top: the row of the image where it begins.
        left: the column of the image where it begins.

    Raises:
        InputError: the images have neither 1 nor 3 channels.
    """
    channels = images.shape[3]
    if channels not in (1, 3):
        raise InputError(
            f"images have {channels} channels, expected 1 or 3 for a trigger in colour"
        )
    height, width, _ = picture.shape
    rows, columns = slice(top, top + height), slice(left, left + width)
    colours = picture[..., :3] if channels == 3 else _brightness(picture)
    opacity = picture[..., 3:] / 255
    painted = images.copy()
    painted[:, rows, columns] = in_parts(
        images[:, rows, columns], lambda part: (1 - opacity) * part + opacity * colours
    )
    return painted


def _brightness(picture: Images) -> Any:
    """Return the luma of RGB, (h, w, 1), after ITU-R BT.601, as Pillow turns pictures to grey."""
    return picture[..., :3] @ np.array([0.299, 0.587, 0.114])[:, None]


def require_setting(fits: bool, what: str, value: object, expected: str) -> None:
    """Raise InputError unless a setting of a trigger or an attack fits."""
    if not fits:
        raise InputError(f"{what} is {value}, expected {expected}")


def require_seed(what: str, seed: int) -> None:
    """Raise InputError unless NumPy takes a seed."""
    require_setting(seed >= 0, what, seed, "0 or above")
