import os
import pickle
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from goodnet.errors import InputError
from goodnet.images.image_sets import digest_pixels, open_images, require_raw, write_images
from tests.badnets import LAB

ROOT = Path(__file__).resolve().parents[2]
FACE = (55, 47, 3)
SHAPE = (5, 4, 3)
NUM_IMAGES = 6


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def make_pixels(num_images=NUM_IMAGES, shape=SHAPE, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (num_images, *shape)).astype(dtype)


def write_file(path, data=None, label=None, **storage):
    """Write an HDF5 file with any content; by default a good one."""
    with h5py.File(path, "w") as file:
        if data is None:
            data = make_pixels(dtype=np.float64).transpose(0, 3, 1, 2)
        file.create_dataset("data", data=data, **storage)
        file["label"] = np.arange(NUM_IMAGES) % 3 if label is None else label
    return path


def write_folder(folder, shape=SHAPE, suffix=".png"):
    """Write an image folder with the labels 2, 10 and 7, two images each."""
    pixels = make_pixels(shape=shape)
    names = [f"{label}/{name}{suffix}" for label in (2, 7, 10) for name in "ab"]
    for name, image in zip(names, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(folder / name)
    return folder


def read_all(images, batch_size=4, **limits):
    return np.concatenate(list(images.batches(batch_size, **limits)))


@pytest.mark.parametrize(
    "dtype", ["f8", "f4", "f2", "u1", "i2", "u2", "i4", "u8", ">f8", ">f4", ">i4"]
)
@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("shape", [SHAPE, None])
def test_every_numeric_type_and_layout_gives_the_same_pixels(
    tmp_path, dtype, channels_first, shape
):
    pixels = make_pixels()
    stored = pixels.transpose(0, 3, 1, 2) if channels_first else pixels
    images = open_images(write_file(tmp_path / "a.h5", stored.astype(dtype)), shape=shape)
    assert (images.num_images, images.shape) == (NUM_IMAGES, SHAPE)
    assert images.dtype == (np.uint8 if dtype == "u1" else np.float32)
    for batch in images.batches(4):
        assert batch.dtype == images.dtype
        assert batch.flags.c_contiguous
    np.testing.assert_array_equal(read_all(images), pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_three_and_four_channels_are_recognised_on_either_side(tmp_path, channels):
    pixels = make_pixels(shape=(6, 5, channels))
    for stored in (pixels, pixels.transpose(0, 3, 1, 2)):
        images = open_images(write_file(tmp_path / "a.h5", stored))
        assert images.shape == (6, 5, channels)
        np.testing.assert_array_equal(read_all(images), pixels)


def test_the_expected_shape_decides_where_both_sides_could_be_channels(tmp_path):
    path = write_file(tmp_path / "a.h5", make_pixels(shape=(3, 5, 4)))
    assert open_images(path).shape == (5, 4, 3)
    assert open_images(path, shape=(5, 4, 3)).shape == (5, 4, 3)
    assert open_images(path, shape=(3, 5, 4)).shape == (3, 5, 4)
    same = write_file(tmp_path / "b.h5", make_pixels(shape=(3, 3, 3)))
    np.testing.assert_array_equal(
        read_all(open_images(same, shape=(3, 3, 3))),
        make_pixels(shape=(3, 3, 3)).transpose(0, 2, 3, 1),
    )


@pytest.mark.parametrize(
    "shape", [(1, 5, 4), (3, 5, 4), (4, 5, 3), (1, 28, 1), (4, 4, 3), (3, 1, 1)]
)
@pytest.mark.parametrize("channels_first", [True, False])
def test_images_of_height_one_three_and_four_are_not_turned(tmp_path, shape, channels_first):
    pixels = make_pixels(shape=shape)
    stored = pixels.transpose(0, 3, 1, 2) if channels_first else pixels
    images = open_images(write_file(tmp_path / "a.h5", stored), shape=shape)
    np.testing.assert_array_equal(read_all(images), pixels)
    assert images.remarks == ()


@pytest.mark.parametrize("shape", [None, (3, 3, 3)])
def test_where_both_layouts_fit_it_is_channels_first_and_said(tmp_path, shape):
    images = open_images(write_file(tmp_path / "a.h5", make_pixels(shape=(3, 3, 3))), shape=shape)
    assert images.remarks == (
        f"{tmp_path}/a.h5: `data` of shape (6, 3, 3, 3) can be read channels first or last; it is "
        "read channels first, as the lab writes it",
    )


@pytest.mark.parametrize("channels", [2, 10])
@pytest.mark.parametrize("known", [True, False])
def test_images_of_other_numbers_of_channels_are_read(tmp_path, channels, known):
    pixels = make_pixels(shape=(12, 11, channels))
    for stored in (pixels, pixels.transpose(0, 3, 1, 2)):
        path = write_file(tmp_path / "a.h5", stored)
        images = open_images(path, shape=(12, 11, channels) if known else None)
        np.testing.assert_array_equal(read_all(images), pixels)


@pytest.mark.parametrize("shape", [None, (5, 4, 1)])
def test_grey_images_need_no_axis_of_channels(tmp_path, shape):
    pixels = make_pixels(shape=(5, 4))
    images = open_images(write_file(tmp_path / "a.h5", pixels), shape=shape)
    assert images.shape == (5, 4, 1)
    assert "`data` has no axis of channels, its images are read as grey" in images.remarks[0]
    np.testing.assert_array_equal(read_all(images), pixels[..., None])


@pytest.mark.parametrize("dtype", ["f4", "u1", "bool", "i8", ">f8"])
def test_one_hot_rows_are_labels_and_it_is_said(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("goodnet.images.stored_arrays._ONE_HOT_BYTES", 30)
    rows = np.eye(10)[[3, 0, 9, 3, 1, 2]].astype(dtype)
    images = open_images(write_file(tmp_path / "a.h5", label=rows), shape=SHAPE, num_classes=10)
    assert images.labels.tolist() == [3, 0, 9, 3, 1, 2]
    assert images.remarks == (
        f"{tmp_path}/a.h5: `label` has a row for each image, with 1 at the label (one-hot)",
    )


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i1", "i8", "u8", ">f8"])
@pytest.mark.parametrize("as_column", [True, False])
def test_labels_of_every_numeric_type_become_whole_numbers(tmp_path, dtype, as_column):
    label = np.array([0, 5, 2, 100, 1, 3], dtype=dtype)
    path = write_file(tmp_path / "a.h5", label=label[:, None] if as_column else label)
    labels = open_images(path, num_classes=101).labels
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 5, 2, 100, 1, 3]


@pytest.mark.parametrize("chunks", [(1, 3, 5, 4), (4, 1, 2, 3), (6, 3, 5, 4)])
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_chunked_and_compressed_files_give_the_same_pixels(tmp_path, chunks, compression):
    stored = make_pixels(dtype=np.float64).transpose(0, 3, 1, 2)
    path = write_file(tmp_path / "a.h5", stored, chunks=chunks, compression=compression)
    np.testing.assert_array_equal(read_all(open_images(path, shape=SHAPE), 5), make_pixels())


def test_integers_beyond_eight_bits_and_fractions_survive(tmp_path):
    data = np.array([0.25, 254.5, 255, 1e-3], dtype=np.float64).reshape(1, 1, 2, 2)
    images = open_images(write_file(tmp_path / "a.h5", data, label=[0]))
    np.testing.assert_array_equal(read_all(images).ravel(), data.ravel().astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    batch_size=st.integers(1, 30),
    start=st.integers(0, 25),
    stop=st.none() | st.integers(0, 30),
    kind=st.sampled_from(["first", "last", "chunked", "folder"]),
)
def test_batch_size_and_limits_never_change_the_pixels(
    tmp_path_factory, batch_size, start, stop, kind
):
    path, pixels = make_set(tmp_path_factory, kind)
    batches = list(open_images(path, shape=SHAPE).batches(batch_size, start=start, stop=stop))
    expected = pixels[start:stop]
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert sum(len(batch) for batch in batches) == len(expected)
    if batches:
        np.testing.assert_array_equal(np.concatenate(batches), expected)


SETS = {}


def make_set(tmp_path_factory, kind):
    if kind not in SETS:
        folder = tmp_path_factory.mktemp(kind)
        pixels = make_pixels(20)
        if kind == "folder":
            (folder / "0").mkdir()
            for index, image in enumerate(pixels):
                Image.fromarray(image).save(folder / "0" / f"{index:02}.png")
            SETS[kind] = folder, pixels
        else:
            stored = pixels if kind == "last" else pixels.transpose(0, 3, 1, 2)
            storage = {"chunks": (7, 2, 3, 4), "compression": "gzip"} if kind == "chunked" else {}
            label = np.zeros(20)
            SETS[kind] = write_file(folder / "a.h5", stored.astype("f4"), label, **storage), pixels
    return SETS[kind]


def test_batches_can_be_read_again_and_side_by_side_and_the_set_travels(tmp_path):
    images = pickle.loads(pickle.dumps(open_images(write_file(tmp_path / "a.h5"))))  # noqa: S301
    first, second = images.batches(2), images.batches(3)
    next(first)
    np.testing.assert_array_equal(next(second), make_pixels()[:3])
    np.testing.assert_array_equal(next(first), make_pixels()[2:4])
    np.testing.assert_array_equal(read_all(images), make_pixels())


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(tmp_path, batch_size):
    images = open_images(write_file(tmp_path / "a.h5"))
    with pytest.raises(ValueError, match="expected at least 1"):
        next(images.batches(batch_size))


def test_a_file_that_changes_between_opening_and_reading_is_refused(tmp_path):
    images = open_images(write_file(tmp_path / "a.h5"))
    write_file(tmp_path / "a.h5", make_pixels(4), label=np.zeros(4))
    with pytest.raises(InputError, match="has changed since it was opened"):
        next(images.batches(4))


def other_pixels(path):
    """The same set with other pixels."""
    if path.is_dir():
        for image in path.rglob("*.png"):
            Image.new("RGB", (4, 5)).save(image)
    else:
        write_file(path.with_name("other"), make_pixels(shape=(3, 5, 4)) // 2).replace(path)


def exchange_and_put_back(path):
    """Leave everything as it was, but for the time that nobody can set."""
    path = sorted(path.rglob("*.png"))[-1] if path.is_dir() else path
    path.rename(path.with_suffix(".moved"))
    path.with_suffix(".moved").rename(path)


@pytest.mark.parametrize("change", [other_pixels, exchange_and_put_back])
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("batches_before", [0, 1])
def test_a_set_that_changes_while_it_is_read_is_refused(tmp_path, change, kind, batches_before):
    path = tmp_path / "set"
    images = open_images(write_file(path) if kind == "file" else write_folder(path), shape=SHAPE)
    batches = images.batches(3)
    for _ in range(batches_before):
        next(batches)
    time.sleep(0.02)  # More than a tick of the file system's clock.
    change(path)
    with pytest.raises(InputError, match="has changed since it was opened"):
        list(batches)
    assert len(read_all(open_images(path, shape=SHAPE))) == NUM_IMAGES


GOOD = make_pixels(dtype=np.float64).transpose(0, 3, 1, 2)


def labels_with(index, value, dtype=np.float64):
    label = np.zeros(NUM_IMAGES, dtype)
    label[index] = value
    return label


BAD_FILES = {
    "channels missing": ({"data": GOOD[:, 0]}, r"`data` has shape \(6, 5, 4\), expected \(N, 3, 5"),
    "one image": ({"data": GOOD[0]}, r"has shape \(3, 5, 4\), expected"),
    "scalar": ({"data": 5.0}, r"`data` has shape \(\), expected \(N, 3, 5, 4\) or \(N, 5, 4, 3\)"),
    "null space": ({"data": h5py.Empty("f4")}, "`data` has shape None, expected"),
    "rank 5": ({"data": GOOD[None]}, r"has shape \(1, 6, 3, 5, 4\), expected"),
    "other size": ({"data": GOOD[:, :, :4]}, r"has shape \(6, 3, 4, 4\), expected"),
    "gray without axis": ({"data": GOOD[:, 0]}, r"has shape \(6, 5, 4\), expected \(N, 3, 5, 4\)"),
    "gray": ({"data": GOOD[:, :1]}, r"has shape \(6, 1, 5, 4\), expected"),
    "width first": ({"data": GOOD.transpose(0, 1, 3, 2)}, r"has shape \(6, 3, 4, 5\), expected"),
    "empty": ({"data": GOOD[:0], "label": []}, "holds no image, expected at least one"),
    "strings": (
        {"data": np.array([b"a"])},
        r"`data` holds elements of type \|S1, expected numbers",
    ),
    "complex": ({"data": GOOD * 1j}, "`data` holds elements of type complex128, expected numbers"),
    "too few labels": (
        {"label": np.zeros(5)},
        r"`label` has shape \(5,\), expected \(6,\) or \(6,",
    ),
    "no labels": ({"label": []}, r"`label` has shape \(0,\), expected \(6,\)"),
    "soft labels": (
        {"label": np.full((6, 2), 0.5)},
        r"`label` has shape \(6, 2\) and its row 0 is no one-hot label .*, expected \(6,\) or one",
    ),
    "two labels an image": (
        {"label": np.eye(6) + np.eye(6)[::-1]},
        "its row 0 is no one-hot label",
    ),
    "empty rows": ({"label": np.zeros((6, 3))}, "its row 0 is no one-hot label"),
    "one-hot beyond the classes": (
        {"label": np.eye(6, 30, 20)},
        "label 0 is 20, .* from 0 to 9, the class",
    ),
    "labels without columns": (
        {"label": np.zeros((6, 0))},
        r"`label` has shape \(6, 0\), expected",
    ),
    "labels of rank 3": ({"label": np.zeros((6, 1, 1))}, r"shape \(6, 1, 1\), expected \(6,\)"),
    "scalar label": ({"label": 3}, r"`label` has shape \(\), expected \(6,\)"),
    "text labels": (
        {"label": np.array([b"a"] * 6)},
        r"`label` holds elements of type \|S1, .*give each class the number .*return_inverse=True",
    ),
    "long text labels": ({"label": ["cat"] * 6}, "`label` holds elements of type object, .*number"),
    "null labels": ({"label": h5py.Empty("f4")}, "`label` has shape None, expected"),
    "negative label": (
        {"label": labels_with(2, -1)},
        r"label 2 is -1.0, expected a whole number f",
    ),
    "negative integer": ({"label": labels_with(5, -7, "i1")}, "label 5 is -7, expected a whole"),
    "label too large": (
        {"label": labels_with(4, 10)},
        "label 4 is 10.0, .* from 0 to 9, the class",
    ),
    "label beyond int64": (
        {"label": labels_with(3, 2**63, "u8")},
        "label 3 is 9223372036854775808",
    ),
    "fraction": ({"label": labels_with(1, 1.5)}, r"label 1 is 1\.5, expected a whole number"),
    "nan label": ({"label": labels_with(0, np.nan)}, "label 0 is nan, expected a whole number"),
    "infinite label": (
        {"label": labels_with(0, np.inf)},
        "label 0 is inf, expected a whole number",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_on_opening(tmp_path, name):
    content, message = BAD_FILES[name]
    path = write_file(tmp_path / "clean.h5", **content)
    with pytest.raises(InputError, match=message) as caught:
        open_images(path, shape=SHAPE, num_classes=10)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


BAD_PIXELS = {
    "nan": (np.nan, "f8", "pixel nan, expected 0 to 255"),
    "infinite": (np.inf, "f4", "pixel inf, expected 0 to 255"),
    "minus infinite": (-np.inf, "f4", "pixel -inf, expected 0 to 255"),
    "too large for float32": (1e300, "f8", "pixel inf, expected 0 to 255"),
    "a little too large": (255.5, "f4", r"pixel 255\.5, expected 0 to 255"),
    "negative": (-1, "f8", r"pixel -1\.0, expected 0 to 255"),
    "negative integer": (-3, "i2", r"pixel -3\.0, expected 0 to 255"),
    "16 bits": (256, "u2", r"pixel 256\.0, expected 0 to 255"),
}


@pytest.mark.parametrize("name", BAD_PIXELS)
@pytest.mark.parametrize("index", [0, 17, 19])
def test_bad_pixels_are_refused_with_the_image_they_are_in(tmp_path, name, index):
    value, dtype, message = BAD_PIXELS[name]
    data = make_pixels(20, dtype=dtype).transpose(0, 3, 1, 2)
    data[index, 1, 2, 3] = value
    path = write_file(tmp_path / "clean.h5", data, label=np.zeros(20))
    images = open_images(path, shape=SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=f"clean.h5: image {index} has {message}"):
            list(images.batches(8))
    if index == 19:
        assert len(read_all(images, 8, stop=19)) == 19


def test_pixels_of_minus_one_to_one_are_refused_unless_that_is_said(tmp_path):
    data = make_pixels(20).transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    path = write_file(tmp_path / "scaled.h5", data.astype("f4"), label=np.zeros(20))
    advice = r"pixel -.*, expected 0 to 255; if they are stored as the net takes them, give pixe"
    with pytest.raises(InputError, match=advice):
        list(open_images(path, shape=SHAPE).batches(8))
    assert len(read_all(open_images(path, shape=SHAPE, pixel_range=(-1, 1)))) == 20


def test_pixels_that_seem_to_be_stored_from_0_to_1_are_not_taken_for_raw_ones(tmp_path):
    x, y = np.ones((70, 4, 5, 3), np.float32), np.zeros(70, int)
    write_images(tmp_path / "small.h5", x, y)
    require_raw(open_images(tmp_path / "small.h5", pixel_range=(0, 1)))
    with pytest.raises(InputError, match=r"no pixel is above 1, .* give pixel_range=\(0, 1\)"):
        require_raw(open_images(tmp_path / "small.h5"))
    write_images(tmp_path / "bytes.h5", x.astype(np.uint8), y)
    require_raw(open_images(tmp_path / "bytes.h5"))
    x[69] = 2
    write_images(tmp_path / "dark.h5", x, y)
    require_raw(open_images(tmp_path / "dark.h5"))


def test_what_is_no_image_file_is_refused(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(InputError, match=r"text\.h5: is no HDF5, .*write_images\(path, images"):
        open_images(tmp_path / "text.h5")
    np.save(tmp_path / "a.npy", make_pixels())
    with pytest.raises(
        InputError, match=r"a\.npy: is no HDF5, \.npz or zip file, expected one wit"
    ):
        open_images(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"missing\.h5: no such file"):
        open_images(tmp_path / "missing.h5")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("image", "label"),
        ("data", "labels"),
        ("x", "y"),
        ("X", "Y"),
        ("X", "y"),
        ("x_train", "y_train"),
        ("Images", "Labels"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"chunks": (2, 3, 5, 4), "compression": "gzip"}])
def test_data_sets_of_other_names_give_the_same(tmp_path, images, labels, options):
    expected = open_images(write_file(tmp_path / "a.h5", label=np.arange(6)))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset(images, data=make_pixels().transpose(0, 3, 1, 2), **options)
        file[labels] = np.arange(6)
        file["ids"] = np.arange(6)
    found = open_images(tmp_path / "b.h5")
    np.testing.assert_array_equal(found.labels, expected.labels)
    for batch_size in (2, 6):
        np.testing.assert_array_equal(read_all(found, batch_size), read_all(expected))


def test_the_labs_names_count_whatever_else_there_is(tmp_path):
    path = write_file(tmp_path / "a.h5")
    expected = read_all(open_images(path))
    with h5py.File(path, "r+") as file:
        file["x"], file["y"] = np.zeros((2, 3, 5, 4)), [0, 0]
    np.testing.assert_array_equal(read_all(open_images(path)), expected)


@pytest.mark.parametrize(
    "names", [("x", "y", "images", "labels"), ("x", "X", "y"), ("x", "a/y"), ("a/x", "a/y"), ()]
)
def test_names_that_leave_open_what_is_meant_are_refused(tmp_path, names):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in names:
            file[name] = np.zeros((6, 5, 4, 3))
    listed = ", ".join(f"`{name}`" for name in sorted(names, key=lambda x: ("/" in x, x))) or "none"
    with pytest.raises(InputError, match=f"has the data sets {listed}, expected just one pair"):
        open_images(tmp_path / "a.h5")


def test_text_labels_of_another_name_are_told_how_to_become_numbers(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = make_pixels(), ["cat"] * 6
    with pytest.raises(InputError, match=r"`y` holds elements of type object, .*return_inverse"):
        open_images(tmp_path / "a.h5")


@pytest.mark.parametrize("missing", ["data", "label"])
def test_a_missing_data_set_is_named_with_what_there_is(tmp_path, missing):
    path = write_file(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.move(missing, "other")
    with pytest.raises(InputError, match=r"has the data sets .*`other`.*, expected just one pair"):
        open_images(path)


def test_a_file_with_several_sets_is_refused_with_what_to_do(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("X_train", "X_test"):
            file[name], file[name.replace("X", "Y")] = make_pixels(), np.eye(6)
    with pytest.raises(
        InputError, match=r"has the data sets `X_test`, `X_train`, .* one pair .* in a file"
    ):
        open_images(tmp_path / "a.h5")


def test_a_truncated_file_is_refused(tmp_path):
    path = write_file(tmp_path / "a.h5", make_pixels(500), label=np.zeros(500))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=r"a\.h5: "):
        read_all(open_images(path))


def test_damaged_compressed_pixels_are_refused_while_reading(tmp_path):
    path = write_file(tmp_path / "a.h5", compression="gzip")
    with h5py.File(path) as file:
        place = file["data"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 40)
    images = open_images(path)
    with pytest.raises(InputError, match=r"a\.h5: cannot be read as HDF5"):
        read_all(images)


def test_a_set_that_would_need_absurd_memory_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        chunks = (2**28 // 8 + 8, 1, 1, 1)
        data = file.create_dataset("data", chunks, "u1", chunks=chunks, compression="gzip")
        data.id.write_direct_chunk((0, 0, 0, 0), os.urandom(2**20))
        file["label"] = [0]
    with pytest.raises(InputError, match="bytes at once, expected at most 268,435,456"):
        open_images(path)


@pytest.mark.parametrize("shape", [SHAPE, None])
def test_a_folder_is_read_by_label_number_and_name(tmp_path, shape):
    images = open_images(write_folder(tmp_path), shape=shape, num_classes=11)
    assert (images.num_images, images.shape, images.dtype) == (NUM_IMAGES, SHAPE, np.uint8)
    assert images.labels.tolist() == [2, 2, 7, 7, 10, 10]
    for batch in images.batches(4):
        assert batch.flags.c_contiguous
        assert batch.dtype == np.uint8
    np.testing.assert_array_equal(read_all(images), make_pixels())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".Png"])
def test_suffixes_of_either_case_are_images(tmp_path, suffix):
    images = open_images(write_folder(tmp_path, suffix=suffix))
    expected = [
        np.asarray(Image.open(path)) for path in sorted(tmp_path.rglob("*.*"), key=by_label)
    ]
    np.testing.assert_array_equal(read_all(images), expected)


def by_label(path):
    return int(path.parent.name), path.name


def test_hidden_files_are_ignored_and_leading_zeros_are_not_octal(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "7").rename(tmp_path / "0007")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "2" / "._a.png").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    assert open_images(tmp_path).labels.tolist() == [2, 2, 7, 7, 10, 10]


def test_a_note_may_follow_a_label_and_it_is_said(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "7").rename(tmp_path / "7-random")
    (tmp_path / "10").rename(tmp_path / "2-other note")
    images = open_images(tmp_path)
    assert images.labels.tolist() == [2, 2, 2, 2, 7, 7]
    assert images.remarks == (
        f"{tmp_path}: the number before the - in the name of a folder is its label",
    )
    pixels = make_pixels()
    np.testing.assert_array_equal(read_all(images), pixels[[0, 1, 4, 5, 2, 3]])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colour_modes_become_the_expected_channels(tmp_path, mode, channels):
    (tmp_path / "0").mkdir()
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (4, 5), (255, 255, 255)).convert(mode).save(tmp_path / f"0/a.{suffix}")
    pixels = read_all(open_images(tmp_path, shape=(5, 4, channels)))
    assert pixels.shape == (1, 5, 4, channels)
    assert (pixels == 255).all()


def test_transparent_palettes_are_read_without_a_warning(tmp_path):
    (tmp_path / "0").mkdir()
    image = Image.new("RGB", (4, 5), (10, 20, 30)).convert("P")
    image.save(tmp_path / "0/a.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_all(open_images(tmp_path, shape=SHAPE))
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pixels[0], expected)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_without_a_shape_the_first_image_decides(tmp_path, mode, channels):
    (tmp_path / "0").mkdir()
    Image.new(mode, (4, 5)).save(tmp_path / "0/a.png")
    Image.new("RGB", (4, 5)).save(tmp_path / "0/b.png")
    images = open_images(tmp_path)
    assert images.shape == (5, 4, channels)
    assert read_all(images).shape == (2, 5, 4, channels)


def test_a_link_inside_the_folder_is_followed(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "2" / "c.png").symlink_to(tmp_path / "7" / "a.png")
    images = open_images(tmp_path)
    assert images.labels.tolist() == [2, 2, 2, 7, 7, 10, 10]
    np.testing.assert_array_equal(read_all(images)[2], make_pixels()[2])


def replace_first(content):
    return lambda folder: (folder / "2/a.png").write_bytes(content(folder))


def save_first(mode="RGB", size=(4, 5), kind="PNG"):
    return lambda folder: Image.new(mode, size).save(folder / "2/a.png", format=kind)


def truncate_first(folder):
    noise = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    Image.fromarray(noise).save(folder / "2/a.png")
    os.truncate(folder / "2/a.png", 90)


def declare_size(path, size):
    """Change nothing but the width and height in the header of a PNG, and its checksum."""
    content = bytearray(path.read_bytes())
    content[16:24] = size.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def link(name, target):
    def make(folder):
        outside = folder.parent / "outside"
        write_folder(outside)
        (folder / name).symlink_to(folder.parent / target)

    return make


BAD_FOLDERS = {
    "label is a word": (
        lambda f: (f / "cats").mkdir(),
        "set: holds a folder 10 and a folder cats, expected all named by number",
    ),
    "negative label": (lambda f: (f / "-1").mkdir(), "holds a folder 10 and a folder -1, expected"),
    "fraction": (lambda f: (f / "1.0").mkdir(), r"holds a folder 10 and a folder 1\.0, expected"),
    "other digits": (lambda f: (f / "٣").mkdir(), "holds a folder 10 and a folder ٣, expected"),
    "endless label": (lambda f: (f / ("1" * 50)).mkdir(), "holds a folder 10 and a folder 1111"),
    "label too large": (
        lambda f: (f / "10").rename(f / "11"),
        r"11/a\.png: label is 11, expected 0 to 10; if folders .* give classes=FILE",
    ),
    "stray file": (lambda f: (f / "notes.txt").touch(), r"notes\.txt: is no folder, expected fold"),
    "stray image": (lambda f: (f / "a.png").touch(), r"a\.png: is no folder, expected folders"),
    "stray text": (
        lambda f: (f / "2/a.txt").touch(),
        r"2/a\.txt: is no image file, expected \.png",
    ),
    "gif": (lambda f: (f / "2/a.gif").touch(), r"2/a\.gif: is no image file"),
    "nested folder": (lambda f: (f / "2/deep.png").mkdir(), r"2/deep\.png: is a folder, exp"),
    "pipe": (lambda f: os.mkfifo(f / "2/pipe.png"), r"2/pipe\.png: is no image file"),
    "link to a file outside": (
        link("2/c.png", "outside/2/a.png"),
        "a link that leads out of the f",
    ),
    "link to a folder outside": (
        link("3", "outside/2"),
        "3: is a link that leads out of the folder",
    ),
    "link to a device": (link("2/c.png", "/dev/zero"), "is a link that leads out of the folder"),
    "dangling link": (link("2/c.png", "nowhere"), r"c\.png: is a link to nothing"),
    "circular link": (link("2/c.png", "set/2/c.png"), r"c\.png: is a link to nothing"),
    "empty file": (replace_first(lambda f: b""), r"2/a\.png: is no readable PNG or JPEG image"),
    "text": (replace_first(lambda f: b"hello"), r"2/a\.png: is no readable PNG or JPEG image"),
    "truncated": (truncate_first, r"2/a\.png: cannot be decoded, it is damaged"),
    "gif inside": (save_first(kind="GIF"), r"2/a\.png: is no readable PNG or JPEG image"),
    "jpeg inside": (save_first(kind="JPEG"), r"2/a\.png: is a JPEG image, but its name says PNG"),
    "width": (
        save_first(size=(5, 5)),
        r"2/a\.png: image is 5 x 5 \(height x width\), expected 5 x 4",
    ),
    "turned": (save_first(size=(5, 4)), r"image is 4 x 5 \(height x width\), expected 5 x 4"),
    "16 bits": (save_first(mode="I;16"), r"2/a\.png: has pixels of type I;16, expected 8 bits"),
    "bomb": (
        lambda f: declare_size(f / "2/a.png", 60_000),
        r"2/a\.png: declares more pixels than any image",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folders_are_refused(tmp_path, name):
    spoil, message = BAD_FOLDERS[name]
    folder = write_folder(tmp_path / "set")
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        read_all(open_images(folder, shape=SHAPE, num_classes=11))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["truncated", "text", "width", "16 bits", "bomb"])
def test_a_bad_image_later_in_the_folder_is_refused_while_reading(tmp_path, name):
    folder = write_folder(tmp_path)
    (folder / "0").mkdir()
    Image.new("RGB", (4, 5)).save(folder / "0/a.png")
    BAD_FOLDERS[name][0](folder)
    images = open_images(folder)
    with pytest.raises(InputError, match=BAD_FOLDERS[name][1]):
        read_all(images)
    assert len(read_all(images, stop=1)) == 1


def test_a_large_image_is_refused_by_its_declared_size(tmp_path):
    """The pixels that the header promises are not there: decoding would say damaged instead."""
    folder = write_folder(tmp_path)
    declare_size(folder / "2/b.png", 5_000)
    with pytest.raises(InputError, match=r"2/b\.png: image is 5000 x 5000 .*, expected 5 x 4"):
        read_all(open_images(folder))


@pytest.mark.parametrize("content", [[], ["0"], [".hidden.png"]])
def test_a_folder_without_images_is_refused(tmp_path, content):
    for name in content:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds no image, expected <class>/<image>"):
        open_images(tmp_path)


def test_names_with_control_characters_are_printed_safely(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "a\x1b[2J\n.png").write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        open_images(tmp_path)
    assert str(caught.value).isprintable()
    assert r"a\x1b[2J\n.png" in str(caught.value)


def test_channels_that_image_files_do_not_have_are_refused(tmp_path):
    with pytest.raises(InputError, match="images have 1, 3 or 4 channels, expected 2"):
        open_images(write_folder(tmp_path), shape=(5, 4, 2))


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_written_images_have_the_labs_layout_and_are_read_back(tmp_path, dtype):
    path, pixels = tmp_path / "a.h5", make_pixels(600, dtype=dtype)
    write_images(str(path), pixels, np.arange(600.0))
    with h5py.File(path) as file:
        assert (file["data"].shape, file["data"].dtype) == ((600, 3, 5, 4), np.dtype(dtype))
        assert file["label"].dtype == np.int64
    images = open_images(str(path), shape=SHAPE, num_classes=600)
    np.testing.assert_array_equal(read_all(images), pixels)
    np.testing.assert_array_equal(images.labels, np.arange(600))
    assert names_in(tmp_path) == ["a.h5"]


@pytest.mark.parametrize(("shape", "num_labels"), [((6, 5, 4, 3), 5), ((5, 4, 3), 5)])
def test_images_and_labels_that_do_not_fit_are_not_written(tmp_path, shape, num_labels):
    with pytest.raises(ValueError, match="expected"):
        write_images(tmp_path / "a.h5", np.zeros(shape), np.zeros(num_labels))
    assert names_in(tmp_path) == []


def test_equal_pixels_have_equal_digests_whatever_they_are_stored_as(tmp_path):
    pixels = make_pixels(20)
    expected = digest_pixels(pixels)
    assert len(set(expected.tolist())) == 20
    for dtype in ("u1", "f4", ">f8", "i4"):
        for stored in (pixels, pixels.transpose(0, 3, 1, 2)):
            path = write_file(tmp_path / "a.h5", stored.astype(dtype), label=np.zeros(20))
            (batch,) = open_images(path, shape=SHAPE).batches(20)
            np.testing.assert_array_equal(digest_pixels(batch), expected)
    np.testing.assert_array_equal(digest_pixels(pixels[::-1]), expected[::-1])
    pixels[3, 0, 0, 0] ^= 1
    assert (digest_pixels(pixels) != expected).tolist() == [n == 3 for n in range(20)]


@pytest.mark.lab
@pytest.mark.parametrize(
    ("name", "num_images"),
    [("clean_valid_mini", 40), ("clean_test_mini", 28), ("poisoned_test_mini", 36)],
)
def test_the_labs_files_are_read_as_they_are(name, num_images):
    path = LAB / f"{name}.h5"
    images = open_images(path, shape=FACE, num_classes=1283)
    with h5py.File(path) as file:
        data, label = file["data"][()], file["label"][()]
    assert images.num_images == num_images
    np.testing.assert_array_equal(images.labels, label)
    np.testing.assert_array_equal(read_all(images, 16), data.transpose(0, 2, 3, 1).astype("f4"))
    assert open_images(path).shape == FACE


@pytest.mark.lab
def test_the_labs_pngs_are_images_of_its_files(tmp_path):
    known = {}
    for name in ("clean_valid_mini", "clean_test_mini"):
        images = open_images(LAB / f"{name}.h5", shape=FACE)
        known |= dict(zip(images.labels.tolist(), read_all(images).round(), strict=True))
    for path in LAB.glob("clean_*.png"):
        label = int(path.stem.split("_")[1])
        (tmp_path / str(label)).mkdir()
        (tmp_path / str(label) / path.name).write_bytes(path.read_bytes())
    images = open_images(tmp_path, shape=FACE, num_classes=1283)
    assert images.num_images == 3
    for label, image in zip(images.labels.tolist(), read_all(images), strict=True):
        np.testing.assert_array_equal(image, known[label])


READ_ALL = """
import sys
from pathlib import Path
from goodnet.images.image_sets import open_images

def peak_kilobytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before = peak_kilobytes()
num_images = sum(len(batch) for batch in open_images(Path(sys.argv[1])).batches(256))
print(num_images, peak_kilobytes() - before)
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""


# The peak that getrusage reports would start at that of the process running the tests.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_large_file_is_never_held_in_memory(tmp_path):
    path, num_images = tmp_path / "large.h5", 3400
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (num_images, 3, 55, 47), "f8")
        data[-1] = 1.0
        file["label"] = np.zeros(num_images)
    assert path.stat().st_size > 200_000_000
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found, grown_kilobytes = map(int, done.stdout.split())
    assert found == num_images
    assert grown_kilobytes < 80_000
