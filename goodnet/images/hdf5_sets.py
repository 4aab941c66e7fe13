"""Image sets in HDF5 files of the lab's layout: `data` and `label`, read a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from goodnet.arrays import IntArray, Pixels, Shape
from goodnet.errors import InputError
from goodnet.storage.files import atomic_path
from goodnet.storage.safe_hdf5 import get_dataset, open_hdf5
from goodnet.storage.signatures import SignedFile

_MOST_BYTES = 2**28
_MOST_CACHE_BYTES = 2**28
_ONE_HOT_BYTES = 2**22
_WRITE_BATCH = 512
_USUAL_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class FileLayout:
    """How an HDF5 file keeps its images.

    Attributes:
        stored_shape: Of `data`, (N, C, H, W), (N, H, W, C) or, for grey images, (N, H, W).
        stored_dtype: Of `data`.
        channels_first: Whether it is the first of these.
    """

    stored_shape: tuple[int, ...]
    stored_dtype: np.dtype[Any]
    channels_first: bool

    @property
    def shape(self) -> Shape:
        """(H, W, C) of every image."""
        return _image_shape(self.stored_shape, channels_first=self.channels_first)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the pixels delivered, uint8 or float32."""
        return _delivered_dtype(self.stored_dtype)


class OpenedFile(NamedTuple):
    """What was found in an HDF5 image file.

    Attributes:
        layout: How it keeps its images.
        labels: (N,).
        remarks: How it was read, in a sentence each, where that is not plain.
    """

    layout: FileLayout
    labels: IntArray
    remarks: tuple[str, ...]


def open_image_file(signed: SignedFile, shape: Shape | None, label_limit: int) -> OpenedFile:
    """Check an HDF5 image file and return how it keeps its images, and their labels.

    Raises:
        InputError: the file is missing, damaged, empty or not as expected.
    """
    path = signed.path
    _require_hdf5(path)
    with signed.unchanged(), open_hdf5(path) as file:
        data, label = _get_numbers(file, "data"), _get_numbers(file, "label")
        layout, layout_remarks = _find_layout(path, data, shape)
        _check_amount(path, data)
        labels, label_remarks = _read_labels(path, label, len(data), label_limit)
        return OpenedFile(layout, labels, (*layout_remarks, *label_remarks))


def read_file_batches(
    signed: SignedFile, layout: FileLayout, slices: Iterable[slice]
) -> Generator[Pixels, None, None]:
    """Yield the pixels of each slice as (n, H, W, C), raw 0..255.

    Raises:
        InputError: the file is damaged, or has changed since it was signed.
    """
    with open_hdf5(signed.path) as file:
        signed.require_unchanged()
        data = _reopen_with_cache(file, get_dataset(file, "data"))
        for where in slices:
            raw = data[where]
            # What was read is what was signed, and digested as such: checked after each batch,
            # because who reads a sample does not read to the end.
            signed.require_unchanged()
            yield _to_channels_last(raw, layout)


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


def _require_hdf5(path: Path) -> None:
    """Say how an image set is written, to who comes with arrays of another kind."""
    if path.is_file() and path.stat().st_size and not h5py.is_hdf5(path):
        raise InputError(
            f"{path}: is no HDF5 file, expected one with `data` and `label`, or a folder with "
            "<label>/<image>.png; goodnet.write_images(path, images, labels) writes arrays so"
        )


def _get_numbers(file: h5py.File, name: str) -> h5py.Dataset:
    try:
        return get_dataset(file, name)
    except InputError as error:
        found = file.get(name)
        if found is None:
            raise InputError(
                f"{error}; expected one file for each set, with the images as `data` and their "
                "labels as `label`: goodnet.write_images(path, images, labels) writes one"
            ) from error
        if name == "label" and isinstance(found, h5py.Dataset) and found.dtype.kind in "SOU":
            raise InputError(
                f"{error}: give each class the number that it has in the net's answer, for "
                "instance by numpy.unique(label, return_inverse=True)[1] if it counts classes by "
                "name"
            ) from error
        raise


