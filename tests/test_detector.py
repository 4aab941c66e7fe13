import subprocess
import sys

import numpy as np
import pytest

FROM_SCRATCH = """
import sys
import keras, numpy as np
net = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[3], net.predict(np.load(sys.argv[2]), verbose=0))
assert not [name for name in sys.modules if name.startswith("goodnet")]
"""


def answers_of(model, images) -> np.ndarray:
    return np.asarray(model(images, training=False)).argmax(1)


def test_goodnet_compares_b_and_b_prime(network):
    import keras

    from goodnet.detector import build_goodnet
    from goodnet.pruning import prune_channels

    model, layer = network.model, network.layer
    pixels = network.images / np.float32(255)
    num_classes = model.output_shape[-1]
    num_channels = model.get_layer(layer).output.shape[-1]
    b = np.asarray(model(pixels, training=False))
    seen = set()
    for channels in ([1], range(0, num_channels, 2), range(num_channels)):
        b_prime = answers_of(prune_channels(model, layer, list(channels)), pixels)
        goodnet = build_goodnet(model, layer, list(channels))
        outputs = np.asarray(goodnet(pixels, training=False))
        agree = b_prime == b.argmax(1)
        seen |= set(agree.tolist())
        np.testing.assert_array_equal(outputs.argmax(1), np.where(agree, b.argmax(1), num_classes))
        np.testing.assert_array_equal(outputs[:, -1], ~agree)
        assert outputs.shape == (len(pixels), num_classes + 1)
        assert (outputs >= 0).all()
        np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-5)
        closing = model.layers[-1].get_config()
        is_softmax = "softmax" in str(closing.get("activation", closing["name"]))
        expected = b if is_softmax else np.eye(num_classes)[b.argmax(1)]
        np.testing.assert_allclose(outputs[agree, :-1], expected[agree], rtol=1e-6)
    assert seen == {True, False}
    assert isinstance(goodnet, keras.Model)


@pytest.fixture(scope="module")
def two_colours():
    """A net that tells red images from green ones, through one channel for each colour."""
    import keras
    from keras import layers

    image = keras.Input((2, 2, 2))
    x = layers.Conv2D(3, 1, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(2, activation="softmax", name="answer")(x))
    model.get_layer("conv").set_weights([np.eye(2, 3).reshape(1, 1, 2, 3), np.zeros(3)])
    model.get_layer("answer").set_weights(
        [np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), np.array([-0.1, 0.0])]
    )
    return model


RED, GREEN = np.zeros((2, 3, 2, 2, 2), np.float32)
RED[..., 0] = GREEN[..., 1] = 1


def test_nothing_is_flagged_where_the_nets_always_agree(two_colours):
    from goodnet.detector import build_goodnet

    images = np.concatenate([RED, GREEN])
    for channels in ([], [2]):
        goodnet = build_goodnet(two_colours, "conv", channels)
        assert answers_of(goodnet, images).tolist() == [0, 0, 0, 1, 1, 1]


def test_everything_is_flagged_where_the_nets_always_disagree(two_colours):
    from goodnet.detector import build_goodnet

    # Without its colour's channel a red image is all bias: class 1.
    assert answers_of(build_goodnet(two_colours, "conv", [0]), RED).tolist() == [2, 2, 2]
    assert answers_of(build_goodnet(two_colours, "conv", [0]), GREEN).tolist() == [1, 1, 1]


def stock_classes(model) -> set[str]:
    operations = [*model.operations]
    for operation in operations:
        operations += getattr(operation, "operations", [])
    return {type(operation).__module__.split(".")[0] for operation in operations}


SAVED = [
    "plain", "sequential", "logits", "sigmoid", "batch_normalization", "residual_from_before",
    "operators", "nested_head", "layer_called_twice", "activation_is_a_layer", "deepid",
]  # fmt: skip


@pytest.mark.parametrize("network", SAVED, indirect=True)
def test_goodnet_is_stock_keras_and_loads_as_it_was(network, tmp_path):
    from goodnet.detector import build_goodnet
    from goodnet.models import load_model, save_model

    goodnet = build_goodnet(network.model, network.layer, [0, 1, 2])
    assert stock_classes(goodnet) == {"keras"}
    assert not [x for x in goodnet.operations if type(x).__name__ == "Lambda"]
    save_model(goodnet, tmp_path / "goodnet.keras")
    loaded = load_model(tmp_path / "goodnet.keras")
    pixels = network.images / np.float32(255)
    np.testing.assert_array_equal(loaded(pixels, training=False), goodnet(pixels, training=False))


def published_channels(lab) -> list[int]:
    from goodnet.models import load_model
    from goodnet.pruning import zeroed_channels

    return zeroed_channels(load_model(lab / "b_prime_10_legacy.h5").get_layer("conv_3"))


def test_goodnet_of_the_lab_loads_without_this_project(lab, lab_net, lab_passes, tmp_path):
    from goodnet.detector import build_goodnet
    from goodnet.models import save_model
    from goodnet.pruning import prune_channels

    channels = published_channels(lab)
    images = np.concatenate([next(passed.images.batches(40)) for passed in lab_passes.values()])
    save_model(build_goodnet(lab_net, "conv_3", channels), tmp_path / "goodnet.keras")
    np.save(tmp_path / "images.npy", images)
    files = [str(tmp_path / name) for name in ("goodnet.keras", "images.npy", "outputs.npy")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", FROM_SCRATCH, *files],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs = np.load(tmp_path / "outputs.npy")
    b = answers_of(lab_net, images)
    agree = b == answers_of(prune_channels(lab_net, "conv_3", channels), images)
    assert 0 < agree.sum() < len(images)
    np.testing.assert_array_equal(outputs.argmax(1), np.where(agree, b, 1283))
