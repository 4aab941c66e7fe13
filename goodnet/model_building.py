"""Building the networks that checked configurations describe, and what they would need."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from goodnet.config_json import children

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Needs:
    """What a model takes once it is built and runs.

    `num_parameters` counts the values of its weights; `widest` is the operation with the largest
    output and `num_values` the size of that for one image.
    """

    num_parameters: int
    widest: str
    num_values: int


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


def measure_needs(config: dict[str, Any]) -> Needs:
    """Build the model without allocating its weights and say what it would take.

    Inside a `StatelessScope` Keras defers the creation of weights to the end of the scope, so the
    scope is never left: it belongs to a thread of its own and vanishes with it.
    """
    import keras

    found: list[Needs | Exception] = []

    def measure() -> None:
        try:
            keras.StatelessScope().__enter__()
            model = build_model(config)
            num_parameters = sum(math.prod(weight.shape) for weight in model.weights)
            num_values, widest = max(_outputs(model))
            found.append(Needs(num_parameters, widest, num_values))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _outputs(model: keras.Model) -> Iterator[tuple[int, str]]:
    """Yield the size for one image and the operation of each output, in nested models too."""
    for operation in getattr(model, "operations", model.layers):
        for node in operation._inbound_nodes:
            for tensor in node.outputs:
                yield math.prod(size or 1 for size in tensor.shape[1:]), operation.name
        if hasattr(operation, "layers"):
            yield from _outputs(operation)


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
