import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from goodnet import safe_hdf5
from goodnet.errors import InputError
from goodnet.safe_hdf5 import get_dataset, hdf5_errors, iterate_datasets, open_hdf5

LAB = Path(__file__).resolve().parents[2] / "shared" / "lab"


def write(path: Path, fill: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def add_numbers(file: h5py.File) -> None:
    file["data"] = np.arange(12.0).reshape(3, 4)
    file["labels/first"] = np.arange(3)


def create_with_filters(file: h5py.File, *numbers: int, shape: tuple[int, ...] = (8,)) -> None:
    """Create a chunked data set with filters that need not exist."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk(shape)
    for number in numbers:
        creation.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_INT8, space, creation)


def add_virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "data", (3,))
    file.create_virtual_dataset("data", layout)


def add_huge_chunk(file: h5py.File) -> None:
    file.create_dataset("data", (1,), "f4", maxshape=(None,), chunks=(2**28,))


REFUSED = {
    "soft link": (
        lambda file: file.__setitem__("other", h5py.SoftLink("/data")),
        "`/other` is a soft link",
    ),
    "external link": (
        lambda file: file.__setitem__("a/b", h5py.ExternalLink("/etc/hosts", "/")),
        "`/a/b` is an external link",
    ),
    "external storage": (
        lambda file: file.create_dataset("data", (4,), "f4", external="outside.bin"),
        "`/data` keeps its data in another file",
    ),
    "virtual": (add_virtual, "`/data` is a virtual data set"),
    "unknown filter": (lambda file: create_with_filters(file, 32015), "uses filter 32015"),
    "filter twice": (lambda file: create_with_filters(file, 1, 1), "uses the same filter twice"),
    "terabyte, contiguous": (
        lambda file: file.create_dataset("data", (2**40,), "u1"),
        "declares 1,099,511,627,776 bytes",
    ),
    "terabyte, compressed": (
        lambda file: file.create_dataset("data", (2**40,), "u1", chunks=(100,), compression=1),
        "only 0 bytes are stored",
    ),
    "gigabyte chunk": (add_huge_chunk, "declares 1,073,741,824 bytes"),
}


@pytest.mark.parametrize(("fill", "fragment"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_reaches_outside_or_explodes(tmp_path, fill, fragment):
    path = write(tmp_path / "bad.h5", fill)
    with pytest.raises(InputError) as caught, open_hdf5(path):
        pass
    assert str(caught.value).startswith(f"{path}: ")
    assert fragment in str(caught.value)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


UNREADABLE = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "is a folder or a device"),
    "pipe": (make_pipe, "is a folder or a device"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("data, label\n"), "is no HDF5 file"),
    "magic only": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "is damaged"),
}


@pytest.mark.parametrize(("make", "fragment"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_refuses_what_is_no_hdf5_file(tmp_path, make, fragment):
    path = tmp_path / "bad.h5"
    make(path)
    with pytest.raises(InputError, match=fragment), open_hdf5(path):
        pass


def test_refuses_a_truncated_file(tmp_path):
    path = write(tmp_path / "cut.h5", add_numbers)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"), open_hdf5(path):
        pass


def test_refuses_more_objects_than_any_model_has(tmp_path, monkeypatch):
    path = write(tmp_path / "many.h5", add_numbers)
    monkeypatch.setattr(safe_hdf5, "MAX_OBJECTS", 2)
    with pytest.raises(InputError, match="more than 2 objects"), open_hdf5(path):
        pass


def test_names_with_control_characters_are_escaped(tmp_path):
    path = write(
        tmp_path / "escape.h5",
        lambda file: file.__setitem__("\x1b[31m\n", h5py.SoftLink("/data")),
    )
    with pytest.raises(InputError) as caught, open_hdf5(path):
        pass
    assert "\\x1b[31m\\n" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip", "compression_opts": 9, "shuffle": True},
        {"compression": "lzf", "fletcher32": True},
        {"scaleoffset": 0},
    ],
    ids=str,
)
def test_reads_what_is_stored_with_known_filters(tmp_path, options):
    numbers = np.arange(3000).reshape(3, 1000)
    path = write(
        tmp_path / "good.h5", lambda file: file.create_dataset("data", data=numbers, **options)
    )
    with open_hdf5(path) as file:
        np.testing.assert_array_equal(get_dataset(file, "data")[()], numbers)


def test_accepts_the_tightest_honest_compression(tmp_path):
    black = np.zeros((400, 100, 100, 3), np.uint8)
    path = write(
        tmp_path / "black.h5",
        lambda file: file.create_dataset(
            "data", data=black, chunks=(100, 100, 100, 3), compression="gzip", compression_opts=9
        ),
    )
    assert black.nbytes > 400 * path.stat().st_size
    with open_hdf5(path) as file:
        assert get_dataset(file, "data").shape == black.shape


def test_hard_links_in_a_circle_end(tmp_path):
    def link_in_a_circle(file: h5py.File) -> None:
        add_numbers(file)
        file["labels/up"] = file["/"]
        file["again"] = file["data"]

    path = write(tmp_path / "circle.h5", link_in_a_circle)
    with open_hdf5(path) as file:
        assert len(list(iterate_datasets(file))) == 2


def test_deep_groups_do_not_exhaust_the_stack(tmp_path):
    def nest(file: h5py.File) -> None:
        group = file["/"]
        for _ in range(1500):
            group = group.create_group("g")
        group["data"] = [1.0]

    path = write(tmp_path / "deep.h5", nest)
    with open_hdf5(path) as file:
        assert len(list(iterate_datasets(file))) == 1


def test_data_damaged_on_disk_is_an_input_error(tmp_path):
    path = write(
        tmp_path / "flipped.h5",
        lambda file: file.create_dataset("data", data=[7.25] * 100, fletcher32=True),
    )
    stored = path.read_bytes()
    path.write_bytes(stored.replace(np.float64(7.25).tobytes(), np.float64(8).tobytes(), 1))
    with pytest.raises(InputError, match="is damaged"), open_hdf5(path) as file:
        get_dataset(file, "data")[()]


def test_errors_of_others_pass_unchanged(tmp_path):
    with pytest.raises(OSError, match="disk full"), hdf5_errors(tmp_path / "a.h5"):
        raise OSError("disk full")


def test_missing_data_set_is_named_with_those_there(tmp_path):
    path = write(tmp_path / "good.h5", add_numbers)
    with open_hdf5(path) as file:
        with pytest.raises(InputError, match=r"no data set `label`, it has `data`, `labels/first`"):
            get_dataset(file, "label")
        with pytest.raises(InputError, match="no data set `labels`"):
            get_dataset(file, "labels")


def test_data_set_of_texts_is_refused(tmp_path):
    path = write(tmp_path / "texts.h5", lambda file: file.__setitem__("data", ["a", "b"]))
    with open_hdf5(path) as file, pytest.raises(InputError, match=r"`data` .* expected numbers"):
        get_dataset(file, "data")


@pytest.mark.skipif(not LAB.is_dir(), reason="the lab's files are not here")
@pytest.mark.parametrize(
    "name", ["clean_valid_mini.h5", "clean_test_mini.h5", "poisoned_test_mini.h5"]
)
def test_opens_the_labs_images(name):
    with open_hdf5(LAB / name) as file:
        data, label = get_dataset(file, "data"), get_dataset(file, "label")
        assert data.shape == (len(label), 3, 55, 47)
