"""The head: from the pre-activations at the frontier to the scores of the classes.

A head of dense layers, as DeepID has, runs in NumPy, any other in TensorFlow; they give the same
but for rounding. TensorFlow copies all that it is given and spreads every product over the cores;
in NumPy each core works on a block of its own, where the arrays are. On 2 cores with AVX-512 the
whole sweep took 0.18 s instead of 0.33; with OpenBLAS held to AVX2 kernels, 0.28 s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.arrays import FloatArray
from goodnet.networks.graph import calls, closes_with_softmax, compiled, replay, scores
from goodnet.pruning.head_inputs import HeadInput

if TYPE_CHECKING:
    import keras

Operation = Callable[..., FloatArray]


def build_head(
    model: keras.Model, head_inputs: Sequence[HeadInput], skips: Sequence[Any]
) -> Operation:
    """Build the function of `(*states, *skips)` that gives the scores of the classes.

    Args:
        model: the functional model B.
        head_inputs: those of its frontier. A state is the linear layer's pre-activation, or the
            activation itself where there is no such layer, flattened: (n, features).
        skips: the symbolic tensors that are read besides.

    Returns:
        A function to what B answers without a closing softmax, (n, N). It leaves its arguments as
        they are.
    """
    if skips:
        return _tensorflow_head(model, head_inputs, skips)
    try:
        return _numpy_head(model, head_inputs)
    except _NotInNumpyError:
        return _tensorflow_head(model, head_inputs, skips)


def _tensorflow_head(
    model: keras.Model, head_inputs: Sequence[HeadInput], skips: Sequence[Any]
) -> Operation:
    import tensorflow as tf

    def run(*tensors: Any) -> Any:
        states, beside = tensors[: len(head_inputs)], tensors[len(head_inputs) :]
        values = dict(zip(map(id, skips), beside, strict=True))
        for head_input, state in zip(head_inputs, states, strict=True):
            value = tf.reshape(state, (-1, *head_input.tensor.shape[1:]))
            closes = head_input.tensor is model.outputs[0] and closes_with_softmax(model)
            if head_input.layer is not None and not closes:
                value = head_input.layer.activation(value)
            values[id(head_input.tensor)] = value
        return scores(model, replay(model, values))

    features = [(None, int(np.prod(head_input.tensor.shape[1:]))) for head_input in head_inputs]
    function = compiled(run, [*features, *(skip.shape for skip in skips)])
    return lambda *tensors: np.asarray(function(*tensors))


def _numpy_head(model: keras.Model, head_inputs: Sequence[HeadInput]) -> Operation:
    keys = [id(head_input.tensor) for head_input in head_inputs]
    starts = [_start(model, head_input) for head_input in head_inputs]
    steps = []
    known = set(keys)
    for node in calls(model):
        reads, made = [id(x) for x in node.input_tensors], id(node.outputs[0])
        if made not in known and known.issuperset(reads):
            steps.append((_in_numpy(model, node), reads, made))
            known.add(made)

    def head(*states: FloatArray) -> FloatArray:
        begun = (start(state) for start, state in zip(starts, states, strict=True))
        values = dict(zip(keys, begun, strict=True))
        for run, reads, made in steps:
            values[made] = run(*(values[key] for key in reads))
        return values[id(model.outputs[0])]

    return head


def _start(model: keras.Model, head_input: HeadInput) -> Operation:
    """Return what makes a state the activation that it stands for."""
    shape = head_input.tensor.shape[1:]
    linear = head_input.layer is not None
    activate = _activation(model, head_input.layer, head_input.tensor) if linear else _same
    return lambda state: activate(state).reshape(len(state), *shape)


def _in_numpy(model: keras.Model, node: Any) -> Operation:
    """Return what a layer does when the net answers."""
    layer, name = node.operation, type(node.operation).__name__
    if name == "Dense":
        return _dense(layer, _activation(model, layer, node.outputs[0]))
    if name in ("Activation", "Softmax"):
        return _activation(model, layer, node.outputs[0])
    if name == "ReLU":
        config = layer.get_config()
        name = "plain ReLU" if _PLAIN_RELU.items() <= config.items() else name
    if name not in _SIMPLE:
        raise _NotInNumpyError
    return _SIMPLE[name]


def _dense(layer: Any, activate: Operation) -> Operation:
    kernel, *bias = layer.get_weights()

    def run(x: FloatArray) -> FloatArray:
        made = x @ kernel
        for vector in bias:
            made += vector  # in place: one pass over all the scores less
        return activate(made)

    return run


def _activation(model: keras.Model, layer: Any, output: Any) -> Operation:
    """Return a layer's activation, nothing where it is the softmax that closes the model."""
    import keras

    if output is model.outputs[0] and closes_with_softmax(model):
        return _same
    known = {keras.activations.linear: _same, keras.activations.relu: _relu}
    activation = getattr(layer, "activation", None)
    if activation not in known:
        raise _NotInNumpyError
    return known[activation]


def _same(x: FloatArray) -> FloatArray:
    return x


def _relu(x: FloatArray) -> FloatArray:
    # With both bounds given it takes a third of the time of np.maximum.
    return x.clip(np.float32(0), np.float32(np.inf))


# Other ReLUs leak, are capped or begin later; they run in TensorFlow.
_PLAIN_RELU = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}
# What stands between the dense layers of such a head; with anything else TensorFlow runs all of it.
_SIMPLE: dict[str, Operation] = {
    "plain ReLU": _relu,
    "Add": lambda *terms: reduce(np.add, terms),
    "Flatten": lambda x: x.reshape(len(x), -1),
    "Dropout": _same,
    "Identity": _same,
}


class _NotInNumpyError(Exception):
    """The head has a part that is known to TensorFlow alone."""
