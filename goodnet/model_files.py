"""Describing a model file without Keras, and refusing one that could run code or exhaust memory.

A `.keras` archive and the `model_config` of an `.h5` file name the classes that Keras will build.
Everything in them is checked against a list of stock layers and ops before Keras sees the file.
"""

from __future__ import annotations

import errno
import heapq
import json
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py

from goodnet.errors import InputError
from goodnet.safe_hdf5 import hdf5_errors, iterate_datasets, iterate_objects, open_hdf5


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARCHITECTURES = ("deepid",)
"""The networks that goodnet can build itself when a file holds weights only."""

CONVOLUTIONS = frozenset({"Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D"})
GLOBAL_POOLINGS = frozenset({"GlobalAveragePooling2D", "GlobalMaxPooling2D"})
POOLINGS = GLOBAL_POOLINGS | {"AveragePooling2D", "MaxPooling2D"}
ACTIVATIONS = frozenset({"Activation", "ELU", "LeakyReLU", "PReLU", "ReLU"})
DROPOUTS = frozenset(
    {"AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout2D"}
)
CHANNELWISE = ACTIVATIONS | DROPOUTS | POOLINGS | {"BatchNormalization"}
"""Layers whose output channel c depends on their input channel c alone."""

_MERGES = frozenset({"Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"})
_SHAPE_KEEPING = (
    ACTIVATIONS
    | DROPOUTS
    | _names(
        "ActivityRegularization BatchNormalization GroupNormalization Identity LayerNormalization "
        "Normalization RandomBrightness RandomContrast RandomFlip RandomRotation "
        "RandomTranslation RandomZoom Rescaling Softmax UnitNormalization"
    )
)
_CHANNEL_KEEPING = _SHAPE_KEEPING | _names(
    "AveragePooling2D CenterCrop Cropping2D MaxPooling2D Resizing UpSampling2D ZeroPadding2D"
)
_MODELS = frozenset({"Functional", "Model", "Sequential"})
_LAYERS = (
    CONVOLUTIONS
    | GLOBAL_POOLINGS
    | _CHANNEL_KEEPING
    | _MERGES
    | {"Dense", "Flatten", "InputLayer", "Permute", "RepeatVector", "Reshape"}
)
_INITIALIZERS = _names(
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer "
    "LecunNormal LecunUniform Ones Orthogonal OrthogonalInitializer RandomNormal RandomUniform "
    "TruncatedNormal VarianceScaling Zeros"
)
_REGULARIZERS = frozenset({"L1", "L1L2", "L2", "OrthogonalRegularizer"})
_CONSTRAINTS = frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"})
_ACTIVATION_NAMES = _names(
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu "
    "linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax "
    "softplus softsign sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink "
    "threshold"
)
_DTYPES = _names(
    "bfloat16 bool float16 float32 float64 int16 int32 int64 int8 mixed_bfloat16 mixed_float16 "
    "uint16 uint32 uint64 uint8"
)
_CORE_OPS = frozenset({"Cast", "StopGradient"})
_NN_OPS = _names(
    "Elu Gelu HardSigmoid HardSilu LeakyRelu LogSoftmax OneHot Relu Relu6 Selu Sigmoid Silu "
    "Softmax Softplus Softsign"
)
_NUMPY_OPS = _names(
    "Absolute Add All Amax Amin Any Argmax Argmin Clip Concatenate Divide Equal Exp ExpandDims "
    "Floor FloorDivide GetItem Greater GreaterEqual Less LessEqual Log LogicalAnd LogicalNot "
    "LogicalOr LogicalXor Matmul Max Maximum Mean Min Minimum Mod Moveaxis Multiply Negative "
    "NotEqual OnesLike Power Prod Reciprocal Reshape Round Sign Sqrt Square Squeeze Stack Std "
    "Subtract Sum Take Tanh Transpose TrueDivide Var Where ZerosLike"
)
_LITERALS = frozenset({"__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__"})
_STOCK = {
    "keras": frozenset({"DTypePolicy", "Model", "Sequential"}),
    "keras.constraints": _CONSTRAINTS,
    "keras.dtype_policies": frozenset({"DTypePolicy"}),
    "keras.initializers": _INITIALIZERS,
    "keras.layers": _LAYERS,
    "keras.losses": frozenset({"CategoricalCrossentropy", "SparseCategoricalCrossentropy"}),
    "keras.metrics": frozenset({"CategoricalAccuracy", "SparseCategoricalAccuracy"}),
    "keras.models": _MODELS,
    "keras.optimizers": frozenset({"Adam", "AdamW", "RMSprop", "SGD"}),
    "keras.regularizers": _REGULARIZERS,
    "keras.src.models.functional": frozenset({"Functional"}),
    "keras.src.models.sequential": frozenset({"Sequential"}),
    "keras.src.ops.core": _CORE_OPS,
    "keras.src.ops.nn": _NN_OPS,
    "keras.src.ops.numpy": _NUMPY_OPS,
}
"""Module to the class names that may be built from it; everything else is refused."""

