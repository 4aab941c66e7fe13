"""The list of Keras classes that a model file may name; everything else is refused.

A `.keras` archive and the `model_config` of an `.h5` file name the classes that Keras will build.
They are checked against this list before Keras sees the file.
"""

from __future__ import annotations

from typing import Any

from goodnet.errors import InputError
from goodnet.model_files.config_json import children
from goodnet.model_files.keras_2 import MODELS, OPERATIONS
from goodnet.networks.traits import TRAITS, traits_of


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_APPLICATION_LAYERS = {
    "keras.src.applications.convnext": _names("LayerScale StochasticDepth"),
    "keras.src.applications.inception_resnet_v2": _names("CustomScaleLayer"),
}
_LAYERS = frozenset(TRAITS).difference(*_APPLICATION_LAYERS.values())
_INITIALIZERS = _names(
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer "
    "LecunNormal LecunUniform Ones Orthogonal OrthogonalInitializer RandomNormal RandomUniform "
    "TruncatedNormal VarianceScaling Zeros"
)
_REGULARIZERS = _names("L1 L1L2 L2 OrthogonalRegularizer")
_CONSTRAINTS = _names("MaxNorm MinMaxNorm NonNeg UnitNorm")
_ACTIVATIONS = _names(
    "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh "
    "leaky_relu linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink "
    "softmax softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh "
    "tanh_shrink threshold"
)
_DTYPES = _names(
    "bfloat16 bool float16 float32 float64 int16 int32 int64 int8 mixed_bfloat16 mixed_float16 "
    "uint16 uint32 uint64 uint8"
)
_CORE_OPS = _names("Cast SaturateCast Slice StopGradient")
_IMAGE_OPS = _names("HSVToRGB PadImages RGBToGrayscale RGBToHSV Resize")
_LINEAR_OPS = _names("Norm")
_MATH_OPS = _names("Erf Erfc Erfinv Logsumexp Rsqrt TopK")
_NN_OPS = _names(
    "AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm Celu Conv ConvTranspose "
    "DepthToSpace DepthwiseConv DotProductAttention Elu Gelu Glu HardShrink HardSigmoid HardSilu "
    "HardTanh LayerNorm LeakyRelu LogSigmoid LogSoftmax MaxPool Moments Normalize OneHot RMSNorm "
    "Relu Relu6 Selu SeparableConv Sigmoid Silu SoftShrink Softmax Softplus Softsign SpaceToDepth "
    "SparsePlus SparseSigmoid Sparsemax Squareplus TanhShrink Threshold Unfold"
)
_NUMPY_OPS = _names(
    "Abs Absolute Add All Amax Amin Any Append Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 "
    "Arctanh Argmax Argmin Argsort Average BroadcastTo Cbrt Ceil Clip Concatenate Copy "
    "CountNonzero Cos Cosh Cumprod Cumsum Deg2rad Diff Divide DivideNoNan Dot Dstack Einsum Equal "
    "Exp Exp2 ExpandDims Expm1 Fabs Flip Fliplr Flipud Floor FloorDivide Fmax Fmin Fmod FullLike "
    "GetItem Greater GreaterEqual Heaviside Hstack Hypot Inner Isfinite Isinf Isnan Less "
    "LessEqual Log Log10 Log1p Log2 Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr "
    "LogicalXor Matmul Max Maximum Mean Median Min Minimum Mod Moveaxis Multiply NanToNum "
    "Negative NotEqual OnesLike Outer Pad Power Prod Ptp Rad2deg Ravel Reciprocal Repeat Reshape "
    "Roll Rot90 Round Sign Signbit Sin Sinc Sinh Sort Split Sqrt Square Squeeze Stack Std "
    "Subtract Sum Swapaxes Take TakeAlongAxis Tan Tanh Tensordot Tile Transpose TrueDivide Trunc "
    "Var Vdot Vstack Where ZerosLike"
)
_OPS = _CORE_OPS | _IMAGE_OPS | _LINEAR_OPS | _MATH_OPS | _NN_OPS | _NUMPY_OPS
_LITERALS = _names("__ellipsis__ __keras_tensor__ __numpy__ __slice__ __tensor__")

