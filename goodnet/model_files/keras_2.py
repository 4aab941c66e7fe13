"""Translating what Keras 2 wrote into models, and Keras 3 no longer reads, into what it does read.

TensorFlow 2.4 to 2.15 wrote arithmetic between layers as `TFOpLambda`, which names a function of
TensorFlow. The functions below have operations of Keras 3 that compute the same; the others are
left as they are, and refused with their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from goodnet.model_files.config_json import children, iterate_objects, read_text

MODELS = frozenset({"Functional", "Model", "Sequential"})
OPERATIONS = frozenset({"SlicingOpLambda", "TFOpLambda"})
"""What Keras 2 called a function of TensorFlow in a model."""

_MODULES = {
    "keras.engine.functional": "keras.src.models.functional",
    "keras.engine.sequential": "keras.src.models.sequential",
    "keras.src.engine.functional": "keras.src.models.functional",
    "keras.src.engine.sequential": "keras.src.models.sequential",
    "tf_keras.src.engine.functional": "keras.src.models.functional",
    "tf_keras.src.engine.sequential": "keras.src.models.sequential",
}
_CONSTANT = "_CONSTANT_VALUE"
_KERNEL = ("kernel_constraint", "kernel_initializer", "kernel_regularizer")
_WITHOUT_EFFECT = {
    "Conv2DTranspose": ("groups",),
    "DepthwiseConv1D": ("groups",),
    "DepthwiseConv2D": ("groups",),
    "MultiHeadAttention": ("key_shape", "query_shape", "value_shape"),
    "SeparableConv1D": ("groups", *_KERNEL),
    "SeparableConv2D": ("groups", *_KERNEL),
}


@dataclass(frozen=True)
class _Translation:
    """A Keras operation that computes what a function of TensorFlow computes.

    `arguments` are the names of TensorFlow's arguments in their order; what stands in `settings`
    is no tensor and belongs to the configuration of the operation, under the name given there.
    """

    module: str
    class_name: str
    arguments: tuple[str, ...]
    settings: dict[str, str]


def _unary(module: str, class_name: str, first: str = "x") -> _Translation:
    return _Translation(module, class_name, (first,), {})


def _binary(class_name: str) -> _Translation:
    return _Translation("numpy", class_name, ("x", "y"), {})


def _reduction(class_name: str) -> _Translation:
    settings = {"axis": "axis", "keepdims": "keepdims"}
    return _Translation("numpy", class_name, ("input_tensor", "axis", "keepdims"), settings)


_TRANSLATIONS = {
    "__operators__.add": _binary("Add"),
    "math.add": _binary("Add"),
    "math.subtract": _binary("Subtract"),
    "math.multiply": _binary("Multiply"),
    "math.truediv": _binary("TrueDivide"),
    "math.divide": _binary("TrueDivide"),
    "math.maximum": _binary("Maximum"),
    "math.minimum": _binary("Minimum"),
    "math.pow": _binary("Power"),
    "nn.bias_add": _Translation("numpy", "Add", ("value", "bias"), {}),
    "math.abs": _unary("numpy", "Absolute"),
    "math.exp": _unary("numpy", "Exp"),
    "math.log": _unary("numpy", "Log"),
    "math.negative": _unary("numpy", "Negative"),
    "math.sqrt": _unary("numpy", "Sqrt"),
    "math.square": _unary("numpy", "Square"),
    "math.tanh": _unary("numpy", "Tanh"),
    "math.sigmoid": _unary("nn", "Sigmoid"),
    "nn.relu": _unary("nn", "Relu", "features"),
    "nn.relu6": _unary("nn", "Relu6", "features"),
    "nn.sigmoid": _unary("nn", "Sigmoid"),
    "nn.silu": _unary("nn", "Silu", "features"),
    "nn.softplus": _unary("nn", "Softplus", "features"),
    "nn.tanh": _unary("numpy", "Tanh"),
    "nn.softmax": _Translation("nn", "Softmax", ("logits", "axis"), {"axis": "axis"}),
    "math.reduce_max": _reduction("Max"),
    "math.reduce_mean": _reduction("Mean"),
    "math.reduce_min": _reduction("Min"),
    "math.reduce_sum": _reduction("Sum"),
    "cast": _Translation("core", "Cast", ("x", "dtype"), {"dtype": "dtype"}),
    "clip_by_value": _Translation(
        "numpy",
        "Clip",
        ("t", "clip_value_min", "clip_value_max"),
        {"clip_value_min": "x_min", "clip_value_max": "x_max"},
    ),
    "concat": _Translation("numpy", "Concatenate", ("values", "axis"), {"axis": "axis"}),
    "expand_dims": _Translation("numpy", "ExpandDims", ("input", "axis"), {"axis": "axis"}),
    "reshape": _Translation("numpy", "Reshape", ("tensor", "shape"), {"shape": "newshape"}),
    "compat.v1.squeeze": _Translation("numpy", "Squeeze", ("input", "axis"), {"axis": "axis"}),
    "compat.v1.transpose": _Translation("numpy", "Transpose", ("a", "perm"), {"perm": "axes"}),
    "squeeze": _Translation("numpy", "Squeeze", ("input", "axis"), {"axis": "axis"}),
    "stop_gradient": _Translation("core", "StopGradient", ("input",), {}),
    "transpose": _Translation("numpy", "Transpose", ("a", "perm"), {"perm": "axes"}),
    "__operators__.getitem": _Translation("numpy", "GetItem", ("tensor", "slice_spec"), {}),
}


def translate_keras_2(config: Any) -> None:
    """Change a model's configuration, and those of the models in it, where Keras 2 wrote it."""
    for item in list(iterate_objects(config)):
        if read_text(item, "module") in _MODULES:
            item["module"] = _MODULES[item["module"]]
        for key, value in item.items():
            if isinstance(value, dict) and value.get("class_name") == "Policy":
                settings = value.get("config")
                item[key] = settings.get("name") if isinstance(settings, dict) else None
        settings = item.get("config")
        if read_text(item, "class_name") in MODELS and isinstance(settings, dict):
            _translate_layers(settings)


