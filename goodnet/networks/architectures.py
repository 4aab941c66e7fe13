"""The table of networks that are trained here, small ones of the usual kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from goodnet.arrays import Shape
from goodnet.errors import InputError
from goodnet.networks.deepid import build_deepid
from goodnet.networks.initial_weights import SeededLayers

if TYPE_CHECKING:
    import keras


def build_network(
    name: str, num_classes: int, *, image_shape: Shape, seed: int | None = None
) -> keras.Model:
    """Build an untrained network of the table.

    Args:
        name: in `ARCHITECTURES`.
        num_classes: its softmax outputs.
        image_shape: (H, W, C) of its images, at least 8 x 8, for DeepID 31 x 31.
        seed: decides all that its layers draw, in training too; None leaves it to Python's global
            `random`, as Keras does.

    Raises:
        InputError: there is no such network, or images are too small for it.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"network is {name}, expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](num_classes, image_shape=image_shape, seed=seed)


def _vgg(make: SeededLayers, x: Any) -> Any:
    """Convolutions in rows, pooled in between, and a wide layer behind.

    After Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    ICLR 2015.
    """
    from keras import layers

    for number, widths in enumerate(((24,), (32, 48), (64, 64)), start=1):
        for letter, width in zip("ab", widths, strict=False):
            name = f"conv_{number}{letter}"
            x = make.convolve(x, width, 3, name, padding="same", activation="relu")
        x = layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    x = make.drop(layers.Flatten(name="flatten")(x), 0.3, "drop")
    return make.connect(x, 128, "features", "relu")


def _resnet(make: SeededLayers, x: Any) -> Any:
    """Blocks with batch normalization whose input is added to what they make of it.

    After He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    from keras import layers

    def convolve(x: Any, width: int, stride: int, name: str, size: int = 3) -> Any:
        x = make.convolve(
            x, width, size, f"{name}_conv", strides=stride, padding="same", use_bias=False
        )
        return make.normalize(x, f"{name}_norm")

    x = layers.ReLU(name="stem")(convolve(x, 16, 1, "stem"))
    for number, (width, stride) in enumerate(((24, 2), (40, 2), (64, 1)), start=1):
        name = f"block_{number}"
        y = layers.ReLU(name=f"{name}_relu")(convolve(x, width, stride, f"{name}a"))
        y = convolve(y, width, 1, f"{name}b")
        x = layers.Add(name=f"{name}_add")([y, convolve(x, width, stride, f"{name}s", 1)])
        x = layers.ReLU(name=name)(x)
    return layers.GlobalAveragePooling2D(name="features")(x)


def _convnext(make: SeededLayers, x: Any) -> Any:
    """Large kernels on each channel alone, layer normalization, and none by batches.

    After Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, "A ConvNet for the 2020s", CVPR 2022.
    """
    from keras import layers

    for stage, (width, size) in enumerate(((24, 5), (48, 5), (96, 3)), start=1):
        x = make.convolve(x, width, 2, f"shrink_{stage}", strides=2, padding="same")
        x = layers.LayerNormalization(epsilon=1e-6, name=f"shrink_{stage}_norm")(x)
        for letter in "ab":
            name = f"block_{stage}{letter}"
            y = make.convolve_depthwise(x, size, f"{name}_conv")
            y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm")(y)
            y = make.connect(y, 2 * width, f"{name}_widen", "gelu")
            x = layers.Add(name=name)([x, make.connect(y, width, f"{name}_narrow")])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.LayerNormalization(epsilon=1e-6, name="features")(x)


def _mobilenet(make: SeededLayers, x: Any) -> Any:
    """Blocks that are wide inside, and narrow and without an activation between each other.

    After Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear
    Bottlenecks", CVPR 2018.
    """
    from keras import layers

    def convolve(x: Any, width: int, size: int, name: str, **options: Any) -> Any:
        x = make.convolve(x, width, size, f"{name}_conv", use_bias=False, **options)
        return make.normalize(x, f"{name}_norm")

    def activate(x: Any, name: str) -> Any:
        return layers.ReLU(max_value=6, name=name)(x)

    x = activate(convolve(x, 16, 3, "stem", strides=2, padding="same"), "stem")
    for number, (width, stride) in enumerate(((16, 1), (24, 2), (24, 1), (40, 2), (40, 1)), 1):
        name = f"block_{number}"
        y = activate(convolve(x, 4 * x.shape[-1], 1, f"{name}_widen"), f"{name}_wide")
        y = make.convolve_depthwise(y, 3, f"{name}_depthwise", strides=stride, use_bias=False)
        y = activate(make.normalize(y, f"{name}_depthwise_norm"), f"{name}_seen")
        y = convolve(y, width, 1, f"{name}_narrow")
        x = layers.Add(name=name)([x, y]) if x.shape == y.shape else y
    x = activate(convolve(x, 128, 1, "last"), "last")
    return layers.GlobalAveragePooling2D(name="features")(x)


def _build(
    features: Callable[[SeededLayers, Any], Any],
    num_classes: int,
    *,
    image_shape: Shape,
    seed: int | None,
) -> keras.Model:
    import keras

    image = keras.Input(image_shape, name="image")
    make = SeededLayers(seed)
    answer = make.connect(features(make, image), num_classes, "answer", "softmax")
    # By default Keras numbers nets as they come, and no two files of one net would be the same.
    return keras.Model(image, answer, name=features.__name__.removeprefix("_"))


ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "deepid": build_deepid,
    "vgg": partial(_build, _vgg),
    "resnet": partial(_build, _resnet),
    "convnext": partial(_build, _convnext),
    "mobilenet": partial(_build, _mobilenet),
}
"""All networks by name, each a function of what `build_network` takes."""