_WITHOUT_MODULE = (
    _LAYERS | _MODELS | _INITIALIZERS | _REGULARIZERS | _CONSTRAINTS | _LITERALS | {"DTypePolicy"}
)
"""Class names that HDF5 models write without a module, where Keras looks them up by kind."""

_MAX_JSON_DEPTH = 100
_MAX_NESTED_MODELS = 2
_MAX_ZIP_RATIO = 100
_SMALL_MEMBER_BYTES = 2**20
_ARCHIVE_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
_WEIGHTS_MEMBER = "model.weights.h5"

ModelKind = Literal["keras archive", "hdf5 model", "hdf5 weights"]


@dataclass(frozen=True)
class ModelLimits:
    """How large a model file may be before it is refused."""

    max_file_bytes: int = 2 * 2**30
    max_parameters: int = 200_000_000
    max_config_bytes: int = 4 * 2**20
    max_layers: int = 10_000


DEFAULT_LIMITS = ModelLimits()


@dataclass(frozen=True)
class LayerDescription:
    """One layer or op of a model's outermost graph.

    `inputs` are the names of the layers that feed it, over all its calls; `config` is what the
    file says about it; `module` is None in the older formats.
    """

    name: str
    class_name: str
    inputs: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    module: str | None = field(default=None, compare=False)
    num_calls: int = 1


@dataclass(frozen=True)
class ModelDescription:
    """What a model file says about itself.

    `input_shape` is (H, W, C). `num_classes` is None where the answer comes out of ops, whose
    shapes only Keras knows. `layers` are in graph order: each stands after those that feed it.
    `num_parameters` counts the stored values without the optimizer's.
    """

    path: Path
    kind: ModelKind
    input_shape: tuple[int, int, int]
    num_classes: int | None
    num_parameters: int
    layers: tuple[LayerDescription, ...]
    output: str


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
    if is_archive(path):
        return _describe_archive(path, limits)
    if _starts_with(path, b"\x89HDF\r\n\x1a\n"):
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


