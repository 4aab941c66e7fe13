"""The list of Keras classes that a model file may name; everything else is refused.

A `.keras` archive and the `model_config` of an `.h5` file name the classes that Keras will build.
They are checked against this list before Keras sees the file.
"""

from __future__ import annotations

from typing import Any

from goodnet.channelwise import CONVOLUTIONS, MERGES, POOLINGS
from goodnet.errors import InputError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODELS = frozenset({"Functional", "Model", "Sequential"})

_LAYERS = _names(
    "Activation ActivityRegularization AlphaDropout BatchNormalization CenterCrop Concatenate "
    "Cropping2D Dense Dot Dropout ELU Flatten GaussianDropout GaussianNoise GroupNormalization "
    "Identity InputLayer LayerNormalization LeakyReLU Normalization PReLU Permute RandomBrightness "
    "RandomContrast RandomFlip RandomRotation RandomTranslation RandomZoom ReLU RepeatVector "
    "Rescaling Reshape Resizing Softmax SpatialDropout2D UnitNormalization UpSampling2D "
    "ZeroPadding2D"
).union(CONVOLUTIONS, MERGES, POOLINGS)
_INITIALIZERS = _names(
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer "
    "LecunNormal LecunUniform Ones Orthogonal OrthogonalInitializer RandomNormal RandomUniform "
    "TruncatedNormal VarianceScaling Zeros"
)
_REGULARIZERS = _names("L1 L1L2 L2 OrthogonalRegularizer")
_CONSTRAINTS = _names("MaxNorm MinMaxNorm NonNeg UnitNorm")
_ACTIVATIONS = _names(
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu "
    "linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax "
    "softplus softsign sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink "
    "threshold"
)
_DTYPES = _names(
    "bfloat16 bool float16 float32 float64 int16 int32 int64 int8 mixed_bfloat16 mixed_float16 "
    "uint16 uint32 uint64 uint8"
)
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
_LITERALS = _names("__ellipsis__ __keras_tensor__ __numpy__ __slice__ __tensor__")

_BY_MODULE = {
    "keras": _names("DTypePolicy Model Sequential"),
    "keras.constraints": _CONSTRAINTS,
    "keras.dtype_policies": _names("DTypePolicy"),
    "keras.initializers": _INITIALIZERS,
    "keras.layers": _LAYERS,
    "keras.losses": _names("CategoricalCrossentropy SparseCategoricalCrossentropy"),
    "keras.metrics": _names("CategoricalAccuracy SparseCategoricalAccuracy"),
    "keras.models": MODELS,
    "keras.optimizers": _names("Adam AdamW RMSprop SGD"),
    "keras.regularizers": _REGULARIZERS,
    "keras.src.models.functional": _names("Functional"),
    "keras.src.models.sequential": _names("Sequential"),
    "keras.src.ops.core": _names("Cast StopGradient"),
    "keras.src.ops.nn": _NN_OPS,
    "keras.src.ops.numpy": _NUMPY_OPS,
}
"""Module to the class names that may be built from it."""

_WITHOUT_MODULE = (
    _LAYERS | MODELS | _INITIALIZERS | _REGULARIZERS | _CONSTRAINTS | _LITERALS | {"DTypePolicy"}
)
"""Class names that HDF5 models write without a module, where Keras looks them up by kind."""

_NAMED_SETTINGS = {
    "activation": _ACTIVATIONS,
    "initializer": _INITIALIZERS,
    "regularizer": _REGULARIZERS,
    "constraint": _CONSTRAINTS,
    "dtype": _DTYPES,
}
"""What settings whose name ends so may say where they say it by a bare name."""

_OBJECT_KEYS = frozenset({"class_name", "module", "registered_name"})
_MAX_NESTED_MODELS = 2


def check_stock(config: Any, *, where: str) -> None:
    """Raise `InputError` unless every object in a configuration is a stock Keras one.

    Models may stand among the layers of a model only, where their graphs are checked too.
    """
    pending: list[tuple[Any, str, int, bool]] = [(config, where, 0, True)]
    while pending:
        value, place, num_models, is_layer = pending.pop()
        if isinstance(value, list):
            pending.extend((child, place, num_models, is_layer) for child in value)
        if not isinstance(value, dict):
            continue
        if not _OBJECT_KEYS.isdisjoint(value):
            place = _place_of(value, where) or place
            _check_object(value, place)
        if value.get("class_name") in MODELS:
            num_models += 1
            if not is_layer:
                raise InputError(f"{place} is a model in a setting, expected one as a layer")
        if num_models > _MAX_NESTED_MODELS + 1:
            raise InputError(f"{place} is nested deeper than {_MAX_NESTED_MODELS} models")
        for key, child in value.items():
            _check_setting(key, child, place)
            pending.append((child, place, num_models, key == "layers"))


def _place_of(item: dict[str, Any], where: str) -> str | None:
    config = item.get("config")
    name = item.get("name") or (config.get("name") if isinstance(config, dict) else None)
    is_layer = isinstance(name, str) and item.get("class_name") != "DTypePolicy"
    return f"{where}: layer `{name}`" if is_layer else None


def _check_object(item: dict[str, Any], where: str) -> None:
    class_name, module = item.get("class_name"), item.get("module")
    names = _WITHOUT_MODULE if module is None else _BY_MODULE.get(str(module), frozenset())
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


def _check_setting(key: str, value: Any, where: str) -> None:
    """Check what Keras would look up by a bare name, such as `activation: "relu"`."""
    known = _NAMED_SETTINGS.get(key.rpartition("_")[2])
    if known is not None and isinstance(value, str) and value not in known:
        camel_case = "".join(part.capitalize() for part in value.split("_"))
        if camel_case not in known:
            raise InputError(f"{where} has the unknown {key} `{value}`")
    if key == "axis" and value == []:
        raise InputError(f"{where} has an empty axis")
    if key == "data_format" and value == "channels_first":
        raise InputError(f"{where} has data_format `channels_first`, expected `channels_last`")
