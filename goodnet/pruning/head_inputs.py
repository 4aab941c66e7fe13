"""The layers through which the channels of the pruned layer reach the head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from goodnet.arrays import FloatArray


@dataclass(frozen=True)
class HeadInput:
    """One tensor behind the pruned layer through which its channels reach the head.

    Attributes:
        tensor: the activation, or the output of a linear layer that reads it.
        source: the activation that is read, its channels on the last axis or flattened.
        read: the activation as the linear layer reads it, possibly flattened.
        num_channels: C.
        layer: the linear layer, or None where the head reads the activation itself.
    """

    tensor: Any
    source: Any
    read: Any
    num_channels: int
    layer: Any = None

    @cached_property
    def _kernels(self) -> FloatArray:
        """The layer's kernel, a matrix for each channel: (C, inputs, outputs)."""
        kernel = np.asarray(self.layer.kernel, np.float32)
        # Channels come last in what the layer reads, flattened or not, so that every C-th of the
        # kernel's rows is one channel's. Put together they are one block of memory for `term`.
        by_channel = np.moveaxis(kernel.reshape(-1, self.num_channels, kernel.shape[-1]), 1, 0)
        return np.ascontiguousarray(by_channel)

    def term(self, change: FloatArray, channel: int) -> FloatArray:
        """Return what a change of one channel adds to the layer's pre-activation.

        Args:
            change: (n, positions), the channel's activation minus its constant.
            channel: its number.

        Returns:
            (n, features), the features in the order of the flattened pre-activation.
        """
        if hasattr(self.layer, "kernel_size"):
            inputs = _patches(change.reshape(-1, *self.source.shape[1:-1]), self.layer)
        elif len(self.read.shape) == 2:
            inputs = change
        else:  # a Dense layer at every position
            inputs = change[:, :, None]
        kernel = self._kernels[channel]
        return (inputs.reshape(-1, len(kernel)) @ kernel).reshape(len(change), -1)


def _patches(channel: FloatArray, layer: Any) -> FloatArray:
    """Return the windows of a one-channel image that a Conv2D reads: (n, rows, columns, window).

    Args:
        channel: (n, height, width).
        layer: the Conv2D; its size, strides, dilation and padding count.
    """
    starts, sizes = [], []
    padding = [(0, 0)]
    for axis in (0, 1):
        length, stride = channel.shape[1 + axis], layer.strides[axis]
        reach = (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis] + 1
        count = -(-length // stride) if layer.padding == "same" else (length - reach) // stride + 1
        missing = max((count - 1) * stride + reach - length, 0) if layer.padding == "same" else 0
        padding.append((missing // 2, missing - missing // 2))  # as TensorFlow, the odd one behind
        sizes.append((count - 1) * stride + 1)
        starts.append([tap * layer.dilation_rate[axis] for tap in range(layer.kernel_size[axis])])
    if any(sum(pair) for pair in padding):  # np.pad copies even where it adds nothing
        channel = np.pad(channel, padding)
    windows = [
        channel[
            :, top : top + sizes[0] : layer.strides[0], left : left + sizes[1] : layer.strides[1]
        ]
        for top in starts[0]
        for left in starts[1]
    ]
    return np.stack(windows, axis=-1)
