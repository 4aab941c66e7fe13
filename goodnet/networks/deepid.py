"""DeepID, the face network of the reference case."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

IMAGE_SHAPE = (55, 47, 3)
"""Height, width and channels of the faces it takes, raw pixels 0..255."""


def build_deepid(num_classes: int) -> keras.Model:
    """Build an untrained DeepID with `num_classes` softmax outputs.

    Sun, Wang, Tang, "Deep Learning Face Representation from Predicting 10,000 Classes", CVPR 2014,
    in the variant of the CSAW HackML 2020 lab: 601,643 parameters at 1,283 classes.
    """
    import keras
    from keras import layers

    image = keras.Input(IMAGE_SHAPE, name="input")
    x = layers.Conv2D(20, 4, activation="relu", name="conv_1")(image)
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = layers.Conv2D(40, 3, activation="relu", name="conv_2")(x)
    x = layers.MaxPooling2D(2, name="pool_2")(x)
    x = layers.Conv2D(60, 3, activation="relu", name="conv_3")(x)
    x = layers.MaxPooling2D(2, name="pool_3")(x)
    wide = layers.Dense(160, name="fc_1")(layers.Flatten(name="flatten_1")(x))
    deep = layers.Conv2D(80, 2, activation="relu", name="conv_4")(x)
    deep = layers.Dense(160, name="fc_2")(layers.Flatten(name="flatten_2")(deep))
    features = layers.Activation("relu", name="deepid")(layers.Add(name="add")([wide, deep]))
    answer = layers.Dense(num_classes, activation="softmax", name="output")(features)
    return keras.Model(image, answer, name="deepid")
