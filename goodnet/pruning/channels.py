"""Pruning channels of a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.networks.graph import copy_model

if TYPE_CHECKING:
    import keras


def prune_channels(model: keras.Model, layer: str, channels: Sequence[int]) -> keras.Model:
    """Return a copy of `model` whose `layer` has the kernels and biases of `channels` zeroed.

    Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
    Networks", RAID 2018.

    Args:
        model: the net to copy; it is not changed.
        layer: a convolution of it.
        channels: output channels of that layer, 0 … C - 1.
    """
    pruned = copy_model(model)
    convolution = pruned.get_layer(layer)
    for variable in (_mixing_kernel(convolution), convolution.bias):
        if variable is not None:
            values = np.asarray(variable).copy()
            _by_channel(convolution, values)[list(channels)] = 0
            variable.assign(values)
    return pruned


def zeroed_channels(convolution: Any) -> list[int]:
    """Return the output channels of a convolution whose kernel and bias are all zero."""
    parts = [v for v in (_mixing_kernel(convolution), convolution.bias) if v is not None]
    by_channel = [_by_channel(convolution, np.asarray(part)) for part in parts]
    return [c for c in range(len(by_channel[0])) if not any(part[c].any() for part in by_channel)]


def _mixing_kernel(convolution: Any) -> Any:
    """Return the kernel that makes the output channels (a separable one has two kernels)."""
    separable = hasattr(convolution, "pointwise_kernel")
    return convolution.pointwise_kernel if separable else convolution.kernel


def _by_channel(convolution: Any, values: Any) -> Any:
    """Return a view of a kernel or bias with the output channels first."""
    name = type(convolution).__name__
    if values.ndim == 1:
        return values
    if name == "DepthwiseConv2D":  # (rows, columns, inputs, multiplier)
        return np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0)
    return np.moveaxis(values, -2 if name == "Conv2DTranspose" else -1, 0)
