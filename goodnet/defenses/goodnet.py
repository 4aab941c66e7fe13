"""The GoodNet: one model that answers "backdoored" wherever B and B' disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.networks.graph import (
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
    name = _free_names(functional)
    pruned = _without(activation, functional.get_layer(layer), channels, name)
    behind = dependents(functional, activation)
    shared = {id(x): x for call in calls(functional) for x in call.input_tensors}
    shared = {key: x for key, x in shared.items() if key not in behind}
    pruned_answer = replay(functional, {**shared, id(activation): pruned})[id(answer)]
    return keras.Model(functional.inputs[0], _join(functional, pruned_answer, name), name="goodnet")


Namer = Callable[[str], str]


def _free_names(model: keras.Model) -> Namer:
    """Return what makes a name of one that B, which may itself be a GoodNet, does not use."""
    taken = {node.operation.name for node in calls(model)}

    def name(wanted: str) -> str:
        free = next(
            candidate
            for candidate in chain([wanted], (f"{wanted}_{number}" for number in count(2)))
            if candidate not in taken
        )
        taken.add(free)
        return free

    return name


def _without(activation: Any, convolution: Any, channels: Sequence[int], name: Namer) -> Any:
    """Return the activation with channels replaced by what a zero kernel and bias give.

    Merging layers with constants do it. Rescaling would take the axis of its numbers from the
    `keras.json` of whoever loads G, and a depthwise convolution is twenty times slower.
    """
    from keras import layers

    constant = float(np.asarray(convolution.activation(np.zeros(1, np.float32)))[0])
    shape = (1,) * (len(activation.shape) - 1) + (activation.shape[-1],)
    scale, offset = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    scale[..., list(channels)], offset[..., list(channels)] = 0.0, constant
    kept = layers.Multiply(name=name("without_pruned_channels"))([activation, scale])
    # Zeros are added too: they make 0 of -0, which TensorFlow's argmax takes for less.
    return layers.Add(name=name("what_pruned_channels_give"))([kept, offset])


def _join(functional: keras.Model, pruned_answer: Any, name: Namer) -> Any:
    """Return N + 1 outputs: the probabilities where both answers name one class, else class N.

    Layers, which are named, and operations that keep a name given to them: Keras names any other
    operation anew in each process, perhaps like a layer of B.
    """
    from keras import layers

    answer = functional.outputs[0]
    chosen, pruned = (_one_hot(tensor, name) for tensor in (answer, pruned_answer))
    probabilities = answer if closes_with_softmax(functional) else chosen
    agree = layers.Dot(axes=-1, name=name("agree"))([chosen, pruned])
    believed = layers.Multiply(name=name("believed"))([probabilities, agree])
    backdoored = layers.Rescaling(-1.0, 1.0, name=name("backdoored"))(agree)
    return layers.Concatenate(name=name("goodnet_output"))([believed, backdoored])


def _one_hot(answer: Any, name: Namer) -> Any:
    """Return 1 for the class of an answer and 0 for the others: (n, N)."""
    from keras import ops

    best = ops.argmax(answer, axis=-1)
    best._keras_history.operation.name = name("best_class")
    chosen = ops.one_hot(best, answer.shape[-1], dtype=answer.dtype)
    chosen._keras_history.operation.name = name("chosen_class")
    return chosen
