"""Opening HDF5 files made by strangers: nothing may reach outside or explode when it is read."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from goodnet.errors import InputError
from goodnet.storage.files import require_readable

MAX_OBJECTS = 100_000
"""More groups and data sets than any model or image file has."""

MAX_COMPRESSION = 1100
"""Deflate cannot pack tighter than 1 : 1032."""

SMALL_BYTES = 2**20
"""Data sets up to this size may declare more than they store; they cannot exhaust the memory."""

KNOWN_FILTERS = frozenset(
    {
        h5py.h5z.FILTER_DEFLATE,
        h5py.h5z.FILTER_SHUFFLE,
        h5py.h5z.FILTER_FLETCHER32,
        h5py.h5z.FILTER_LZF,
    }
)
"""Filters that come with h5py and bear whatever a file tells them. Any other would load a plug-in,
code from wherever HDF5_PLUGIN_PATH points; SZIP divides by numbers from the file, and 0 of them
ends the process.
"""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading after checking that it holds nothing but its own data.

    Refused are links other than hard ones, data kept in other files, virtual data sets, filters
    that need a plug-in, and data sets that declare far more than the file stores.

    Raises:
        InputError: the file is missing, no HDF5, damaged or refused. Whatever h5py raises inside
            the `with` block becomes one too.
    """
    _require_hdf5(path)
    with hdf5_errors(path), h5py.File(path, "r") as file:
        _check_objects(file, path)
        yield file


@contextmanager
def hdf5_errors(path: Path) -> Iterator[None]:
    """Turn whatever h5py raises inside the block into an `InputError` about `path`.

    Errors that do not come from h5py pass unchanged: a full disk is not a damaged input.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not _comes_from_h5py(error):
            raise
        if isinstance(error, BlockingIOError) or "already open for write" in str(error):
            raise InputError(
                f"{path}: another program has it open for writing, or ended before it closed it; "
                "close it there, or mend it with h5clear -s"
            ) from error
        raise InputError(f"{path}: cannot be read as HDF5, it is damaged ({error})") from error


def get_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return the data set `name`, which holds plain numbers.

    Raises:
        InputError: there is no such data set, or its elements are no numbers.
    """
    path = Path(file.filename)
    with hdf5_errors(path):
        found = file.get(name)
        if not isinstance(found, h5py.Dataset):
            names = [item.name.lstrip("/") for item in iterate_datasets(file)]
            listed = ", ".join(f"`{item}`" for item in names[:20]) or "none"
            more = ", …" if len(names) > 20 else ""
            raise InputError(f"{path}: has no data set `{name}`, it has {listed}{more}")
        if found.dtype.kind not in "biuf":
            raise InputError(
                f"{path}: `{name}` holds elements of type {found.dtype}, expected numbers"
            )
    return found


def iterate_datasets(file: h5py.File) -> Iterator[h5py.Dataset]:
    """Yield every data set of an opened file once, in the order of their paths."""
    for item in iterate_objects(file):
        if isinstance(item, h5py.Dataset):
            yield item


def iterate_objects(file: h5py.File) -> Iterator[h5py.Group | h5py.Dataset]:
    """Yield every group and data set once, without recursion: the file chooses depth and cycles."""
    path = Path(file.filename)
    pending: list[h5py.Group] = [file["/"]]
    seen = {_address(pending[0])}
    num_links = 0
    while pending:
        group = pending.pop()
        yield group
        children = []
        num_links += len(group)  # Before h5py makes a list of the names.
        if num_links > MAX_OBJECTS:
            raise InputError(f"{path}: holds more than {MAX_OBJECTS:,} objects")
        for name in group:
            _require_hard_link(group, name, path)
            child = group[name]
            if _address(child) in seen:
                continue
            seen.add(_address(child))
            if isinstance(child, h5py.Group):
                children.append(child)
            elif isinstance(child, h5py.Dataset):
                yield child
        pending.extend(reversed(children))


def _require_hdf5(path: Path) -> None:
    require_readable(path, expected="an HDF5 file")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path}: is no HDF5 file")


