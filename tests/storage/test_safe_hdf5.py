import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.storage import safe_hdf5
from goodnet.storage.safe_hdf5 import get_dataset, hdf5_errors, iterate_datasets, open_hdf5
from tests.badnets import LAB


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


def write_filtered(path, filter_number):
    """Write a chunk as if it had gone through a filter, with no parameters of the filter."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((10,))
    creation.set_filter(filter_number, h5py.h5z.FLAG_OPTIONAL, ())
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((10,))
        data = h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_FLOAT, space, creation)
        data.write_direct_chunk((0,), np.zeros(10, "f4").tobytes())
    return path


PLUG_IN = """
#include <stdio.h>
#include <stddef.h>
__attribute__((constructor)) static void loaded(void) { fclose(fopen("MARK", "w")); }
static size_t filter(unsigned f, size_t n, const unsigned *c, size_t bytes, size_t *s, void **b)
{ return bytes; }
static struct { int v, id; unsigned encodes, decodes; const char *name; void *a, *b, *f; } it =
    {1, NUMBER, 1, 1, "it", 0, 0, filter};
int H5PLget_plugin_type(void) { return 0; }
const void *H5PLget_plugin_info(void) { return &it; }
"""
READ = """
import sys
from pathlib import Path
from goodnet.errors import InputError
from goodnet.storage.safe_hdf5 import get_dataset, open_hdf5
try:
    with open_hdf5(Path(sys.argv[1])) as file:
        get_dataset(file, "data")[()]
except InputError as error:
    print(error)
"""
READ_PLAINLY = "import h5py, sys; print(h5py.File(sys.argv[1])['data'][0])"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_no_plug_in_of_the_environment_is_loaded(tmp_path):
    mark, number = tmp_path / "loaded", 305
    source = PLUG_IN.replace("MARK", str(mark)).replace("NUMBER", str(number))
    (tmp_path / "it.c").write_text(source)
    (tmp_path / "plug-ins").mkdir()
    built = ["cc", "-shared", "-fPIC", "-o", tmp_path / "plug-ins" / "libit.so", tmp_path / "it.c"]
    subprocess.run(built, check=True)
    path = write_filtered(tmp_path / "a.h5", number)

    def read(program):
        return subprocess.run(
            [sys.executable, "-c", program, path],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"HDF5_PLUGIN_PATH": str(tmp_path / "plug-ins")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "uses filter 305, expected none, gzip, lzf, shuffle or fletcher32" in read(READ)
    assert not mark.exists()
    assert read(READ_PLAINLY) == "0.0\n"
    assert mark.exists()


@pytest.mark.parametrize("number", [h5py.h5z.FILTER_SZIP, h5py.h5z.FILTER_SCALEOFFSET, 5])
def test_filters_that_trust_the_file_are_refused(tmp_path, number):
    """Reading through SZIP without its parameters ends the process: it divides by them."""
    path = write_filtered(tmp_path / "a.h5", number)
    with (
        pytest.raises(InputError, match=f"`/data` uses filter {number}, expected"),
        open_hdf5(path),
    ):
        pass


HOLD = """
import sys, h5py
file = h5py.File(sys.argv[1], "a", libver=sys.argv[2])
file.flush()
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("ends", ["later", "killed"])
def test_a_file_that_is_open_for_writing_elsewhere_is_no_damaged_one(tmp_path, version, ends):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=version) as file:
        file["data"] = np.zeros(3)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path, version], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        holder.stdout.readline()
        if ends == "killed":
            holder.kill()
            holder.wait()
        if (version, ends) == ("earliest", "killed"):  # No trace of it is left in such a file.
            with open_hdf5(path) as file:
                assert len(get_dataset(file, "data")) == 3
        else:
            with pytest.raises(InputError, match="another program has it open"), open_hdf5(path):
                pass
        holder.kill()


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


@pytest.mark.lab
@pytest.mark.parametrize(
    "name", ["clean_valid_mini.h5", "clean_test_mini.h5", "poisoned_test_mini.h5"]
)
def test_opens_the_labs_images(name):
    with open_hdf5(LAB / name) as file:
        data, label = get_dataset(file, "data"), get_dataset(file, "label")
        assert data.shape == (len(label), 3, 55, 47)
