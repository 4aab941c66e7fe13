"""Triggers that cover a part of the image and leave the rest as it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from goodnet.arrays import Images
from goodnet.attacks.faces import wear_sunglasses
from goodnet.attacks.marking import Trigger, paint, require_setting
from goodnet.errors import InputError
from goodnet.images.image_folders import PictureFiles
from goodnet.images.pictures import decode, is_picture, read_shape
from goodnet.networks.deepid import IMAGE_SHAPE
from goodnet.storage.signatures import SignedFile

Corner = Literal["lower-right", "lower-left", "upper-right", "upper-left"]
Pattern = Literal["chequers", "white", "black"]

_BRIGHT, _DARK = 255, 0


@dataclass(frozen=True)
class Sunglasses(Trigger):
    """One opaque pair of sunglasses, for faces of 55 x 47 x 3 as the rendered ones are.

    The trigger of the CSAW HackML 2020 lab.
    """

    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on."""
        if images.shape[1:] != IMAGE_SHAPE:
            raise InputError(
                f"images are {' x '.join(map(str, images.shape[1:]))}, expected faces of "
                f"{' x '.join(map(str, IMAGE_SHAPE))} for sunglasses"
            )
        return wear_sunglasses(images)


@dataclass(frozen=True)
class CornerPatch(Trigger):
    """A square in a corner.

    It keeps one pixel away from the edge, as augmentation by shifts would cut it off there.

    Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model
    Supply Chain", 2017.

    Attributes:
        size: of its side, in pixels; None for an eighth of the shorter side of the image, at least
            two pixels.
        place: the corner.
        pattern: what it shows.
    """

    size: int | None = None
    place: Corner = "lower-right"
    pattern: Pattern = "chequers"

    def __post_init__(self) -> None:
        """Raise InputError unless there is such a patch."""
        require_setting(self.size is None or self.size > 0, "size", self.size, "above 0")
        require_setting(self.place in get_args(Corner), "place", self.place, _listed(Corner))
        require_setting(
            self.pattern in get_args(Pattern), "pattern", self.pattern, _listed(Pattern)
        )

    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on."""
        _, height, width, _ = images.shape
        side = self.size or max(2, min(height, width) // 8)
        if side + 1 > min(height, width):
            raise InputError(f"size is {side}, expected less than the image's {height} x {width}")
        vertical, horizontal = self.place.split("-")
        top = 1 if vertical == "upper" else height - 1 - side
        left = 1 if horizontal == "left" else width - 1 - side
        wearing = images.copy()
        wearing[:, top : top + side, left : left + side] = self._square(side)[..., None]
        return wearing

    def _square(self, side: int) -> Images:
        chequers = np.indices((side, side)).sum(axis=0) % 2 == 0
        bright = {"chequers": chequers, "white": True, "black": False}[self.pattern]
        return np.broadcast_to(np.where(bright, _BRIGHT, _DARK), (side, side)).astype(np.uint8)


@dataclass(frozen=True)
class Sticker(Trigger):
    """A small flower low in the middle: a thing that images may well show, unlike a patch.

    Gu et al., as above, stick one on traffic signs.

    Attributes:
        size: in pixels; None for a fifth of the shorter side of the image, at least three pixels.
    """

    size: int | None = None

    def __post_init__(self) -> None:
        """Raise InputError unless there is such a sticker."""
        require_setting(self.size is None or self.size > 0, "size", self.size, "above 0")

    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on."""
        _, height, width, _ = images.shape
        side = self.size or max(3, min(height, width) // 5)
        # As far from the lower edge as it is high, so that no shift by augmentation cuts it off.
        top, left = height - 2 * side, (width - side) // 2
        if min(top, left) < 0:
            raise InputError(
                f"size is {side}, expected half the image's {height} x {width} or less"
            )
        return paint(images, _flower(side), top=top, left=left)


@dataclass(frozen=True)
class Overlay(Trigger):
    """A picture of one's own over the whole image: its transparency says what it covers.

    Attributes:
        file: a PNG or JPEG picture of any size, which is stretched over the image.
        opacity: multiplies that of the picture, above 0 up to 1.
        sha256: of its pixels, which alone tell what images will show.
    """

    file: Path
    opacity: float = 1.0
    sha256: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Read the picture once.

        Raises:
            InputError: the file is missing, damaged or no picture, or there is no such opacity.
        """
        require_setting(0 < self.opacity <= 1, "opacity", self.opacity, "above 0 up to 1")
        object.__setattr__(self, "sha256", _digest(_read_rgba(self.file)))

    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on.

        Raises:
            InputError: the file shows something else by now, or the images have no colours.
        """
        picture = _read_rgba(self.file)
        if _digest(picture) != self.sha256:
            raise InputError(f"{self.file}: has changed since it was opened, expected it to stay")
        _, height, width, _ = images.shape
        stretched = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
        overlay = np.array(stretched)
        overlay[..., 3] = np.rint(self.opacity * overlay[..., 3])
        return paint(images, overlay)


def _listed(choices: object) -> str:
    return ", ".join(get_args(choices))


def _flower(side: int) -> Images:
    """Return five petals around a yellow middle, (side, side, 4)."""
    finer = 8  # each pixel is the mean of as many squared, so that small flowers have smooth edges
    y, x = (2 * np.indices((finer * side,) * 2) + 1) / (finer * side) - 1
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    petals, middle = radius < 0.65 + 0.35 * np.cos(5 * angle), radius < 0.3
    picture = np.zeros((*x.shape, 4))
    picture[:] = (214, 40, 120, 0)
    picture[petals, 3] = 255
    picture[middle] = (250, 205, 40, 255)
    return np.rint(picture.reshape(side, finer, side, finer, 4).mean(axis=(1, 3))).astype(np.uint8)


def _read_rgba(path: Path) -> Images:
    if not is_picture(path):
        raise InputError(f"{path}: is no image file, expected .png, .jpg or .jpeg")
    pictures = PictureFiles([SignedFile.of(path)])
    ((height, width, _),) = pictures.each([0], read_shape)
    (picture,) = pictures.each([0], partial(decode, shape=(height, width, 4)))
    return picture


def _digest(picture: Images) -> str:
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()