def read_model_config(path: Path, limits: ModelLimits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Return the configuration of a whole model that `describe_model` has accepted."""
    if is_archive(path):
        text: str | bytes = read_archive_texts(path, limits)["config.json"]
    else:
        with open_hdf5(path) as stored:
            text = _read_text_attribute(stored, "model_config", path, limits)
    config: dict[str, Any] = parse_json(text, where=f"{path}: model configuration", limits=limits)
    return config


def is_archive(path: Path) -> bool:
    """Tell by its first bytes whether a file is a zip archive, as `.keras` files are."""
    return _starts_with(path, b"PK\x03\x04")


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


@contextmanager
def errors_about(shown: Path, private: Path) -> Iterator[None]:
    """Let an `InputError` about a private copy name the file that the user gave."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(private), str(shown))) from error


def _describe_archive(path: Path, limits: ModelLimits) -> ModelDescription:
    config, metadata = (
        parse_json(text, where=f"{path}: {name}", limits=limits)
        for name, text in read_archive_texts(path, limits).items()
    )
    if not isinstance(metadata, dict):
        raise InputError(
            f"{path}: metadata.json is a {type(metadata).__name__}, expected an object"
        )
    with tempfile.TemporaryDirectory(prefix="goodnet-") as folder:
        weights = Path(folder) / _WEIGHTS_MEMBER
        _extract_weights(path, weights)
        with errors_about(path / _WEIGHTS_MEMBER, weights), open_hdf5(weights) as file:
            num_parameters = _count_parameters(file, weights, limits)
    return _describe_config(
        path, config, kind="keras archive", num_parameters=num_parameters, limits=limits
    )


def read_archive_texts(path: Path, limits: ModelLimits = DEFAULT_LIMITS) -> dict[str, bytes]:
    """Check a Keras archive's table of contents and return its config.json and metadata.json."""
    with _open_archive(path) as archive:
        _check_members(archive, path, limits)
        return {name: archive.read(name) for name in ("config.json", "metadata.json")}


@contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:
        raise
    except (*_ZIP_ERRORS, OSError) as error:
        # Only a wrong offset is the archive's fault; a full disk is not.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise InputError(f"{path}: is a damaged Keras archive ({error})") from error


def _check_members(archive: zipfile.ZipFile, path: Path, limits: ModelLimits) -> None:
    members = archive.infolist()
    expected = ", ".join(_ARCHIVE_MEMBERS)
    for member in members:
        if member.filename not in _ARCHIVE_MEMBERS:
            raise InputError(f"{path}: holds `{member.filename}`, expected only {expected}")
        _check_member(member, path, limits)
    counts = Counter(member.filename for member in members)
    for name in _ARCHIVE_MEMBERS:
        if counts[name] != 1:
            raise InputError(f"{path}: holds {counts[name]} members `{name}`, expected one")


def _check_member(member: zipfile.ZipInfo, path: Path, limits: ModelLimits) -> None:
    where = f"{path}: member `{member.filename}`"
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{where} is a symbolic link, expected a file")
    if member.flag_bits & 0x1:
        raise InputError(f"{where} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{where} has compression {member.compress_type}, expected deflate or none"
        )
    is_weights = member.filename == _WEIGHTS_MEMBER
    allowed_bytes = limits.max_file_bytes if is_weights else limits.max_config_bytes
    if member.file_size > allowed_bytes:
        raise InputError(
            f"{where} has {member.file_size:,} bytes, expected {allowed_bytes:,} or less"
        )
    if member.file_size > max(_SMALL_MEMBER_BYTES, _MAX_ZIP_RATIO * member.compress_size):
        raise InputError(
            f"{where} unpacks {member.compress_size:,} bytes to {member.file_size:,}, "
            f"expected at most {_MAX_ZIP_RATIO} times as many"
        )


def _extract_weights(path: Path, target: Path) -> None:
    with (
        _open_archive(path) as archive,
        archive.open(_WEIGHTS_MEMBER) as source,
        target.open("wb") as destination,
    ):
        shutil.copyfileobj(source, destination, 2**20)


def _describe_hdf5(path: Path, architecture: str | None, limits: ModelLimits) -> ModelDescription:
    with open_hdf5(path) as file:
        num_parameters = _count_parameters(file, path, limits)
        if "model_config" in file.attrs:
            text = _read_text_attribute(file, "model_config", path, limits)
            config = parse_json(text, where=f"{path}: model_config", limits=limits)
            return _describe_config(
                path, config, kind="hdf5 model", num_parameters=num_parameters, limits=limits
            )
        if "layer_names" not in file.attrs and "layers" not in file:
            found = ", ".join(f"`{name}`" for name in list(file)[:10]) or "nothing"
            raise InputError(f"{path}: holds {found}, expected a Keras model or its weights")
        if architecture is None:
            raise InputError(
                f"{path}: holds weights without a model; pass --architecture deepid if they are "
                "those of DeepID"
            )
        return _describe_deepid(path, file, num_parameters)


def _read_text_attribute(file: h5py.File, name: str, path: Path, limits: ModelLimits) -> str:
    attribute = file.attrs.get_id(name)
    stored_bytes = attribute.get_storage_size()
    if attribute.shape != () or stored_bytes > limits.max_config_bytes:
        raise InputError(
            f"{path}: {name} has shape {attribute.shape} and {stored_bytes:,} bytes, "
            f"expected one text of at most {limits.max_config_bytes:,}"
        )
    value = file.attrs[name]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        raise InputError(f"{path}: {name} is a {type(value).__name__}, expected a text")
    return value


_PLAIN_ATTRIBUTES = {h5py.h5t.FLOAT, h5py.h5t.INTEGER, h5py.h5t.STRING}
_PLAIN_WEIGHTS = {h5py.h5t.FLOAT, h5py.h5t.INTEGER, h5py.h5t.ENUM, h5py.h5t.OPAQUE}
"""Type classes of stored weights; Keras keeps bfloat16 as opaque values."""


def _check_types(file: h5py.File, path: Path) -> None:
    """Refuse variable-length and reference types: HDF5 can crash on damaged ones."""
    with hdf5_errors(path):
        for item in iterate_objects(file):
            is_dataset = isinstance(item, h5py.Dataset)
            if is_dataset and item.id.get_type().get_class() not in _PLAIN_WEIGHTS:
                raise InputError(f"{path}: `{item.name}` holds no numbers")
            for name in item.attrs:
                if item.attrs.get_id(name).get_type().get_class() not in _PLAIN_ATTRIBUTES:
                    raise InputError(
                        f"{path}: attribute `{name}` of `{item.name}` is neither text nor number"
                    )


def _count_parameters(file: h5py.File, path: Path, limits: ModelLimits) -> int:
    _check_types(file, path)
    with hdf5_errors(path):
        num_parameters = sum(
            dataset.size or 0
            for dataset in iterate_datasets(file)
            if not dataset.name.startswith(("/optimizer/", "/optimizer_weights/"))
        )
    if num_parameters > limits.max_parameters:
        raise InputError(
            f"{path}: has {num_parameters:,} parameters, expected {limits.max_parameters:,} or less"
        )
    return int(num_parameters)


def parse_json(text: str | bytes, *, where: str, limits: ModelLimits = DEFAULT_LIMITS) -> Any:
    """Parse JSON of bounded size and depth; `where` starts the message of the `InputError`."""
    if len(text) > limits.max_config_bytes:
        raise InputError(
            f"{where} has {len(text):,} bytes, expected {limits.max_config_bytes:,} or less"
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error})") from error
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MAX_JSON_DEPTH:
            raise InputError(f"{where} is nested deeper than {_MAX_JSON_DEPTH} levels")
        level = [child for item in level for child in _children(item)]
    return value


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [child for child in value.values() if isinstance(child, dict | list)]
    if isinstance(value, list):
        return [child for child in value if isinstance(child, dict | list)]
    return []


