"""Image sets in HDF5 files of the lab's layout: `data` and `label`, read a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from goodnet.errors import InputError
from goodnet.files import atomic_path
from goodnet.image_folders import Shape
from goodnet.safe_hdf5 import get_dataset, open_hdf5

Pixels = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

_MOST_BYTES = 2**28
_MOST_CACHE_BYTES = 2**28
_WRITE_BATCH = 512


@dataclass(frozen=True)
class FileLayout:
    """How an HDF5 file keeps its images.

    Attributes:
        stored_shape: Of `data`, (N, C, H, W) or (N, H, W, C).
        stored_dtype: Of `data`.
        channels_first: Which of the two it is.
    """

    stored_shape: tuple[int, ...]
    stored_dtype: np.dtype[Any]
    channels_first: bool

    @property
    def shape(self) -> Shape:
        """(H, W, C) of every image."""
        _, *axes = self.stored_shape
        height, width, channels = (*axes[1:], axes[0]) if self.channels_first else axes
        return height, width, channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the pixels delivered, uint8 or float32."""
        return _delivered_dtype(self.stored_dtype)


def open_image_file(
    path: Path, shape: Shape | None, label_limit: int
) -> tuple[FileLayout, IntArray]:
    """Check an HDF5 image file and return how it keeps its images, and their labels (N,).

    Raises:
        InputError: the file is missing, damaged, empty or not as expected.
    """
    with open_hdf5(path) as file:
        data, label = get_dataset(file, "data"), get_dataset(file, "label")
        channels_first = _is_channels_first(path, data.shape, shape)
        _check_amount(path, data)
        labels = _read_labels(path, label, len(data), label_limit)
        return FileLayout(data.shape, data.dtype, channels_first), labels


def read_file_batches(
    path: Path, layout: FileLayout, slices: Iterable[slice]
) -> Generator[Pixels, None, None]:
    """Yield the pixels of each slice as (n, H, W, C), raw 0..255."""
    with open_hdf5(path) as file:
        data = get_dataset(file, "data")
        if (data.shape, data.dtype) != (layout.stored_shape, layout.stored_dtype):
            raise InputError(f"{path}: `data` has changed since it was opened")
        data = _reopen_with_cache(file, data)
        for where in slices:
            yield _to_channels_last(data[where], layout.channels_first)


def write_images(path: Path, images: Pixels, labels: npt.ArrayLike) -> None:
    """Write an HDF5 file in the lab's layout, atomically.

    Args:
        path: The file to write.
        images: (N, H, W, C), raw 0..255; `data` keeps their type and becomes (N, C, H, W).
        labels: (N,) whole numbers.
    """
    numbers = np.asarray(labels, dtype=np.int64)
    if images.ndim != 4 or numbers.shape != images.shape[:1]:
        raise ValueError(
            f"images have shape {images.shape} and labels {numbers.shape}, "
            "expected (N, H, W, C) and (N,)"
        )
    num_images, height, width, channels = images.shape
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["label"] = numbers
        data = file.create_dataset("data", (num_images, channels, height, width), images.dtype)
        for first in range(0, num_images, _WRITE_BATCH):
            batch = images[first : first + _WRITE_BATCH]
            data[first : first + len(batch)] = batch.transpose(0, 3, 1, 2)


def _is_channels_first(path: Path, found: tuple[int, ...] | None, shape: Shape | None) -> bool:
    expected = "(N, C, H, W) or (N, H, W, C) with 1, 3 or 4 channels"
    if shape is not None:
        height, width, channels = shape
        expected = f"(N, {channels}, {height}, {width}) or (N, {height}, {width}, {channels})"
    if found is not None and len(found) == 4 and min(found[1:]) > 0:
        _, first, _, last = found
        for size, rest, is_first in ((first, found[2:], True), (last, found[1:3], False)):
            if (*rest, size) == shape or (shape is None and size in (1, 3, 4)):
                return is_first
    raise InputError(f"{path}: `data` has shape {found}, expected {expected}")


def _check_amount(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse what would need absurd memory although only one batch is read at a time."""
    if len(dataset) == 0:
        raise InputError(f"{path}: holds no image, expected at least one")
    item_bytes = dataset.dtype.itemsize
    chunk_bytes = math.prod(dataset.chunks or (0,)) * item_bytes
    needed = max(chunk_bytes, math.prod(dataset.shape[1:]) * item_bytes, len(dataset) * 8)
    if needed > _MOST_BYTES:
        raise InputError(
            f"{path}: `{dataset.name.lstrip('/')}` of shape {dataset.shape} takes {needed:,} "
            f"bytes at once, expected at most {_MOST_BYTES:,}"
        )


def _read_labels(path: Path, label: h5py.Dataset, num_images: int, limit: int) -> IntArray:
    if label.shape not in ((num_images,), (num_images, 1)):
        raise InputError(
            f"{path}: `label` has shape {label.shape}, expected ({num_images},) or "
            f"({num_images}, 1), as `data` has {num_images} images"
        )
    _check_amount(path, label)
    values = label[()].reshape(-1)
    wrong = ~((values >= 0) & (values < limit) & (values == np.floor(values)))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise InputError(
            f"{path}: label {index} is {values[index]}, "
            f"expected a whole number from 0 to {limit - 1}"
        )
    return values.astype(np.int64)


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
    data.id.close()  # The cache of the first handle would serve the second one too.
    return h5py.Dataset(h5py.h5d.open(file.id, b"data", access))


def _to_channels_last(raw: Pixels, channels_first: bool) -> Pixels:
    dtype = _delivered_dtype(raw.dtype)
    with np.errstate(all="ignore"):  # What is too large becomes infinite and is refused as such.
        if not channels_first:
            return np.ascontiguousarray(raw, dtype=dtype)
        num_images, channels, height, width = raw.shape
        batch = np.empty((num_images, height, width, channels), dtype=dtype)
        for channel in range(channels):  # Several times faster than transposing at once.
            batch[..., channel] = raw[:, channel]
    return batch


def _delivered_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.uint8 if stored == np.uint8 else np.float32)
