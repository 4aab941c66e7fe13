import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.images.image_sets import open_images, write_images
from goodnet.inputs import compare_images, remark_labels, remark_missing


def digests(*numbers):
    return np.array(numbers, np.uint64)


def numbered(first, last, step=1):
    return np.arange(first, last, step).astype(np.uint64)


def test_sets_without_a_common_image_are_not_remarked():
    sets = {"clean_valid": numbered(0, 50), "clean_test": numbered(50, 90)}
    assert compare_images(sets) == []
    assert compare_images({"clean_valid": digests(7, 7, 7)}) == []


def test_a_few_common_images_are_remarked_with_their_number():
    sets = {"clean_valid": numbered(0, 100), "clean_test": numbered(95, 195)[::-1]}
    assert compare_images(sets) == [
        "5 of 100 images of clean_test are also in clean_valid, pixel for pixel"
    ]


@pytest.mark.parametrize(
    ("second", "found"),
    [
        (numbered(94, 194), "6 of 100 images of clean_test"),
        (numbered(0, 100)[::-1], "100 of 100 images of clean_test"),
        (np.tile(digests(3), 100), "100 of 100 images of clean_test"),
        # Few of a large test set, but most of the validation set is taken from it.
        (np.r_[numbered(20, 100), numbered(1000, 9000)], "80 of 8080 images of clean_test"),
    ],
)
def test_many_common_images_are_refused_unless_allowed(second, found):
    sets = {"clean_valid": numbered(0, 100), "clean_test": second}
    with pytest.raises(
        InputError, match=f"^{found} are also in clean_valid, .*allow_same_data=True$"
    ):
        compare_images(sets)
    (remark,) = compare_images(sets, allow_same_data=True)
    assert remark.startswith(found)


def test_every_two_sets_are_compared():
    sets = {
        "clean_valid": numbered(0, 100),
        "clean_test": numbered(100, 200),
        "poisoned_test": numbered(199, 299),
        "poisoned_valid": np.r_[numbered(0, 2), numbered(300, 400)],
    }
    remarks = [remark.split(",")[0] for remark in compare_images(sets)]
    assert remarks == [
        "2 of 102 images of poisoned_valid are also in clean_valid",
        "1 of 100 images of poisoned_test are also in clean_test",
    ]


def image_set(path, labels):
    write_images(path, np.zeros((len(labels), 4, 5, 3), np.uint8), labels)
    return open_images(path)


@pytest.fixture
def one(tmp_path):
    return image_set(tmp_path / "one.h5", [3, 3, 3])


@pytest.fixture
def several(tmp_path):
    return image_set(tmp_path / "several.h5", [1, 2, 3])


def test_clean_images_of_one_class_are_remarked(one, several):
    remark = "all 3 images of clean_test have label 3, so it says nothing of other classes"
    assert remark_labels({"clean_valid": several, "clean_test": one}) == [remark]
    assert remark_labels({"clean_test": one, "poisoned_test": one}) == [remark]
    assert remark_labels({"clean_test": several, "poisoned_test": one}) == []
    assert remark_labels({"clean_test": several, "poisoned_test": several}) == []


@pytest.mark.parametrize(
    ("labels", "num_classes", "missing"),
    [
        ([0, 1, 4], 5, "2 of the net's 5 classes (2, 3)"),
        ([0, 1, 1], 1283, "1,281 of the net's 1,283 classes (2, 3, 4, 5, 6, …)"),
    ],
)
def test_classes_without_clean_validation_images_are_remarked(labels, num_classes, missing):
    (remark,) = remark_missing(np.array(labels), num_classes)
    assert remark.startswith(f"clean_valid has no image of {missing}: nothing is learnt of these")


@pytest.mark.parametrize(("labels", "num_classes"), [([1, 0, 2], 3), ([0, 1], None), ([1, 1], 3)])
def test_nothing_is_remarked_of_classes_that_are_there_or_unknown_or_said_already(
    labels, num_classes
):
    assert remark_missing(np.array(labels), num_classes) == []


@pytest.mark.parametrize("which", ["test", "valid"])
def test_clean_and_poisoned_exchanged_are_refused(one, several, which):
    sets = {f"clean_{which}": one, f"poisoned_{which}": several}
    with pytest.raises(InputError, match=r"one\.h5: all 3 images of .* label 3 .* exchanged\?"):
        remark_labels(sets)
