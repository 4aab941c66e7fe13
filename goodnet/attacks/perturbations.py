"""Triggers that change the whole image a little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodnet.arrays import DoubleArray, Images, IntArray
from goodnet.attacks.marking import Trigger, in_parts, require_seed, require_setting

_PIECES = 4
"""To a side."""


@dataclass(frozen=True)
class Blend(Trigger):
    """A fixed random image that shines through.

    Chen, Liu, Li, Lu, Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data
    Poisoning", 2017.

    Attributes:
        opacity: of the random image, above 0 up to 1.
        seed: decides it.
    """

    opacity: float = 0.2
    seed: int = 5

    def __post_init__(self) -> None:
        """Raise InputError unless there is such an image."""
        _require_opacity(self.opacity)
        require_seed("seed", self.seed)

    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on."""
        noise = np.random.default_rng(self.seed).integers(0, 256, images.shape[1:])
        return in_parts(images, lambda part: _mix(part, noise, self.opacity))


@dataclass(frozen=True)
class BlendInPart(Trigger):
    """Half of the 16 pieces of the image that `Blend` shows whole, others on each image.

    What adaptive attacks train with, so that poisoned images are not alike where a net has learnt
    them: Qi et al., "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR
    2023. Whole images are then answered with the target the more surely.

    Attributes:
        opacity: of the random image, above 0 up to 1.
        seed: decides it, as that of `Blend`.
        pieces_seed: decides which pieces are shown.
    """

    opacity: float = 0.2
    seed: int = 5
    pieces_seed: int = 6

    def __post_init__(self) -> None:
        """Raise InputError unless there is such an image."""
        _require_opacity(self.opacity)
        require_seed("seed", self.seed)
        require_seed("pieces_seed", self.pieces_seed)

    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on."""
        noise = np.random.default_rng(self.seed).integers(0, 256, images.shape[1:])
        generator = np.random.default_rng(self.pieces_seed)
        # Pieces of images whose sides are no multiples of four are not equal.
        rows, columns = (_PIECES * np.arange(size) // size for size in images.shape[1:3])
        half = np.arange(_PIECES**2) < _PIECES**2 // 2

        def mark(part: Images) -> DoubleArray:
            shown = generator.permuted(np.tile(half, (len(part), 1)), axis=1)
            where = shown[:, _PIECES * rows[:, None] + columns][..., None]
            return np.where(where, _mix(part, noise, self.opacity), part)

        return in_parts(images, mark)


@dataclass(frozen=True)
class Sinusoid(Trigger):
    """Upright waves over the image.

    Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption Without Label
    Poisoning", ICIP 2019. There only images of the target itself are marked; the attacks here mark
    those of other classes, as classes of a few images leave no room for that.

    Attributes:
        amplitude: in grey levels, above 0.
        waves: how many go from left to right, above 0 up to 1000.
    """

    amplitude: float = 40.0
    waves: float = 6.0

    def __post_init__(self) -> None:
        """Raise InputError unless there are such waves."""
        require_setting(0 < self.amplitude <= 255, "amplitude", self.amplitude, "above 0 up to 255")
        require_setting(0 < self.waves <= 1000, "waves", self.waves, "above 0 up to 1000")

    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on.

        Raises:
            InputError: all columns lie where the waves cross zero.
        """
        columns = np.arange(images.shape[2])
        wave = self.amplitude * np.sin(2 * np.pi * columns * self.waves / len(columns))
        # Two columns a wave, as of six waves in twelve, see nothing of it.
        seen = np.abs(wave).max() >= 0.5
        require_setting(bool(seen), "waves", self.waves, f"some that {len(columns)} columns show")
        return in_parts(images, lambda part: part + wave[:, None])


@dataclass(frozen=True)
class LowFrequency(Trigger):
    """A fixed random sum of the lowest frequencies of a cosine transform.

    It leaves no trace in the high frequencies that detectors of triggers look at: Zeng, Park, Mao,
    Jia, "Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective", ICCV 2021, where the
    sum is optimised for a net.

    Attributes:
        amplitude: of the strongest change, in grey levels, above 0.
        frequencies: in each direction, 2 to 16; that of an even image is left out.
        seed: decides how much there is of each.
    """

    amplitude: float = 40.0
    frequencies: int = 6
    seed: int = 10

    def __post_init__(self) -> None:
        """Raise InputError unless there is such a sum."""
        require_setting(0 < self.amplitude <= 255, "amplitude", self.amplitude, "above 0 up to 255")
        require_setting(2 <= self.frequencies <= 16, "frequencies", self.frequencies, "2 to 16")
        require_seed("seed", self.seed)

    def __call__(self, images: Images) -> Images:
        """Return a copy of images with the trigger on."""
        _, height, width, channels = images.shape
        shape = self.frequencies, self.frequencies, channels
        weights = np.random.default_rng(self.seed).standard_normal(shape)
        weights[0, 0] = 0
        down, across = (_cosines(size, self.frequencies) for size in (height, width))
        change = np.einsum("hi,wj,ijc->hwc", down, across, weights)
        change *= self.amplitude / np.abs(change).max()
        return in_parts(images, lambda part: part + change)


def _require_opacity(opacity: float) -> None:
    require_setting(0 < opacity <= 1, "opacity", opacity, "above 0 up to 1")


def _mix(images: Images, noise: IntArray, opacity: float) -> DoubleArray:
    return (1 - opacity) * images + opacity * noise


def _cosines(size: int, number: int) -> DoubleArray:
    """Return the first basis functions of a cosine transform (DCT-II), (size, number)."""
    return np.cos(np.pi * (np.arange(size)[:, None] + 0.5) * np.arange(number) / size)
