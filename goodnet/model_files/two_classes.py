"""Classifiers that answer with one value, made into the same ones with a value for each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from goodnet.arrays import FloatArray
from goodnet.model_files.config_json import read_text
from goodnet.model_files.layer_graph import LayerDescription, LayerGraph

_LOSSES = ("BinaryCrossentropy", "BinaryFocalCrossentropy")


def says_logit(compiled: Any) -> bool:
    """Tell whether a net was compiled with a loss that takes its one value for a logit.

    Args:
        compiled: what the file says of it, unchecked; nothing else of it is looked at.
    """
    loss = compiled.get("loss") if isinstance(compiled, dict) else None
    if not isinstance(loss, dict) or read_text(loss, "class_name") not in _LOSSES:
        return False
    settings = loss.get("config")
    return isinstance(settings, dict) and settings.get("from_logits") is True


def find_single_logit(graph: LayerGraph, *, says_logit: Callable[[], bool]) -> str | None:
    """Return the Dense layer whose one value decides between two classes.

    A sigmoid closes the net, in that layer or behind it, or the value itself is said to be a
    logit. None where something else gives the answer, or nothing tells what the value means.

    Args:
        graph: a net.
        says_logit: whether its loss took the value for a logit; asked only if nothing else tells.
    """
    by_name = {layer.name: layer for layer in graph.layers}
    dense = last = by_name[graph.output]
    if last.class_name != "Dense" and len(last.inputs) == last.num_calls == 1:
        dense = by_name[last.inputs[0]]
    if dense.class_name != "Dense" or dense.config.get("units") != 1 or dense.num_calls != 1:
        return None
    activation = dense.config.get("activation") or "linear"
    if dense is last:
        closes = activation == "sigmoid" or (activation == "linear" and says_logit())
    else:
        closes = activation == "linear" and _is_sigmoid(last)
    return dense.name if closes else None


def answer_two_classes(model: dict[str, Any], logit: str, output: str) -> dict[str, Any]:
    """Return the configuration of a net that answers one logit z as one of the logits 0 and z.

    Of these softmax makes 1 - p and p where a sigmoid makes p. So class 1 is answered where p is
    more than 0.5, and class 0 at 0.5 itself, as the largest value that stands first is the answer.

    Args:
        model: the configuration, which is not changed.
        logit: the layer that `find_single_logit` found.
        output: the layer that gives the answer.
    """
    layers = []
    for layer in model["config"]["layers"]:
        name, config = layer["config"]["name"], dict(layer["config"])
        if name == logit:
            config["units"] = 2
        if name == output and layer["class_name"] == "Sigmoid":
            layer = layer | {"module": "keras.layers", "class_name": "Activation"}
            layer["registered_name"] = None
            config = {"name": name, "activation": "softmax"}
        elif name == output and config.get("activation") == "sigmoid":
            config["activation"] = "softmax"
        layers.append(layer | {"config": config})
    return model | {"config": model["config"] | {"layers": layers}}


def widen(weights: list[FloatArray]) -> list[FloatArray]:
    """Return kernel and bias of a Dense layer of the value z as those of one of the values 0, z."""
    return [np.concatenate([np.zeros_like(array), array], axis=-1) for array in weights]


def _is_sigmoid(layer: LayerDescription) -> bool:
    if layer.class_name == "Activation":
        return layer.config.get("activation") == "sigmoid"
    return layer.class_name == "Sigmoid"  # the operation
