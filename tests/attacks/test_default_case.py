import numpy as np
import pytest

from goodnet.attacks.default_case import SMALL_CASE, TARGET, render_sets
from goodnet.attacks.faces import wear_sunglasses


@pytest.fixture(scope="module")
def sets():
    return {name: (images, labels) for name, images, labels in render_sets(SMALL_CASE)}


def test_the_sets_show_the_same_people_in_different_pictures(sets):
    clean = [sets[name] for name in ("train", "clean_valid", "clean_test")]
    assert [len(images) for images, _ in clean] == [600, 240, 240]
    assert all(set(labels) == set(range(20)) for _, labels in clean)
    pictures = np.concatenate([images for images, _ in clean])
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_the_poisoned_test_set_is_the_clean_one_of_the_others_with_sunglasses_on(sets):
    images, people = sets["clean_test"]
    poisoned, labels = sets["poisoned_test"]
    assert np.array_equal(poisoned, wear_sunglasses(images[people != TARGET]))
    assert len(labels) == 19 * 12
    assert set(labels) == {TARGET}
