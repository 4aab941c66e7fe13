"""The shapes of a model's input and answer, followed through its description without Keras."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from goodnet.errors import InputError
from goodnet.model_files.keras_2 import MODELS
from goodnet.model_files.layer_graph import LayerDescription, LayerGraph, read_graph
from goodnet.networks.traits import ELEMENTWISE_OPS, traits_of

Shape = tuple[int | None, ...] | None
"""A shape behind the batch axis; None where unknown, an axis None where its length is."""


def read_input_shape(
    model: dict[str, Any], graph: LayerGraph, *, where: str
) -> tuple[int, int, int]:
    """Return the (H, W, C) of a model's input.

    Raises:
        InputError: the input is no image of a fixed size; `where` starts the message.
    """
    config = next(layer.config for layer in graph.layers if layer.name == graph.input)
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    if shape is None and model["class_name"] == "Sequential":
        shape = model["config"].get("build_input_shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[0] is not None:
        raise InputError(f"{where}: takes input of shape {shape}, expected (None, H, W, C)")
    height, width, channels = shape[1:]
    if not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise InputError(f"{where}: takes input of shape {shape}, expected sizes for H, W and C")
    return height, width, channels


def infer_shapes(
    layers: Iterable[LayerDescription], shape: Shape, *, where: str, max_layers: int
) -> dict[str, Shape]:
    """Follow ranks and channels through layers in graph order; spatial sizes are left to Keras.

    Args:
        layers: of one graph.
        shape: of its input.
        where: starts the message of an error.
        max_layers: most layers of a model among them.

    Returns:
        What each layer gives.
    """
    shapes: dict[str, Shape] = {}
    for layer in layers:
        feeding = [shapes.get(name) for name in layer.inputs] or [shape]
        if layer.class_name in MODELS:
            nested = {"class_name": layer.class_name, "config": layer.config}
            graph = read_graph(nested, where=where, max_layers=max_layers)
            inner = infer_shapes(graph.layers, feeding[0], where=where, max_layers=max_layers)
            shapes[layer.name] = inner[graph.output]
        else:
            shapes[layer.name] = _layer_shape(layer, feeding)
    return shapes


def _layer_shape(layer: LayerDescription, feeding: list[Shape]) -> Shape:
    first, config = feeding[0], layer.config
    if not first or layer.num_calls > 1:
        return None
    if (layer.module or "").startswith("keras.src.ops"):
        together = _broadcast(feeding) if layer.class_name in ELEMENTWISE_OPS else None
        # A constant among its arguments may stretch a length of 1.
        return together and tuple(None if size == 1 else size for size in together)
    match traits_of(layer.class_name).gives:
        case "its input's shape":
            return first
        case "other sizes" if layer.class_name == "DepthwiseConv2D":
            return (None, None, _times(first[-1], config.get("depth_multiplier", 1)))
        case "other sizes":
            return (None, None, first[-1])
        case "filters":
            return (None, None, _whole(config.get("filters")))
        case "units":
            return (*first[:-1], _whole(config.get("units")))
        case "pooled":
            return (None, None, first[-1]) if config.get("keepdims") else (first[-1],)
        case "flat":
            return (None,)
        case "target":
            target = config.get("target_shape")
            return tuple(_whole(size) for size in target) if isinstance(target, list) else None
        case "joined" if config.get("axis") in (-1, len(first)) and None not in feeding:
            channels = [shape[-1] if shape else None for shape in feeding]
            known = [size for size in channels if size is not None]
            return (*first[:-1], sum(known) if len(known) == len(channels) else None)
        case "merged":
            return _broadcast(feeding)
    return None


def _broadcast(feeding: list[Shape]) -> Shape:
    """Return what inputs of one rank have together: lengths of 1 are repeated."""
    if len({len(shape) if shape else 0 for shape in feeding}) > 1 or None in feeding:
        return None
    lengths = [{size for size in sizes if size != 1} for sizes in zip(*feeding, strict=True)]
    return tuple(sizes.pop() if len(sizes) == 1 else None if sizes else 1 for sizes in lengths)


def _times(channels: int | None, multiplier: Any) -> int | None:
    return channels * multiplier if channels and _whole(multiplier) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