def check_stock(config: Any, *, where: str) -> None:
    """Raise `InputError` unless every object in a configuration is a stock Keras one."""
    pending: list[tuple[Any, str, int]] = [(config, where, 0)]
    while pending:
        value, place, num_models = pending.pop()
        if isinstance(value, dict):
            if not _OBJECT_KEYS.isdisjoint(value):
                place = _place_of(value, where) or place
                _check_object(value, place)
            num_models += value.get("class_name") in _MODELS
            if num_models > _MAX_NESTED_MODELS + 1:
                raise InputError(f"{place} is nested deeper than {_MAX_NESTED_MODELS} models")
            for key, child in value.items():
                _check_setting(key, child, place)
        pending.extend((child, place, num_models) for child in _children(value))


_OBJECT_KEYS = frozenset({"class_name", "module", "registered_name"})


def _place_of(item: dict[str, Any], where: str) -> str | None:
    config = item.get("config")
    name = item.get("name") or (config.get("name") if isinstance(config, dict) else None)
    is_layer = isinstance(name, str) and item.get("class_name") != "DTypePolicy"
    return f"{where}: layer `{name}`" if is_layer else None


def _check_object(item: dict[str, Any], where: str) -> None:
    class_name, module = item.get("class_name"), item.get("module")
    names = _WITHOUT_MODULE if module is None else _STOCK.get(str(module), frozenset())
    if not isinstance(class_name, str) or class_name not in names:
        raise InputError(
            f"{where} uses `{class_name}` of module `{module}`, expected stock Keras layers and "
            "ops only: other classes could run code from the file"
        )
    if item.get("registered_name") not in (None, class_name):
        raise InputError(
            f"{where} uses the registered object `{item['registered_name']}`, expected stock "
            "Keras layers and ops only"
        )


_KNOWN_SETTINGS = {
    "activation": _ACTIVATION_NAMES,
    "initializer": _INITIALIZERS,
    "regularizer": _REGULARIZERS,
    "constraint": _CONSTRAINTS,
    "dtype": _DTYPES,
}


def _check_setting(key: str, value: Any, where: str) -> None:
    """Check what Keras would look up by a bare name, such as `activation: "relu"`."""
    known = _KNOWN_SETTINGS.get(key.rpartition("_")[2])
    if known is not None and isinstance(value, str) and value not in known:
        camel_case = "".join(part.capitalize() for part in value.split("_"))
        if camel_case not in known:
            raise InputError(f"{where} has the unknown {key} `{value}`")
    if key == "data_format" and value == "channels_first":
        raise InputError(f"{where} has data_format `channels_first`, expected `channels_last`")


