"""Image sets in .npz files, as numpy writes them."""

import io
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.images.image_sets import open_images

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (5, 4, 3)
NUM_IMAGES = 6
PIXELS = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, *SHAPE), dtype=np.uint8)
LABELS = np.arange(NUM_IMAGES) % 3


def write(path, save=np.savez_compressed, **arrays):
    save(path, **arrays)
    return path


def read_all(images, batch_size=4, **limits):
    return np.concatenate(list(images.batches(batch_size, **limits)))


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "u1", "i2", "u2", "i4", "u8", ">f8", ">i4"])
@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_numeric_type_and_layout_gives_the_same_pixels(tmp_path, dtype, channels_first, save):
    stored = PIXELS.transpose(0, 3, 1, 2) if channels_first else PIXELS
    stored = np.ascontiguousarray(stored.astype(dtype))
    images = open_images(write(tmp_path / "a.npz", save, x=stored, y=LABELS), num_classes=3)
    assert (images.num_images, images.shape) == (NUM_IMAGES, SHAPE)
    assert images.dtype == (np.uint8 if dtype == "u1" else np.float32)
    np.testing.assert_array_equal(images.labels, LABELS)
    for batch_size in (1, 4, 6):
        np.testing.assert_array_equal(read_all(images, batch_size), PIXELS)
    np.testing.assert_array_equal(read_all(images, 2, start=3), PIXELS[3:])
    np.testing.assert_array_equal(read_all(images, 2, stop=3), PIXELS[:3])


@pytest.mark.parametrize(
    "names",
    [
        ("data", "label"),
        ("images", "labels"),
        ("x", "y"),
        ("X", "y"),
        ("x_valid", "y_valid"),
        ("X_Test", "Y_test"),
        ("Images", "LABELS"),
    ],
)
def test_the_one_pair_is_found_among_other_arrays(tmp_path, names):
    arrays = dict(zip(names, (PIXELS, LABELS), strict=True))
    others = {"seed": np.zeros(3), "x_other": PIXELS, "label_names": np.array(["a", "b"])}
    images = open_images(write(tmp_path / "a.npz", **others, **arrays))
    np.testing.assert_array_equal(images.labels, LABELS)
    np.testing.assert_array_equal(read_all(images), PIXELS)


def test_labels_may_be_one_hot_rows_or_a_column(tmp_path):
    for labels in (np.eye(3)[LABELS], LABELS[:, None], LABELS.astype("f4")):
        images = open_images(write(tmp_path / "a.npz", x=PIXELS, y=labels), num_classes=3)
        np.testing.assert_array_equal(images.labels, LABELS)
    assert open_images(write(tmp_path / "a.npz", x=PIXELS[..., 0], y=LABELS)).shape == (5, 4, 1)


def test_a_set_is_what_is_in_it_not_what_it_is_called(tmp_path):
    write(tmp_path / "a.npz", x=PIXELS, y=LABELS)
    images = open_images((tmp_path / "a.npz").rename(tmp_path / "a.h5"))
    np.testing.assert_array_equal(read_all(images), PIXELS)


def test_parts_are_read_in_any_order_and_a_set_can_be_sent_to_a_process(tmp_path):
    images = pickle.loads(  # noqa: S301
        pickle.dumps(open_images(write(tmp_path / "a.npz", x=PIXELS, y=LABELS)))
    )
    parts = [slice(4, 6), slice(0, 1), slice(2, 4)]
    for part, pixels in zip(parts, images.read(parts), strict=True):
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, PIXELS[part])


