"""Folders named by class, in a folder or a zip file, and lists of class names."""

import itertools
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from goodnet.errors import InputError
from goodnet.images.class_names import ClassNames, read_class_names
from goodnet.images.image_sets import open_images, open_sets

SHAPE = (5, 4, 3)
ANIMALS = ("bird", "cat", "dog")


def colour(text):
    """A colour that tells images apart."""
    return np.frombuffer(text.encode().rjust(3, b"-")[-3:], np.uint8)


def write_tree(folder, names):
    """Write a picture for each name, `<class>/<image>.png`, and an empty folder for `<class>/`."""
    for name in names:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(colour(path.stem + path.parent.name), (5, 4, 1))).save(path)
    return folder


def pack(folder, top=""):
    """Pack a folder as zip programs do, with entries of the folders themselves."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for item in sorted(folder.rglob("*")):
            archive.write(item, top + str(item.relative_to(folder)))
    return path


def as_folder(folder, names):
    return write_tree(folder, names)


def as_zip(folder, names):
    return pack(write_tree(folder, names))


def as_zip_of_one_folder(folder, names):
    return pack(write_tree(folder, names), top="set/")


@pytest.fixture(params=[as_folder, as_zip, as_zip_of_one_folder])
def write(request, tmp_path):
    """Call with names of pictures; returns the set."""
    numbers = itertools.count()
    return lambda *names: request.param(tmp_path / f"set{next(numbers)}", names)


def both(*folders):
    return [f"{folder}/{name}.png" for folder in folders for name in "ab"]


def read_all(images):
    return np.concatenate(list(images.batches(4)))


def test_classes_are_numbered_in_the_order_of_their_names_and_it_is_said(write):
    path = write(*both("dog", "bird", "cat"))
    images = open_images(path, shape=SHAPE, num_classes=3)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.classes == ClassNames(ANIMALS, path)
    assert images.remarks == (
        f"{path}: classes are numbered in the order of their folders' names: "
        "bird is 0, cat is 1, dog is 2",
    )
    expected = [colour(name + folder) for folder in ANIMALS for name in "ab"]
    np.testing.assert_array_equal(read_all(images)[:, 0, 0], expected)


@pytest.mark.parametrize(
    "folders",
    [
        ANIMALS,
        ("Zebra", "apple", "Äpfel", "10 cm", "cat food", "n01440764", "日本"),
        ("1234567890", "123456789012"),
        ("001.Albatross", "002.Auklet", "010.Crow"),
    ],
)
def test_the_numbers_are_those_of_keras(write, tmp_path, folders):
    import keras

    path = write(*both(*folders), "zz empty/")
    images = open_images(path)
    if not path.is_dir():
        path = path.with_suffix("")
    data = keras.utils.image_dataset_from_directory(
        path, image_size=SHAPE[:2], shuffle=False, batch_size=None, verbose=False
    )
    assert images.classes.names == tuple(data.class_names)
    pixels, labels = zip(*data.as_numpy_iterator(), strict=True)
    assert images.labels.tolist() == list(labels)
    np.testing.assert_array_equal(read_all(images), pixels)


def test_numbers_stay_labels(write):
    images = open_images(write(*both("10", "9", "2-random")))
    assert images.labels.tolist() == [2, 2, 9, 9, 10, 10]
    assert images.classes is None


def test_a_list_gives_another_order_and_may_have_classes_without_images(write):
    path = write(*both("dog", "cat"))
    classes = ClassNames(("dog", "fish", "cat", "bird"), path)
    images = open_images(path, num_classes=4, classes=classes)
    assert images.labels.tolist() == [2, 2, 0, 0]
    assert images.classes is classes
    assert images.remarks == ()


def test_a_list_decides_what_numbers_mean_that_it_names(write):
    """Keras sorts numbers as texts; a list says so without renaming a folder."""
    path = write(*both("0", "1", "2", "10"))
    keras = ClassNames(("0", "1", "10", "2"), path)
    assert open_images(path, classes=keras).labels.tolist() == [0, 0, 1, 1, 3, 3, 2, 2]
    assert open_images(path, classes=ClassNames(ANIMALS, path)).labels.max() == 10


def test_the_digest_of_a_set_does_not_depend_on_the_order_of_classes(write, tmp_path):
    from goodnet.digests import DigestMemory

    path = write(*both("dog", "cat"))
    memory = DigestMemory(tmp_path / "digests.json")
    classes = ClassNames(("dog", "cat"), path)
    found = {memory.digest_opened(open_images(path, classes=given)) for given in (classes, None)}
    assert found == {memory.digest(path)}


REFUSED = {
    "numbers and names": (both("0", "cat"), "holds a folder 0 and a folder cat, expected all"),
    "too few": (both("cat"), r"names 1 classes \(cat\), but the net answers 3, expected a name"),
    "too many": (both(*map(str, "abcdefghijkl")), r"names 12 classes \(a, b, c, d, e, …, l\), but"),
    "escape": (both("evil\x1b[31m", *ANIMALS), r"is named evil\\x1b\[31m, expected a class name"),
    "backwards": (
        both("evil\u202e", *ANIMALS),
        r"is named evil\\u202e, expected a class name that",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_are_refused(write, name):
    names, message = REFUSED[name]
    path = write(*names)
    with pytest.raises(InputError, match=message) as caught:
        open_images(path, num_classes=3)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()


def test_a_class_that_is_not_listed_is_refused(write, tmp_path):
    path = write(*both("cat", "Dog"))
    classes = ClassNames(ANIMALS, tmp_path / "classes.txt")
    message = r"/Dog: folder is named Dog, expected a class of .*classes\.txt: bird, cat, dog"
    with pytest.raises(InputError, match=message):
        open_images(path, classes=classes)
    twice = ClassNames(("cat", "Dog", "Dog"), tmp_path / "classes.txt")
    with pytest.raises(
        InputError, match=r"Dog, which several classes in .* are, expected the numb"
    ):
        open_images(path, classes=twice)
    assert open_images(write(*both("cat")), classes=twice).labels.tolist() == [0, 0]


def test_sets_of_one_net_agree_with_the_first(write):
    sets = {
        "clean_valid": write(*both(*ANIMALS)),
        "clean_test": write(*both("cat", "dog")),
        "poisoned_test": write(*both("dog")),
        "poisoned_valid": write(*both("0", "2")),
    }
    limits = dict.fromkeys(sets, 4) | {"clean_valid": 3}
    opened = open_sets(sets, shape=SHAPE, num_classes=limits)
    assert {name: images.labels.tolist() for name, images in opened.items()} == {
        "clean_valid": [0, 0, 1, 1, 2, 2],
        "clean_test": [1, 1, 2, 2],
        "poisoned_test": [2, 2],
        "poisoned_valid": [0, 0, 2, 2],
    }
    assert [len(images.remarks) for images in opened.values()] == [1, 0, 0, 0]


def test_sets_of_one_net_that_do_not_agree_are_refused(write):
    first = write(*both(*ANIMALS))
    other = write(*both("cat", "fish"))
    message = f"fish: folder is named fish, expected a class of {first}: bird, cat, dog"
    with pytest.raises(InputError, match=message):
        open_sets({"clean_valid": first, "poisoned_test": other})
    numbered = write(*both("0", "1"))
    message = f"cat: folder is named cat, but classes have numbers in {numbered}, expected a numb"
    for second in (other, write(*both("0", "cat"))):
        with pytest.raises(InputError, match=message):
            open_sets({"clean_valid": numbered, "poisoned_test": second})


def test_a_list_goes_before_the_names_of_the_first_set(write, tmp_path):
    sets = {"clean": write(*both("cat", "dog")), "poisoned": write(*both("bird"))}
    classes = ClassNames(("dog", "cat", "bird"), tmp_path / "classes.txt")
    opened = open_sets(sets, classes=classes)
    assert opened["clean"].labels.tolist() == [1, 1, 0, 0]
    assert opened["poisoned"].labels.tolist() == [2, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\nlight bulb\n",
        b"cat\r\ndog\r\nlight bulb",
        b"\xef\xbb\xbfcat\ndog  \n  light bulb\n\n\n",
        b'["cat", "dog", "light bulb"]',
        b'\n [\n  "cat",\n  "dog",\n  "light bulb"\n ]\n',
    ],
)
def test_a_list_of_names_is_read(tmp_path, content):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    assert read_class_names(path) == ClassNames(("cat", "dog", "light bulb"), path)


def test_what_ends_lines_elsewhere_stands_in_no_name(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("cat\u2028dog\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"class 0 is named `cat\\u2028dog`, expected a text that"):
        read_class_names(path)


BAD_LISTS = {
    "empty": (b"", "is empty, expected one class name a line"),
    "lines alone": (b"\n\n", "is empty, expected one class name a line"),
    "gap": (b"cat\n\ndog", "class 1 is named ``, expected a text that can be printed"),
    "other encoding": ("Äpfel".encode("utf-16"), "is no text in UTF-8"),
    "escape": (b"cat\n\x1b[31m", r"class 1 is named `\\x1b\[31m`, expected a text"),
    "no JSON": (b'["cat", ', "is no JSON .*, expected a list of class names"),
    "deep JSON": (b"[" * 100_000, "nested too deeply, expected a list of class names"),
    "numbers": (b'["cat", 1]', "holds more than texts, expected a list of class names"),
    "empty list": (b"[]", "is empty, expected one class name a line"),
    "surrogate": (json.dumps(["\ud800"]).encode(), r"class 0 is named `\\ud800`, expected"),
    "huge": (b"a\n" * 2**21 + b"a", "has 4,194,305 bytes, expected a list of class names"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_bad_lists_of_names_are_refused(tmp_path, name):
    content, message = BAD_LISTS[name]
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_class_names(path)
    assert str(caught.value).isprintable()


def test_a_list_that_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.txt"):
        with pytest.raises(InputError, match=r"is a folder or a device|no such file"):
            read_class_names(path)
