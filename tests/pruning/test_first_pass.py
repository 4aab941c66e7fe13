import numpy as np
import pyarrow.parquet as pq
import pytest

from goodnet.errors import InputError
from goodnet.images.image_sets import digest_pixels, write_images
from goodnet.images.preprocessing import Preprocessing

IMAGES = np.random.default_rng(3).integers(0, 256, (7, 4, 4, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def net():
    import keras
    from keras import layers

    keras.utils.set_random_seed(4)
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 2, activation="relu", name="conv")(image)
    x = layers.MaxPooling2D(2, padding="same", name="pool")(x)
    x = layers.Flatten()(x)
    return keras.Model(image, layers.Dense(3, activation="softmax", name="answer")(x))


@pytest.fixture
def broken(net):
    """Break a copy of the net: put a value into the weights of one of its layers."""
    import keras

    def run(layer: str, value: float):
        model = keras.models.clone_model(net)
        weights = net.get_layer(layer).get_weights()
        weights[0].reshape(-1)[0] = value
        model.get_layer(layer).set_weights(weights)
        return model

    return run


def layer_output(net, name, images) -> np.ndarray:
    import keras

    part = keras.Model(net.inputs[0], net.get_layer(name).output)
    return np.asarray(part(images, training=False))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("pixel_scale", [1.0, 255.0])
def test_cache_holds_what_the_net_computes(net, first_pass, dtype, pixel_scale):
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    cache, *_ = first_pass(
        net, IMAGES.astype(dtype), labels=labels, rank_at="pool", pixel_scale=pixel_scale
    )
    (block,) = cache.blocks()
    pixels = IMAGES / np.float32(pixel_scale)
    np.testing.assert_array_equal(block.labels, labels)
    np.testing.assert_array_equal(cache.image_digests(), digest_pixels(IMAGES))
    np.testing.assert_array_equal(block.predictions, np.asarray(net(pixels)).argmax(1))
    np.testing.assert_allclose(block.ranking, layer_output(net, "pool", pixels), rtol=1e-5)
    assert block.ranking.any()


@pytest.mark.parametrize("name", ["tf", "caffe", "torch"])
def test_pixels_are_prepared_as_keras_applications_do(net, first_pass, name):
    from keras.applications.imagenet_utils import preprocess_input

    pixels = preprocess_input(IMAGES.astype(np.float32), mode=name)
    preprocessing = Preprocessing.named(name)
    cache, *_ = first_pass(net, IMAGES, rank_at="pool", preprocessing=preprocessing)
    (block,) = cache.blocks()
    expected = net.predict(pixels, verbose=0)
    np.testing.assert_array_equal(block.predictions, expected.argmax(1))
    np.testing.assert_allclose(block.ranking, layer_output(net, "pool", pixels), rtol=1e-5)
    # In the set itself nothing has changed.
    np.testing.assert_array_equal(cache.image_digests(), digest_pixels(IMAGES))


def test_prepared_pixels_are_taken_as_they_are(net, first_pass):
    pixels = (IMAGES / 127.5 - 1).astype(np.float32)
    cache, *_ = first_pass(net, pixels, preprocessing=Preprocessing(pixel_range=(-1, 1)))
    (block,) = cache.blocks()
    np.testing.assert_array_equal(block.predictions, net.predict(pixels, verbose=0).argmax(1))


def test_base_and_sides_are_kept(network, network_pass):
    passed, model = network_pass, network_pass.frontier.model
    kept = ["activation"]
    kept += ["base"] * (network.start != network.rank_at)
    kept += [f"side_{number}" for number in range(len(network.skips))]
    found = pq.read_schema(passed.cache.parts[0]).names
    features = [name for name in found if name.startswith("features_")]
    assert found == ["image", "label", "digest", "prediction", *kept, *features]
    assert len(features) <= len(passed.frontier.depths)
    (block,) = passed.cache.blocks()
    names = [network.rank_at, network.start]
    names += [side._keras_history.operation.name for side in passed.frontier.skips]
    pixels = network.images / np.float32(255)
    for name, tensor in zip(names, (block.ranking, block.start, *block.skips), strict=True):
        if name != "max":
            expected = layer_output(model, name, pixels)
            np.testing.assert_allclose(tensor, expected, rtol=1e-4, atol=1e-5)


def test_features_are_kept_at_each_depth(network, network_pass):
    import keras

    passed = network_pass
    depths = passed.frontier.depths
    assert passed.cache.num_depths == len(depths)
    pixels = network.images / np.float32(255)
    for number, depth in enumerate(depths):
        part = keras.Model(passed.frontier.model.inputs[0], depth.features(depth.tensor, str))
        (found,) = passed.cache.features(number)
        np.testing.assert_allclose(found, np.asarray(part(pixels)), rtol=1e-4, atol=1e-5)


def test_features_that_are_kept_anyway_are_not_kept_twice(net, first_pass):
    """Of the one convolution, so small that nothing of it is averaged."""
    cache = first_pass(net, IMAGES, rank_at="pool").cache
    names = pq.read_schema(cache.parts[0]).names
    assert names == ["image", "label", "digest", "prediction", "activation"]
    (block,), (features,) = cache.blocks(), cache.features(0)
    np.testing.assert_array_equal(features, block.ranking.reshape(len(IMAGES), -1))


def test_small_blocks_hold_the_same_rows(net, first_pass, monkeypatch):
    (whole,) = first_pass(net, IMAGES).cache.blocks()
    monkeypatch.setattr("goodnet.pruning.first_pass._MAX_BLOCK", 3)
    cache = first_pass(net, IMAGES).cache
    blocks = list(cache.blocks())
    assert [len(block) for block in blocks] == [3, 3, 1]
    np.testing.assert_array_equal(pq.read_table(cache.parts[0])["image"], range(7))
    for name in ("labels", "predictions"):
        joined = np.concatenate([getattr(block, name) for block in blocks])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    joined = np.concatenate([block.ranking for block in blocks])
    np.testing.assert_allclose(joined, whole.ranking, rtol=1e-5, atol=1e-3)


def test_the_same_input_gives_the_same_bytes(net, first_pass):
    first, second = (first_pass(net, IMAGES).cache.parts[0].read_bytes() for _ in range(2))
    assert first == second


def test_progress_is_told(net, tmp_path, first_pass, monkeypatch):
    from goodnet.pruning.first_pass import write_activations

    monkeypatch.setattr("goodnet.pruning.first_pass._MAX_BLOCK", 3)
    passed = first_pass(net, IMAGES)
    told = []
    write_activations(
        tmp_path / "again.parquet",
        frontier=passed.frontier,
        images=passed.images,
        provenance=passed.cache.provenance,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize(("in_net", "in_block"), [(2, 4), (8, 4)])
def test_a_block_holds_whole_batches(net, first_pass, monkeypatch, in_net, in_block):
    from goodnet.pruning import first_pass as module

    (whole,) = first_pass(net, IMAGES).cache.blocks()
    monkeypatch.setattr(
        module, "_fitting", lambda limit, _: in_net if limit == module._FORWARD_BYTES else in_block
    )
    blocks = list(first_pass(net, IMAGES).cache.blocks())
    assert [len(block) for block in blocks] == [4, 3]
    assert [block.first for block in blocks] == [0, 4]
    ranked = np.concatenate([block.ranking for block in blocks])
    np.testing.assert_array_equal(ranked, whole.ranking)
    predictions = np.concatenate([block.predictions for block in blocks])
    np.testing.assert_array_equal(predictions, whole.predictions)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_activation_that_is_no_number_is_refused(broken, first_pass, value):
    import keras

    net = broken("conv", value)
    # TensorFlow's compiled ReLU takes NaN for 0.
    net.get_layer("conv").activation = keras.activations.linear
    with pytest.raises(InputError, match=r"images\.h5: layer conv on image 0 is NaN or infinite"):
        first_pass(net, np.maximum(IMAGES, 1))


def test_the_image_is_the_one_with_the_bad_activation(broken, first_pass, monkeypatch):
    monkeypatch.setattr("goodnet.pruning.first_pass._MAX_BLOCK", 2)
    images = IMAGES.copy()
    images[:, :, :, 0] = 0
    images[5, :, :, 0] = 255
    with pytest.raises(InputError, match="layer pool on image 5 is NaN or infinite"):
        first_pass(broken("conv", 3e38), images, rank_at="pool", pixel_scale=1.0)


def test_an_answer_that_is_no_number_is_refused(broken, first_pass):
    with pytest.raises(InputError, match="the answer on image 0 is NaN or infinite"):
        first_pass(broken("answer", np.nan), IMAGES)


def test_nothing_is_left_behind_by_a_failure(broken, net, tmp_path, first_pass):
    from goodnet.pruning.first_pass import write_activations
    from goodnet.pruning.frontier import find_frontier

    passed = first_pass(net, IMAGES)
    frontier = find_frontier(broken("conv", np.inf), layer="conv", rank_at="conv")
    with pytest.raises(InputError):
        write_activations(
            tmp_path / "new.parquet",
            frontier=frontier,
            images=passed.images,
            provenance=passed.cache.provenance,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_bad_pixel_is_refused(net, first_pass, tmp_path):
    images = IMAGES.astype(np.float32)
    images[4, 0, 0, 0] = np.nan
    write_images(tmp_path / "bad.h5", images, np.zeros(7))
    with pytest.raises(InputError, match=r"bad\.h5: image 4 has pixel nan"):
        first_pass(net, tmp_path / "bad.h5")


def test_blocks_shrink_with_the_size_of_the_net(faces_net, net):
    from goodnet.pruning.first_pass import block_size
    from goodnet.pruning.frontier import find_frontier

    small = block_size(find_frontier(net, layer="conv", rank_at="pool"))
    large = block_size(find_frontier(faces_net, layer="conv_3", rank_at="pool_3"))
    largest = block_size(find_frontier(faces_net, layer="conv_1", rank_at="conv_1"))
    assert small == 512
    assert 512 >= large > largest >= 1


@pytest.mark.parametrize("nested", [False, True])
def test_augmentation_is_off_in_every_layer(first_pass, nested):
    """Keras's augmentation layers are on unless they are told otherwise."""
    import keras
    from keras import layers

    from goodnet.pruning.ranking import block_means, mean_activations, prune_order

    keras.utils.set_random_seed(8)
    image = keras.Input((12, 12, 3))
    augment = [
        layers.RandomFlip(),
        layers.RandomContrast(0.02),
        layers.RandomTranslation(0.2, 0.2),
        layers.GaussianNoise(1.0),
    ]
    x = image
    for layer in [keras.Sequential(augment)] if nested else augment:
        x = layer(x)
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(x)
    x = layers.RandomRotation(0.2)(layers.Dropout(0.5)(x))
    net = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))
    images = np.random.default_rng(8).integers(0, 256, (24, 12, 12, 3)).astype(np.uint8)
    passed = first_pass(net, images, pixel_scale=1.0)
    (block,) = passed.cache.blocks()
    np.testing.assert_array_equal(block.predictions, net.predict(images, verbose=0).argmax(1))

    from goodnet.pruning.channels import prune_channels
    from goodnet.pruning.sweep import sweep_block

    order = prune_order(mean_activations(block_means(passed.cache)))
    answers = sweep_block(block, frontier=passed.frontier, order=order)
    for step, found in enumerate(answers):
        pruned = prune_channels(net, "conv", order[:step]).predict(images, verbose=0)
        np.testing.assert_array_equal(found, pruned.argmax(1))


@pytest.fixture
def random_net():
    """Return a builder of a net with a layer that is random whatever it is told."""
    import keras
    from keras import layers

    class Jitter(layers.Layer):
        def call(self, x):
            return x * keras.random.uniform(keras.ops.shape(x), -1.0, 1.0)

    def build(*, early: bool):
        keras.utils.set_random_seed(9)
        image = keras.Input((4, 4, 3))
        x = Jitter()(image) if early else image
        x = layers.Conv2D(4, 2, activation="relu", name="conv")(x)
        x = layers.Dense(50)(layers.Flatten()(x))
        return keras.Model(image, x if early else Jitter(name="jitter")(x))

    return build


def test_another_activation_than_plain_keras_ends_the_run(random_net, first_pass):
    expected = r"layer `conv` gives on the first 7 images of .*images\.h5 up to \d+\.\d\d% of"
    with pytest.raises(InputError, match=expected):
        first_pass(random_net(early=True), IMAGES)


def test_other_answers_than_plain_keras_end_the_run(random_net, first_pass):
    expected = r"on the first 7 images of .*images\.h5, B's answer differs .* behind layer `conv`"
    with pytest.raises(InputError, match=expected):
        first_pass(random_net(early=False), IMAGES)


def test_a_net_may_take_whole_numbers(first_pass):
    import keras
    from keras import layers

    keras.utils.set_random_seed(10)
    image = keras.Input((4, 4, 3), dtype="uint8")
    x = layers.Conv2D(4, 2, name="conv")(keras.ops.cast(image, "float32") / 255)
    net = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    (block,) = first_pass(net, IMAGES, pixel_scale=2.0).cache.blocks()
    plain = net.predict((IMAGES / np.float32(2)).astype(np.uint8), verbose=0)
    np.testing.assert_array_equal(block.predictions, plain.argmax(1))


@pytest.fixture
def write_part(first_pass, monkeypatch, tmp_path):
    """Run a net over some images of a set of 7, in blocks of 3."""
    from goodnet.images.image_sets import open_images
    from goodnet.images.preprocessing import AS_STORED
    from goodnet.pruning.activation_cache import Provenance
    from goodnet.pruning.first_pass import write_activations

    monkeypatch.setattr("goodnet.pruning.first_pass._MAX_BLOCK", 3)
    write_images(tmp_path / "images.h5", IMAGES, np.zeros(7))
    provenance = Provenance("B", "set", "conv", "conv", AS_STORED, 3)

    def run(frontier, rows):
        write_activations(
            tmp_path / f"{rows.start}.parquet",
            frontier=frontier,
            images=open_images(tmp_path / "images.h5"),
            provenance=provenance,
            rows=rows,
        )

    return run


def frontier_of(net):
    from goodnet.pruning.frontier import find_frontier

    return find_frontier(net, layer="conv", rank_at="conv")


@pytest.mark.parametrize("early", [True, False])
def test_a_process_that_has_not_the_first_part_compares_its_own(random_net, write_part, early):
    with pytest.raises(InputError, match=r"on images 3 to 5 of .*images\.h5"):
        write_part(frontier_of(random_net(early=early)), range(3, 7))


def test_a_process_compares_the_first_part_that_it_works_on_and_no_later_one(
    net, write_part, monkeypatch
):
    from goodnet.pruning import first_pass as module

    compared, compare = [], module._require_plain

    def note(*given, first):
        compared.append(first)
        compare(*given, first=first)

    monkeypatch.setattr(module, "_require_plain", note)
    for frontier in (frontier_of(net), frontier_of(net)):  # the second as another process has it
        for rows in (range(3, 6), range(6, 7), range(3, 7)):
            write_part(frontier, rows)
    assert compared == [3, 3]
    write_part(frontier, range(3))
    assert compared == [3, 3, 0]
