"""Building the networks that checked configurations describe."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def build_model(config: dict[str, Any]) -> keras.Model:
    """Build the untrained network that a configuration describes, one `check_stock` accepted."""
    import keras
    from keras.src.saving.serialization_lib import ObjectSharingScope

    config = copy.deepcopy(config)  # Keras takes out what it has used.
    kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    with ObjectSharingScope():  # A layer may stand in two models of the model.
        model = kind.from_config(config["config"])
    if not model.built:
        raise ValueError("its input shape is missing")
    return model
