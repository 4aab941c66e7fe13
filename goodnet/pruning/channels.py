"""Pruning channels of a layer: in its weights where that is possible, else behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.networks.graph import (
    Namer,
    answer_with,
    as_functional,
    copy_model,
    free_names,
    output_of,
)
from goodnet.networks.traits import operation_traits

if TYPE_CHECKING:
    import keras


def prune_channels(model: keras.Model, layer: str, channels: Sequence[int]) -> keras.Model:
    """Return a copy of `model` without the given channels of `layer`.

    Of a convolution, the kernels and biases of the channels are zeroed. What any other layer gives
    is masked: stock layers behind it put zeros in the place of the channels.

    Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
    Networks", RAID 2018.

    Args:
        model: the net to copy; it is not changed.
        layer: a layer of it that is called once.
        channels: output channels of that layer, 0 … C - 1.
    """
    pruned = copy_model(model)
    functional = as_functional(pruned)
    activation = output_of(functional, layer)
    operation = activation._keras_history.operation
    if not operation_traits(operation).prunable:
        return _masked(functional, activation, channels)
    for variable in (_mixing_kernel(operation), operation.bias):
        if variable is not None:
            values = np.asarray(variable).copy()
            _by_channel(operation, values)[list(channels)] = 0
            variable.assign(values)
    return pruned


def removed_value(operation: Any) -> float:
    """Return what stands in the place of a removed channel of what an operation gives.

    A convolution whose kernel and bias are zero gives its activation of 0, which is 0.5 where that
    is a sigmoid.
    """
    if not operation_traits(operation).prunable:
        return 0.0
    return float(np.asarray(operation.activation(np.zeros(1, np.float32)))[0])


def without_channels(activation: Any, channels: Sequence[int], name: Namer) -> Any:
    """Return a symbolic activation with channels replaced by what stands there once removed.

    Arithmetic with constants does it. Rescaling would take the axis of its numbers from the
    `keras.json` of whoever loads the net, a depthwise convolution is twenty times slower, and a
    merging layer takes the 1 in front of the constants for the number of images.

    Args:
        activation: (n, ..., C).
        channels: of it.
        name: makes names for the two operations; Keras would name them anew in each process.
    """
    from keras import ops

    shape = (1,) * (len(activation.shape) - 1) + (activation.shape[-1],)
    scale, offset = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    scale[..., list(channels)] = 0.0
    offset[..., list(channels)] = removed_value(activation._keras_history.operation)
    kept = ops.multiply(activation, scale)
    kept._keras_history.operation.name = name("without_pruned_channels")
    # Zeros are added too: they make 0 of -0, which TensorFlow's argmax takes for less.
    replaced = ops.add(kept, offset)
    replaced._keras_history.operation.name = name("what_pruned_channels_give")
    return replaced


def _masked(model: keras.Model, activation: Any, channels: Sequence[int]) -> keras.Model:
    import keras

    masked = without_channels(activation, channels, free_names(model))
    return keras.Model(model.inputs[0], answer_with(model, activation, masked), name=model.name)


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
