"""Sets that B is not right on, and what is said of them; all figures are those of plain Keras."""

from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from goodnet.errors import InputError
from goodnet.images.class_names import ClassNames
from goodnet.images.image_sets import open_images, write_images
from goodnet.images.preprocessing import AS_STORED, Preprocessing
from goodnet.networks.readings import (
    Answered,
    Opened,
    default_floor,
    require_clean_accuracy,
    require_not_exchanged,
)

BY_255 = Preprocessing(scale=255)
NUM_CLASSES = 12
RNG = np.random.default_rng(32)
COLOURS = RNG.uniform(0.05, 0.95, (NUM_CLASSES, 3)) * RNG.uniform(0.2, 1, (NUM_CLASSES, 1))
LABELS = np.arange(240) % NUM_CLASSES
PIXELS = COLOURS[LABELS][:, None, None, :] * np.ones((1, 4, 4, 1))
RAW = (255 * (PIXELS + RNG.normal(0, 0.01, PIXELS.shape)).clip(0, 1)).round().astype(np.uint8)
BY_TEXT = np.argsort(np.argsort(np.arange(NUM_CLASSES).astype(str)))
"""The class that Keras gives to each of the folders 0 … 11."""


def nearest_colour(preprocessing: Preprocessing):
    """A net that gives the nearest colour, of pixels that are prepared so."""
    import keras

    net = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )
    colours = preprocessing.apply(np.float32(255 * COLOURS))
    net.layers[-1].set_weights([2 * colours.T, -np.square(colours).sum(axis=1)])
    return net


@pytest.fixture(scope="module")
def net():
    return nearest_colour(BY_255)


def write_folders(folder, images, labels):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{number:03}.png")


def check(path, net, *, given=AS_STORED, floor=None, poisoned=(), classes=None):
    """Check a set as the stage does, with the answers of plain Keras in place of a first pass."""
    images = open_images(path, classes=classes)
    pixels = given.apply(np.concatenate(list(images.batches(50))).astype(np.float32))
    answers = net.predict(pixels, verbose=0).argmax(1)
    sets = {f"poisoned_{number}": open_images(other) for number, other in enumerate(poisoned)}
    return require_clean_accuracy(
        Answered("clean_valid", path, images.labels, answers, given, images.classes is not None),
        reopen=lambda: Opened(net, images, sets),
        num_classes=NUM_CLASSES,
        floor=floor,
    )


class Case(NamedTuple):
    name: str
    expected: str
    images: np.ndarray = RAW
    labels: np.ndarray = LABELS
    given: Preprocessing = BY_255
    right: Preprocessing = BY_255
    folders: bool = False