def _translate_layers(model: dict[str, Any]) -> None:
    layers = model.get("layers")
    named = {
        layer["config"]["name"]: layer
        for layer in (layers if isinstance(layers, list) else [])
        if isinstance(layer, dict)
        and isinstance(layer.get("config"), dict)
        and isinstance(layer["config"].get("name"), str)
    }
    lists = [layer.get("inbound_nodes") for layer in named.values()]
    of_keras_2 = any(isinstance(node, list) for nodes in lists for node in children(nodes))
    for layer in named.values():
        _drop_settings(layer)
        if read_text(layer, "class_name") in OPERATIONS:
            _translate_operation(layer)
        elif isinstance(layer.get("inbound_nodes"), list):
            layer["inbound_nodes"] = [_translate_call(node) for node in layer["inbound_nodes"]]
    if "InputLayer" in [read_text(layer, "class_name") for layer in named.values()]:
        for layer in named.values():
            if read_text(layer, "class_name") != "InputLayer":
                layer["config"].pop("batch_input_shape", None)
    if of_keras_2:
        _renumber_calls(model, named)
    _rename_layers(model, named)
    outputs = model.get("output_layers")
    if isinstance(outputs, list) and len(outputs) == 1:
        # Keras 3 gives the layer behind the model a list of one tensor otherwise.
        model["output_layers"] = outputs[0]


def _drop_settings(layer: dict[str, Any]) -> None:
    """Take out what Keras 2 wrote though the layer has no choice of it, which Keras 3 refuses."""
    class_name, config = read_text(layer, "class_name"), layer["config"]
    config.pop("rng_type", None)
    for key in _WITHOUT_EFFECT.get(class_name, ()):
        if key != "groups" or config.get(key) == 1:
            config.pop(key, None)
    axis = config.get("axis")
    if class_name == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
        config["axis"] = axis[0]


def _translate_operation(layer: dict[str, Any]) -> None:
    """Make an operation of Keras 3 out of one of TensorFlow; leave it if there is none."""
    translation = _TRANSLATIONS.get(str(layer["config"].get("function")))
    nodes = layer.get("inbound_nodes")
    if translation is None or not isinstance(nodes, list) or len(nodes) != 1:
        return
    arguments = _read_arguments(nodes[0], translation)
    if arguments is None:
        return
    config: dict[str, Any] = {"name": layer["config"]["name"]}
    for name, key in translation.settings.items():
        if name in arguments:
            config[key] = arguments.pop(name)
    if translation.class_name == "GetItem":
        arguments["slice_spec"] = _translate_slices(arguments.get("slice_spec"))
    layer |= {
        "module": f"keras.src.ops.{translation.module}",
        "class_name": translation.class_name,
        "registered_name": translation.class_name,
        "config": config,
        "inbound_nodes": [{"args": [_tensor(value) for value in arguments.values()], "kwargs": {}}],
    }


