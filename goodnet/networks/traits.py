"""What stock Keras layers do with channels and shapes, by class name: the one table of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Gives = Literal[
    "its input's shape", "other sizes", "filters", "units", "pooled", "flat", "target", "joined",
    "merged", "unknown",
]  # fmt: skip
"""What shape comes out: `other sizes` are those of the image alone, the channels stay."""


@dataclass(frozen=True)
class Traits:
    """What one class of layers does.

    Attributes:
        gives: which shape.
        channelwise: whether it acts on each channel of its one input alone (the last axis).
        mixes: whether weights of its own make new features of all channels.
        prunable: whether it is a convolution, whose channels zeros in its weights remove.
        merges: whether it joins tensors of one shape element by element.
        ranks: whether its output ranks channels where no pooling follows.
        pools: whether it pools the image.
        augments: whether it changes images at random, in training or unless told otherwise.
        drops: whether it is random in training, and only there.
        prepares: whether it prepares images without training, so that pixels come out.
        copies: whether it gives the numbers of its one input, in another shape at most.
    """

    gives: Gives = "unknown"
    channelwise: bool = False
    mixes: bool = False
    prunable: bool = False
    merges: bool = False
    ranks: bool = False
    pools: bool = False
    augments: bool = False
    drops: bool = False
    prepares: bool = False
    copies: bool = False


_SAME: Gives = "its input's shape"
_GROUPS: tuple[tuple[str, Traits], ...] = (
    (
        "Conv2D SeparableConv2D Conv2DTranspose",
        Traits("filters", mixes=True, prunable=True),
    ),
    # Where it makes one channel of each it keeps them apart: see `acts_on_each_channel_alone`.
    ("DepthwiseConv2D", Traits("other sizes", prunable=True)),
    ("Dense", Traits("units", mixes=True)),
    (
        "Conv1D Conv1DTranspose Conv3D Conv3DTranspose EinsumDense GroupQueryAttention "
        "MultiHeadAttention SeparableConv1D",
        Traits(mixes=True),
    ),
    ("MaxPooling2D AveragePooling2D", Traits("other sizes", channelwise=True, pools=True)),
    ("GlobalMaxPooling2D GlobalAveragePooling2D", Traits("pooled", channelwise=True, pools=True)),
    ("ZeroPadding2D Cropping2D UpSampling2D", Traits("other sizes", channelwise=True)),
    ("CenterCrop Resizing", Traits("other sizes", prepares=True)),
    ("ReLU LeakyReLU ELU PReLU", Traits(_SAME, channelwise=True, ranks=True)),
    # Whether these two keep channels apart is up to their configuration.
    ("Activation BatchNormalization", Traits(_SAME, ranks=True)),
    (
        "Dropout SpatialDropout2D GaussianDropout GaussianNoise AlphaDropout",
        Traits(_SAME, channelwise=True, drops=True),
    ),
    ("StochasticDepth", Traits(_SAME, channelwise=True, drops=True)),
    ("SpatialDropout1D SpatialDropout3D", Traits(_SAME, drops=True)),
    ("ActivityRegularization Identity", Traits(_SAME, channelwise=True, copies=True)),
    ("LayerScale Rescaling", Traits(_SAME, channelwise=True)),
    ("Normalization", Traits(_SAME, prepares=True)),
    (
        "GroupNormalization InputLayer LayerNormalization RMSNormalization Softmax "
        "UnitNormalization",
        Traits(_SAME),
    ),
    # Of tensors of one shape, which they join element by element; others are broadcast.
    (
        "Add Subtract Multiply Average Maximum Minimum CustomScaleLayer",
        Traits("merged", merges=True),
    ),
    ("Concatenate", Traits("joined")),
    ("Flatten", Traits("flat", copies=True)),
    ("Reshape", Traits("target", copies=True)),
    (
        "AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration "
        "RandomColorJitter RandomContrast RandomElasticTransform RandomErasing RandomFlip "
        "RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective "
        "RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear "
        "RandomTranslation RandomZoom",
        Traits(_SAME, augments=True),
    ),
    ("RandomCrop", Traits("other sizes", augments=True)),
    (
        "AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D "
        "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D AdditiveAttention "
        "Attention AutoContrast AveragePooling1D AveragePooling3D "
        "ContrastLimitedAdaptiveHistogramEqualization Cropping1D Cropping3D DepthwiseConv1D Dot "
        "Embedding Equalization GlobalAveragePooling1D GlobalAveragePooling3D GlobalMaxPooling1D "
        "GlobalMaxPooling3D MaxPooling1D MaxPooling3D Permute RepeatVector ReversibleEmbedding "
        "Solarization SpectralNormalization UpSampling1D UpSampling3D ZeroPadding1D ZeroPadding3D",
        Traits(),
    ),
)
TRAITS = {name: traits for names, traits in _GROUPS for name in names.split()}
"""Of every class of layers that a model file may name; see `goodnet.model_files.stock_keras`."""

ELEMENTWISE_OPS = (
    "Abs", "Absolute", "Add", "Clip", "Divide", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSilu",
    "HardTanh", "LeakyRelu", "Maximum", "Minimum", "Multiply", "Negative", "Relu", "Relu6",
    "Sigmoid", "Silu", "Softplus", "Square", "Subtract", "Tanh", "TrueDivide",
)  # fmt: skip
"""Operations, not layers, that give the shape that their inputs have together."""

_ELEMENTWISE_ACTIVATIONS = (
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "swish", "mish",
    "sigmoid", "sparse_sigmoid", "hard_sigmoid", "log_sigmoid", "hard_silu", "hard_swish", "tanh",
    "hard_tanh", "tanh_shrink", "soft_shrink", "hard_shrink", "softplus", "softsign", "squareplus",
    "exponential", "threshold", "sparse_plus",
)  # fmt: skip


def traits_of(class_name: str) -> Traits:
    """Return the traits of a class of layers; of an op, or an unknown class, nothing is known."""
    return TRAITS.get(class_name, Traits())


def operation_traits(operation: Any) -> Traits:
    """Return the traits of a layer, or of an op that is called as one."""
    return traits_of(type(operation).__name__)


def acts_on_each_channel_alone(class_name: str, config: Mapping[str, Any]) -> bool:
    """Return whether a one-input layer keeps the channels apart (the last axis, channels last).

    Flatten is not among them: it keeps channels apart but gives up their axis.

    Args:
        class_name: the Keras class, for example "MaxPooling2D".
        config: the layer's configuration, as `get_config()` gives it or a model file holds it.
    """
    if class_name == "Activation":
        return is_elementwise(config.get("activation"))
    if class_name == "DepthwiseConv2D":
        one_each = config.get("depth_multiplier", 1) == 1
        return one_each and is_elementwise(config.get("activation"))
    if class_name == "BatchNormalization":
        axis = config.get("axis", -1)
        return (axis[0] if isinstance(axis, (list, tuple)) else axis) in (-1, 3)
    return traits_of(class_name).channelwise


def is_elementwise(activation: object) -> bool:
    """Return whether an activation, as a configuration has it, keeps the channels apart."""
    if isinstance(activation, Mapping):
        config = activation.get("config")
        if isinstance(config, Mapping):  # a layer in the place of a function
            return acts_on_each_channel_alone(activation.get("class_name", ""), config)
        activation = config
    return activation is None or activation in _ELEMENTWISE_ACTIVATIONS
