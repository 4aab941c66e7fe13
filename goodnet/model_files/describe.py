"""Describing a model file without Keras, and refusing one that could run code or exhaust memory."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import h5py

from goodnet.errors import InputError
from goodnet.model_files.archives import WEIGHTS_MEMBER, extract_weights, read_archive_texts
from goodnet.model_files.config_json import parse_json
from goodnet.model_files.deepid_weights import DEEPID_LAYERS, count_deepid_classes
from goodnet.model_files.hdf5_models import count_parameters, read_text_attribute
from goodnet.model_files.inference_config import for_inference, require_fixed_answers
from goodnet.model_files.keras_2 import MODELS
from goodnet.model_files.layer_graph import LayerDescription, count_build_steps, read_graph
from goodnet.model_files.layer_shapes import Shape, infer_shapes, read_input_shape
from goodnet.model_files.limits import DEFAULT_LIMITS, ModelLimits
from goodnet.model_files.stock_keras import check_stock
from goodnet.networks.deepid import IMAGE_SHAPE
from goodnet.storage.private_folders import private_folder
from goodnet.storage.safe_hdf5 import open_hdf5
from goodnet.storage.zip_files import is_zip

ARCHITECTURES = ("deepid",)
"""The networks that goodnet can build itself when a file holds weights only."""

ModelKind = Literal["keras archive", "hdf5 model", "hdf5 weights"]


@dataclass(frozen=True)
class ModelDescription:
    """What a model file says about itself.

    `input_shape` is (H, W, C). `num_classes` is None where the answer comes out of ops, whose
    shapes only Keras knows. `layers` are in graph order: each stands after those that feed it;
    `shapes` tells what each gives, as far as that can be told.
    `num_parameters` counts the stored values without the optimizer's. `config` is what Keras is to
    build, without what inference does not need; it is empty for weights alone. `of_keras_2` tells
    whether an archive says that Keras 2 wrote it.
    """

    path: Path
    kind: ModelKind
    input_shape: tuple[int, int, int]
    num_classes: int | None
    num_parameters: int
    layers: tuple[LayerDescription, ...]
    shapes: Mapping[str, Shape]
    output: str
    config: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    of_keras_2: bool = False


def describe_model(
    path: Path, *, architecture: str | None = None, limits: ModelLimits = DEFAULT_LIMITS
) -> ModelDescription:
    """Describe the image classifier in a file without importing Keras.

    The format is recognised by content: a Keras archive, an HDF5 file with a whole model (Keras
    2.3 and later) or an HDF5 file with weights only.

    Args:
        path: the model file.
        architecture: the network that a file with weights only belongs to; one of
            `ARCHITECTURES`. Not needed for, and ignored with, whole models.
        limits: how large the file and the model may be.

    Raises:
        InputError: the file is missing, damaged, too large, no image classifier with one input
            and one output, or asks for anything but stock Keras layers and ops.
    """
    if architecture is not None and architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"architecture `{architecture}` is unknown, expected one of: {known}")
    require_model_file(path, limits)
    if is_zip(path):
        return _describe_archive(path, limits)
    if h5py.is_hdf5(path):
        return _describe_hdf5(path, architecture, limits)
    raise InputError(f"{path}: is neither a Keras archive nor HDF5, expected a .keras or .h5 model")


def require_model_file(path: Path, limits: ModelLimits = DEFAULT_LIMITS) -> None:
    """Raise `InputError` unless `path` is a file that can be read and has an acceptable size."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: is a folder, expected a .keras or .h5 model")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is a device, expected a .keras or .h5 model")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({error})") from error
    if not 0 < status.st_size <= limits.max_file_bytes:
        raise InputError(
            f"{path}: has {status.st_size:,} bytes, expected 1 to {limits.max_file_bytes:,}"
        )


