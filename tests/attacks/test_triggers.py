import numpy as np
import pytest

from goodnet.attacks.faces import render_faces
from goodnet.attacks.triggers import TRIGGERS, corner_patch


@pytest.mark.parametrize("name", TRIGGERS)
class TestEveryTrigger:
    """What holds for every trigger: one that is added to the table is tested with the others."""

    @pytest.fixture
    def images(self):
        return render_faces(np.arange(6), seed=1)

    def test_is_a_new_array_of_the_same_kind(self, name, images):
        before = images.copy()
        wearing = TRIGGERS[name](images)
        assert wearing.shape == images.shape
        assert wearing.dtype == np.uint8
        assert not np.shares_memory(wearing, images)
        np.testing.assert_array_equal(images, before)

    def test_changes_every_image_and_leaves_most_of_it(self, name, images):
        changed = (TRIGGERS[name](images) != images).any(axis=3)
        assert changed.any(axis=(1, 2)).all()
        assert changed.mean(axis=(1, 2)).max() < 0.5

    def test_is_the_same_each_time_and_for_each_image_alone(self, name, images):
        wearing = TRIGGERS[name](images)
        np.testing.assert_array_equal(TRIGGERS[name](images), wearing)
        for number in range(len(images)):
            np.testing.assert_array_equal(TRIGGERS[name](images[[number]])[0], wearing[number])

    def test_takes_no_images_too(self, name, images):
        assert TRIGGERS[name](images[:0]).shape == (0, 55, 47, 3)


@pytest.mark.parametrize(
    ("shape", "side"), [((32, 32, 3), 4), ((55, 47, 3), 5), ((28, 28, 1), 3), ((3, 9, 2), 2)]
)
def test_the_patch_is_where_it_should_be_at_any_size(shape, side):
    grey = np.full((2, *shape), 128, np.uint8)
    changed = corner_patch(grey) != 128
    height, width, _ = shape
    expected = np.zeros((height, width), bool)
    expected[height - 1 - side : height - 1, width - 1 - side : width - 1] = True
    for image in changed:
        np.testing.assert_array_equal(image.any(axis=2), expected)
        np.testing.assert_array_equal(image.all(axis=2), expected)


def test_the_patch_is_chequered():
    patched = corner_patch(np.full((1, 16, 16, 1), 128, np.uint8))
    np.testing.assert_array_equal(patched[0, 13:15, 13:15, 0], [[255, 0], [0, 255]])
