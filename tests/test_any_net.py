"""From files to B' and G in the library, for nets of any channels, ends and models in them."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from goodnet.choices import Choices
from goodnet.images.image_sets import write_images
from goodnet.inputs import check_inputs
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from goodnet.pruning.sweep import sweep_block
from tests.zoo import make_images, set_random_weights


class Case(NamedTuple):
    channels: int
    units: int
    closing: str


CASES = [
    Case(1, 1, "sigmoid"),
    Case(3, 5, "softmax"),
    Case(4, 5, "linear"),
    Case(7, 5, "log_softmax"),
]


def build(case: Case) -> Any:
    """A base and a Rescaling in a Sequential model, with the answers' biases in the middle."""
    import keras
    from keras import layers

    pixels = keras.Input((12, 12, case.channels))
    features = layers.ReLU(name="relu")(layers.Conv2D(8, 3, name="conv")(pixels))
    base = keras.Model(pixels, layers.MaxPooling2D(2, name="pool")(features), name="base")
    first = [keras.Input((12, 12, case.channels)), layers.Rescaling(1 / 255), base]
    head = keras.Sequential([*first, layers.Flatten(), layers.Dense(case.units, name="dense")])
    set_random_weights(head, seed=3)
    return head


def close(head: Any, images: np.ndarray, case: Case) -> Any:
    import keras

    dense = head.get_layer("dense")
    dense.bias.assign(dense.bias - np.median(head.predict(images, verbose=0), axis=0))
    closed = [*head.layers, keras.layers.Activation(case.closing)]
    return keras.Sequential([keras.Input(head.input_shape[1:]), *closed])


def classes_of(answers: np.ndarray) -> np.ndarray:
    return answers[:, 0] > 0.5 if answers.shape[1] == 1 else answers.argmax(axis=1)


def answers_without(model: Any, images: np.ndarray, channels: list[int]) -> np.ndarray:
    """What plain Keras answers once kernel and bias of these channels are zeroed by hand."""
    conv = model.get_layer("base").get_layer("conv")
    kept = conv.get_weights()
    kernel, bias = (array.copy() for array in kept)
    kernel[..., channels] = bias[channels] = 0
    conv.set_weights([kernel, bias])
    answers = classes_of(np.asarray(model(images, training=False)))
    conv.set_weights(kept)
    return answers


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.channels} {case.closing}")
def test_every_step_and_the_saved_nets_are_those_of_plain_keras(case, first_pass, tmp_path):
    import keras

    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import load_model, save_model
    from goodnet.pruning.channels import prune_channels

    images = make_images(60, (12, 12, case.channels), seed=5)
    pixels = images.astype("float32")
    model = close(build(case), pixels, case)
    path, num_classes = tmp_path / "net.keras", max(case.units, 2)
    model.save(path)
    labels = answers_without(model, pixels, []).astype("int64")
    assert len(set(labels)) == num_classes
    sets = {"clean_valid": tmp_path / "valid.h5", "clean_test": tmp_path / "test.h5"}
    write_images(sets["clean_valid"], images, labels)
    write_images(sets["clean_test"], images[:30], labels[:30])

    checked = check_inputs(path, sets, Choices())
    assert (checked.layer, checked.rank_at) == ("base.conv", "base.pool")
    chosen = {"layer": checked.layer, "rank_at": checked.rank_at}
    passed = first_pass(load_model(path), sets["clean_valid"], pixel_scale=1.0, **chosen)
    order = prune_order(mean_activations(block_means(passed.cache)))
    (block,) = passed.cache.blocks()
    swept = sweep_block(block, frontier=passed.frontier, order=order)
    expected = [answers_without(model, pixels, order[:step]) for step in range(len(order) + 1)]
    np.testing.assert_array_equal(swept, expected)
    assert len(np.unique(expected, axis=0)) > 3

    pruned = order[:5]
    save_model(prune_channels(passed.frontier.model, checked.layer, pruned), tmp_path / "b.keras")
    save_model(build_goodnet(passed.frontier.model, checked.layer, pruned), tmp_path / "g.keras")
    b_prime, goodnet = (
        keras.saving.load_model(tmp_path / name).predict(pixels, verbose=0).argmax(axis=1)
        for name in ("b.keras", "g.keras")
    )
    np.testing.assert_array_equal(b_prime, expected[5])
    joined = np.where(expected[5] == labels, labels, num_classes)
    np.testing.assert_array_equal(goodnet, joined)
    assert {num_classes} < set(joined.tolist())
