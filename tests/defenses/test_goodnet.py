import numpy as np
import pytest

from goodnet.pruning.ranking import block_means, mean_activations, prune_order


def answers_of(model, images) -> np.ndarray:
    return np.asarray(model(images, training=False)).argmax(1)


def test_goodnet_compares_b_and_b_prime(network):
    import keras

    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.pruning.channels import prune_channels

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
        is_softmax = str(closing.get("activation", closing["name"])).startswith("softmax")
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
    from goodnet.defenses.goodnet import build_goodnet

    images = np.concatenate([RED, GREEN])
    for channels in ([], [2]):
        goodnet = build_goodnet(two_colours, "conv", channels)
        assert answers_of(goodnet, images).tolist() == [0, 0, 0, 1, 1, 1]


def test_everything_is_flagged_where_the_nets_always_disagree(two_colours):
    from goodnet.defenses.goodnet import build_goodnet

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


@pytest.mark.slow
@pytest.mark.parametrize("network", SAVED, indirect=True)
def test_goodnet_is_stock_keras_and_loads_as_it_was(network, tmp_path):
    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import load_model, save_model

    goodnet = build_goodnet(network.model, network.layer, [0, 1, 2])
    assert stock_classes(goodnet) == {"keras"}
    assert not [x for x in goodnet.operations if type(x).__name__ == "Lambda"]
    save_model(goodnet, tmp_path / "goodnet.keras")
    loaded = load_model(tmp_path / "goodnet.keras")
    pixels = network.images / np.float32(255)
    np.testing.assert_array_equal(loaded(pixels, training=False), goodnet(pixels, training=False))


@pytest.mark.slow
def test_goodnet_of_a_badnet_loads_without_this_project(badnet, passes, plain_keras, tmp_path):
    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import save_model
    from goodnet.pruning.channels import prune_channels

    channels = prune_order(mean_activations(block_means(passes["clean_valid"].cache)))[:52]
    images = np.concatenate([next(passed.images.batches(40)) for passed in passes.values()])
    save_model(build_goodnet(badnet, "conv_3", channels), tmp_path / "goodnet.keras")
    outputs = plain_keras(tmp_path / "goodnet.keras", images)
    b = answers_of(badnet, images)
    agree = b == answers_of(prune_channels(badnet, "conv_3", channels), images)
    assert 0 < agree.sum() < len(images)
    np.testing.assert_array_equal(outputs.argmax(1), np.where(agree, b, badnet.output_shape[-1]))


def noise(num_images: int, *, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (num_images, 10, 10, 3))
    return pixels.astype(np.float32)


@pytest.fixture(scope="module")
def squeezing_net():
    """A net with operations, and with layers that are named as Keras names operations."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(11)
    image = keras.Input((10, 10, 3))
    x = image / 127.5 - 1.0
    x = layers.Conv2D(6, 3, activation="sigmoid", name="conv")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="argmax")(x)
    gate = layers.Conv2D(6, 1, activation="sigmoid", name="one_hot")(gate)
    x = layers.Multiply(name="multiply_1")([x, gate])
    x = keras.ops.relu6(x + 3.0) / 6.0
    x = layers.Flatten(name="goodnet_output")(layers.MaxPooling2D(2, name="best_class")(x))
    net = keras.Model(image, layers.Dense(4, activation="softmax", name="agree")(x))
    features = np.asarray(keras.Model(image, x)(noise(200, seed=10), training=False))
    kernel = np.random.default_rng(11).normal(size=(features.shape[1], 4)).astype(np.float32)
    # Centred, so that images of noise get different answers.
    net.get_layer("agree").set_weights([kernel, -features.mean(0) @ kernel])
    return net


def test_no_name_of_b_is_in_the_way(squeezing_net, tmp_path):
    """Not even those of G, where B is a GoodNet itself, nor those that Keras gives on loading."""
    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import load_model, save_model
    from goodnet.pruning.channels import prune_channels

    images = noise(64, seed=12)
    net, expected = squeezing_net, np.asarray(squeezing_net(images, training=False)).argmax(1)
    for number, channels in enumerate(([0, 1, 2], [3, 4])):
        pruned = np.asarray(prune_channels(net, "conv", channels)(images, training=False)).argmax(1)
        num_classes = net.output_shape[-1]
        save_model(build_goodnet(net, "conv", channels), tmp_path / f"{number}.keras")
        net = load_model(tmp_path / f"{number}.keras")
        expected = np.where(pruned == expected, expected, num_classes)
        np.testing.assert_array_equal(np.asarray(net(images, training=False)).argmax(1), expected)
        assert len(set(expected)) > 1
    assert net.output_shape == (None, 6)


def test_goodnet_does_not_depend_on_the_settings_of_keras(
    squeezing_net, channels_first_keras, tmp_path
):
    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import save_model

    images = noise(16, seed=13)
    goodnet = build_goodnet(squeezing_net, "conv", [0, 1, 2])
    save_model(goodnet, tmp_path / "goodnet.keras")
    answers = channels_first_keras(tmp_path / "goodnet.keras", images)
    np.testing.assert_allclose(answers, np.asarray(goodnet(images, training=False)), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
@pytest.mark.slow
def test_nets_of_less_precision_are_repaired_in_float32(policy, first_pass, tmp_path):
    import keras
    from keras import layers

    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import load_model, save_model
    from goodnet.pruning.channels import prune_channels
    from goodnet.pruning.ranking import block_means, mean_activations, prune_order
    from goodnet.pruning.sweep import sweep_block

    keras.utils.set_random_seed(13)
    image = keras.Input((10, 10, 3))
    x = layers.Rescaling(1 / 255, dtype=policy)(image)
    x = layers.Conv2D(6, 3, activation="relu", name="conv", dtype=policy)(x)
    x = layers.BatchNormalization(dtype=policy)(x)
    x = layers.Flatten(dtype=policy)(layers.MaxPooling2D(2, dtype=policy)(x))
    net = keras.Model(image, layers.Dense(4, activation="softmax", dtype="float32")(x))
    net.save(tmp_path / "net.keras")
    loaded = load_model(tmp_path / "net.keras")
    images = np.random.default_rng(13).integers(0, 256, (48, 10, 10, 3)).astype(np.uint8)
    before, after = (np.asarray(model(images, training=False)) for model in (net, loaded))
    np.testing.assert_allclose(before, after, atol=0.05)
    passed = first_pass(loaded, images, pixel_scale=1.0)
    (block,) = passed.cache.blocks()
    order = prune_order(mean_activations(block_means(passed.cache)))
    answers = sweep_block(block, frontier=passed.frontier, order=order)
    for step in range(7):
        pruned = np.asarray(
            prune_channels(loaded, "conv", order[:step])(images, training=False)
        ).argmax(1)
        np.testing.assert_array_equal(answers[step], pruned)
    save_model(build_goodnet(loaded, "conv", order[:4]), tmp_path / "goodnet.keras")
    goodnet = np.asarray(load_model(tmp_path / "goodnet.keras")(images, training=False)).argmax(1)
    np.testing.assert_array_equal(goodnet, np.where(answers[4] == answers[0], answers[0], 4))
