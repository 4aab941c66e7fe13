"""The shapes of a model's input and answer, followed through its description without Keras."""

from __future__ import annotations

from typing import Any

from goodnet.errors import InputError
from goodnet.model_files.config_json import read_text
from goodnet.model_files.layer_graph import Call, CallGraph, iterate_references
from goodnet.networks.traits import ELEMENTWISE_OPS, Gives, traits_of

Shape = tuple[int | None, ...] | None
"""A shape behind the batch axis; None where unknown, an axis None where its length is."""

_TELLING: tuple[Gives, ...] = ("filters", "pooled", "flat", "target")
"""What tells the rank of what comes out, whatever went in."""


def read_input_shape(graph: CallGraph, *, where: str) -> tuple[int, int, int]:
    """Return the (H, W, C) of a model's input.

    Raises:
        InputError: the input is no image of a fixed size; `where` starts the message.
    """
    config = graph.items[graph.inputs[0][0]]["config"]
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[0] is not None:
        raise InputError(f"{where}: takes input of shape {shape}, expected (None, H, W, C)")
    height, width, channels = shape[1:]
    if not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise InputError(f"{where}: takes input of shape {shape}, expected sizes for H, W and C")
    return height, width, channels


def infer_shapes(graph: CallGraph, shape: Shape) -> dict[Call, Shape]:
    """Follow ranks and channels through the calls of a model without models in it.

    Spatial sizes are left to Keras.

    Args:
        graph: of the model.
        shape: of its input.

    Returns:
        What each call gives.
    """
    shapes: dict[Call, Shape] = {}
    for call, node in graph.calls.items():
        feeding = [shapes[name, index] for name, index, _ in iterate_references(node)]
        shapes[call] = _result_shape(graph.items[call[0]], feeding or [shape])
    return shapes


def _result_shape(layer: dict[str, Any], feeding: list[Shape]) -> Shape:
    class_name, config = layer["class_name"], layer["config"]
    first = feeding[0]
    if class_name == "Cast":
        return first
    if read_text(layer, "module").startswith("keras.src.ops"):
        together = _broadcast(feeding) if class_name in ELEMENTWISE_OPS else None
        # A constant among its arguments may stretch a length of 1.
        return together and tuple(None if size == 1 else size for size in together)
    gives = traits_of(class_name).gives
    if first == () or (first is None and gives not in _TELLING):
        return None
    first = first or (None,)
    match gives:
        case "its input's shape":
            return first
        case "other sizes" if class_name == "DepthwiseConv2D":
            return (None, None, _times(first[-1], config.get("depth_multiplier", 1)))
        case "other sizes":
            return (None, None, first[-1])
        case "filters" if class_name == "Conv2D" and first[:-1] == (1, 1):  # as MobileNetV3 ends
            return (1, 1, _whole(config.get("filters")))
        case "filters":
            return (None, None, _whole(config.get("filters")))
        case "units":
            return (*first[:-1], _whole(config.get("units")))
        case "pooled":
            return (1, 1, first[-1]) if config.get("keepdims") else (first[-1],)
        case "flat" if first[:-1] == (1, 1):
            return first[-1:]
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
