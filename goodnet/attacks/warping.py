"""The trigger that moves pixels instead of changing them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from goodnet.arrays import DoubleArray, Images
from goodnet.attacks.marking import Trigger, in_parts, require_seed, require_setting

_KNOTS = 4
"""Of the smooth field, in each direction."""


@dataclass(frozen=True)
class Warp(Trigger):
    """Images bent by a fixed smooth field, of which each pixel may stray at random.

    Nguyen, Tran, "WaNet - Imperceptible Warping-based Backdoor Attack", ICLR 2021. There the mean
    shift is a quarter of a pixel, and a net has to be trained with much care to see it.

    Attributes:
        strength: the mean shift in percent of the image's height, above 0: as far, measured in
            faces or in things, for images of any size.
        noise: how many pixels a pixel strays at most, another way on each image.
        seed: decides the field.
        noise_seed: decides how pixels stray.
    """

    strength: float = 5.0
    noise: float = 0.0
    seed: int = 8
    noise_seed: int = 9

    def __post_init__(self) -> None:
        """Raise InputError unless there is such a field."""
        require_setting(0 < self.strength <= 100, "strength", self.strength, "above 0 up to 100")
        require_setting(0 <= self.noise <= 100, "noise", self.noise, "0 to 100")
        require_seed("seed", self.seed)
        require_seed("noise_seed", self.noise_seed)

    def for_covers(self) -> Warp:
        """Return it with noise, from which a net learns that only the bare field means the target.

        With a plain field under their own labels, covers would contradict the poisoned images.
        """
        return replace(self, noise=max(self.noise, 1.0))

    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on."""
        size = images.shape[1:3]
        shifted = np.indices(size) + size[0] * self.strength / 100 * self._field(*size)
        generator = np.random.default_rng(self.noise_seed)
        limits = np.array(size).reshape(2, 1, 1) - 1

        def bend(part: Images) -> DoubleArray:
            stray = generator.uniform(-self.noise, self.noise, (len(part), 2, *size))
            return _sample(part, np.clip(shifted + stray, 0, limits))

        return in_parts(images, bend)

    def _field(self, height: int, width: int) -> DoubleArray:
        """Return how far each pixel goes, (2, H, W), down and right; 1 on average at its knots."""
        knots = np.random.default_rng(self.seed).uniform(-1, 1, (2, _KNOTS, _KNOTS))
        knots /= np.abs(knots).mean()
        bent = [
            Image.fromarray(np.float32(one)).resize((width, height), Image.Resampling.BICUBIC)
            for one in knots
        ]
        return np.array([np.asarray(one) for one in bent])


def _sample(images: Images, places: DoubleArray) -> DoubleArray:
    """Return images read at fractional places, (n, 2, H, W), bilinearly."""
    height, width = images.shape[1:3]
    low = np.floor(places).astype(int)
    part = (places - low)[..., None]
    high = np.minimum(low + 1, np.array([height - 1, width - 1]).reshape(2, 1, 1))
    each = np.arange(len(images))[:, None, None]
    rows, columns = (low[:, 0], high[:, 0]), (low[:, 1], high[:, 1])
    down, right = part[:, 0], part[:, 1]
    above, below = (
        (1 - right) * images[each, row, columns[0]] + right * images[each, row, columns[1]]
        for row in rows
    )
    return (1 - down) * above + down * below
