"""Building the networks that checked configurations describe."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from goodnet.model_files.config_json import children

if TYPE_CHECKING:
    import keras


def build_model(config: dict[str, Any]) -> keras.Model:
    """Build the untrained network that a configuration describes, one `check_stock` accepted."""
    import keras
    from keras.src.saving.serialization_lib import ObjectSharingScope

    config = copy.deepcopy(config)  # Keras takes out what it has used.
    _add_missing_inputs(config)
    kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    with ObjectSharingScope():  # A layer may stand in two models of the model.
        model = kind.from_config(config["config"])
    if not model.built:
        raise ValueError("its input shape is missing")
    return model


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
            if layers[0]["class_name"] == "InputLayer":
                continue
            shape = layers[0]["config"].pop("batch_input_shape", None)
            if shape is not None:
                name = f"{layers[0]['config']['name']}_input"
                input_config = {"batch_input_shape": shape, "name": name}
                layers.insert(0, {"class_name": "InputLayer", "config": input_config})
