"""The families of keras.applications, as they are and as the base of a net."""

from typing import NamedTuple

import numpy as np
import pytest

from goodnet.model_files.describe import describe_model
from goodnet.model_files.load import load_model
from goodnet.pruning.layer_choice import choose_layers
from tests.zoo import make_images


class Family(NamedTuple):
    name: str
    size: int
    is_nested: bool


def build_resnet(**options):
    """ResNet50V2 with two blocks in a row instead of up to six, which repeat each other."""
    from keras.src.applications import resnet

    def stack(x):
        for number, (filters, stride) in enumerate([(16, 2), (32, 2), (64, 1)], start=2):
            x = resnet.stack_residual_blocks_v2(x, filters, 2, stride, name=f"conv{number}")
        return x

    return resnet.ResNet(stack, True, True, **options)


def build_efficientnet(**options):
    """EfficientNetB0 with one block of each kind, and one that is repeated."""
    from keras.src.applications import efficientnet

    blocks = [item | {"repeats": 1} for item in efficientnet.DEFAULT_BLOCKS_ARGS]
    blocks[1]["repeats"] = 2
    return efficientnet.EfficientNet(0.5, 1.0, 224, blocks_args=blocks, **options)


def build_convnext(**options):
    """ConvNeXtTiny with one or two blocks in a row instead of up to nine."""
    from keras.src.applications import convnext

    return convnext.ConvNeXt([1, 1, 2, 1], [16, 24, 32, 48], name="convnext_tiny", **options)


SHORTER = {
    "ResNet50V2": build_resnet,
    "EfficientNetB0": build_efficientnet,
    "ConvNeXtTiny": build_convnext,
}
FAMILIES = [
    Family("MobileNet", 32, True),
    Family("MobileNetV2", 32, True),
    Family("MobileNetV3Small", 32, False),
    Family("MobileNetV3Small", 32, True),
    Family("VGG16", 32, False),
    Family("ResNet50V2", 32, True),
    Family("EfficientNetB0", 32, True),
    Family("Xception", 71, True),
    Family("InceptionV3", 75, False),
    Family("ConvNeXtTiny", 32, True),
]
"""One of each kind: the others repeat the same layers, some of them for a minute."""


def build(family: Family):
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    make = SHORTER.get(family.name) or getattr(keras.applications, family.name)
    shape = (family.size, family.size, 3)
    if not family.is_nested:
        return make(weights=None, classes=5, input_shape=shape)
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Rescaling(1 / 127.5, -1),
            layers.RandomFlip(),
            make(weights=None, include_top=False, input_shape=shape),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax"),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", FAMILIES, ids=lambda item: f"{item.name}{' nested' if item.is_nested else ''}"
)
def test_families_load_flat_and_answer_as_in_plain_keras(tmp_path, family):
    import keras

    model = build(family)
    images = make_images(3, model.input_shape[1:], seed=3).astype("float32")
    expected = np.asarray(model(images, training=False))  # predict would trace it first
    path = tmp_path / "net.keras"
    model.save(path)
    keras.backend.clear_session()
    description, loaded = describe_model(path), load_model(path)
    np.testing.assert_allclose(loaded(images, training=False), expected, atol=1e-6)
    assert description.num_classes == 5
    names = [item.name for item in description.layers]
    assert sorted(names) == sorted(operation.name for operation in loaded.operations)
    assert not any(isinstance(layer, keras.Model) for layer in loaded.layers)
    layer, rank_at = choose_layers(description, layer=None, rank_at=None)
    assert ("." in layer) == family.is_nested or family.name == "ConvNeXtTiny"
    assert loaded.get_layer(layer).output.shape[-1] == loaded.get_layer(rank_at).output.shape[-1]
