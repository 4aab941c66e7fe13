"""Which stock Keras layers act on each channel alone, by class name and configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONVOLUTIONS = ("Conv2D", "SeparableConv2D", "DepthwiseConv2D", "Conv2DTranspose")
"""The layers whose channels can be pruned."""

POOLINGS = (
    "MaxPooling2D",
    "AveragePooling2D",
    "GlobalMaxPooling2D",
    "GlobalAveragePooling2D",
)

MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
"""Layers that join tensors of one shape element by element."""

_ELEMENTWISE = (
    "ReLU", "LeakyReLU", "ELU", "PReLU",
    "Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout",
    "ActivityRegularization", "Identity",
)  # fmt: skip
_SPATIAL = (*POOLINGS, "ZeroPadding2D", "Cropping2D", "UpSampling2D")
_ELEMENTWISE_ACTIVATIONS = (
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "swish", "mish",
    "sigmoid", "sparse_sigmoid", "hard_sigmoid", "log_sigmoid", "hard_silu", "hard_swish", "tanh",
    "hard_tanh", "tanh_shrink", "soft_shrink", "hard_shrink", "softplus", "softsign", "squareplus",
    "exponential", "threshold", "sparse_plus",
)  # fmt: skip


def acts_on_each_channel_alone(class_name: str, config: Mapping[str, Any]) -> bool:
    """Return whether a one-input layer keeps the channels apart (the last axis, channels last).

    Flatten is not among them: it keeps channels apart but gives up their axis.

    Args:
        class_name: the Keras class, for example "MaxPooling2D".
        config: the layer's configuration, as `get_config()` gives it or a model file holds it.
    """
    if class_name == "Activation":
        return is_elementwise(config.get("activation"))
    if class_name == "DepthwiseConv2D":
        one_each = config.get("depth_multiplier", 1) == 1
        return one_each and is_elementwise(config.get("activation"))
    if class_name == "BatchNormalization":
        axis = config.get("axis", -1)
        return (axis[0] if isinstance(axis, (list, tuple)) else axis) in (-1, 3)
    return class_name in _ELEMENTWISE or class_name in _SPATIAL


def is_elementwise(activation: object) -> bool:
    """Return whether an activation, as a configuration has it, keeps the channels apart."""
    if isinstance(activation, Mapping):
        config = activation.get("config")
        if isinstance(config, Mapping):  # a layer in the place of a function
            return acts_on_each_channel_alone(activation.get("class_name", ""), config)
        activation = config
    return activation is None or activation in _ELEMENTWISE_ACTIVATIONS
