"""Building the networks that checked configurations describe, and what they would need."""

from __future__ import annotations

import copy
import math
import threading
from typing import TYPE_CHECKING, Any

from goodnet.config_json import children

if TYPE_CHECKING:
    import keras


def build_model(config: dict[str, Any]) -> keras.Model:
    """Build the untrained network that a configuration describes, one `check_stock` accepted."""
    import keras

    config = copy.deepcopy(config)  # Keras takes out what it has used.
    _add_missing_inputs(config)
    kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    model = kind.from_config(config["config"])
    if not model.built:
        raise ValueError("its input shape is missing")
    return model


def count_declared_parameters(config: dict[str, Any]) -> int:
    """Build the model without allocating its weights and count them.

    Inside a `StatelessScope` Keras defers the creation of weights to the end of the scope, so the
    scope is never left: it belongs to a thread of its own and vanishes with it.
    """
    import keras

    found: list[int | Exception] = []

    def count() -> None:
        try:
            keras.StatelessScope().__enter__()
            found.append(sum(math.prod(weight.shape) for weight in build_model(config).weights))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _add_missing_inputs(config: dict[str, Any]) -> None:
    """Give sequential models of Keras 2.3, whose first layer has the input shape, an input layer.

    Keras 3.15 takes that shape for one without the batch axis.
    """
    pending: list[Any] = [config]
    while pending:
        value = pending.pop()
        pending.extend(children(value))
        if isinstance(value, dict) and value.get("class_name") == "Sequential":
            layers = value["config"]["layers"]
            shape = layers[0]["config"].get("batch_input_shape")
            if shape is not None and layers[0]["class_name"] != "InputLayer":
                name = f"{layers[0]['config']['name']}_input"
                input_config = {"batch_input_shape": shape, "name": name}
                layers.insert(0, {"class_name": "InputLayer", "config": input_config})