def _check_objects(file: h5py.File, path: Path) -> None:
    file_bytes = path.stat().st_size
    stored_bytes = 0
    for item in iterate_objects(file):
        if isinstance(item, h5py.Dataset):
            _check_storage(item, path)
            stored_bytes += item.id.get_storage_size()
            if stored_bytes > file_bytes:
                raise InputError(
                    f"{path}: declares {stored_bytes:,} stored bytes at `{item.name}`, "
                    f"but the file has {file_bytes:,}"
                )


def _address(item: h5py.HLObject) -> tuple[int, ...]:
    # h5o.get_info would also measure the object's index, and HDF5 crashes on damaged ones.
    return tuple(h5py.h5g.get_objinfo(item.id).objno)


def _require_hard_link(group: h5py.Group, name: str, path: Path) -> None:
    try:
        link = group.get(name, getlink=True)
    except TypeError:
        link = None
    if isinstance(link, h5py.HardLink):
        return
    kinds = {h5py.SoftLink: "a soft", h5py.ExternalLink: "an external"}
    kind = kinds.get(type(link), "a user-defined")
    link_name = f"{group.name.rstrip('/')}/{name}"
    raise InputError(f"{path}: `{link_name}` is {kind} link, expected data inside the file")


def _check_storage(dataset: h5py.Dataset, path: Path) -> None:
    where = f"{path}: `{dataset.name}`"
    creation = dataset.id.get_create_plist()
    # Asking a virtual data set for its shape would already open its source files.
    if creation.get_layout() == h5py.h5d.VIRTUAL:
        raise InputError(f"{where} is a virtual data set, expected data inside the file")
    if creation.get_external_count():
        raise InputError(f"{where} keeps its data in another file, expected data inside the file")
    filters = [creation.get_filter(index)[0] for index in range(creation.get_nfilters())]
    unknown = [str(number) for number in filters if number not in KNOWN_FILTERS]
    if unknown:
        raise InputError(
            f"{where} uses filter {unknown[0]}, expected none, gzip, lzf, shuffle or fletcher32"
        )
    if len(set(filters)) < len(filters):
        raise InputError(f"{where} uses the same filter twice")
    _check_size(dataset, where, compressed=bool(filters))
    if dataset.chunks is not None and dataset.size:
        # HDF5 crashes on chunks that are shorter than the checksum at their end.
        shortest = 5 if h5py.h5z.FILTER_FLETCHER32 in filters else 1
        _check_chunks(dataset, where, shortest=shortest, file_bytes=path.stat().st_size)


def _check_chunks(dataset: h5py.Dataset, where: str, *, shortest: int, file_bytes: int) -> None:
    def is_damaged(chunk: h5py.h5d.StoreInfo) -> bool:
        return not shortest <= chunk.size <= file_bytes - (chunk.byte_offset or 0)

    # A callback that returns anything but None ends the iteration.
    if dataset.id.chunk_iter(lambda chunk: is_damaged(chunk) or None):
        raise InputError(f"{where} has a chunk outside the file or with no data, it is damaged")


def _check_size(dataset: h5py.Dataset, where: str, *, compressed: bool) -> None:
    item_bytes = dataset.id.get_type().get_size()
    chunk_bytes = math.prod(dataset.chunks or ()) * item_bytes
    declared_bytes = math.prod(dataset.shape or ()) * item_bytes
    stored_bytes = dataset.id.get_storage_size()
    allowed_bytes = max(SMALL_BYTES, stored_bytes * (MAX_COMPRESSION if compressed else 1))
    if max(declared_bytes, chunk_bytes) > allowed_bytes:
        raise InputError(
            f"{where} declares {max(declared_bytes, chunk_bytes):,} bytes of shape "
            f"{dataset.shape}, but only {stored_bytes:,} bytes are stored"
        )


def _comes_from_h5py(error: Exception) -> bool:
    return any(
        str(frame.f_globals.get("__name__")).partition(".")[0] == "h5py"
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )
