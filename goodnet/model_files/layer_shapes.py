"""The shapes of a model's input and answer, followed through its description without Keras."""

from __future__ import annotations

from typing import Any

from goodnet.errors import InputError
from goodnet.model_files.config_json import read_text
from goodnet.model_files.layer_graph import Call, CallGraph, LayerGraph, iterate_references
from goodnet.networks.traits import MERGES, POOLINGS

Shape = tuple[int | None, ...] | None
"""A shape behind the batch axis; None where unknown, an axis None where its length is."""

_SHAPE_KEEPING = (
    "Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Cast", "Dropout",
    "ELU", "GaussianDropout", "GaussianNoise", "GroupNormalization", "Identity", "InputLayer",
    "LayerNormalization", "LeakyReLU", "Normalization", "PReLU", "RandomBrightness",
    "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "ReLU",
    "Rescaling", "Softmax", "SpatialDropout2D", "UnitNormalization",
)  # fmt: skip
_CHANNEL_KEEPING = (
    *POOLINGS, "CenterCrop", "Cropping2D", "Resizing", "UpSampling2D", "ZeroPadding2D",
)  # fmt: skip


def read_input_shape(graph: LayerGraph, *, where: str) -> tuple[int, int, int]:
    """Return the (H, W, C) of a model's input.

    Raises:
        InputError: the input is no image of a fixed size; `where` starts the message.
    """
    config = next(layer.config for layer in graph.layers if layer.name == graph.input)
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[0] is not None:
        raise InputError(f"{where}: takes input of shape {shape}, expected (None, H, W, C)")
    height, width, channels = shape[1:]
    if not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise InputError(f"{where}: takes input of shape {shape}, expected sizes for H, W and C")
    return height, width, channels


def infer_shape(graph: CallGraph, shape: Shape) -> Shape:
    """Follow ranks and channels through the calls of a model without models in it to its output.

    Spatial sizes are left to Keras.
    """
    shapes: dict[Call, Shape] = {}
    for call, node in graph.calls.items():
        feeding = [shapes[name, index] for name, index, _ in iterate_references(node)]
        shapes[call] = _result_shape(graph.items[call[0]], feeding or [shape])
    ((name, index, _),) = graph.outputs
    return shapes[name, index]


def _result_shape(layer: dict[str, Any], feeding: list[Shape]) -> Shape:
    first, class_name, config = feeding[0], layer["class_name"], layer["config"]
    is_op = read_text(layer, "module").startswith("keras.src.ops") and class_name != "Cast"
    if is_op or first == ():
        return None
    match class_name:
        case "Conv2D" if first is not None and first[:-1] == (1, 1):  # as MobileNetV3 ends
            return (1, 1, _whole(config.get("filters")))
        case "Conv2D" | "SeparableConv2D" | "Conv2DTranspose":
            return (None, None, _whole(config.get("filters")))
        case "DepthwiseConv2D":
            return (None, None, None)
        case "Flatten" if first is not None and first[:-1] == (1, 1):
            return first[-1:]
        case "Flatten":
            return (None,)
        case "GlobalAveragePooling2D" | "GlobalMaxPooling2D":
            channels = first[-1] if first else None
            return (1, 1, channels) if config.get("keepdims") else (channels,)
        case "Reshape":
            target = config.get("target_shape")
            return tuple(_whole(size) for size in target) if isinstance(target, list) else None
        case _ if first is None:
            return None
        case "Dense":
            return (*first[:-1], _whole(config.get("units")))
        case "Concatenate" if config.get("axis") in (-1, len(first)) and None not in feeding:
            known = [shape[-1] for shape in feeding if shape and shape[-1] is not None]
            return (*first[:-1], sum(known) if len(known) == len(feeding) else None)
        case name if name in MERGES:
            return _broadcast(feeding)
        case name if name in _SHAPE_KEEPING:
            return first
        case name if name in _CHANNEL_KEEPING:
            return (None, None, first[-1])
    return None


def _broadcast(shapes: list[Shape]) -> Shape:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len(set(map(len, known))) > 1:
        return None
    axes = [set(sizes) - {1} or {1} for sizes in zip(*known, strict=True)]
    return tuple(sizes.pop() if len(sizes) == 1 else None for sizes in axes)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
