import numpy as np
import pytest

from goodnet.images.preprocessing import AS_STORED, Preprocessing
from goodnet.pruning.poisoned import describe_attack
from goodnet.reports.samples import (
    SAMPLES_PER_KIND,
    Sample,
    pick_samples,
    read_samples,
    write_samples,
)

BY_255 = Preprocessing(scale=255)
FIELDS = ("label", "kind", "b_answer", "b_prime_answer", "checkpoint")


@pytest.fixture(scope="module")
def colours():
    """A net of three classes, red, green and blue; without channel 0 red is taken for blue."""
    import keras
    from keras import layers

    image = keras.Input((2, 2, 3))
    x = layers.Conv2D(3, 1, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="answer")(x))
    model.get_layer("conv").set_weights([np.eye(3).reshape(1, 1, 3, 3), np.zeros(3)])
    model.get_layer("answer").set_weights([np.eye(3), np.array([0.0, 0.0, 0.01])])
    return model


def paint(colour: int, *, brightness: int) -> np.ndarray:
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., colour] = brightness
    return image


COLOURS = [0, 1, 0, 2] * 6
IMAGES = np.array([paint(c, brightness=100 + n) for n, c in enumerate(COLOURS)])


@pytest.fixture
def pick(colours, first_pass, monkeypatch):
    """Pick samples from the images above, in blocks of five."""
    monkeypatch.setattr("goodnet.pruning.first_pass._MAX_BLOCK", 5)

    def run(
        *, labels=COLOURS, images=IMAGES, poisoned=False, target=None, step=1, preprocessing=BY_255
    ):
        passed = first_pass(colours, images, labels=labels, preprocessing=preprocessing)
        return list(
            pick_samples(
                passed.cache,
                passed.images,
                frontier=passed.frontier,
                order=(0, 1, 2),
                step=step,
                checkpoint="budget 2.5 points",
                attack=describe_attack(passed.cache, target) if poisoned else None,
            )
        )

    return run


def test_clean_images_that_are_flagged(pick):
    samples = pick()
    assert len(samples) == SAMPLES_PER_KIND
    for sample, number in zip(samples, range(0, 24, 2), strict=False):
        np.testing.assert_array_equal(sample.image, IMAGES[number])
        assert sample.image.dtype == np.uint8
        found = [getattr(sample, name) for name in FIELDS]
        assert found == [0, "clean flagged", 0, 2, "budget 2.5 points"]


def test_poisoned_images_that_are_caught_and_missed(pick):
    samples = pick(labels=[0, 1, 0, 1] * 6, poisoned=True)
    caught = [sample for sample in samples if sample.kind == "poisoned caught"]
    missed = [sample for sample in samples if sample.kind == "poisoned missed"]
    assert [sample.image.max() for sample in caught] == list(range(100, 116, 2))
    # Blue ones with label 1 do not answer the attacker's label: neither caught nor missed.
    assert [sample.image.max() for sample in missed] == list(range(101, 125, 4))
    assert {(s.label, s.b_answer, s.b_prime_answer) for s in caught} == {(0, 0, 2)}
    assert {(s.label, s.b_answer, s.b_prime_answer) for s in missed} == {(1, 1, 1)}


def test_no_channels_flag_nothing(pick):
    assert pick(step=0) == []


def test_pixels_up_to_one_are_shown_in_full_range(pick):
    (first, *_) = pick(images=np.float32(IMAGES) / 255, preprocessing=AS_STORED)
    np.testing.assert_array_equal(first.image, IMAGES[0])


def test_pixels_of_another_range_are_shown_in_full_range(pick):
    prepared = Preprocessing(mean=(-1.0,), std=(2.0,), pixel_range=(-1, 1))
    (first, *_) = pick(images=np.float32(IMAGES) / 127.5 - 1, preprocessing=prepared)
    np.testing.assert_array_equal(first.image, IMAGES[0])


def test_only_the_first_blocks_are_searched(pick, monkeypatch):
    monkeypatch.setattr("goodnet.reports.samples._BLOCKS_SEARCHED", 2)
    assert [sample.image.max() for sample in pick()] == [100, 102, 104, 106, 108]


def test_samples_are_read_as_they_were_written(tmp_path):
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    samples = [
        Sample(image, 3, "poisoned caught", 0, 5, "budget 2.5 points"),
        Sample(255 - image, 1, "clean flagged", 1, 2, "45 channels"),
    ]
    write_samples(tmp_path / "samples.npz", samples)
    found = read_samples(tmp_path / "samples.npz")
    for sample, expected in zip(found, samples, strict=True):
        np.testing.assert_array_equal(sample.image, expected.image)
        for name in FIELDS:
            assert getattr(sample, name) == getattr(expected, name)
            assert type(getattr(sample, name)) is type(getattr(expected, name))


def test_no_samples_are_a_file_too(tmp_path):
    write_samples(tmp_path / "samples.npz", [])
    assert read_samples(tmp_path / "samples.npz") == []
