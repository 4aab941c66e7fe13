"""Image sets in HDF5 files: `data` and `label` as in the lab's, read a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from goodnet.arrays import Pixels, Shape
from goodnet.errors import InputError
from goodnet.images.stored_arrays import (
    TEXT_LABELS,
    ArrayLayout,
    Named,
    OpenedArrays,
    check_arrays,
    find_pair,
    require_amount,
)
from goodnet.storage.files import atomic_path
from goodnet.storage.safe_hdf5 import get_dataset, iterate_datasets, open_hdf5
from goodnet.storage.signatures import SignedFile

_MOST_CACHE_BYTES = 2**28
_WRITE_BATCH = 512


def open_image_file(signed: SignedFile, shape: Shape | None, label_limit: int) -> OpenedArrays:
    """Check an HDF5 image file and return how it keeps its images, and their labels.

    Raises:
        InputError: the file is missing, damaged, empty or not as expected.
    """
    path = signed.path
    _require_hdf5(path)
    with signed.unchanged(), open_hdf5(path) as file:
        image_name, label_name = _find_names(file)
        images, labels = get_dataset(file, image_name), _get_labels(file, label_name)
        for name, array in ((image_name, images), (label_name, labels)):
            if array.chunks is not None:
                chunk = math.prod(array.chunks)
                require_amount(path, name, array.shape, array.dtype, at_once=chunk)
        return check_arrays(
            path,
            Named(image_name, images),
            Named(label_name, labels),
            shape=shape,
            label_limit=label_limit,
        )


def read_file_batches(
    signed: SignedFile, layout: ArrayLayout, slices: Iterable[slice]
) -> Generator[Pixels, None, None]:
    """Yield the pixels of each slice as (n, H, W, C), raw 0..255.

    Raises:
        InputError: the file is damaged, or has changed since it was signed.
    """
    with open_hdf5(signed.path) as file:
        signed.require_unchanged()
        name, _ = _find_names(file)
        data = _reopen_with_cache(file, get_dataset(file, name))
        for where in slices:
            raw = data[where]
            # What was read is what was signed, and digested as such: checked after each batch,
            # because who reads a sample does not read to the end.
            signed.require_unchanged()
            yield layout.to_channels_last(raw)


def write_images(
    path: str | Path,
    images: Pixels,
    labels: npt.ArrayLike,
    *,
    beside: Mapping[str, npt.ArrayLike] | None = None,
) -> None:
    """Write an HDF5 file in the lab's layout, atomically.

    Args:
        path: The file to write.
        images: (N, H, W, C), raw 0..255; `data` keeps their type and becomes (N, C, H, W).
        labels: (N,) whole numbers.
        beside: What else is known of the images, by name, for whoever wants to know: image sets
            are read without it.
    """
    numbers = np.asarray(labels, dtype=np.int64)
    if images.ndim != 4 or numbers.shape != images.shape[:1]:
        raise ValueError(
            f"images have shape {images.shape} and labels {numbers.shape}, "
            "expected (N, H, W, C) and (N,)"
        )
    num_images, height, width, channels = images.shape
    with atomic_path(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        file["label"] = numbers
        for name, values in (beside or {}).items():
            file[name] = values
        data = file.create_dataset("data", (num_images, channels, height, width), images.dtype)
        for first in range(0, num_images, _WRITE_BATCH):
            batch = images[first : first + _WRITE_BATCH]
            data[first : first + len(batch)] = batch.transpose(0, 3, 1, 2)


def _require_hdf5(path: Path) -> None:
    """Say how an image set is written, to who comes with arrays of another kind."""
    if path.is_file() and path.stat().st_size and not h5py.is_hdf5(path):
        raise InputError(
            f"{path}: is no HDF5, .npz or zip file, expected one with `data` and `label`, or a "
            "folder or zip file with <class>/<image>.png; goodnet.write_images(path, images, "
            "labels) writes arrays so"
        )


def _find_names(file: h5py.File) -> tuple[str, str]:
    """Return what images and labels are called; the lab's names count whatever else there is."""
    names = [dataset.name.lstrip("/") for dataset in iterate_datasets(file)]
    if {"data", "label"}.issubset(names):
        return "data", "label"
    return find_pair(Path(file.filename), names, kind="data sets")


def _get_labels(file: h5py.File, name: str) -> h5py.Dataset:
    if file[name].dtype.kind in "SOU":
        raise InputError(
            f"{file.filename}: `{name}` holds elements of type {file[name].dtype}, expected "
            f"numbers: {TEXT_LABELS}"
        )
    return get_dataset(file, name)


def _reopen_with_cache(file: h5py.File, data: h5py.Dataset) -> h5py.Dataset:
    """Let a compressed data set keep its chunks between batches instead of unpacking them again.

    Uncompressed chunks are quicker without: HDF5 then reads them straight from the file.
    """
    if data.chunks is None or not data.id.get_create_plist().get_nfilters():
        return data
    num_side_by_side = math.prod(
        -(-size // chunk) for size, chunk in zip(data.shape[1:], data.chunks[1:], strict=True)
    )
    row_bytes = num_side_by_side * math.prod(data.chunks) * data.dtype.itemsize
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(10_007, min(2 * row_bytes, _MOST_CACHE_BYTES), 1.0)
    name = data.name.encode()
    data.id.close()  # The cache of the first handle would serve the second one too.
    return h5py.Dataset(h5py.h5d.open(file.id, name, access))
