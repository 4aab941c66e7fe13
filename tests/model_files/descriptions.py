"""Models as Keras 3 describes them in a file."""

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from goodnet.model_files.describe import describe_model

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


def write_weights(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((4, 5), "f4")
    return path


def write_archive(path: Path, config: object, **members: bytes) -> Path:
    weights = write_weights(path.with_suffix(".weights.h5"))
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    content = {
        "metadata.json": b'{"keras_version": "3.15.1"}',
        "config.json": text,
        "model.weights.h5": weights.read_bytes(),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**content, **members}.items():
            archive.writestr(name, data)
    return path


def describe(tmp_path: Path, config: object, **options: Any):
    return describe_model(write_archive(tmp_path / "net.keras", config), **options)
