"""Describing a model file without Keras, and refusing one that could run code or exhaust memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py

from goodnet.errors import InputError
from goodnet.model_files.archives import WEIGHTS_MEMBER, extract_weights, read_archive_texts
from goodnet.model_files.config_json import parse_json
from goodnet.model_files.deepid_weights import DEEPID, DEEPID_LAYERS, count_deepid_classes
from goodnet.model_files.hdf5_models import count_parameters, read_text_attribute
from goodnet.model_files.inference_config import for_inference, require_fixed_answers
from goodnet.model_files.inlining import LayerPath, inline_models
from goodnet.model_files.keras_2 import MODELS
from goodnet.model_files.layer_graph import (
    LayerDescription,
    count_build_steps,
    read_graph,
)
from goodnet.model_files.layer_shapes import Shape, infer_shapes, read_input_shape
from goodnet.model_files.limits import DEFAULT_LIMITS, ModelLimits
from goodnet.model_files.stock_keras import check_stock
from goodnet.model_files.two_classes import answer_two_classes, find_single_logit, says_logit
from goodnet.networks.deepid import IMAGE_SHAPE
from goodnet.storage.files import require_readable
from goodnet.storage.private_folders import private_folder
from goodnet.storage.safe_hdf5 import open_hdf5
from goodnet.storage.zip_files import is_zip

ARCHITECTURES = ("deepid",)
"""The networks that goodnet can build itself when a file holds weights only."""

ModelKind = Literal["keras archive", "hdf5 model", "hdf5 weights"]


@dataclass(frozen=True)
class StoredModel:
    """The model that a file's weights belong to, where another is made of it.

    `config` is without what inference does not need. `paths` tells where the layers of the model
    that is made of it stand in it; `logit` is the one that has two values there and one here.
    """

    config: dict[str, Any]
    paths: Mapping[str, LayerPath]
    logit: str | None


@dataclass(frozen=True)
class ModelDescription:
    """What a model file says about itself.

    It is described as it will be loaded: with the layers of models in it in their places, and with
    a value for each class where the file's gives one for two. `input_shape` is (H, W, C).
    `num_classes` is None where the answer comes out of ops, whose shapes only Keras knows.
    `layers` are in graph order: each stands after those that feed it; `shapes` tells what each
    gives, as far as that can be told. `num_parameters` counts the stored values without the
    optimizer's. `config` is what Keras is to build, without what
    inference does not need; it is empty for weights alone. `stored` is None where that is the model
    in the file. `of_keras_2` tells whether an archive says that Keras 2 wrote it.
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
    stored: StoredModel | None = field(default=None, repr=False, compare=False)
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


def require_model_file(path: Path, limits: ModelLimits) -> None:
    """Raise `InputError` unless `path` is a file that can be read and has an acceptable size."""
    size = require_readable(path, expected="a .keras or .h5 model")
    if size > limits.max_file_bytes:
        raise InputError(f"{path}: has {size:,} bytes, expected {limits.max_file_bytes:,} or less")


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
    # It is taken out of what is built.
    compiled = config.get("compile_config") if isinstance(config, dict) else None
    description = _describe_config(
        path,
        config,
        kind="keras archive",
        num_parameters=num_parameters,
        limits=limits,
        read_compiled=lambda: compiled,
    )
    return replace(description, of_keras_2=str(metadata.get("keras_version")).startswith("2."))


def _describe_hdf5(path: Path, architecture: str | None, limits: ModelLimits) -> ModelDescription:
    with open_hdf5(path) as file:
        num_parameters = count_parameters(file, path, limits)
        if "model_config" in file.attrs:
            return _describe_config(
                path,
                _read_json_attribute(file, "model_config", path, limits),
                kind="hdf5 model",
                num_parameters=num_parameters,
                limits=limits,
                read_compiled=lambda: _read_json_attribute(file, "training_config", path, limits),
            )
        _require_deepid_weights(file, path, architecture)
        return ModelDescription(
            path=path,
            kind="hdf5 weights",
            input_shape=IMAGE_SHAPE,
            num_classes=count_deepid_classes(file, path),
            num_parameters=num_parameters,
            layers=DEEPID_LAYERS,
            shapes={name: shape for (name, _), shape in infer_shapes(DEEPID, IMAGE_SHAPE).items()},
            output="output",
        )


def _read_json_attribute(file: h5py.File, name: str, path: Path, limits: ModelLimits) -> Any:
    if name not in file.attrs:
        return None
    text = read_text_attribute(file, name, path, limits)
    return parse_json(text, where=f"{path}: {name}", max_bytes=limits.max_config_bytes)


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
    path: Path,
    config: Any,
    *,
    kind: ModelKind,
    num_parameters: int,
    limits: ModelLimits,
    read_compiled: Callable[[], Any],
) -> ModelDescription:
    where = str(path)
    read = partial(read_graph, where=where, max_layers=limits.max_layers)
    for_inference(config)
    _check_config(config, where, limits)
    input_shape = read_input_shape(read(config).calls, where=where)
    inlined = inline_models(config, where=where, max_layers=limits.max_layers)
    made = inlined.config
    graph = read(made)
    logit = find_single_logit(graph, says_logit=lambda: says_logit(read_compiled()))
    if logit is not None:
        made = answer_two_classes(made, logit, graph.output)
        graph = read(made)
    by_call = infer_shapes(graph.calls, input_shape)
    ((name, index, _),) = graph.calls.outputs
    return ModelDescription(
        path=path,
        kind=kind,
        input_shape=input_shape,
        num_classes=_count_classes(by_call[name, index], name, where) or (2 if logit else None),
        num_parameters=num_parameters,
        layers=graph.layers,
        shapes={layer: shape for (layer, _), shape in by_call.items()},
        output=graph.output,
        config=made,
        stored=None if made is config else StoredModel(config, inlined.paths, logit),
    )


def _check_config(config: Any, where: str, limits: ModelLimits) -> None:
    """Refuse a configuration of code, of random answers, of no model or of too many layers."""
    check_stock(config, where=where)
    require_fixed_answers(config, where=where)
    if not isinstance(config, dict) or config.get("class_name") not in MODELS:
        raise InputError(f"{where}: describes no model, expected a Sequential or Functional one")
    num_steps = count_build_steps(config)
    if num_steps > limits.max_build_steps:
        raise InputError(
            f"{where}: has so many layers that Keras takes {num_steps:,} steps to build it, "
            f"expected {limits.max_build_steps:,} or less"
        )


def _count_classes(shape: Shape, output: str, where: str) -> int | None:
    if shape is not None and len(shape) != 1:
        raise InputError(
            f"{where}: has an output of {len(shape) + 1} axes at `{output}`, "
            "expected (None, classes)"
        )
    if shape == (1,):
        raise InputError(
            f"{where}: has one output value at `{output}`, and neither a sigmoid behind a Dense "
            "layer nor the loss says that it is a logit, expected that or 2 classes or more"
        )
    return shape[0] if shape else None
