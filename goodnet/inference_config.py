"""What of a model's configuration inference needs, in the form in which Keras 3 builds it."""

from __future__ import annotations

from typing import Any

from goodnet.config_json import iterate_objects, read_text
from goodnet.errors import InputError
from goodnet.keras_2 import MODELS, translate_keras_2
from goodnet.stock_keras import RANDOM_LAYERS

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
        if isinstance(settings, dict) and (
            read_text(item, "class_name") in RANDOM_LAYERS or settings.get("dropout")
        ):
            return str(settings.get("name"))
    return None
