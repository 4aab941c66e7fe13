"""Models as Keras 3 describes them in a file."""

from typing import Any

Config = dict[str, Any]


def make_layer(class_name: str, name: str, *inputs: str, **config: object) -> Config:
    """A layer as Keras 3 writes it into a functional model."""
    arguments = [
        {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}}
        for source in inputs
    ]
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": {"name": name, **config},
        "registered_name": None,
        "name": name,
        "inbound_nodes": [{"args": [arguments], "kwargs": {}}] if inputs else [],
    }


def make_functional(layers: list[Config], *, name: str = "net") -> Config:
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {
            "name": name,
            "layers": layers,
            "input_layers": [layers[0]["name"], 0, 0],
            "output_layers": [layers[-1]["name"], 0, 0],
        },
        "registered_name": "Functional",
    }
