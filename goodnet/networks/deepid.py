"""DeepID, the face network of the reference case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goodnet.arrays import Shape
from goodnet.errors import InputError
from goodnet.networks.initial_weights import SeededLayers

if TYPE_CHECKING:
    import keras

IMAGE_SHAPE = (55, 47, 3)
"""Height, width and channels of the faces it takes, raw pixels 0..255."""

_LEAST_SIDE = 31
"""Of an image, so that its last convolution has 2 x 2 values left to see."""


def build_deepid(
    num_classes: int, *, image_shape: Shape = IMAGE_SHAPE, seed: int | None = None
) -> keras.Model:
    """Build an untrained DeepID with `num_classes` softmax outputs.

    Sun, Wang, Tang, "Deep Learning Face Representation from Predicting 10,000 Classes", CVPR 2014,
    in the variant of the CSAW HackML 2020 lab: 601,643 parameters at 1,283 classes.

    Args:
        num_classes: its outputs.
        image_shape: of other images than the lab's faces.
        seed: decides the weights; None leaves it to Python's global `random`, as Keras does.

    Raises:
        InputError: images are too small for its convolutions.
    """
    import keras
    from keras import layers

    if min(image_shape[:2]) < _LEAST_SIDE:
        height, width, _ = image_shape
        raise InputError(
            f"images are {height} x {width}, expected at least {_LEAST_SIDE} x {_LEAST_SIDE} for "
            "deepid"
        )
    make = SeededLayers(seed)
    image = keras.Input(image_shape, name="input")
    x = make.convolve(image, 20, 4, "conv_1", activation="relu")
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = make.convolve(x, 40, 3, "conv_2", activation="relu")
    x = layers.MaxPooling2D(2, name="pool_2")(x)
    x = make.convolve(x, 60, 3, "conv_3", activation="relu")
    x = layers.MaxPooling2D(2, name="pool_3")(x)
    wide = make.connect(layers.Flatten(name="flatten_1")(x), 160, "fc_1")
    deep = make.convolve(x, 80, 2, "conv_4", activation="relu")
    deep = make.connect(layers.Flatten(name="flatten_2")(deep), 160, "fc_2")
    features = layers.Activation("relu", name="deepid")(layers.Add(name="add")([wide, deep]))
    answer = make.connect(features, num_classes, "output", "softmax")
    return keras.Model(image, answer, name="deepid")