@dataclass(frozen=True)
class _Graph:
    layers: tuple[LayerDescription, ...]
    input: str
    output: str


_Shape = tuple[int | None, ...] | None
"""A shape behind the batch axis; None where unknown, an axis None where its length is."""


def _describe_config(
    path: Path, config: Any, *, kind: ModelKind, num_parameters: int, limits: ModelLimits
) -> ModelDescription:
    check_stock(config, where=str(path))
    if not isinstance(config, dict) or config.get("class_name") not in _MODELS:
        raise InputError(f"{path}: describes no model, expected a Sequential or Functional one")
    graph = _read_graph(config, str(path), limits)
    input_shape = _read_input_shape(config, graph, path)
    shape = _infer_shape(config, input_shape, str(path), limits)
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
        output=graph.output,
    )


def _read_graph(model: dict[str, Any], where: str, limits: ModelLimits) -> _Graph:
    config = _require(model.get("config"), dict, f"{where}: the model's config")
    items = _require(config.get("layers"), list, f"{where}: the model's layers")
    if not 0 < len(items) <= limits.max_layers:
        raise InputError(f"{where}: has {len(items):,} layers, expected 1 to {limits.max_layers:,}")
    layers = [_require(item, dict, f"{where}: a layer") for item in items]
    names = [_read_name(item, where) for item in layers]
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise InputError(f"{where}: has two layers named `{doubled[0]}`")
    by_name = dict(zip(names, layers, strict=True))
    if model["class_name"] == "Sequential":
        return _read_sequential(by_name)
    return _read_functional(by_name, config, where)


def _require(value: Any, kind: type[dict[str, Any]] | type[list[Any]], what: str) -> Any:
    if not isinstance(value, kind):
        expected = {dict: "an object", list: "a list"}[kind]
        raise InputError(f"{what} is {json.dumps(value)[:40]}, expected {expected}")
    return value


def _read_name(item: dict[str, Any], where: str) -> str:
    config = _require(item.get("config"), dict, f"{where}: a layer's config")
    name = config.get("name")
    if not isinstance(name, str) or not name or item.get("name", name) != name:
        raise InputError(f"{where}: a {item.get('class_name')} layer has no single name")
    if "class_name" not in item:
        raise InputError(f"{where}: layer `{name}` has no class_name")
    return name


def _read_sequential(by_name: dict[str, dict[str, Any]]) -> _Graph:
    names = list(by_name)
    layers = tuple(
        _describe_layer(name, by_name[name], inputs)
        for name, inputs in zip(names, [(), *((name,) for name in names)], strict=False)
    )
    return _Graph(layers, names[0], names[-1])


def _read_functional(
    by_name: dict[str, dict[str, Any]], config: dict[str, Any], where: str
) -> _Graph:
    calls = {}
    for name, item in by_name.items():
        nodes = _require(item.get("inbound_nodes"), list, f"{where}: inbound_nodes of `{name}`")
        for index, node in enumerate(nodes or [[]]):
            calls[name, index] = list(_iterate_references(node))
    for call, references in calls.items():
        for reference in references:
            if reference not in calls:
                raise InputError(f"{where}: layer `{call[0]}` is fed by unknown `{reference[0]}`")
    layers = tuple(_join_calls(name, by_name[name], calls) for name in _sort_layers(calls, where))
    ends = {}
    for end in ("input", "output"):
        references = list(_iterate_references(config.get(f"{end}_layers")))
        if len(references) != 1 or references[0] not in calls:
            raise InputError(f"{where}: has {len(references)} {end}s, expected one")
        ends[end] = references[0][0]
    return _Graph(layers, **ends)


_Call = tuple[str, int]
"""A layer's name and which of its calls is meant."""


def _iterate_references(node: Any) -> Iterator[_Call]:
    """Yield what a call refers to, in the notation of Keras 2, `["name", 0, 0]`, or Keras 3."""
    pending = [node]
    while pending:
        value = pending.pop()
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            config = value.get("config")
            value = config.get("keras_history") if isinstance(config, dict) else None
        if isinstance(value, list) and len(value) >= 3:
            name, index = value[:2]
            if isinstance(name, str) and isinstance(index, int):
                yield name, index
        pending.extend(reversed(_children(value)))