@contextmanager
def errors_about(shown: Path, private: Path) -> Iterator[None]:
    """Let an `InputError` about a private copy name the file that the user gave."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(private), str(shown))) from error


def _describe_archive(path: Path, limits: ModelLimits) -> ModelDescription:
    config, metadata = (
        parse_json(text, where=f"{path}: {name}", max_bytes=limits.max_config_bytes)
        for name, text in read_archive_texts(path, limits).items()
    )
    if not isinstance(metadata, dict):
        raise InputError(
            f"{path}: metadata.json is a {type(metadata).__name__}, expected an object"
        )
    with private_folder() as folder:
        weights = folder / WEIGHTS_MEMBER
        extract_weights(path, weights)
        with errors_about(path / WEIGHTS_MEMBER, weights), open_hdf5(weights) as file:
            num_parameters = count_parameters(file, weights, limits)
    description = _describe_config(
        path, config, kind="keras archive", num_parameters=num_parameters, limits=limits
    )
    return replace(description, of_keras_2=str(metadata.get("keras_version")).startswith("2."))


def _describe_hdf5(path: Path, architecture: str | None, limits: ModelLimits) -> ModelDescription:
    with open_hdf5(path) as file:
        num_parameters = count_parameters(file, path, limits)
        if "model_config" in file.attrs:
            text = read_text_attribute(file, "model_config", path, limits)
            where = f"{path}: model_config"
            config = parse_json(text, where=where, max_bytes=limits.max_config_bytes)
            return _describe_config(
                path, config, kind="hdf5 model", num_parameters=num_parameters, limits=limits
            )
        _require_deepid_weights(file, path, architecture)
        return ModelDescription(
            path=path,
            kind="hdf5 weights",
            input_shape=IMAGE_SHAPE,
            num_classes=count_deepid_classes(file, path),
            num_parameters=num_parameters,
            layers=DEEPID_LAYERS,
            shapes=infer_shapes(
                DEEPID_LAYERS, IMAGE_SHAPE, where=str(path), max_layers=limits.max_layers
            ),
            output="output",
        )


def _require_deepid_weights(file: h5py.File, path: Path, architecture: str | None) -> None:
    if "layer_names" not in file.attrs and "layers" not in file:
        found = ", ".join(f"`{name}`" for name in list(file)[:10]) or "nothing"
        raise InputError(f"{path}: holds {found}, expected a Keras model or its weights")
    if architecture is None:
        raise InputError(
            f"{path}: holds weights without a model; give architecture=deepid if they are "
            "those of DeepID"
        )


def _describe_config(
    path: Path, config: Any, *, kind: ModelKind, num_parameters: int, limits: ModelLimits
) -> ModelDescription:
    where, max_layers = str(path), limits.max_layers
    for_inference(config)
    check_stock(config, where=where)
    require_fixed_answers(config, where=where)
    if not isinstance(config, dict) or config.get("class_name") not in MODELS:
        raise InputError(f"{path}: describes no model, expected a Sequential or Functional one")
    num_steps = count_build_steps(config)
    if num_steps > limits.max_build_steps:
        raise InputError(
            f"{path}: has so many layers that Keras takes {num_steps:,} steps to build it, "
            f"expected {limits.max_build_steps:,} or less"
        )
    graph = read_graph(config, where=where, max_layers=max_layers)
    input_shape = read_input_shape(config, graph, where=where)
    shapes = infer_shapes(graph.layers, input_shape, where=where, max_layers=max_layers)
    shape = shapes[graph.output]
    if shape is not None and len(shape) != 1:
        raise InputError(
            f"{path}: has an output of {len(shape) + 1} axes at `{graph.output}`, "
            "expected (None, classes)"
        )
    num_classes = shape[0] if shape else None
    if num_classes == 1:
        raise InputError(
            f"{path}: has one output value at `{graph.output}`, expected 2 classes or more"
        )
    return ModelDescription(
        path=path,
        kind=kind,
        input_shape=input_shape,
        num_classes=num_classes,
        num_parameters=num_parameters,
        layers=graph.layers,
        shapes=shapes,
        output=graph.output,
        config=config,
    )
