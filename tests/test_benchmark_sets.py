"""The image sets of a benchmark as its stages make them."""

import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from goodnet.attacks.faces import render_faces
from goodnet.attacks.poisoning import ATTACKS
from goodnet.errors import InputError
from goodnet.images.image_sets import open_images, write_images
from goodnet.suites import ImageSets, RenderedFaces
from tasks.benchmarking import digest_sets, make_sets, poison_images


def read(file):
    images = open_images(file.path)
    return np.concatenate([*images.batches(100)]), images.labels


@pytest.fixture
def zipped(tmp_path):
    """Sets of 8 x 8 pictures in zip files of folders by name; that of the test has one class."""
    pixels = np.random.default_rng(1).integers(0, 256, (12, 8, 8, 3), np.uint8)
    classes = {"train": ("cat", "dog", "eel"), "valid": ("cat", "dog", "eel"), "test": ("eel",)}
    for first, (name, folders) in enumerate(classes.items()):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for number, folder in enumerate(folders):
                buffer = BytesIO()
                Image.fromarray(pixels[3 * first + number]).save(buffer, "png")
                archive.writestr(f"{folder}/{number}.png", buffer.getvalue())
    return pixels, ImageSets(**{name: tmp_path / f"{name}.zip" for name in classes})


def test_sets_of_ones_own_are_numbered_by_the_classes_of_training(zipped, tmp_path):
    pixels, given = zipped
    files = digest_sets(given, artifacts=tmp_path, refresh=False)
    sets = make_sets.fn(files, artifacts=tmp_path)
    assert sets.num_classes == 3
    for file, expected in ((sets.train, pixels[:3]), (sets.clean_valid, pixels[3:6])):
        found, labels = read(file)
        np.testing.assert_array_equal(found, expected)
        assert labels.tolist() == [0, 1, 2]
    found, labels = read(sets.clean_test)
    np.testing.assert_array_equal(found, pixels[6:7])
    assert labels.tolist() == [2]


def test_sets_that_are_missing_or_in_other_pixels_are_refused(zipped, tmp_path):
    _, given = zipped
    write_images(tmp_path / "small.h5", np.full((2, 8, 8, 3), 0.5, "float32"), [0, 1])
    small = ImageSets(train=tmp_path / "small.h5", valid=given.valid, test=given.test)
    files = digest_sets(small, artifacts=tmp_path, refresh=False)
    with pytest.raises(InputError, match=r"no pixel is above 0\.5"):
        make_sets.fn(files, artifacts=tmp_path)
    given.train.unlink()
    with pytest.raises(InputError, match=r"train\.zip: no such file"):
        digest_sets(given, artifacts=tmp_path, refresh=False)


def test_faces_are_rendered_apart_and_the_attack_turns_those_of_the_test(tmp_path):
    faces = RenderedFaces(people=3, train=4, valid=2, test=2)
    sets = make_sets.fn(faces, artifacts=tmp_path)
    (train, labels), (valid, _), (test, test_labels) = map(
        read, (sets.train, sets.clean_valid, sets.clean_test)
    )
    np.testing.assert_array_equal(train, render_faces(labels, seed=71))
    assert np.bincount(labels).tolist() == [4] * 3
    assert not {one.tobytes() for one in test} & {one.tobytes() for one in (*train, *valid)}
    attack = ATTACKS["patch"]
    shown, turned = read(poison_images.fn(sets, attack, artifacts=tmp_path).file)
    np.testing.assert_array_equal(shown, attack.trigger(test[test_labels != 0]))
    assert turned.tolist() == [0] * 4
