"""The GoodNet: one model that answers "backdoored" wherever B and B' disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.graph import (
    as_functional,
    calls,
    closes_with_softmax,
    dependents,
    output_of,
    replay,
)

if TYPE_CHECKING:
    import keras


def build_goodnet(model: keras.Model, layer: str, channels: Sequence[int]) -> keras.Model:
    """Join B and B' into G, in stock Keras layers and operations.

    B and B' share everything up to `layer`: G computes that once and runs what lies behind it
    twice, once on the activations and once with those of the pruned channels replaced by what
    a zero kernel and bias give.

    Args:
        model: B, (n, H, W, C) to (n, N).
        layer: the pruned convolution.
        channels: the channels that B' lacks.

    Returns:
        A model with N + 1 outputs that are not negative and add up to 1. Where B and B' agree:
        B's softmax (1 for B's class if B closes otherwise) and 0 for class N. Where they
        disagree: 1 for class N.
    """
    import keras

    functional = as_functional(model)
    activation = output_of(functional, layer)
    answer = functional.outputs[0]
    pruned = _without(functional.get_layer(layer), channels)(activation)
    behind = dependents(functional, activation)
    shared = {id(x): x for call in calls(functional) for x in call.input_tensors}
    shared = {key: x for key, x in shared.items() if key not in behind}
    pruned_answer = replay(functional, {**shared, id(activation): pruned})[id(answer)]
    outputs = _join(answer, pruned_answer, probabilities=_probabilities(functional))
    return keras.Model(functional.inputs[0], outputs, name="goodnet")


def _without(convolution: Any, channels: Sequence[int]) -> keras.layers.Layer:
    """Return a layer that replaces channels by what a zero kernel and bias give."""
    import keras

    num_channels = convolution.output.shape[-1]
    constant = float(np.asarray(convolution.activation(np.zeros(1, np.float32)))[0])
    scale, offset = np.ones(num_channels), np.zeros(num_channels)
    scale[list(channels)], offset[list(channels)] = 0.0, constant
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), name="without_pruned_channels")


def _join(answer: Any, pruned_answer: Any, *, probabilities: Any) -> Any:
    """Return N + 1 outputs: the probabilities where both answers name one class, else class N."""
    from keras import layers, ops

    agree = ops.equal(ops.argmax(answer, axis=-1), ops.argmax(pruned_answer, axis=-1))
    agree = ops.expand_dims(ops.cast(agree, answer.dtype), -1)
    return layers.Concatenate(name="goodnet_output")([probabilities * agree, 1.0 - agree])


def _probabilities(functional: keras.Model) -> Any:
    """Return the model's answer if it is softmax's, else a one-hot answer for the same class."""
    import keras

    answer = functional.outputs[0]
    if closes_with_softmax(functional):
        return answer
    return keras.ops.one_hot(keras.ops.argmax(answer, axis=-1), answer.shape[-1])
