import numpy as np
import pytest

from tests.zoo import BY_NAME


def names(model) -> list[str]:
    from goodnet.networks.depths import find_depths
    from goodnet.networks.graph import as_functional

    return [depth.layer for depth in find_depths(as_functional(model))]


def test_depths_of_deepid_lie_behind_poolings_and_before_the_answer():
    from goodnet.networks.deepid import build_deepid

    assert names(build_deepid(7)) == ["pool_1", "pool_2", "pool_3", "deepid"]


@pytest.fixture(scope="module")
def residual():
    import keras
    from keras import layers

    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255, name="scale")(image)
    x = layers.ReLU(name="stem")(layers.BatchNormalization()(layers.Conv2D(4, 3)(x)))
    for number in range(9):
        y = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
        x = layers.ReLU(name=f"block_{number}")(layers.Add()([x, y]))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D(name="pool")(x))
    x = layers.Dense(3, name="logits")(x)
    return keras.Model(image, layers.Softmax()(x))


def test_of_many_depths_six_are_taken_evenly_and_none_inside_a_block(residual):
    assert names(residual) == ["stem", "block_1", "block_3", "block_4", "block_6", "pool"]


def test_what_prepares_images_gives_pixels_and_no_depth():
    import keras
    from keras import layers

    image = x = keras.Input((8, 8, 3))
    for layer in (
        layers.RandomFlip(seed=1),
        layers.Normalization(mean=0.5, variance=2.0),
        layers.Rescaling(1 / 255),
        layers.Resizing(10, 10),
    ):
        x = layer(x)
    x = layers.Conv2D(4, 3, activation="relu", name="first")(x)
    answer = layers.Dense(3)(layers.GlobalAveragePooling2D(name="pool")(x))
    assert names(keras.Model(image, answer)) == ["pool"]


def test_a_layer_that_leads_nowhere_is_no_way_around():
    import keras
    from keras import layers

    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="first")(image)
    y = layers.Conv2D(4, 3, activation="relu", name="second")(x)
    layers.GlobalAveragePooling2D(name="unused")(x)
    answer = layers.Dense(3)(layers.Flatten()(y))
    assert names(keras.Model(image, answer)) == ["first", "second"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", ["rank"]),
        ("in_the_middle", 3),
        ("skip_from_the_image", 1),
        ("channels_are_answers", []),
        ("sequential", ["rank"]),
        ("layer_called_twice", 2),
    ],
)
def test_depths_of_the_zoo(name, expected):
    from tests.zoo import _build

    found = names(_build(BY_NAME[name]).model)
    assert found == expected if isinstance(expected, list) else len(found) == expected


@pytest.mark.parametrize(
    ("shape", "num_features"),
    [
        ((26, 22, 20), 9 * 8 * 20),
        ((5, 4, 60), 1200),
        ((160,), 160),
        ((7, 7, 2048), 1024),
        ((4096,), 1366),
        ((100, 64), 25 * 64),
        ((1, 1, 3), 3),
    ],
)
def test_features_are_averages_over_parts(shape, num_features):
    import keras

    from goodnet.networks.depths import Depth

    tensor = keras.Input(shape)
    depth = Depth("tensor", tensor)
    assert depth.num_features == num_features
    value = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)
    features = np.asarray(depth.features(value, str))
    assert features.shape == (3, num_features)
    assert keras.Model(tensor, depth.features(tensor, str)).output_shape == (None, num_features)
    if num_features == np.prod(shape):
        np.testing.assert_array_equal(features, value.reshape(3, -1))
    if shape == (26, 22, 20):
        found = features.reshape(3, 9, 8, 20)
        # Parts at the edge are smaller, and their averages are those of what is there.
        np.testing.assert_allclose(found[:, 0, 0], value[:, :3, :2].mean((1, 2)), atol=1e-6)
        np.testing.assert_allclose(found[:, 1, 1], value[:, 3:6, 2:5].mean((1, 2)), atol=1e-6)
        np.testing.assert_allclose(found[:, -1, -1], value[:, 24:, 20:].mean((1, 2)), atol=1e-6)
    if shape == (7, 7, 2048):
        np.testing.assert_allclose(features[:, 0], value[..., :2].mean((1, 2, 3)), atol=1e-6)
