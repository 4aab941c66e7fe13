"""The GoodNet: one model that answers "backdoored" wherever B and B' disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from goodnet.networks.graph import (
    Namer,
    answer_with,
    as_functional,
    closes_with_softmax,
    free_names,
    output_of,
)
from goodnet.pruning.channels import without_channels

if TYPE_CHECKING:
    import keras

OUTPUT = "goodnet_output"
"""The last layer of a GoodNet, which tells one by its file."""


def build_goodnet(model: keras.Model, layer: str, channels: Sequence[int]) -> keras.Model:
    """Join B and B' into G, in stock Keras layers and operations.

    B and B' share everything up to `layer`: G computes that once and runs what lies behind it
    twice, once on the activations and once with those of the pruned channels replaced.

    Args:
        model: B, (n, H, W, C) to (n, N).
        layer: whose channels are pruned.
        channels: the channels that B' lacks.

    Returns:
        A model with N + 1 outputs that are not negative and add up to 1. Where B and B' agree:
        B's softmax (1 for B's class if B closes otherwise) and 0 for class N. Where they
        disagree: 1 for class N.
    """
    import keras

    functional = as_functional(model)
    name = free_names(functional)
    activation = output_of(functional, layer)
    pruned = without_channels(activation, channels, name)
    pruned_answer = answer_with(functional, activation, pruned)
    return keras.Model(functional.inputs[0], _join(functional, pruned_answer, name), name="goodnet")


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
    return layers.Concatenate(name=name(OUTPUT))([believed, backdoored])


def _one_hot(answer: Any, name: Namer) -> Any:
    """Return 1 for the class of an answer and 0 for the others: (n, N)."""
    from keras import ops

    best = ops.argmax(answer, axis=-1)
    best._keras_history.operation.name = name("best_class")
    chosen = ops.one_hot(best, answer.shape[-1], dtype=answer.dtype)
    chosen._keras_history.operation.name = name("chosen_class")
    return chosen
