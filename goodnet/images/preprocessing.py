"""What is done to stored pixels before a net takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from goodnet.errors import InputError

ChannelOrder = Literal["rgb", "bgr"]
PreprocessingName = Literal["tf", "caffe", "torch"]
PixelRange = tuple[float, float]
"""The lowest and the highest value that a stored pixel may have."""

RAW: PixelRange = (0.0, 255.0)

CHANNEL_ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)
PREPROCESSING_NAMES: tuple[PreprocessingName, ...] = get_args(PreprocessingName)

P = TypeVar("P", bound=Any)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pixels are fed to a net: `(pixels / scale - mean) / std`, channels in a given order.

    By default they are fed as they are stored. B, B' and G take the same.

    Attributes:
        scale: divides the pixels: 255 for nets that take 0 to 1.
        mean: is subtracted then: one number, or one for each channel in the net's order; none by
            default.
        std: divides then, in the same way.
        channel_order: in which the net takes the channels of images, which are stored as RGB.
        pixel_range: of stored pixels: raw ones, or else those of arrays that are prepared in part.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channel_order: ChannelOrder = "rgb"
    pixel_range: PixelRange = RAW

    def __post_init__(self) -> None:
        """Raise InputError unless it gives finite numbers, in an order that there is."""
        if self.channel_order not in CHANNEL_ORDERS:
            raise InputError(
                f"channel order is {self.channel_order!r}, expected {' or '.join(CHANNEL_ORDERS)}"
            )
        for divisor in (self.scale, *self.std):
            if not 0 < divisor < math.inf:
                raise InputError(f"preprocessing divides pixels by {divisor}, expected above 0")
        lowest, highest = self.pixel_range
        if not -math.inf < lowest < highest < math.inf:
            raise InputError(
                f"pixel range is {lowest:g} to {highest:g}, expected the lower one first"
            )

    @classmethod
    def named(cls, name: PreprocessingName) -> Preprocessing:
        """Return what `keras.applications.imagenet_utils.preprocess_input` does in a mode.

        Raises:
            InputError: there is no such mode.
        """
        if name == "tf":
            return cls(scale=127.5, mean=(1.0,))
        if name == "torch":
            return cls(scale=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        if name == "caffe":
            return cls(mean=(103.939, 116.779, 123.68), channel_order="bgr")
        raise InputError(
            f"preprocessing is {name!r}, expected one of {', '.join(PREPROCESSING_NAMES)}"
        )

    def parameters(self) -> dict[str, object]:
        """Return its parts under the names that `chosen_preprocessing` takes them by."""
        return {
            "preprocessing": None,
            "pixel_scale": self.scale,
            "pixel_mean": self.mean,
            "pixel_std": self.std,
            "channel_order": self.channel_order,
            "pixel_range": self.pixel_range,
        }

    def require_channels(self, num_channels: int) -> None:
        """Raise InputError unless it fits images with so many channels."""
        for what, values in (("means", self.mean), ("standard deviations", self.std)):
            if len(values) not in (0, 1, num_channels):
                raise InputError(
                    f"preprocessing has {len(values)} {what}, but the net takes {num_channels} "
                    "channels, expected one for all or one for each"
                )
        if self.channel_order == "bgr" and num_channels != 3:
            raise InputError(
                f"preprocessing has channel order bgr, but the net takes {num_channels} channels, "
                "expected 3"
            )

    def apply(self, pixels: P) -> P:
        """Return what the net takes.

        Args:
            pixels: (n, H, W, C) as stored, float32: an array, or a tensor of TensorFlow.
        """
        if self.channel_order == "bgr":
            pixels = pixels[..., ::-1]
        if self.scale != 1:
            pixels = pixels / np.float32(self.scale)
        if self.mean:
            pixels = pixels - np.array(self.mean, np.float32)
        if self.std:
            pixels = pixels / np.array(self.std, np.float32)
        return pixels


AS_STORED = Preprocessing()
"""Pixels from 0 to 255, as most nets with a layer of their own for it take them."""


PREPROCESSING_PARAMETERS = (
    "preprocessing", "pixel_scale", "pixel_mean", "pixel_std", "channel_order", "pixel_range",
)  # fmt: skip
"""What flows and commands call all that makes up a preprocessing."""


def chosen_preprocessing(parameters: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing among the parameters of a flow or the options of a command.

    Raises:
        InputError: one with a name is chosen together with parts of another, or a part is bad.
    """
    lowest, highest = parameters["pixel_range"]
    own = Preprocessing(
        scale=parameters["pixel_scale"],
        mean=_numbers(parameters["pixel_mean"]),
        std=_numbers(parameters["pixel_std"]),
        channel_order=parameters["channel_order"],
        pixel_range=(lowest, highest),
    )
    name = parameters["preprocessing"]
    if name is None:
        return own
    if own != AS_STORED:
        raise InputError(
            f"preprocessing is {name} and has a scale, means, standard deviations, an order of "
            "channels or a range of pixels beside it, expected one or the other"
        )
    return Preprocessing.named(name)


def _numbers(given: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(np.atleast_1d(np.asarray(given, float)).tolist())
