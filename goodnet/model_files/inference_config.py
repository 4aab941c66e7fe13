"""What of a model's configuration inference needs, in the form in which Keras 3 builds it."""

from __future__ import annotations

from typing import Any, TypeGuard

from goodnet.errors import InputError
from goodnet.model_files.config_json import iterate_objects, read_text
from goodnet.model_files.keras_2 import MODELS, translate_keras_2
from goodnet.networks.traits import Traits, traits_of

_UNUSED = ("build_config", "compile_config")
"""How the net was compiled is for training. What `build_config` would build is built by the calls
of the net, and what none of them calls is not of use."""

_SLOW_INITIALIZERS = ("Orthogonal", "OrthogonalInitializer", "orthogonal")


def for_inference(config: Any) -> None:
    """Take out of a configuration, models in the model included, what inference does not need.

    It goes before anything looks at it, so that it is neither checked nor built.
    """
    for item in iterate_objects(config):
        for key in _UNUSED:
            item.pop(key, None)
        for key, value in item.items():
            name = read_text(value, "class_name") if isinstance(value, dict) else value
            if key.endswith("initializer") and name in _SLOW_INITIALIZERS:
                # It would decompose a matrix of the weight's size, for minutes if that is large,
                # and the stored weight takes the place of the result.
                item[key] = "zeros"
    translate_keras_2(config)
    fix_channel_axis(config)
    _add_input_layers(config)
    _add_channel_axis(config)


def fix_channel_axis(config: Any) -> None:
    """Let a Rescaling of each channel mean the last axis, whatever a user's keras.json says.

    The layer writes no data_format and asks for it when it runs, but only if its scale has fewer
    axes than an image.
    """
    for item in iterate_objects(config):
        settings = item.get("config")
        if read_text(item, "class_name") != "Rescaling" or not isinstance(settings, dict):
            continue
        holder: Any = settings
        key = "scale"
        scale = settings.get("scale")
        if isinstance(scale, dict):  # an array
            holder, key = scale.get("config", {}), "value"
        values = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(values, list) and values and not isinstance(values[0], list):
            holder[key] = [[values]]


def _add_input_layers(config: Any) -> None:
    """Give the outermost model an input layer where its input shape stands elsewhere.

    Keras 2.3 wrote the shape of a Sequential model into its first layer, where Keras 3.15 takes it
    for one without the batch axis; later Keras 2 wrote it into the model if that was built by its
    first images. A model in the model needs none: it takes the shape that it is called with.
    """
    for item in iterate_objects(config):
        settings = item.get("config")
        if read_text(item, "class_name") != "Sequential" or not isinstance(settings, dict):
            continue
        layers, shape = settings.get("layers"), settings.pop("build_input_shape", None)
        if not _is_described(layers) or layers[0].get("class_name") == "InputLayer":
            continue
        first = layers[0]
        shape = first["config"].pop("batch_input_shape", shape) or _inner_shape(first)
        if shape is not None and item is config:
            input_config = {"batch_input_shape": shape, "name": f"{first['config']['name']}_input"}
            layers.insert(0, {"class_name": "InputLayer", "config": input_config})


def _is_described(layers: Any) -> TypeGuard[list[Any]]:
    """Tell whether the first of the layers has a name; damage is found where they are read."""
    first = layers[0] if isinstance(layers, list) and layers else None
    settings = first.get("config") if isinstance(first, dict) else None
    return isinstance(settings, dict) and isinstance(settings.get("name"), str)


def _inner_shape(layer: dict[str, Any]) -> Any:
    """Return the input shape of a layer that is a model, None of any other."""
    while read_text(layer, "class_name") in MODELS and _is_described(layer["config"].get("layers")):
        layer = layer["config"]["layers"][0]
    return layer["config"].get("batch_shape") or layer["config"].get("batch_input_shape")


def _add_channel_axis(model: Any) -> None:
    """Let a net of images without channels, (H, W), take them with one, (H, W, 1).

    What was its input becomes a layer that takes the axis off. Keras adds the axis to images
    that come without it, so that whoever runs the net need not know.
    """
    settings = model.get("config") if isinstance(model, dict) else None
    layers = settings.get("layers") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or not isinstance(layers, list) or not layers:
        return
    if not isinstance(layers[0], dict):
        return
    inputs, config = layers[0], layers[0].get("config")
    if read_text(inputs, "class_name") != "InputLayer" or not isinstance(config, dict):
        return
    key = "batch_shape" if "batch_shape" in config else "batch_input_shape"
    shape, name = config.get(key), config.get("name")
    if not isinstance(shape, list) or len(shape) != 3 or not isinstance(name, str):
        return
    new_name = f"{name}_with_channel"
    config[key] = [*shape, 1]
    config["name"] = new_name
    if "name" in inputs:
        inputs["name"] = new_name
    reshape: dict[str, Any] = {
        "class_name": "Reshape",
        "config": {"name": name, "target_shape": shape[1:], "dtype": config.get("dtype")},
    }
    if "module" in inputs:
        reshape |= {"module": "keras.layers", "registered_name": None}
    if read_text(model, "class_name") != "Sequential":
        reshape |= {"name": name, "inbound_nodes": [[[new_name, 0, 0, {}]]]}
        settings["input_layers"] = [[new_name, 0, 0]]
    layers.insert(1, reshape)


def require_fixed_answers(config: Any, *, where: str) -> None:
    """Raise `InputError` if a random layer is called as in training, whatever the caller wants.

    Args:
        config: a configuration that `check_stock` has accepted.
        where: starts the message.
    """
    for model in iterate_objects(config):
        settings = model.get("config")
        layers = settings.get("layers") if isinstance(settings, dict) else None
        if read_text(model, "class_name") not in MODELS or not isinstance(layers, list):
            continue
        for layer in layers:
            nodes = layer.get("inbound_nodes") if isinstance(layer, dict) else None
            # An augmentation says so of every call, and is switched off by who runs the net.
            if isinstance(nodes, list) and _traits(layer).augments:
                continue
            if not isinstance(nodes, list) or not any(map(_is_training, nodes)):
                continue
            name = _find_random_layer(layer)
            if name is not None:
                raise InputError(
                    f"{where}: layer `{name}` is called with training=True, so that the answers "
                    "are random, expected a net that answers an image always alike: build it "
                    "without that argument and load these weights"
                )


def _is_training(node: Any) -> bool:
    """Tell whether a call, in the notation of Keras 2 or 3, has an argument that says so."""
    if isinstance(node, dict):
        keywords, positions = node.get("kwargs"), node.get("args")
        given = [keywords.get("training")] if isinstance(keywords, dict) else []
        if isinstance(positions, list):
            given += [value for value in positions[1:] if isinstance(value, bool | int)]
        return any(given)
    parts = [part for part in node if isinstance(part, list)] if isinstance(node, list) else []
    options = [part[3] for part in parts if len(part) == 4 and isinstance(part[3], dict)]
    return any(item.get("training") for item in options)


def _find_random_layer(layer: dict[str, Any]) -> str | None:
    """Return the name of the first layer, the given one or one in it, that training makes random.

    Attention has a dropout of its own.
    """
    for item in iterate_objects(layer):
        settings = item.get("config")
        traits = _traits(item)
        if isinstance(settings, dict) and (
            traits.augments or traits.drops or settings.get("dropout")
        ):
            return str(settings.get("name"))
    return None


def _traits(layer: Any) -> Traits:
    return traits_of(read_text(layer, "class_name"))