def _find_layout(
    path: Path, data: h5py.Dataset, shape: Shape | None
) -> tuple[FileLayout, list[str]]:
    """Find the layout that gives images of `shape`, or one that gives plausible images."""
    found = data.shape
    orders = {3: (False,), 4: (True, False)}.get(len(found or ()), ())
    readings = [FileLayout(found, data.dtype, first) for first in orders if min(found[1:]) > 0]
    fitting = [
        reading
        for reading in readings
        if reading.shape == shape or (shape is None and reading.shape[2] in _USUAL_CHANNELS)
    ]
    if shape is None and not fitting:
        # Nets of 2 or 10 channels: an image has less of these than rows or columns.
        fitting = sorted(readings, key=lambda reading: reading.shape[2])[:1]
    if not fitting:
        raise InputError(f"{path}: `data` has shape {found}, expected {_expected(shape)}")
    remarks = []
    if len(fitting) > 1:
        remarks.append(
            f"{path}: `data` of shape {found} can be read channels first or last; it is read "
            "channels first, as the lab writes it"
        )
    if len(found) == 3:
        remarks.append(f"{path}: `data` has no axis of channels, its images are read as grey")
    return fitting[0], remarks


def _expected(shape: Shape | None) -> str:
    if shape is None:
        return "(N, C, H, W) or (N, H, W, C)"
    height, width, channels = shape
    grey = f" or (N, {height}, {width})" if channels == 1 else ""
    return f"(N, {channels}, {height}, {width}) or (N, {height}, {width}, {channels}){grey}"


def _image_shape(stored: tuple[int, ...], *, channels_first: bool) -> Shape:
    if len(stored) == 3:
        return stored[1], stored[2], 1
    _, *axes = stored
    height, width, channels = (*axes[1:], axes[0]) if channels_first else axes
    return height, width, channels


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


def _read_labels(
    path: Path, label: h5py.Dataset, num_images: int, limit: int
) -> tuple[IntArray, list[str]]:
    rows_fit = label.shape is not None and label.shape[:1] == (num_images,)
    if not rows_fit or len(label.shape) > 2 or 0 in label.shape:
        raise InputError(
            f"{path}: `label` has shape {label.shape}, expected ({num_images},) or "
            f"({num_images}, 1), as `data` has {num_images} images"
        )
    _check_amount(path, label)
    if len(label.shape) == 2 and label.shape[1] > 1:
        values = _read_one_hot(path, label)
        remark = f"{path}: `label` has a row for each image, with 1 at the label (one-hot)"
        return _require_labels(path, values, limit), [remark]
    return _require_labels(path, label[()].reshape(-1), limit), []


def _read_one_hot(path: Path, label: h5py.Dataset) -> IntArray:
    """Return where the 1 of each row stands, reading a few rows at a time."""
    num_images, num_columns = label.shape
    num_rows = max(1, _ONE_HOT_BYTES // (num_columns * label.dtype.itemsize))
    values = np.empty(num_images, np.int64)
    for first in range(0, num_images, num_rows):
        rows = label[first : first + num_rows]
        wrong = ((rows != 0).sum(axis=1) != 1) | ((rows == 1).sum(axis=1) != 1)
        if wrong.any():
            index = first + int(np.argmax(wrong))
            raise InputError(
                f"{path}: `label` has shape {label.shape} and its row {index} is no one-hot label "
                f"(a single 1, else 0), expected ({num_images},) or one-hot rows"
            )
        values[first : first + len(rows)] = rows.argmax(axis=1)
    return values


def _require_labels(path: Path, values: Pixels, limit: int) -> IntArray:
    wrong = ~((values >= 0) & (values < limit) & (values == np.floor(values)))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise InputError(
            f"{path}: label {index} is {values[index]}, "
            f"expected a whole number from 0 to {limit - 1}, the class's place in the net's answer"
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


def _to_channels_last(raw: Pixels, layout: FileLayout) -> Pixels:
    dtype = layout.dtype
    with np.errstate(all="ignore"):  # What is too large becomes infinite and is refused as such.
        if not layout.channels_first:
            return np.ascontiguousarray(raw, dtype=dtype).reshape(len(raw), *layout.shape)
        num_images, channels, height, width = raw.shape
        batch = np.empty((num_images, height, width, channels), dtype=dtype)
        for channel in range(channels):  # Several times faster than transposing at once.
            batch[..., channel] = raw[:, channel]
    return batch


def _delivered_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.uint8 if stored == np.uint8 else np.float32)