def _join_calls(
    name: str, item: dict[str, Any], calls: dict[_Call, list[_Call]]
) -> LayerDescription:
    num_calls = max(len(item["inbound_nodes"]), 1)
    inputs = [source for index in range(num_calls) for source, _ in calls[name, index]]
    return _describe_layer(name, item, tuple(dict.fromkeys(inputs)), num_calls=num_calls)


def _describe_layer(
    name: str, item: dict[str, Any], inputs: tuple[str, ...], *, num_calls: int = 1
) -> LayerDescription:
    return LayerDescription(
        name=name,
        class_name=item["class_name"],
        inputs=inputs,
        config=item["config"],
        module=item.get("module"),
        num_calls=num_calls,
    )


def _sort_layers(calls: dict[_Call, list[_Call]], where: str) -> list[str]:
    """Return the layers by their first call: each after its inputs, else in the file's order."""
    position = {call: number for number, call in enumerate(calls)}
    waiting = {call: len(set(sources)) for call, sources in calls.items()}
    consumers: dict[_Call, list[_Call]] = {call: [] for call in calls}
    for call, sources in calls.items():
        for source in set(sources):
            consumers[source].append(call)
    ready = [(position[call], call) for call, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        call = heapq.heappop(ready)[1]
        order.append(call)
        for consumer in consumers[call]:
            waiting[consumer] -= 1
            if waiting[consumer] == 0:
                heapq.heappush(ready, (position[consumer], consumer))
    if len(order) < len(calls):
        stuck = next(call[0] for call, count in waiting.items() if count)
        raise InputError(f"{where}: layer `{stuck}` waits for its own output")
    return list(dict.fromkeys(name for name, _ in order))


def _read_input_shape(model: dict[str, Any], graph: _Graph, path: Path) -> tuple[int, int, int]:
    config = next(layer.config for layer in graph.layers if layer.name == graph.input)
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    if shape is None and model["class_name"] == "Sequential":
        shape = model["config"].get("build_input_shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[0] is not None:
        raise InputError(f"{path}: takes input of shape {shape}, expected (None, H, W, C)")
    height, width, channels = shape[1:]
    if not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise InputError(f"{path}: takes input of shape {shape}, expected sizes for H, W and C")
    return height, width, channels


def _infer_shape(model: dict[str, Any], shape: _Shape, where: str, limits: ModelLimits) -> _Shape:
    """Follow ranks and channels through a model; spatial sizes are left to Keras."""
    graph = _read_graph(model, where, limits)
    shapes: dict[str, _Shape] = {}
    for layer in graph.layers:
        feeding = [shapes.get(name) for name in layer.inputs] or [shape]
        if layer.class_name in _MODELS:
            nested = {"class_name": layer.class_name, "config": layer.config}
            shapes[layer.name] = _infer_shape(nested, feeding[0], where, limits)
        else:
            shapes[layer.name] = _layer_shape(layer, feeding)
    return shapes[graph.output]


def _layer_shape(layer: LayerDescription, feeding: list[_Shape]) -> _Shape:
    first, config = feeding[0], layer.config
    is_op = (layer.module or "").startswith("keras.src.ops")
    if first is None or is_op or layer.num_calls > 1:
        return None
    match layer.class_name:
        case "InputLayer":
            return first
        case "Conv2D" | "SeparableConv2D" | "Conv2DTranspose":
            return (None, None, _whole(config.get("filters")))
        case "DepthwiseConv2D":
            return (None, None, None)
        case "Dense":
            return (*first[:-1], _whole(config.get("units")))
        case "Flatten":
            return (None,)
        case "GlobalAveragePooling2D" | "GlobalMaxPooling2D":
            return (1, 1, first[-1]) if config.get("keepdims") else (first[-1],)
        case "Reshape":
            target = config.get("target_shape")
            return tuple(_whole(size) for size in target) if isinstance(target, list) else None
        case "Concatenate" if config.get("axis") in (-1, len(first)) and None not in feeding:
            channels = [shape[-1] for shape in feeding if shape]
            known = [size for size in channels if size is not None]
            return (*first[:-1], sum(known) if len(known) == len(channels) else None)
        case name if name in _MERGES:
            return first if all(shape == first for shape in feeding) else None
        case name if name in _SHAPE_KEEPING:
            return first
        case name if name in _CHANNEL_KEEPING:
            return (None, None, first[-1])
    return None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


_DEEPID_INPUT_SHAPE = (55, 47, 3)
_DEEPID_LAYERS = (
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
_DEEPID_OUTPUT_GROUPS = ("/output/", "/layers/dense_2/")
"""Where Keras 2 and Keras 3 keep the weights of DeepID's last layer."""


def _describe_deepid(path: Path, file: h5py.File, num_parameters: int) -> ModelDescription:
    kernels = [
        dataset
        for dataset in iterate_datasets(file)
        if dataset.name.startswith(_DEEPID_OUTPUT_GROUPS) and dataset.ndim == 2
    ]
    shapes = [kernel.shape for kernel in kernels]
    if len(shapes) != 1 or shapes[0][0] != 160 or shapes[0][1] < 2:
        raise InputError(
            f"{path}: has kernels of shapes {shapes} for DeepID's layer `output`, "
            "expected one of (160, classes)"
        )
    return ModelDescription(
        path=path,
        kind="hdf5 weights",
        input_shape=_DEEPID_INPUT_SHAPE,
        num_classes=int(shapes[0][1]),
        num_parameters=num_parameters,
        layers=_DEEPID_LAYERS,
        output="output",
    )


def choose_layers(
    description: ModelDescription, *, layer: str | None, rank_at: str | None
) -> tuple[str, str]:
    """Choose the convolution to prune and the layer whose output ranks its channels.

    Args:
        description: the model.
        layer: the convolution; by default the last one that every path from input to output goes
            through, or the last one where there is none such.
        rank_at: where the channels are ranked: the convolution or a layer behind it that keeps its
            channels apart; by default the pooling behind it, else the last activation or batch
            normalization before anything mixes the channels, else the convolution.

    Raises:
        InputError: there is no such layer, or it cannot serve.
    """
    by_name = {item.name: item for item in description.layers}
    chosen = by_name[_choose_convolution(description, layer)]
    candidates = [chosen, *_iterate_channelwise(description, chosen)]
    if rank_at is None:
        return chosen.name, _default_rank_at(candidates)
    names = [item.name for item in candidates]
    if rank_at not in names:
        raise InputError(
            f"{description.path}: cannot rank `{chosen.name}` at `{rank_at}`, expected one of: "
            f"{', '.join(names)}"
        )
    return chosen.name, rank_at


def _choose_convolution(description: ModelDescription, layer: str | None) -> str:
    path = description.path
    by_name = {item.name: item for item in description.layers}
    convolutions = [
        item.name
        for item in description.layers
        if item.class_name in CONVOLUTIONS and item.num_calls == 1
    ]
    if layer is not None and layer not in by_name:
        raise InputError(f"{path}: has no layer `{layer}`, it has: {', '.join(by_name)}")
    if not convolutions:
        raise InputError(f"{path}: has no 2-D convolution outside of nested models")
    if layer is None:
        through = [name for name in convolutions if _leads_through(description, name)]
        return (through or convolutions)[-1]
    if layer not in convolutions:
        raise InputError(
            f"{path}: layer `{layer}` is a {by_name[layer].class_name}, expected a convolution "
            f"that is called once: {', '.join(convolutions)}"
        )
    return layer


def _leads_through(description: ModelDescription, blocked: str) -> bool:
    """Tell whether every path from the input to the output goes through the layer `blocked`."""
    inputs = {item.name: item.inputs for item in description.layers}
    reached = {description.output}
    pending = [description.output]
    while pending:
        name = pending.pop()
        if name == blocked:
            continue
        if not inputs[name]:
            return False
        pending.extend(source for source in inputs[name] if source not in reached)
        reached.update(inputs[name])
    return True


def _iterate_channelwise(
    description: ModelDescription, start: LayerDescription
) -> Iterator[LayerDescription]:
    """Yield, in graph order, the layers behind `start` that keep its channels apart."""
    apart = {start.name}
    for item in description.layers:
        if apart.issuperset(item.inputs) and item.inputs and _is_channelwise(item):
            apart.add(item.name)
            yield item


def _is_channelwise(layer: LayerDescription) -> bool:
    if layer.class_name not in CHANNELWISE or layer.num_calls > 1:
        return False
    mixing = ("glu", "log_softmax", "softmax", "sparsemax")
    if layer.class_name == "Activation":
        return layer.config.get("activation") not in mixing
    return layer.config.get("axis", -1) in (-1, 3, [3], [-1])


def _default_rank_at(candidates: list[LayerDescription]) -> str:
    for item in candidates:
        if item.class_name in POOLINGS:
            return item.name
    return next(item.name for item in reversed(candidates) if item.class_name not in DROPOUTS)
