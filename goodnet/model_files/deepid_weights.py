"""Files that hold DeepID's weights and nothing else, as Keras 2 and Keras 3 write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from goodnet.errors import InputError
from goodnet.model_files.layer_graph import CallGraph, LayerDescription
from goodnet.networks.deepid import build_deepid
from goodnet.storage.safe_hdf5 import iterate_datasets, open_hdf5

if TYPE_CHECKING:
    import keras

DEEPID_LAYERS = (
    LayerDescription("input", "InputLayer", ()),
    LayerDescription("conv_1", "Conv2D", ("input",)),
    LayerDescription("pool_1", "MaxPooling2D", ("conv_1",)),
    LayerDescription("conv_2", "Conv2D", ("pool_1",)),
    LayerDescription("pool_2", "MaxPooling2D", ("conv_2",)),
    LayerDescription("conv_3", "Conv2D", ("pool_2",)),
    LayerDescription("pool_3", "MaxPooling2D", ("conv_3",)),
    LayerDescription("conv_4", "Conv2D", ("pool_3",)),
    LayerDescription("flatten_1", "Flatten", ("pool_3",)),
    LayerDescription("flatten_2", "Flatten", ("conv_4",)),
    LayerDescription("fc_1", "Dense", ("flatten_1",)),
    LayerDescription("fc_2", "Dense", ("flatten_2",)),
    LayerDescription("add", "Add", ("fc_1", "fc_2")),
    LayerDescription("deepid", "Activation", ("add",), {"activation": "relu"}),
    LayerDescription("output", "Dense", ("deepid",)),
)
"""What `build_deepid` builds, described without Keras."""

DEEPID = CallGraph(
    {
        layer.name: {"class_name": layer.class_name, "config": layer.config}
        for layer in DEEPID_LAYERS
    },
    {(layer.name, 0): [[source, 0, 0] for source in layer.inputs] for layer in DEEPID_LAYERS},
    [("input", 0, 0)],
    [("output", 0, 0)],
)
"""The same as calls."""

_OUTPUT_GROUPS = ("/output/", "/layers/dense_2/")
"""Where Keras 2 and Keras 3 keep the weights of DeepID's last layer."""


def count_deepid_classes(file: h5py.File, path: Path) -> int:
    """Return the number of classes of DeepID by the kernel of its last layer.

    Raises:
        InputError: there is no such kernel.
    """
    kernels = [
        dataset
        for dataset in iterate_datasets(file)
        if dataset.name.startswith(_OUTPUT_GROUPS) and dataset.ndim == 2
    ]
    shapes = [kernel.shape for kernel in kernels]
    if len(shapes) != 1 or shapes[0][0] != 160 or shapes[0][1] < 2:
        raise InputError(
            f"{path}: has kernels of shapes {shapes} for DeepID's layer `output`, "
            "expected one of (160, classes)"
        )
    return int(shapes[0][1])


def load_deepid(path: Path, num_classes: int) -> keras.Model:
    """Build DeepID and fill it with the weights stored under its layers' names."""
    model = build_deepid(num_classes)
    with open_hdf5(path) as file:
        if "layer_names" in file.attrs:
            for layer in model.layers:
                if layer.weights:
                    layer.set_weights(_read_weights(file, layer, path))
            return model
    model.load_weights(path)
    return model


def _read_weights(file: h5py.File, layer: keras.Layer, path: Path) -> list[Any]:
    group = file.get(layer.name)
    if not isinstance(group, h5py.Group):
        raise InputError(f"{path}: has no weights for layer `{layer.name}`")
    stored = [group[name] for name in group.attrs["weight_names"]]
    expected = [tuple(weight.shape) for weight in layer.weights]
    found = [item.shape for item in stored]
    if found != expected:
        raise InputError(
            f"{path}: layer `{layer.name}` has weights of shapes {found} on disk, "
            f"expected {expected}"
        )
    return [item[()] for item in stored]
