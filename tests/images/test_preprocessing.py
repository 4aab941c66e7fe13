"""What is done to pixels before a net takes them, against Keras and by hand."""

import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.images.image_sets import open_images, write_images
from goodnet.images.preprocessing import (
    AS_STORED,
    PREPROCESSING_NAMES,
    Preprocessing,
    chosen_preprocessing,
)
from goodnet.images.unlabelled_images import open_unlabelled

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3)).astype(np.float32)
DEFAULTS = {
    "preprocessing": None,
    "pixel_scale": 1.0,
    "pixel_mean": [],
    "pixel_std": [],
    "channel_order": "rgb",
    "pixel_range": [0.0, 255.0],
}


@pytest.mark.parametrize("name", PREPROCESSING_NAMES)
def test_each_name_is_a_mode_of_keras_applications(name):
    import tensorflow as tf
    from keras.applications.imagenet_utils import preprocess_input

    expected = preprocess_input(PIXELS.copy(), mode=name)
    found = Preprocessing.named(name).apply(PIXELS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    apply = Preprocessing.named(name).apply
    np.testing.assert_array_equal(apply(tf.constant(PIXELS)), expected)
    # Compiled, TensorFlow divides by constants as a product, with one rounding more.
    np.testing.assert_allclose(tf.function(apply)(tf.constant(PIXELS)), expected, atol=1e-6)


def test_the_order_is_channels_scale_mean_deviation():
    given = Preprocessing(scale=2, mean=(1, 2, 3), std=(4, 5, 6), channel_order="bgr")
    pixels = np.array([[[[10, 20, 30]]]], np.float32)
    expected = [[[[(30 / 2 - 1) / 4, (20 / 2 - 2) / 5, (10 / 2 - 3) / 6]]]]
    np.testing.assert_allclose(given.apply(pixels), expected, rtol=1e-6)
    one = Preprocessing(mean=(1,), std=(2,)).apply(pixels)
    np.testing.assert_array_equal(one, (pixels - 1) / 2)


def test_nothing_is_done_by_default():
    assert AS_STORED.apply(PIXELS) is PIXELS


def test_all_parts_can_be_chosen():
    chosen = DEFAULTS | {
        "pixel_scale": 2,
        "pixel_mean": [1, 2, 3],
        "pixel_std": [4],
        "channel_order": "bgr",
        "pixel_range": [-1, 1],
    }
    assert chosen_preprocessing(chosen) == Preprocessing(
        scale=2, mean=(1, 2, 3), std=(4,), channel_order="bgr", pixel_range=(-1, 1)
    )
    assert chosen_preprocessing(DEFAULTS) == AS_STORED
    for name in PREPROCESSING_NAMES:
        named = chosen_preprocessing(DEFAULTS | {"preprocessing": name})
        assert named == Preprocessing.named(name) != AS_STORED


@pytest.mark.parametrize(
    "other",
    [
        {"pixel_scale": 255},
        {"pixel_mean": [0.5]},
        {"pixel_std": [2]},
        {"channel_order": "bgr"},
        {"pixel_range": [-1, 1]},
    ],
)
def test_a_name_and_parts_contradict_each_other(other):
    with pytest.raises(InputError, match=r"preprocessing is tf and has a scale, .* one or the oth"):
        chosen_preprocessing(DEFAULTS | {"preprocessing": "tf"} | other)


@pytest.mark.parametrize("pixel_range", [[1, 1], [2, -2]])
def test_a_range_has_two_ends(pixel_range):
    with pytest.raises(InputError, match="expected the lower one first"):
        chosen_preprocessing(DEFAULTS | {"pixel_range": pixel_range})


def test_numbers_of_channels_have_to_fit():
    for fitting in (AS_STORED, Preprocessing(mean=(1,), std=(2,)), Preprocessing(mean=(1, 2))):
        fitting.require_channels(2)
    Preprocessing.named("caffe").require_channels(3)
    with pytest.raises(InputError, match="has 3 means, but the net takes 1 channels, expected one"):
        Preprocessing.named("torch").require_channels(1)
    with pytest.raises(InputError, match="has 2 standard deviations, but the net takes 3 channels"):
        Preprocessing(std=(1, 2)).require_channels(3)
    with pytest.raises(InputError, match="channel order bgr, but the net takes 4 channels"):
        Preprocessing(channel_order="bgr").require_channels(4)


@pytest.mark.parametrize(("lowest", "highest"), [(-1, 1), (0, 1), (-2.5, 2.75)])
@pytest.mark.parametrize("kind", ["h5", "npz"])
def test_pixels_of_another_range_are_read_where_that_is_said(tmp_path, lowest, highest, kind):
    pixels = (lowest + (highest - lowest) * PIXELS / 255).astype(np.float32)
    path = tmp_path / f"a.{kind}"
    if kind == "h5":
        write_images(path, pixels, np.zeros(7))
    else:
        np.savez(path, x=pixels, y=np.zeros(7))
    images = open_images(path, pixel_range=(lowest, highest))
    np.testing.assert_array_equal(np.concatenate(list(images.batches(3))), pixels)
    (opened,) = open_unlabelled([path], shape=(9, 8, 3), resize=True, pixel_range=(lowest, highest))
    (resized,) = opened.images.batches(7)
    assert lowest <= resized.min() < resized.max() <= highest
    narrower = open_images(path, pixel_range=(lowest, 0.9 * highest))
    with pytest.raises(InputError, match=f"has pixel .*, expected {lowest} to {0.9 * highest:g}$"):
        list(narrower.batches(3))


def test_raw_pixels_are_refused_where_prepared_ones_were_said(tmp_path):
    write_images(tmp_path / "a.h5", PIXELS.astype(np.uint8), np.zeros(7))
    with pytest.raises(InputError, match=r"has pixel \d+, expected -1 to 1"):
        list(open_images(tmp_path / "a.h5", pixel_range=(-1, 1)).batches(3))