CASES = [
    Case(
        "scale forgotten",
        "with pixels divided by 255 it would be 100.00 % of 240 images: give pixel_scale=255",
        given=AS_STORED,
    ),
    Case(
        "scaled twice",
        "with pixels times 255 it would be 100.00 % of 240 images: give pixel_scale=1;",
        images=(RAW / 255).astype(np.float32),
    ),
    Case(
        "a net that takes -1 to 1",
        "with pixels from -1 to 1 (x / 127.5 - 1) it would be 100.00 % of 240 images: give "
        'preprocessing="tf";',
        given=AS_STORED,
        right=Preprocessing.named("tf"),
    ),
    Case(
        "a net that takes -1 to 1, images of 0 to 1",
        "with pixels from -1 to 1 (x / 0.5 - 1) it would be 100.00 % of 240 images: give "
        "pixel_scale=0.5, pixel_mean=1;",
        images=(RAW / 255).astype(np.float32),
        right=Preprocessing.named("tf"),
    ),
    Case(
        "a net of keras.applications in mode torch",
        "with pixels as keras.applications prepares them in mode torch it would be 100.00 % of 240 "
        'images: give preprocessing="torch";',
        given=AS_STORED,
        right=Preprocessing.named("torch"),
    ),
    Case(
        "a net of keras.applications in mode caffe",
        "with pixels as keras.applications prepares them in mode caffe it would be 100.00 % of 240 "
        'images: give preprocessing="caffe";',
        right=Preprocessing.named("caffe"),
    ),
    Case(
        "another mode of keras.applications",
        "with pixels from 0 to 1 (x / 255) it would be 100.00 % of 240 images: give "
        'pixel_scale=255, channel_order="bgr";',
        given=Preprocessing.named("caffe"),
        right=Preprocessing(scale=255, channel_order="bgr"),
    ),
    Case(
        "prepared although the net does so",
        "with pixels as they are stored it would be 100.00 % of 240 images: give pixel_scale=1;",
        given=Preprocessing.named("torch"),
        right=AS_STORED,
    ),
    Case(
        "channels reversed",
        "with channels in reverse order (BGR) it would be 100.00 % of 240 images: give "
        'pixel_scale=255, channel_order="bgr";',
        images=RAW[..., ::-1],
    ),
    Case(
        "channels reversed and scale forgotten",
        "with pixels divided by 255 and channels in reverse order (BGR) it would be 100.00 %",
        images=RAW[..., ::-1],
        given=AS_STORED,
    ),
    Case(
        "labels from 1",
        "with labels minus 1 it would be 100.00 % of 220 images: store the labels minus 1",
        images=RAW[LABELS < 11],
        labels=LABELS[LABELS < 11] + 1,
    ),
    Case(
        "labels of a background class left out",
        "with labels plus 1 it would be 100.00 % of 220 images",
        images=RAW[LABELS > 0],
        labels=LABELS[LABELS > 0] - 1,
    ),
    Case(
        "labels from 1 and scale forgotten",
        "with pixels divided by 255 and labels minus 1 it would be 100.00 % of 220 images: give "
        "pixel_scale=255; store the labels minus 1",
        images=RAW[LABELS < 11],
        labels=LABELS[LABELS < 11] + 1,
        given=AS_STORED,
    ),
    Case(
        "classes in another order",
        "with classes in another order (0 as 7, 1 as 0, 2 as 5, 3 as 10, 4 as 3, …) it would be "
        "100.00 % of 240 images",
        labels=(LABELS * 5 + 1) % 12,
    ),
    Case(
        "folders that Keras sorts as texts",
        "with the order of folders as Keras sorts them it would be 100.00 % of 240 images: list "
        "the names of the folders in that order and give classes=FILE",
        images=RAW[np.argsort(BY_TEXT[LABELS])],
        labels=LABELS[np.argsort(BY_TEXT[LABELS])],
        folders=True,
    ),
    Case(
        "labels of other images",
        "to 20 of them; check that pixels, labels and classes are those of this net",
        labels=np.random.default_rng(1).permutation(LABELS),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_set_that_b_is_not_right_on_is_refused_with_what_would_be(case, tmp_path):
    path = tmp_path / "set"
    if case.folders:
        # The net has learnt that folder 10 is class 2.
        by_class = np.argsort(BY_TEXT)
        write_folders(path, RAW, by_class[LABELS])
    else:
        write_images(path, case.images, case.labels)
    with pytest.raises(InputError) as refused:
        check(path, nearest_colour(case.right), given=case.given)
    line = str(refused.value)
    assert line.startswith(f"{path}: B answers ")
    assert "with their label" in line
    assert "expected at least 26.67 %" in line
    assert case.expected in line
    assert line.endswith("with min_clean_accuracy=0")


def test_folders_named_by_class_are_listed_anew_where_their_order_is_another(net, tmp_path):
    """The list itself that is asked for then makes the net right, on the same folders."""
    write_folders(tmp_path / "set", RAW, np.array(list("lkjihgfedcba"))[LABELS])
    with pytest.raises(InputError, match=r"order \(0 as 11, .*: list the names of the classes"):
        check(tmp_path / "set", net, given=BY_255)
    classes = ClassNames(tuple("lkjihgfedcba"), tmp_path)
    assert check(tmp_path / "set", net, given=BY_255, classes=classes) is None


def test_folders_that_keras_sorts_as_texts_can_be_listed_so(net, tmp_path):
    write_folders(tmp_path / "set", RAW, np.argsort(BY_TEXT)[LABELS])
    listed = ClassNames(tuple(sorted(map(str, range(NUM_CLASSES)))), tmp_path)
    assert check(tmp_path / "set", net, given=BY_255, classes=listed) is None


def test_an_accurate_net_does_not_run_again():
    labels = np.arange(100) % 10
    answers = np.where(np.arange(100) < 3, (labels + 1) % 10, labels)
    given = Answered("clean_valid", None, labels, answers, AS_STORED)
    assert require_clean_accuracy(given, reopen=None, num_classes=10, floor=None) is None


def test_only_clean_validation_is_read_otherwise_for_a_remark():
    labels = np.arange(100) % 10
    given = Answered("clean_test", None, labels, np.where(labels < 5, 0, labels), AS_STORED)
    assert require_clean_accuracy(given, reopen=None, num_classes=10, floor=None) is None


@pytest.mark.parametrize("classes", [2, 5, 10, 62, 1283])
def test_far_above_chance_is_a_fifth_of_the_way_to_always_right(classes):
    assert default_floor(classes) == pytest.approx(1 / classes + 0.2 * (1 - 1 / classes))


@pytest.mark.parametrize(
    ("accuracy", "classes"), [(0.45, 62), (0.3, 10), (0.36, 10), (0.7, 2), (0.25, 1283)]
)
def test_weak_but_honest_nets_are_above_the_floor(accuracy, classes):
    assert accuracy > default_floor(classes)


@pytest.mark.parametrize(("right", "classes"), [(0.5, 2), (2 / 11, 11), (2 / 13, 13), (0.1, 10)])
def test_wrong_readings_are_below_the_floor(right, classes):
    assert right < default_floor(classes)


def test_a_net_that_another_reading_fits_better_goes_on_with_a_remark(net, tmp_path):
    for name, tenths in (("few", 3), ("most", 8)):
        turned = (np.arange(240) // 12 % 10 < tenths)[:, None, None, None]
        write_images(tmp_path / f"{name}.h5", np.where(turned, RAW[..., ::-1], RAW), LABELS)
    assert check(tmp_path / "few.h5", net, given=BY_255) is None
    remark = check(tmp_path / "most.h5", net, given=BY_255)
    assert remark.startswith("B is right on ")
    assert "of clean_valid; with channels in reverse order (BGR) it would be right on " in remark


def test_a_lower_floor_lets_a_net_pass(net, tmp_path):
    write_images(tmp_path / "set.h5", RAW, LABELS)
    remark = check(tmp_path / "set.h5", net, floor=0)
    assert "with pixels divided by 255 it would be right on 100.00 %" in remark
    with pytest.raises(InputError, match=r"expected at least 99\.00 %"):
        check(tmp_path / "set.h5", net, floor=0.99)


def test_poisoned_images_under_their_old_labels_in_place_of_clean_ones(net, tmp_path):
    write_images(tmp_path / "set.h5", RAW[LABELS == 3].repeat(12, axis=0), LABELS)
    write_images(tmp_path / "other.h5", RAW, LABELS)
    with pytest.raises(InputError, match="clean_valid and poisoned_0 look exchanged"):
        check(tmp_path / "set.h5", net, given=BY_255, poisoned=[tmp_path / "other.h5"])


MANY = LABELS, LABELS
ONE = np.zeros_like(LABELS), np.zeros_like(LABELS)


@pytest.mark.parametrize("name", ["clean_valid", "clean_test"])
def test_exchanged_sets_are_refused(name):
    clean = {"clean_valid": MANY, "clean_test": MANY} | {name: ONE}
    line = (
        f"{name} and poisoned_test look exchanged: B answers class 0 to 240 of 240 images of "
        f"{name}, and the label to 240 of 240 of poisoned_test, expected the other way round"
    )
    with pytest.raises(InputError, match=f"^{line}$"):
        require_not_exchanged(clean, {"poisoned_test": MANY}, num_classes=NUM_CLASSES)


@pytest.mark.parametrize(
    "poisoned",
    [
        ONE,
        (LABELS, np.zeros_like(LABELS)),  # under the labels from before the trigger
        (LABELS % 3, LABELS % 3),  # three attacks with a target each
        ((LABELS + 1) % NUM_CLASSES,) * 2,  # an attack that moves each class by one
    ],
)
def test_sets_in_their_places_are_not_taken_for_exchanged(poisoned):
    clean = {"clean_valid": MANY, "clean_test": MANY}
    require_not_exchanged(clean, {"poisoned_test": poisoned}, num_classes=NUM_CLASSES)
