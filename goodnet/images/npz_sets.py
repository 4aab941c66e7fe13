"""Image sets in `.npz` files, as `numpy.savez` writes them: a pair of arrays, read in parts."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, ZipInfo

import numpy as np

from goodnet.arrays import Pixels, Shape
from goodnet.errors import InputError
from goodnet.images.stored_arrays import (
    TEXT_LABELS,
    ArrayLayout,
    Named,
    OpenedArrays,
    check_arrays,
    find_pair,
)
from goodnet.storage.safe_hdf5 import MAX_COMPRESSION
from goodnet.storage.signatures import SignedFile
from goodnet.storage.zip_files import check_member, open_zip

ARRAY_SUFFIX = ".npy"

_MOST_TABLE_BYTES = 2**16
_MOST_HEADER_BYTES = 10_000
_HEADER = re.compile(
    r"\{'descr': '(?P<dtype>[<>|=]?[biufcOSU]\d{0,4})', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(\d{1,18}, ?)*(\d{1,18})?)\),? ?\}\s*"
)
"""As NumPy writes it, and all others: no text of the file is evaluated."""


@dataclass(frozen=True)
class NpyArray:
    """One array of an opened `.npz` file, whose rows are read as they are asked for.

    Attributes:
        shape: as its header says.
        dtype: as its header says: numbers.
        file: its member, which goes on from row to row; going back starts it anew.
        start: where in the member the first row begins.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: IO[bytes]
    start: int

    def __getitem__(self, rows: slice) -> Pixels:
        """Read some rows.

        Raises:
            EOFError: there are less.
        """
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        size = (rows.stop - rows.start) * row_bytes
        self.file.seek(self.start + rows.start * row_bytes)
        content = self.file.read(size)
        if len(content) != size:
            raise EOFError("an array ends early")
        return np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])


def is_npz(path: Path) -> bool:
    """Tell by the name of its first member whether a zip file is one of arrays."""
    with path.open("rb") as file:
        header = file.read(30)
        name = file.read(int.from_bytes(header[26:28], "little"))
    return name.endswith(ARRAY_SUFFIX.encode())


def open_npz(signed: SignedFile, shape: Shape | None, label_limit: int) -> OpenedArrays:
    """Check an `.npz` file and return how it keeps its images, and their labels.

    Raises:
        InputError: it is damaged, empty or not as expected.
    """
    path = signed.path
    with signed.unchanged(), _opened(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(ARRAY_SUFFIX):
                raise InputError(f"{path}: holds `{member.filename}`, expected arrays (.npy) only")
            check_member(member, path, most_ratio=MAX_COMPRESSION)
        images, labels = _find_pair(path, archive.namelist())
        with _array(archive, images, path) as data, _array(archive, labels, path) as label:
            return check_arrays(
                path,
                Named(images, data),
                Named(labels, label),
                shape=shape,
                label_limit=label_limit,
            )


def read_npz_batches(
    signed: SignedFile, layout: ArrayLayout, slices: Iterable[slice]
) -> Generator[Pixels, None, None]:
    """Yield the pixels of each slice as (n, H, W, C), raw 0..255.

    Raises:
        InputError: the file is damaged, or has changed since it was signed.
    """
    with _opened(signed.path) as archive:
        signed.require_unchanged()
        name, _ = _find_pair(signed.path, archive.namelist())
        with _array(archive, name, signed.path) as images:
            for where in slices:
                raw = images[where]
                signed.require_unchanged()  # After each batch, as of HDF5 files.
                yield layout.to_channels_last(raw)


def _opened(path: Path) -> AbstractContextManager[ZipFile]:
    return open_zip(path, kind=".npz file", most_table_bytes=_MOST_TABLE_BYTES)


def _find_pair(path: Path, members: Sequence[str]) -> tuple[str, str]:
    names = [name.removesuffix(ARRAY_SUFFIX) for name in members]
    return find_pair(path, names, kind="arrays")


@contextmanager
def _array(archive: ZipFile, name: str, path: Path) -> Iterator[NpyArray]:
    """Open an array after comparing what its header declares with what is there."""
    member = archive.getinfo(name + ARRAY_SUFFIX)
    with archive.open(member) as file:
        shape, dtype = _read_header(file, f"{path}: `{name}`")
        _require_size(member, file.tell(), shape, dtype, f"{path}: `{name}`")
        yield NpyArray(shape, dtype, file, file.tell())


def _read_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an array of numbers; nothing else of it is unpacked, and no pickle."""
    start = file.read(8)
    size = int.from_bytes(file.read(2 if start[6:7] == b"\x01" else 4), "little")
    header = file.read(min(size, _MOST_HEADER_BYTES)).decode("latin-1")
    found = _HEADER.fullmatch(header)
    if start[:6] != b"\x93NUMPY" or found is None:
        raise InputError(f"{where} has no header of an array of numbers, it begins {header[:80]!r}")
    try:
        dtype = np.dtype(found["dtype"])
    except TypeError as error:
        raise InputError(f"{where} has no header of an array of numbers ({error})") from error
    shape = tuple(map(int, re.findall(r"\d+", found["shape"])))
    if dtype.kind not in "biuf":
        advice = f": {TEXT_LABELS}" if dtype.kind in "SU" else ""
        raise InputError(f"{where} holds elements of type {dtype}, expected numbers{advice}")
    if found["fortran"] == "True" and len(shape) > 1:
        raise InputError(
            f"{where} is stored column by column (Fortran order), expected image by image: save "
            "numpy.ascontiguousarray of it"
        )
    return shape, dtype


def _require_size(
    member: ZipInfo, header_bytes: int, shape: tuple[int, ...], dtype: np.dtype[Any], where: str
) -> None:
    declared, there = math.prod(shape) * dtype.itemsize, member.file_size - header_bytes
    if declared != there:
        raise InputError(f"{where} declares {declared:,} bytes of shape {shape}, it has {there:,}")
