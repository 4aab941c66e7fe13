"""The graph of a Keras model: its calls in order, and running a part of it on given tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from goodnet.errors import InputError

if TYPE_CHECKING:
    import keras

Tensors = dict[int, Any]
"""Values by the `id` of the symbolic tensor that they stand for."""

Namer = Callable[[str], str]
"""Makes of a wanted name one that is free."""

_HALVES = ("float16", "bfloat16")


def as_functional(model: keras.Model) -> keras.Model:
    """Return `model` as a functional model over the same layers.

    Sequential becomes one, and one tensor is taken where Keras 2 wrote down a list of one.
    """
    import keras

    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def in_float32(model: keras.Model) -> keras.Model:
    """Return `model` as a net that computes in float32, itself if it does so already.

    Mixed precision is there for the speed of accelerators. Its sums, rounded to three digits layer
    by layer, depend on the order of the terms, so that no two ways to one answer would agree.
    """
    layers = [layer for layer in model._flatten_layers() if layer is not model]
    if all(layer.compute_dtype not in _HALVES for layer in layers):
        return model
    for layer in layers:
        layer.dtype_policy = "float32"
    # The graph's tensors keep the type that they were made with; a copy makes them anew.
    return copy_model(model)


def copy_model(model: keras.Model) -> keras.Model:
    """Return a net like `model` with weights of its own, which answers as it does."""
    import keras

    copied = keras.models.clone_model(model)
    set_weights(copied, model.get_weights())
    return copied


def set_weights(layer: keras.Layer, weights: list[Any]) -> None:
    """Give a layer or model weights, as `get_weights` of one like it returns them."""
    layer.set_weights(weights)
    take_over_weights(layer)


def take_over_weights(layer: keras.Layer) -> None:
    """Let normalizations in a layer or model compute with the numbers that their weights now have.

    Keras does so when it loads an archive, but not in models of a model that it loads from HDF5.
    """
    import keras

    for part in layer._flatten_layers():
        if isinstance(part, keras.layers.Normalization):
            part.finalize_state()


def calls(model: keras.Model) -> list[Any]:
    """Return the calls (nodes) of a functional model in an order in which they can run."""
    # By the depth that Keras itself runs them by: a node stands above all that it feeds. There is
    # no public way to a model's calls; its layers alone do not tell which call feeds which.
    by_depth = model._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def free_names(model: keras.Model) -> Namer:
    """Return what makes a name of one that `model`, which may itself be a GoodNet, does not use."""
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


def output_of(model: keras.Model, layer_name: str) -> Any:
    """Return the symbolic output of the layer, which has to be called exactly once."""
    nodes = [node for node in calls(model) if node.operation.name == layer_name]
    if len(nodes) != 1:
        raise InputError(
            f"layer {layer_name} is called {len(nodes)} times in {model.name}, expected once"
        )
    return nodes[0].outputs[0]


def dependents(model: keras.Model, tensor: Any, *, except_through: Any = None) -> set[int]:
    """Return the ids of `tensor` and of all tensors computed from it, around `except_through`."""
    reached = {id(tensor)}
    for node in calls(model):
        if any(id(x) in reached for x in node.input_tensors):
            reached.update(id(x) for x in node.outputs if x is not except_through)
    return reached


def computable(model: keras.Model, tensor: Any) -> set[int]:
    """Return the ids of `tensor` and of all tensors that follow from it and nothing else."""
    reached = {id(tensor)}
    for node in calls(model):
        if all(id(x) in reached for x in node.input_tensors):
            reached.update(id(x) for x in node.outputs)
    return reached


def answer_with(model: keras.Model, tensor: Any, value: Any) -> Any:
    """Return the symbolic answer of a functional model with `value` in the place of `tensor`.

    All that does not follow from `tensor` is shared with the model.
    """
    behind = dependents(model, tensor)
    shared = {id(x): x for call in calls(model) for x in call.input_tensors if id(x) not in behind}
    return replay(model, {**shared, id(tensor): value})[id(model.outputs[0])]


def replay(model: keras.Model, values: Tensors) -> Tensors:
    """Run every call of `model` that `values` suffice for, except those whose result is given.

    Every layer runs in inference mode, as in `model.predict`. Inside a `tf.function` the results
    that nobody uses cost nothing.

    Args:
        model: a functional model.
        values: concrete or symbolic tensors that stand for symbolic tensors of the model.

    Returns:
        `values` and all that could be computed from them.
    """
    values = dict(values)
    for node in calls(model):
        given = all(id(x) in values for x in node.outputs)
        if given or not all(id(x) in values for x in node.input_tensors):
            continue
        args, kwargs = node.arguments.fill_in(values)
        # Unless told so, augmentation layers take a call for training; a functional model tells
        # each of its layers, so whoever calls them one by one has to.
        if "training" in getattr(node.operation, "_call_context_args", ()):
            kwargs["training"] = False
        results = node.operation(*args, **kwargs)
        results = results if isinstance(results, (list, tuple)) else [results]
        values.update({id(x): y for x, y in zip(node.outputs, results, strict=True)})
    return values


def closes_with_softmax(model: keras.Model) -> bool:
    """Return whether the answers of a functional model are softmax's."""
    import keras

    operation = last_call(model).operation
    softmax = getattr(operation, "activation", None) is keras.activations.softmax
    return softmax or isinstance(operation, keras.layers.Softmax)


def scores(model: keras.Model, values: Tensors) -> Any:
    """Return what a functional model answers, without a closing softmax: (n, N).

    Softmax keeps the order of the classes and could only add ties.

    Args:
        model: a functional model.
        values: what `replay` made of its inputs.
    """
    import keras

    last = last_call(model)
    # Its input is missing where a sweep starts at the answer itself: that is taken as it is.
    before = id(last.input_tensors[0])
    if closes_with_softmax(model) and before in values:
        if isinstance(last.operation, keras.layers.Dense):
            return pre_activation(last.operation, values[before])
        if isinstance(last.operation, (keras.layers.Softmax, keras.layers.Activation)):
            return values[before]
    return values[id(model.outputs[0])]


def last_call(model: keras.Model) -> Any:
    """Return the call that gives the answer of a functional model."""
    return next(node for node in calls(model) if node.outputs[0] is model.outputs[0])


def pre_activation(layer: Any, tensor: Any) -> Any:
    """Return what a Dense or Conv2D layer computes before its activation."""
    import keras

    # A call of the layer would go on to its activation.
    if isinstance(layer, keras.layers.Dense):
        result = keras.ops.matmul(tensor, layer.kernel)
    else:
        result = keras.ops.conv(
            tensor,
            layer.kernel,
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
    return result + layer.bias if layer.use_bias else result


def compiled(run: Callable[..., Any], shapes: Iterable[Sequence[Any]]) -> Callable[..., Any]:
    """Compile a function of float32 tensors of these shapes once for any number of images."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *shape[1:]), tf.float32) for shape in shapes]
    # Autograph would translate our Python first, which neither branches nor loops on tensors.
    return tf.function(run, input_signature=signature, autograph=False)
