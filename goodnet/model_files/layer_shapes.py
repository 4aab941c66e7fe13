"""The shapes of a model's input and answer, followed through its description without Keras."""

from __future__ import annotations

from typing import Any

from goodnet.errors import InputError
from goodnet.model_files.keras_2 import MODELS
from goodnet.model_files.layer_graph import LayerDescription, LayerGraph, read_graph
from goodnet.networks.traits import MERGES, POOLINGS

Shape = tuple[int | None, ...] | None
"""A shape behind the batch axis; None where unknown, an axis None where its length is."""

_SHAPE_KEEPING = (
    "Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Dropout", "ELU",
    "GaussianDropout", "GaussianNoise", "GroupNormalization", "Identity", "InputLayer",
    "LayerNormalization", "LeakyReLU", "Normalization", "PReLU", "RandomBrightness",
    "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "ReLU",
    "Rescaling", "Softmax", "SpatialDropout2D", "UnitNormalization",
)  # fmt: skip
_CHANNEL_KEEPING = (
    *POOLINGS, "CenterCrop", "Cropping2D", "Resizing", "UpSampling2D", "ZeroPadding2D",
)  # fmt: skip


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


def infer_shape(model: dict[str, Any], shape: Shape, *, where: str, max_layers: int) -> Shape:
    """Follow ranks and channels through a model; spatial sizes are left to Keras."""
    graph = read_graph(model, where=where, max_layers=max_layers)
    shapes: dict[str, Shape] = {}
    for layer in graph.layers:
        feeding = [shapes.get(name) for name in layer.inputs] or [shape]
        if layer.class_name in MODELS:
            nested = {"class_name": layer.class_name, "config": layer.config}
            shapes[layer.name] = infer_shape(nested, feeding[0], where=where, max_layers=max_layers)
        else:
            shapes[layer.name] = _layer_shape(layer, feeding)
    return shapes[graph.output]


def _layer_shape(layer: LayerDescription, feeding: list[Shape]) -> Shape:
    first, config = feeding[0], layer.config
    is_op = (layer.module or "").startswith("keras.src.ops")
    if not first or is_op or layer.num_calls > 1:
        return None
    match layer.class_name:
        case "Conv2D" | "SeparableConv2D" | "Conv2DTranspose":
            return (None, None, _whole(config.get("filters")))
        case "DepthwiseConv2D":
            return (None, None, None)
        case "Dense":
            return (*first[:-1], _whole(config.get("units")))
        case "Flatten":
            return (None,)
        case "GlobalAveragePooling2D" | "GlobalMaxPooling2D" if not config.get("keepdims"):
            return (first[-1],)
        case "Reshape":
            target = config.get("target_shape")
            return tuple(_whole(size) for size in target) if isinstance(target, list) else None
        case "Concatenate" if config.get("axis") in (-1, len(first)) and None not in feeding:
            channels = [shape[-1] if shape else None for shape in feeding]
            known = [size for size in channels if size is not None]
            return (*first[:-1], sum(known) if len(known) == len(channels) else None)
        case name if name in MERGES:
            return first if all(shape == first for shape in feeding) else None
        case name if name in _SHAPE_KEEPING:
            return first
        case name if name in _CHANNEL_KEEPING:
            return (None, None, first[-1])
    return None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
