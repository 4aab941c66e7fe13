"""Zip64: the longer end that archives of many members, or written to a stream, have."""

import io
import struct
import zipfile

import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.images.image_sets import open_images
from goodnet.model_files.describe import describe_model
from goodnet.storage.zip_files import check_member, open_zip
from tests.model_files.descriptions import make_functional, make_layer, write_archive
from tests.storage.zip64 import END, with_zip64

CONTENT = {"one": b"1" * 100, "two": b"2"}


def plain() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in CONTENT.items():
            archive.writestr(name, data)
    return file.getvalue()


def read(path, most_table_bytes=1000):
    with open_zip(path, kind="zip file", most_table_bytes=most_table_bytes) as archive:
        for member in archive.infolist():
            check_member(member, path)
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("only_there", [True, False])
def test_the_longer_end_is_read(tmp_path, only_there):
    path = tmp_path / "a.zip"
    path.write_bytes(with_zip64(plain(), only_there=only_there))
    with zipfile.ZipFile(path) as archive:  # as whoever wrote the format reads it
        assert {name: archive.read(name) for name in archive.namelist()} == CONTENT
    assert read(path) == CONTENT


BAD_ENDS = {
    "table larger than the limit": {"size": 1001},
    "table of exabytes": {"size": 2**63},
    "table elsewhere": {"offset": 0},
    "table beyond the file": {"offset": 2**64 - 1},
    "record elsewhere": {"place": 0},
    "longer record": {"record_bytes": 60},
    "another signature": {"signature": b"PK\x06\x08"},
    "room between the ends": {"between": b"more"},
    "other disk": {"disk": 1},
    "locator on another disk": {"found_on": 1},
    "two disks": {"num_disks": 2},
    "other number of members": {"short": (1, 1, 0xFFFF_FFFF, 0xFFFF_FFFF)},
    "other table": {"short": (0xFFFF, 0xFFFF, 10, 0xFFFF_FFFF)},
}


@pytest.mark.parametrize("name", BAD_ENDS)
def test_ends_that_do_not_fit_together_are_refused(tmp_path, name):
    path = tmp_path / "a.zip"
    path.write_bytes(with_zip64(plain(), **BAD_ENDS[name]))
    with pytest.raises(InputError, match=r"is a damaged zip file \(zip64 whose two ends do not"):
        read(path)


def test_a_table_that_fills_the_memory_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(with_zip64(plain()))
    with pytest.raises(InputError, match="table of contents of 98 bytes, expected 97 or less"):
        read(path, most_table_bytes=97)


@pytest.mark.parametrize("num_bytes", [0, 3, 21, 22, 42, 60, 97])
def test_the_end_of_an_end_is_refused(tmp_path, num_bytes):
    path = tmp_path / "a.zip"
    content = with_zip64(plain())
    path.write_bytes(content[len(content) - num_bytes :])
    with pytest.raises(InputError, match="is a damaged zip file"):
        read(path)


def test_more_members_than_the_shorter_end_can_count(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(65_537):
            archive.writestr(f"{number}", b"")
    with open_zip(path, kind="zip file", most_table_bytes=2**24) as archive:
        assert len(archive.namelist()) == 65_537


@pytest.mark.parametrize("field", ["size", "packed", "place"])
def test_members_that_say_they_are_of_exabytes_are_refused(tmp_path, field):
    """In the table's own Zip64 fields, which any member may have."""
    numbers = {"size": 100, "packed": 100, "place": 0} | {field: 2**64 - 1}
    content = plain()
    table = content.index(b"PK\x01\x02")
    header = bytearray(content[table : table + 46])
    header[20:28] = b"\xff" * 8
    header[42:46] = b"\xff" * 4
    extra = struct.pack("<HHQQQ", 1, 24, numbers["size"], numbers["packed"], numbers["place"])
    header[30:32] = len(extra).to_bytes(2, "little")
    entry = bytes(header) + b"one" + extra
    end = struct.pack(END, b"PK\x05\x06", 0, 0, 1, 1, len(entry), table, 0)
    path = tmp_path / "a.zip"
    path.write_bytes(content[:table] + entry + end)
    with pytest.raises(InputError, match=r"is a damaged zip file|unpacks 100 bytes to 18,"):
        read(path)


def test_pictures_and_arrays_with_the_longer_end(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    plain_file, path = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(plain_file, x=pixels, y=np.arange(3))
    path.write_bytes(with_zip64(plain_file.read_bytes()))
    np.testing.assert_array_equal(next(open_images(path).batches(3)), pixels)


def test_keras_archives_with_the_longer_end_and_with_longer_members(tmp_path):
    image = make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3])
    conv = make_layer("Conv2D", "conv", "image", filters=4)
    answer = make_layer("GlobalMaxPooling2D", "answer", "conv")
    path = write_archive(tmp_path / "net.keras", make_functional([image, conv, answer]))
    expected = describe_model(path)
    longer = tmp_path / "longer.keras"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(longer, "w") as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as member:
                member.write(old.read(name))
    longer.write_bytes(with_zip64(longer.read_bytes()))
    assert describe_model(longer).layers == expected.layers
