"""Zip files of folders of pictures: what is delivered, or the one line."""

import io
import pickle
import stat
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodnet.errors import InputError
from goodnet.images.image_sets import open_images
from goodnet.images.unlabelled_images import open_unlabelled
from goodnet.images.zipped_folders import list_zip
from goodnet.storage.signatures import SignedFile

SHAPE = (5, 4, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), dtype=np.uint8)
NAMES = ["cat/a.png", "cat/b.png", "dog/a.png", "dog/c.png"]


def picture(pixels, kind="PNG"):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def write(path, members, method=zipfile.ZIP_DEFLATED):
    """Write a zip file; a member is a name or a ZipInfo, and its content."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def good(names=NAMES):
    return [(name, picture(pixels)) for name, pixels in zip(names, PIXELS, strict=True)]


def read_all(images, batch_size=3):
    return np.concatenate(list(images.batches(batch_size)))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pictures_are_delivered_in_the_order_of_a_folder(tmp_path, method):
    images = open_images(write(tmp_path / "a.zip", good()[::-1], method), num_classes=2)
    assert (images.num_images, images.shape, images.dtype) == (4, SHAPE, np.uint8)
    assert images.labels.tolist() == [0, 0, 1, 1]
    for batch_size in (1, 3, 4):
        np.testing.assert_array_equal(read_all(images, batch_size), PIXELS)
    parts = list(images.read([slice(3, 4), slice(0, 2)]))
    np.testing.assert_array_equal(np.concatenate(parts), PIXELS[[3, 0, 1]])
    np.testing.assert_array_equal(read_all(pickle.loads(pickle.dumps(images))), PIXELS)  # noqa: S301


@pytest.mark.parametrize(
    "others",
    [
        [".DS_Store", "cat/.hidden.png", "cat/.git/config", "__MACOSX/cat/._a.png"],
        ["cat/", "dog/"],
        ["__MACOSX/", "__MACOSX/._cat"],
    ],
)
@pytest.mark.parametrize("top", ["", "my set/"])
def test_what_zip_programs_add_is_passed_over(tmp_path, others, top):
    names = [top + name for name in NAMES]
    added = [(name if name.startswith("__") else top + name, b"") for name in others]
    images = open_images(write(tmp_path / "a.zip", [*added, *good(names)]))
    assert images.classes.names == ("cat", "dog")
    np.testing.assert_array_equal(read_all(images), PIXELS)


def test_a_zip_file_is_told_by_its_content(tmp_path):
    path = write(tmp_path / "a.zip", good())
    images = open_images(path.rename(tmp_path / "a.h5"))
    np.testing.assert_array_equal(read_all(images), PIXELS)


def test_one_class_alone_is_no_folder_around_the_classes(tmp_path):
    names = [f"dog/{letter}.png" for letter in "abcd"]
    assert open_images(write(tmp_path / "a.zip", good(names))).classes.names == ("dog",)


def test_a_zip_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = write(tmp_path / "a.zip", good())
    batches = open_images(path).batches(2)
    next(batches)
    time.sleep(0.02)  # More than a tick of the file system's clock.
    write(tmp_path / "b.zip", good()).replace(path)
    with pytest.raises(InputError, match=r"a\.zip: has changed since it was opened"):
        next(batches)


def test_names_are_those_of_folders_where_images_are_classified(tmp_path):
    path = write(tmp_path / "a.zip", good())
    (opened,) = open_unlabelled([path], shape=SHAPE)
    assert opened.names == [str(path / name) for name in NAMES]
    flat = write(tmp_path / "flat.zip", good([f"{letter}.png" for letter in "abcd"]))
    (opened,) = open_unlabelled([flat], shape=SHAPE)
    assert opened.names == [str(flat / f"{letter}.png") for letter in "abcd"]
    np.testing.assert_array_equal(read_all(opened.images), PIXELS)
    (resized,) = open_unlabelled([flat], shape=(9, 8, 3), resize=True)
    assert read_all(resized.images).shape == (4, 9, 8, 3)


def with_mode(name, mode):
    """A member that unpacks to something else than a file."""
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


def replaced(name, content=None):
    """The good members, one of them under another name or with another content."""
    return [(name, picture(PIXELS[0]) if content is None else content), *good()[1:]]


BAD = {
    "nothing": ([], "holds no image, expected <class>/<image>.png"),
    "folders alone": ([("cat/", b""), ("dog/", b"")], "holds no image"),
    "folder above": (replaced("../cat/a.png"), r"holds `\.\./cat/a\.png`, expected names such as"),
    "folder above within": (replaced("cat/../../a.png"), r"holds `cat/\.\./\.\./a\.png`, expected"),
    "root": (replaced("/etc/passwd"), "holds `/etc/passwd`, expected names such as"),
    "Windows": (replaced("cat\\a.png"), r"holds `cat\\a\.png`, expected names such as"),
    "double slash": (replaced("cat//a.png"), "holds `cat//a.png`, expected names such as"),
    "no folder": (replaced("a.png"), r"a\.zip/a\.png: is at a wrong place, expected <class>"),
    "too deep": (replaced("cat/more/a.png"), r"cat/more/a\.png: is at a wrong place, expected"),
    "folder in a class": (replaced("cat/more/", b""), "cat/more: is at a wrong place, expected"),
    "text": (replaced("cat/notes.txt"), r"cat/notes\.txt: is no image file, expected \.png, \.jpg"),
    "text inside": (replaced("cat/a.png", b"hello"), r"cat/a\.png: is no readable PNG or JPEG"),
    "other size": (
        replaced("cat/a.png", picture(PIXELS[0][:4])),
        r"cat/a\.png: image is 4 x 4 \(height x width\), expected 5 x 4",
    ),
    "other kind": (
        replaced("cat/a.jpg"),
        r"cat/a\.jpg: is a PNG image, but its name says JPEG",
    ),
    "link": (
        replaced(with_mode("cat/a.png", stat.S_IFLNK | 0o777), b"/etc/passwd"),
        "member `cat/a.png` is a symbolic link, expected a file",
    ),
    "device": (
        replaced(with_mode("cat/a.png", stat.S_IFCHR | 0o666)),
        "member `cat/a.png` is a device, expected a file",
    ),
    "bomb": (
        replaced("cat/a.png", bytes(2**25)),
        "member `cat/a.png` unpacks [0-9,]+ bytes to 33,554,432, expected at most 100 times as",
    ),
    "class that a terminal would obey": (
        replaced("\x1b[31m/a.png"),
        r"folder is named \\x1b\[31m, expected a class name that can be printed",
    ),
    "picture that a terminal would obey": (
        replaced("cat/\x1b[31m.png", b"hello"),
        r"cat/\\x1b\[31m\.png: is no readable PNG",
    ),
    "numbers and names": (replaced("0/a.png"), "holds a folder 0 and a folder cat, expected all"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_zip_files_are_refused_in_one_line(tmp_path, name):
    members, message = BAD[name]
    path = write(tmp_path / "a.zip", members)
    with pytest.raises(InputError, match=message) as caught:
        read_all(open_images(path, shape=SHAPE))
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()


def spoiled(change):
    """A good zip file, its bytes changed."""

    def build(path):
        content = bytearray(write(path, good()).read_bytes())
        path.write_bytes(change(content))

    return build


def two_of_a_name(path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(path, [*good(), *good()])


def encrypted(content):
    entry = content.index(b"PK\x01\x02")
    content[entry + 8] |= 1
    return content


def with_method(content):
    entry = content.index(b"PK\x01\x02")
    content[entry + 10] = 12
    return content


def sharing_bytes(content):
    """Let every entry of the table claim the most bytes of all."""
    place = 0
    while (place := content.find(b"PK\x01\x02", place + 1)) > 0:
        struct.pack_into("<I", content, place + 20, 900)
    return content


DAMAGED = {
    "two of a name": (two_of_a_name, "holds 2 members `cat/a.png`, expected one"),
    "encrypted": (spoiled(encrypted), "member `cat/a.png` is encrypted"),
    "compressed otherwise": (
        spoiled(with_method),
        "member `cat/a.png` has compression 12, expecte",
    ),
    "members that share bytes": (
        spoiled(sharing_bytes),
        "is a damaged zip file .members of 3,600 bytes in a file of",
    ),
    "cut short": (spoiled(lambda content: content[:-30]), "is a damaged zip file .no plain table"),
    "more behind it": (
        spoiled(lambda content: content + b"#!/bin/sh"),
        "is a damaged zip file .no plain table",
    ),
    "spoiled picture": (
        spoiled(lambda content: content[:60] + b"spoiled" + content[67:]),
        "is a damaged zip file .Bad CRC-32|is a damaged zip file .Error -3",
    ),
    "table of megabytes": (
        lambda path: write(path, [(f"cat/{'a' * 60_000}{n}.png", b"") for n in range(300)]),
        "is a damaged zip file .table of contents of 18,",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_zip_files_are_refused_in_one_line(tmp_path, name):
    build, message = DAMAGED[name]
    path = tmp_path / "a.zip"
    build(path)
    with pytest.raises(InputError, match=message):
        read_all(open_images(path, shape=SHAPE))


def test_more_pictures_than_plain_zip_can_count_are_listed(tmp_path):
    path = write(tmp_path / "a.zip", [(f"cat/{n}.png", b"") for n in range(65_536)])
    assert len(list_zip(SignedFile.of(path)).members) == 65_536


def test_nothing_is_unpacked_to_the_disk(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zip", good())
    monkeypatch.chdir(tmp_path)
    before = sorted(Path.cwd().rglob("*"))
    read_all(open_images(path))
    assert sorted(Path.cwd().rglob("*")) == before