_BY_MODULE = {
    "keras": _names("DTypePolicy Model Sequential"),
    "keras.constraints": _CONSTRAINTS,
    "keras.dtype_policies": _names("DTypePolicy"),
    "keras.initializers": _INITIALIZERS,
    "keras.layers": _LAYERS,
    "keras.models": _names("Model Sequential"),
    "keras.regularizers": _REGULARIZERS,
    "keras.src.models.functional": _names("Functional"),
    "keras.src.models.sequential": _names("Sequential"),
    **_APPLICATION_LAYERS,
    "keras.src.ops.core": _CORE_OPS,
    "keras.src.ops.image": _IMAGE_OPS,
    "keras.src.ops.linalg": _LINEAR_OPS,
    "keras.src.ops.math": _MATH_OPS,
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

_OBJECT_SETTINGS = {
    "initializer": _INITIALIZERS,
    "regularizer": _REGULARIZERS,
    "constraint": _CONSTRAINTS,
    "dtype": _names("DTypePolicy"),
}
"""Of which classes the objects in such settings may be."""

_REASONS = {
    reason: _names(names)
    for reason, names in {
        "which runs code from the file": "Lambda __lambda__",
        "which runs a program of another framework or folder": (
            "FlaxLayer JaxLayer TFSMLayer TorchModuleWrapper"
        ),
        "which calls a function of the file in a loop or as a branch": (
            "AssociativeScan Cond ForiLoop Map Scan Switch VectorizedMap WhileLoop"
        ),
        "which goes from step to step, so that its work cannot be told beforehand": (
            "Bidirectional ConvLSTM1D ConvLSTM2D ConvLSTM3D GRU GRUCell LSTM LSTMCell RNN "
            "SimpleRNN SimpleRNNCell StackedRNNCells TimeDistributed"
        ),
        "which is for text and tables and no image": (
            "CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup StringLookup "
            "TextVectorization"
        ),
        "which is for sound and no image": "MelSpectrogram STFTSpectrogram",
        "which is for boxes and no classifier": "MaxNumBoundingBoxes",
        "whose mask is not followed through the net": "Masking",
        "whose layers are not checked": "Pipeline Wrapper",
        "whose result has a shape that depends on the image": (
            "Bincount Histogram InTopK Nonzero Unique"
        ),
        "which is for training": (
            "BinaryCrossentropy CTCDecode CTCLoss CategoricalCrossentropy PSNR SSIM "
            "SparseCategoricalCrossentropy"
        ),
    }.items()
}
"""Why a class of Keras is not on the list."""

_OBJECT_KEYS = frozenset({"class_name", "module", "registered_name"})
_MAX_NESTED_MODELS = 3
"""As deep as a ConvNeXt, whose stem is a model, in a model that prepares its images. What models in
models cost is bounded by the steps that it takes to build them, however deep they stand."""


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
        value = _without_known_settings(value)
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


def _without_known_settings(item: dict[str, Any]) -> dict[str, Any]:
    """Leave out an axis that means one mean for all channels: `Normalization(axis=None)`."""
    config = item.get("config")
    if item.get("class_name") != "Normalization" or not isinstance(config, dict):
        return item
    return item | {"config": {key: v for key, v in config.items() if (key, v) != ("axis", [])}}


def _place_of(item: dict[str, Any], where: str) -> str | None:
    config = item.get("config")
    name = item.get("name") or (config.get("name") if isinstance(config, dict) else None)
    is_layer = isinstance(name, str) and item.get("class_name") != "DTypePolicy"
    return f"{where}: layer `{name}`" if is_layer else None


def _check_object(item: dict[str, Any], where: str) -> None:
    class_name, module = item.get("class_name"), item.get("module")
    names = _WITHOUT_MODULE if module is None else _BY_MODULE.get(str(module), frozenset())
    if isinstance(class_name, str) and class_name in OPERATIONS:
        settings = item.get("config")
        function = settings.get("function") if isinstance(settings, dict) else None
        raise InputError(
            f"{where} is TensorFlow's function `{function}` as Keras 2 wrote it, and has no "
            "translation into Keras 3, expected layers and simple arithmetic: build the net there "
            "with a layer in its place"
        )
    if module is None and _is_operation(item):
        raise InputError(
            f"{where} is the operation `{class_name}` of Keras 3, which writes too little of it "
            "into HDF5 files to build it again, expected a .keras file: save the net as one"
        )
    if not isinstance(class_name, str) or class_name not in names:
        raise InputError(
            f"{where} uses `{class_name}` of module `{module}`, {_reason(class_name, module)}, "
            "expected stock Keras layers and ops"
        )
    if item.get("registered_name") not in (None, class_name):
        raise InputError(
            f"{where} uses the registered object `{item['registered_name']}`, which only code "
            "from elsewhere could build, expected stock Keras layers and ops"
        )


def _is_operation(item: dict[str, Any]) -> bool:
    """Return whether an item without a module is an operation, such as `x / 255`, and no layer.

    Some share the name of a layer that takes a list of tensors, and take each by itself.
    """
    class_name = item.get("class_name")
    if not isinstance(class_name, str) or class_name not in _OPS:
        return False
    if class_name not in _LAYERS:
        return True
    nodes = item.get("inbound_nodes")
    calls = (node.get("args") for node in children(nodes) if isinstance(node, dict))
    several = any(isinstance(args, list) and len(args) > 1 for args in calls)
    return several and traits_of(class_name).merges


def _reason(class_name: Any, module: Any) -> str:
    is_keras = module is None or str(module).split(".")[0] == "keras"
    for reason, names in _REASONS.items():
        if is_keras and isinstance(class_name, str) and class_name in names:
            return reason
    if is_keras and module is not None:
        return "which is not among those whose cost and effect are known here"
    return "which is none of Keras's own, so that only code from elsewhere could build it"


def _check_setting(key: str, value: Any, where: str) -> None:
    """Check what Keras would look up by a bare name, such as `activation: "relu"`."""
    kind = key.rpartition("_")[2]
    known = _NAMED_SETTINGS.get(kind)
    if known is not None and isinstance(value, str) and value not in known:
        camel_case = "".join(part.capitalize() for part in value.split("_"))
        if camel_case not in known:
            raise InputError(f"{where} has the unknown {key} `{value}`")
    if kind in _OBJECT_SETTINGS and isinstance(value, dict | list):
        _check_object_setting(key, value, where)
    if key == "mask_zero" and value:
        raise InputError(f"{where} makes a mask, which is not followed through the net")
    if key == "axis" and value == []:
        raise InputError(f"{where} has an empty axis")
    if key == "data_format" and value == "channels_first":
        raise InputError(f"{where} has data_format `channels_first`, expected `channels_last`")


def _check_object_setting(key: str, value: Any, where: str) -> None:
    kind = key.rpartition("_")[2]
    class_name = value.get("class_name") if isinstance(value, dict) else None
    if not isinstance(class_name, str) or class_name not in _OBJECT_SETTINGS[kind]:
        raise InputError(f"{where} has a {key} of class `{class_name}`, expected a stock {kind}")
    config = value.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    if kind == "dtype" and (not isinstance(name, str) or name not in _DTYPES):
        raise InputError(f"{where} has the unknown {key} `{name}`")