@pytest.mark.parametrize("batches_before", [0, 1])
def test_a_set_that_changes_while_it_is_read_is_refused(tmp_path, batches_before):
    path = write(tmp_path / "a.npz", np.savez, x=PIXELS, y=LABELS)
    batches = open_images(path).batches(3)
    for _ in range(batches_before):
        next(batches)
    time.sleep(0.02)  # More than a tick of the file system's clock.
    write(tmp_path / "b.npz", np.savez, x=PIXELS // 2, y=LABELS).replace(path)
    with pytest.raises(InputError, match="has changed since it was opened"):
        list(batches)


BAD = {
    "no pair": (
        {"x_train": PIXELS, "y_test": LABELS},
        "has the arrays `x_train`, `y_test`, expected just one pair of images and labels in a file",
    ),
    "two pairs": (
        {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS},
        "has the arrays `x_train`, `y_train`, `x_test`, `y_test`, expected just one pair",
    ),
    "without names": ({"arr_0": PIXELS, "arr_1": LABELS}, "has the arrays `arr_0`, `arr_1`, exp"),
    "two of one name": ({"x": PIXELS, "X": PIXELS, "y": LABELS}, "has the arrays `x`, `X`, `y`"),
    "many": ({f"a{n}": LABELS for n in range(30)}, "`a0`, .*, `a19`, …, expected just one pair"),
    "nothing": ({}, "holds no image"),
    "objects": (
        {"x": PIXELS, "y": np.array([[1], "a"] * 3, object)},
        "`y` holds elements of type object, expected numbers",
    ),
    "text": (
        {"x": PIXELS, "y": np.array(["cat", "dog"] * 3)},
        "`y` holds elements of type <U3, .*: give each class the number .*return_inverse=True",
    ),
    "records": (
        {"x": np.zeros(6, [("r", "u1")]), "y": LABELS},
        "`x` has no header of an array of numbers, it begins .*descr.*'r', '|u1'",
    ),
    "complex": ({"x": PIXELS * 1j, "y": LABELS}, "`x` holds elements of type complex128"),
    "column by column": (
        {"x": np.asfortranarray(PIXELS), "y": LABELS},
        r"`x` is stored column by column \(Fortran order\), expected image by image",
    ),
    "other size": (
        {"x": PIXELS[:, :4], "y": LABELS},
        r"`x` has shape \(6, 4, 4, 3\), expected \(N, 3, 5, 4\) or \(N, 5, 4, 3\)",
    ),
    "scalar": ({"x": np.float64(3), "y": LABELS}, r"`x` has shape \(\), expected"),
    "no image": ({"x": PIXELS[:0], "y": LABELS[:0]}, "holds no image, expected at least one"),
    "too few labels": (
        {"x": PIXELS, "y": LABELS[:5]},
        r"`y` has shape \(5,\), expected \(6,\) or \(6, 1\), as there are 6 images",
    ),
    "label too large": ({"x": PIXELS, "y": LABELS + 1}, "label 2 is 3, .* from 0 to 2, the class"),
    "soft labels": ({"x": PIXELS, "y": np.full((6, 2), 0.5)}, "`y` .* row 0 is no one-hot label"),
    "nan": ({"x": np.full((6, *SHAPE), np.nan), "y": LABELS}, "image 0 has pixel nan, expected 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path, name):
    arrays, message = BAD[name]
    path = write(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_all(open_images(path, shape=SHAPE, num_classes=3))
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def write_members(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


GOOD = {"x": npy(PIXELS), "y": npy(LABELS)}


def with_header(text, version=b"\x01\0", pixels=PIXELS):
    """An array under a header of any text."""
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode() + pixels.tobytes()


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 5, 4, 3), }"


@pytest.mark.parametrize("version", [b"\x01\0", b"\x02\0", b"\x03\0"])
@pytest.mark.parametrize("text", [HEADER, HEADER.replace(", }", "}"), HEADER + " " * 50 + "\n"])
def test_headers_of_other_writers_are_read(tmp_path, version, text):
    path = write_members(tmp_path / "a.npz", **GOOD | {"x": with_header(text, version)})
    np.testing.assert_array_equal(read_all(open_images(path)), PIXELS)


BAD_HEADERS = {
    "code": "{'descr': print('evil'), 'fortran_order': False, 'shape': (6, 5, 4, 3), }",
    "nested": "(" * 5000,
    "of Python 2": HEADER.replace("6", "6L"),
    "negative": HEADER.replace("6", "-6"),
    "beyond what is stored": HEADER.replace("6", "600000000000"),
    "of thousands of digits": HEADER.replace("6", "6" * 5000),
    "fewer than what is stored": HEADER.replace("6", "5"),
    "type that is none": HEADER.replace("|u1", "u77"),
    "type of another kind": HEADER.replace("|u1", "M8[ns]"),
    "long": HEADER + " " * 20_000,
    "nothing": "",
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_do_not_fit_are_refused(tmp_path, name):
    path = write_members(tmp_path / "a.npz", **GOOD | {"x": with_header(BAD_HEADERS[name])})
    with pytest.raises(
        InputError, match=r"a\.npz: `x` (has no header|declares [\d,]+ bytes of sh)"
    ):
        read_all(open_images(path))


def test_a_member_that_is_no_array_is_refused(tmp_path):
    path = write_members(tmp_path / "a.npz", **GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../evil.py", b"")
    with pytest.raises(InputError, match=r"holds `\.\./evil\.py`, expected arrays \(\.npy\) only"):
        open_images(path)


def test_damaged_pixels_are_refused_while_reading(tmp_path):
    pixels = np.tile(PIXELS, (200, 1, 1, 1))
    path = write(tmp_path / "a.npz", np.savez, x=pixels, y=np.zeros(1200))
    content = path.read_bytes()
    place = content.index(PIXELS.tobytes()[:50]) + 50_000
    path.write_bytes(content[:place] + b"\xff" * 40 + content[place + 40 :])
    images = open_images(path)
    with pytest.raises(InputError, match=r"a\.npz: is a damaged \.npz file \(Bad CRC-32"):
        read_all(images)


def test_a_file_cut_short_is_refused(tmp_path):
    path = write(tmp_path / "a.npz", x=PIXELS, y=LABELS)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=r"a\.npz: is a damaged \.npz file \(no plain table"):
        open_images(path)


READ_ALL = """
import sys
from pathlib import Path
from goodnet.images.image_sets import open_images

def peak_kilobytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before = peak_kilobytes()
images = open_images(Path(sys.argv[1]))
num_images = sum(len(batch) for batch in images.batches(256))
num_images += sum(len(part) for part in images.read(slice(n, n + 1) for n in range(0, 3400, 10)))
print(num_images, peak_kilobytes() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_large_file_is_never_held_in_memory(tmp_path, save):
    pixels = np.zeros((3400, 55, 47, 3))
    assert pixels.nbytes > 200_000_000
    path = write(tmp_path / "large.npz", save, x=pixels, y=np.zeros(3400))
    command = [sys.executable, "-c", READ_ALL, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    num_images, kilobytes = map(int, done.stdout.split())
    assert num_images == 3400 + 340
    assert kilobytes < 80_000
