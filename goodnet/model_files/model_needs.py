"""What a model would take, found out by following its computation without computing anything.

Keras builds the model, and its answers to two images are traced, in a TensorFlow graph: sizes only,
no weight and no activation is allocated, however large. The graph also holds what layers compute
inside, such as the middle of a separable convolution.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from goodnet.model_files.build import build_model

if TYPE_CHECKING:
    import tensorflow as tf

NUM_IMAGES = 2
"""More than one, so that an answer for each image is told from one for all."""


@dataclass(frozen=True)
class Needs:
    """What a model takes once it is built and runs.

    Attributes:
        num_made: values of all weights that Keras makes for it, those of side branches too.
        num_parameters: values of the weights that it holds.
        num_values: of the largest tensor for one image, which `widest` computes.
        num_live_values: of all tensors for one image that are alive at once, at the most.
        num_multiplications: for one image, most of them in `costliest`.
        answers: the shape of the answers to two images.
    """

    num_made: int
    num_parameters: int
    widest: str
    num_values: int
    num_live_values: int
    costliest: str
    num_multiplications: int
    answers: tuple[int | None, ...]


def measure_needs(config: dict[str, Any]) -> Needs:
    """Build a model symbolically and measure it.

    For a thread or process of its own: Keras defers the making of weights to the end of a
    `StatelessScope`, so the scope is never left.

    Raises:
        Exception: whatever Keras raises about a configuration that it cannot build.
    """
    import keras
    import tensorflow as tf
    from keras.src.backend.common import global_state

    with tf.Graph().as_default() as graph:
        scope = keras.StatelessScope()
        scope.__enter__()
        model = build_model(config)
        weights = global_state.get_global_attribute("uninitialized_variables", [])
        for weight in weights:
            value = tf.compat.v1.placeholder(weight.dtype, weight.shape)
            scope.state_mapping[id(weight)] = value
        image = model.inputs[0]
        images = tf.compat.v1.placeholder(image.dtype, (NUM_IMAGES, *image.shape[1:]))
        stand_ins = {operation.name for operation in graph.get_operations()}
        answers = keras.tree.flatten(model(images, training=False))[0]
    operations = [item for item in graph.get_operations() if item.name not in stand_ins]
    layers = {layer.name for layer in model._flatten_layers()}
    widest = max(operations, key=_num_values)
    costliest = max(operations, key=_num_multiplications)
    return Needs(
        num_made=sum(math.prod(weight.shape) for weight in weights),
        num_parameters=sum(math.prod(weight.shape) for weight in model.weights),
        widest=_layer_of(widest, layers),
        num_values=_num_values(widest) // NUM_IMAGES,
        num_live_values=_num_live_values(operations) // NUM_IMAGES,
        costliest=_layer_of(costliest, layers),
        num_multiplications=sum(map(_num_multiplications, operations)) // NUM_IMAGES,
        answers=tuple(answers.shape),
    )


def _layer_of(operation: tf.Operation, layers: set[str]) -> str:
    """Return the innermost layer that an operation belongs to, by the scopes in its name.

    TensorFlow appends a number to a scope that it has seen, such as while the layer was built.
    """
    scopes = operation.name.split("/")
    for scope in reversed(scopes):
        for name in (scope, re.sub(r"_\d+$", "", scope)):
            if name in layers:
                return name
    return str(scopes[-1])


def _size(tensor: tf.Tensor) -> int:
    return math.prod(length or 1 for length in tensor.shape) if tensor.shape.rank else 1


def _num_values(operation: tf.Operation) -> int:
    return sum(_size(tensor) for tensor in operation.outputs)


def _num_live_values(operations: Iterable[tf.Operation]) -> int:
    """Return the most values that are alive at once when the operations run one after another.

    They stand in Keras's order, by their depth. TensorFlow may run branches in another order, but
    in this one the branches of a depth are alive together, so that none is much worse.
    """
    order = list(operations)
    last_use = {tensor.name: number for number, item in enumerate(order) for tensor in item.inputs}
    ending: dict[int, int] = {}
    alive = most = 0
    for number, operation in enumerate(order):
        for tensor in operation.outputs:
            size = _size(tensor)
            alive += size
            end = last_use.get(tensor.name, number)
            ending[end] = ending.get(end, 0) + size
        most = max(most, alive)
        alive -= ending.pop(number, 0)
    return most


def _num_multiplications(operation: tf.Operation) -> int:
    """Count the multiplications of an operation; one for each value that it gives, by default.

    Raises:
        ValueError: it runs a part of the graph a number of times that nobody can tell.
    """
    inputs, num_values = operation.inputs, _num_values(operation)
    match operation.type:
        case "Conv2D" | "Conv3D":
            return num_values * math.prod(inputs[1].shape[:-1])
        case "DepthwiseConv2dNative":
            return num_values * math.prod(inputs[1].shape[:2])
        case "Conv2DBackpropInput" | "Conv3DBackpropInputV2":
            return _size(inputs[2]) * math.prod(inputs[1].shape[:-1])
        case "MatMul":
            return num_values * int(inputs[0].shape[0 if operation.get_attr("transpose_a") else 1])
        case "BatchMatMulV2" | "BatchMatMulV3" | "BatchMatMul":
            return num_values * int(inputs[0].shape[-2 if operation.get_attr("adj_x") else -1])
        case "Einsum":
            return _num_einsum_multiplications(operation)
        case "AvgPool" | "AvgPool3D" | "MaxPool" | "MaxPool3D":
            return num_values * math.prod(operation.get_attr("ksize"))
        case "PartitionedCall" | "StatefulPartitionedCall":
            function = operation.graph._get_function(operation.get_attr("f").name)
            return sum(map(_num_multiplications, function.graph.get_operations()))
        case "While" | "StatelessWhile" | "If" | "StatelessIf" | "Case" | "StatelessCase":
            raise ValueError(f"`{operation.name}` is a loop or a branch")
    return num_values


def _num_einsum_multiplications(operation: tf.Operation) -> int:
    """Return the product of the lengths of all axes that the equation of an einsum names."""
    terms = operation.get_attr("equation").decode().split("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, tensor in zip(terms, operation.inputs, strict=True):
        if "..." in term:
            return _num_values(operation) * max(_size(item) for item in operation.inputs)
        lengths.update(zip(term, (length or 1 for length in tensor.shape), strict=True))
    return math.prod(lengths.values())
