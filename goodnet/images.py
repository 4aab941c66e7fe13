"""Image sets: HDF5 files in the lab's layout, or folders of images, read in batches."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from goodnet.errors import InputError
from goodnet.files import atomic_path
from goodnet.image_folders import (
    Shape,
    label_of,
    list_images,
    read_image_batches,
    read_shape,
    require_shape,
)
from goodnet.safe_hdf5 import get_dataset, open_hdf5

Item = TypeVar("Item")
Pixels = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

_LABEL_LIMIT = 10**9
_MOST_BYTES = 2**30
_MOST_CACHE_BYTES = 2**28
_WRITE_BATCH = 512


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images on disk; the labels are in memory, the pixels are read as needed.

    Attributes:
        path: The HDF5 file or image folder.
        num_images: How many images there are, at least one.
        shape: (H, W, C) of every image.
        labels: (N,) whole numbers from 0.
        dtype: The type of the pixels delivered, uint8 or float32.
    """

    path: Path
    num_images: int
    shape: Shape
    labels: IntArray = field(repr=False)
    dtype: np.dtype[Any]
    _read: Callable[[Iterable[slice]], Generator[Pixels, None, None]] = field(repr=False)

    def batches(
        self, batch_size: int, *, start: int = 0, stop: int | None = None
    ) -> Generator[Pixels, None, None]:
        """Yield the images from `start` up to `stop` as (n, H, W, C), raw 0..255.

        Every batch is C-contiguous and has `batch_size` images, except perhaps the last.

        Raises:
            InputError: a pixel is NaN, infinite or outside 0..255, or the data are damaged.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        start, stop, _ = slice(start, stop).indices(self.num_images)
        slices = [
            slice(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)
        ]
        with closing(self._read(slices)) as read:
            for where, batch in zip(slices, read, strict=True):
                _check_pixels(self.path, batch, where.start)
                yield batch


def open_images(
    path: Path, *, shape: Shape | None = None, num_classes: int | None = None
) -> ImageSet:
    """Open an image set and check everything about it but the pixels themselves.

    An HDF5 file has `data`, (N, C, H, W) or (N, H, W, C), and `label`, (N,) or (N, 1), of any
    numeric type. A folder has `<label>/<image>.png`, `.jpg` or `.jpeg`.

    Args:
        path: The file or folder.
        shape: The (H, W, C) that the images must have. Without it, the axis of size 1, 3 or 4 is
            taken for the channels, and a folder's images must be as the first one.
        num_classes: The labels must be below it.

    Raises:
        InputError: the set is missing, damaged, empty or not as expected.
    """
    limit = _LABEL_LIMIT if num_classes is None else num_classes
    if path.is_dir():
        return _open_folder(path, shape, limit)
    return _open_file(path, shape, limit)


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


def prefetched(items: Iterator[Item], *, depth: int = 2) -> Iterator[Item]:
    """Yield what `items` yields while a background thread fetches up to `depth` items ahead.

    An error in `items` is raised here, after the items before it. When the consumer stops early,
    the thread ends and `items` is closed.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        ahead = deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(pool.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            pool.shutdown(cancel_futures=True)
            if isinstance(items, Generator):
                items.close()


def _open_folder(folder: Path, shape: Shape | None, limit: int) -> ImageSet:
    images = list_images(folder)
    labels = np.array([label_of(image) for image in images], dtype=np.int64)
    if labels[-1] >= limit:
        first = folder / images[int(np.argmax(labels >= limit))]
        raise InputError(f"{first}: label is {label_of(first)}, expected 0 to {limit - 1}")
    if shape is None:
        shape = read_shape(folder / images[0])
    require_shape(folder / images[0], shape)
    read = partial(read_image_batches, folder, images, shape)
    return ImageSet(folder, len(images), shape, labels, np.dtype(np.uint8), read)


def _open_file(path: Path, shape: Shape | None, limit: int) -> ImageSet:
    with open_hdf5(path) as file:
        data, label = get_dataset(file, "data"), get_dataset(file, "label")
        channels_first = _is_channels_first(path, data.shape, shape)
        _check_amount(path, data)
        labels = _read_labels(path, label, len(data), limit)
        layout = (data.shape, data.dtype)
    _, *axes = layout[0]
    height, width, channels = (*axes[1:], axes[0]) if channels_first else axes
    read = partial(_read_file_batches, path, layout, channels_first)
    dtype = _delivered_dtype(layout[1])
    return ImageSet(path, len(labels), (height, width, channels), labels, dtype, read)


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


def _read_file_batches(
    path: Path,
    layout: tuple[tuple[int, ...], np.dtype[Any]],
    channels_first: bool,
    slices: Iterable[slice],
) -> Generator[Pixels, None, None]:
    with open_hdf5(path) as file:
        data = get_dataset(file, "data")
        if (data.shape, data.dtype) != layout:
            raise InputError(f"{path}: `data` has changed since it was opened")
        data = _reopen_with_cache(file, data)
        for where in slices:
            yield _to_channels_last(data[where], channels_first)


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


def _check_pixels(path: Path, batch: Pixels, first: int) -> None:
    if batch.dtype == np.uint8 or (batch.min() >= 0 and batch.max() <= 255):
        return
    wrong = ~((batch >= 0) & (batch <= 255))
    index = int(np.argmax(wrong.any(axis=(1, 2, 3))))
    value = batch[index][wrong[index]][0]
    raise InputError(f"{path}: image {first + index} has pixel {value}, expected 0 to 255")