def _translate_call(node: Any) -> Any:
    """Write a call of a layer as Keras 3 does if it passes tensors by name, as attention does."""
    parts: list[Any] = node if isinstance(node, list) and node else [None]
    if not all(isinstance(part, list) and len(part) == 4 for part in parts):
        return node
    named = parts[0][3]
    if not isinstance(named, dict) or not any(map(_is_reference, named.values())):
        return node
    tensors = [_tensor(part[:3]) for part in parts]
    keywords = {name: _tensor(value) for name, value in named.items()}
    return {"args": [tensors[0] if len(tensors) == 1 else tensors], "kwargs": keywords}


def _read_arguments(node: Any, translation: _Translation) -> dict[str, Any] | None:
    """Return what a call passes by TensorFlow's names, in their order; None if it is unknown.

    The call is a list of the parts of its first argument, `[layer, call, tensor, others]`, or
    that one part alone; the others, which stand in each part, are the same for all of them.
    """
    parts = node if isinstance(node, list) and node and isinstance(node[0], list) else [node]
    if not all(isinstance(part, list) and len(part) == 4 for part in parts):
        return None
    others = parts[0][3]
    if not isinstance(others, dict):
        return None
    firsts = [part[2] if part[0] == _CONSTANT else part[:3] for part in parts]
    is_list = translation.arguments[0] == "values"
    given = {translation.arguments[0]: firsts if is_list else firsts[0], **others}
    ordinary = {"name": None, "data_format": "NHWC"}
    for name, value in ordinary.items():
        if given.get(name, value) in (value, None):
            given.pop(name, None)
    if not given.keys() <= set(translation.arguments) or (len(firsts) > 1 and not is_list):
        return None
    return {name: given[name] for name in translation.arguments if name in given}


def _tensor(value: Any) -> Any:
    """Write a reference to a tensor, or a constant, as Keras 3 does."""
    if _is_reference(value):
        # Keras replaces shape and type by those of the tensor that the history names.
        config = {"shape": [], "dtype": "float32", "keras_history": value}
        return {"class_name": "__keras_tensor__", "config": config}
    if isinstance(value, list) and value and all(_is_reference(item) for item in value):
        return [_tensor(item) for item in value]
    if isinstance(value, list) and value and all(isinstance(item, float) for item in value):
        return {"class_name": "__numpy__", "config": {"value": value, "dtype": "float32"}}
    return value


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[0], str)
        and all(type(number) is int for number in value[1:])
    )


def _translate_slices(items: Any) -> Any:
    if not isinstance(items, list):
        return items
    return [
        {"class_name": "__ellipsis__", "config": {}}
        if isinstance(item, dict) and item.get("class_name") == "__ellipsis__"
        else {"class_name": "__slice__", "config": item}
        if isinstance(item, dict) and item.keys() == {"start", "stop", "step"}
        else item
        for item in items
    ]


def _references(value: Any) -> Iterator[list[Any]]:
    """Yield the lists `[layer, call, tensor, …]` by which a functional model refers to tensors."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str):
            yield value
        pending.extend(children(value))


def _renumber_calls(model: dict[str, Any], named: dict[str, dict[str, Any]]) -> None:
    """Count the calls of models in the model from 0, as Keras 3 does.

    Keras 2 counts the making of a model that knows its input as its first call; so does Keras 3
    where a functional model is an output, and there only.
    """
    nested = {name for name, layer in named.items() if read_text(layer, "class_name") in MODELS}
    sequential = {name for name in nested if named[name]["class_name"] == "Sequential"}
    inside = [layer.get("inbound_nodes") for layer in named.values()] if nested else []
    references = [
        *(reference for reference in _references(inside) if reference[0] in nested),
        *(item for item in _references(model.get("output_layers")) if item[0] in sequential),
    ]
    first: dict[str, int] = {}
    for name, number, *_ in references:
        if isinstance(number, int):
            first[name] = min(first.get(name, number), number)
    for reference in references:
        if isinstance(reference[1], int) and first[reference[0]] == 1:
            reference[1] -= 1


def _rename_layers(model: dict[str, Any], named: dict[str, dict[str, Any]]) -> None:
    """Put `_` in the place of `/`, which Keras 3 has for a separator, in the names of layers."""
    taken, new_names = set(named), {}
    for name, layer in named.items():
        if "/" not in name:
            continue
        new_name = name.replace("/", "_")
        while new_name in taken:
            new_name += "_"
        taken.add(new_name)
        new_names[name] = new_name
        layer["config"]["name"] = new_name
        if "name" in layer:
            layer["name"] = new_name
    places = [layer.get("inbound_nodes") for layer in named.values()]
    ends = [model.get("input_layers"), model.get("output_layers")]
    for reference in _references([*places, *ends]) if new_names else ():
        reference[0] = new_names.get(reference[0], reference[0])
