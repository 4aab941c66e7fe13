"""Images and labels as arrays in a file: how they lie there, and how they are read in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from goodnet.arrays import IntArray, Pixels, Shape
from goodnet.errors import InputError

_MOST_BYTES = 2**28
_ONE_HOT_BYTES = 2**22
_USUAL_CHANNELS = (1, 3, 4)

_PAIRS = (
    *product(("data", "images", "image"), ("label", "labels")),
    ("x", "y"),
)
_SPLIT_PAIR = ("x_", "y_")

PAIR_NAMES = (
    "`data` and `label`, `images` and `labels`, `x` and `y`, or such as `x_valid` and `y_valid`"
)
"""What images and labels may be called in a file of arrays, in whatever case."""

TEXT_LABELS = (
    "give each class the number that it has in the net's answer, for instance by "
    "numpy.unique(label, return_inverse=True)[1] if it counts classes by name"
)
"""What to do where labels are texts."""


class StoredArray(Protocol):
    """An array in a file, of which slices along its first axis can be read."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the array; None for one of HDF5 that holds nothing at all."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its numbers."""
        ...

    def __getitem__(self, rows: slice) -> Any: ...


@dataclass(frozen=True)
class ArrayLayout:
    """How an array keeps its images.

    Attributes:
        stored_shape: (N, C, H, W), (N, H, W, C) or, for grey images, (N, H, W).
        stored_dtype: of its numbers.
        channels_first: whether it is the first of these.
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
        return np.dtype(np.uint8 if self.stored_dtype == np.uint8 else np.float32)

    def to_channels_last(self, raw: Pixels) -> Pixels:
        """Return stored images as (n, H, W, C) of the delivered type."""
        with np.errstate(all="ignore"):  # What is too large becomes infinite, refused as such.
            if not self.channels_first:
                return np.ascontiguousarray(raw, self.dtype).reshape(len(raw), *self.shape)
            num_images, channels, height, width = raw.shape
            batch = np.empty((num_images, height, width, channels), self.dtype)
            for channel in range(channels):  # Several times faster than transposing at once.
                batch[..., channel] = raw[:, channel]
        return batch


class OpenedArrays(NamedTuple):
    """What was found in a file with images and labels.

    Attributes:
        layout: how it keeps its images.
        labels: (N,).
        remarks: how it was read, in a sentence each, where that is not plain.
    """

    layout: ArrayLayout
    labels: IntArray
    remarks: tuple[str, ...]


class Named(NamedTuple):
    """An array, and what it is called in its file."""

    name: str
    array: StoredArray


def check_arrays(
    path: Path, images: Named, labels: Named, *, shape: Shape | None, label_limit: int
) -> OpenedArrays:
    """Find out how images and labels are stored, and read the labels.

    Args:
        path: the file, for errors.
        images: of type and shape that were not looked at yet, but for that it holds numbers.
        labels: the same.
        shape: the (H, W, C) that the images must have, if it is known.
        label_limit: what labels must be below.

    Raises:
        InputError: they are not as expected.
    """
    layout, layout_remarks = _find_layout(path, images, shape)
    require_amount(path, images.name, layout.stored_shape, layout.stored_dtype)
    found, label_remarks = _read_labels(path, labels, layout.stored_shape[0], label_limit)
    return OpenedArrays(layout, found, (*layout_remarks, *label_remarks))


def find_pair(path: Path, names: Sequence[str], *, kind: str) -> tuple[str, str]:
    """Return the names of images and labels, of which there has to be one pair.

    Args:
        path: the file, for errors.
        names: of the arrays in it.
        kind: what they are called in errors.

    Raises:
        InputError: there is none, or more than one.
    """
    by_lower = {name.lower(): name for name in names}
    x, y = _SPLIT_PAIR
    split = [(name, y + name.removeprefix(x)) for name in by_lower if name.startswith(x)]
    pairs = [pair for pair in (*_PAIRS, *split) if by_lower.keys() >= set(pair)]
    if len(pairs) != 1 or len(by_lower) < len(names):
        listed = ", ".join(f"`{name}`" for name in names[:20]) or "none"
        more = ", …" if len(names) > 20 else ""
        raise InputError(
            f"{path}: has the {kind} {listed}{more}, expected just one pair of images and labels "
            f"in a file: {PAIR_NAMES}"
        )
    images, labels = pairs[0]
    return by_lower[images], by_lower[labels]


def require_amount(
    path: Path, name: str, shape: Sequence[int], dtype: np.dtype[Any], *, at_once: int = 0
) -> None:
    """Refuse what would need absurd memory although only one batch is read at a time.

    Args:
        path: the file, for errors.
        name: of the array.
        shape: of the array.
        dtype: of the array.
        at_once: how many of its numbers are read together at least.

    Raises:
        InputError: it would, or there is no image.
    """
    if shape[0] == 0:
        raise InputError(f"{path}: holds no image, expected at least one")
    needed = max(dtype.itemsize * max(at_once, math.prod(shape[1:])), shape[0] * 8)
    if needed > _MOST_BYTES:
        raise InputError(
            f"{path}: `{name}` of shape {tuple(shape)} takes {needed:,} bytes at once, expected at "
            f"most {_MOST_BYTES:,}"
        )


def _find_layout(path: Path, images: Named, shape: Shape | None) -> tuple[ArrayLayout, list[str]]:
    """Find the layout that gives images of `shape`, or one that gives plausible images."""
    name, found = images.name, images.array.shape
    orders = {3: (False,), 4: (True, False)}.get(len(found or ()), ())
    readings = [
        ArrayLayout(found, images.array.dtype, first)
        for first in orders
        if found is not None and min(found[1:]) > 0
    ]
    fitting = [
        reading
        for reading in readings
        if reading.shape == shape or (shape is None and reading.shape[2] in _USUAL_CHANNELS)
    ]
    if shape is None and not fitting:
        # Nets of 2 or 10 channels: an image has less of these than rows or columns.
        fitting = sorted(readings, key=lambda reading: reading.shape[2])[:1]
    if not fitting:
        raise InputError(f"{path}: `{name}` has shape {found}, expected {_expected(shape)}")
    remarks = []
    if len(fitting) > 1:
        remarks.append(
            f"{path}: `{name}` of shape {found} can be read channels first or last; it is read "
            "channels first, as the lab writes it"
        )
    if len(fitting[0].stored_shape) == 3:
        remarks.append(f"{path}: `{name}` has no axis of channels, its images are read as grey")
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


def _read_labels(
    path: Path, labels: Named, num_images: int, limit: int
) -> tuple[IntArray, list[str]]:
    name, array = labels
    shape = array.shape
    if shape is None or shape[:1] != (num_images,) or len(shape) > 2 or 0 in shape:
        raise InputError(
            f"{path}: `{name}` has shape {shape}, expected ({num_images},) or "
            f"({num_images}, 1), as there are {num_images} images"
        )
    require_amount(path, name, shape, array.dtype)
    if len(shape) == 2 and shape[1] > 1:
        values = _read_one_hot(path, name, array, shape)
        remark = f"{path}: `{name}` has a row for each image, with 1 at the label (one-hot)"
        return _require_labels(path, values, limit), [remark]
    return _require_labels(path, array[0:num_images].reshape(-1), limit), []


def _read_one_hot(path: Path, name: str, array: StoredArray, shape: tuple[int, ...]) -> IntArray:
    """Return where the 1 of each row stands, reading a few rows at a time."""
    num_images, num_columns = shape
    num_rows = max(1, _ONE_HOT_BYTES // (num_columns * array.dtype.itemsize))
    values = np.empty(num_images, np.int64)
    for first in range(0, num_images, num_rows):
        rows = array[first : min(first + num_rows, num_images)]
        wrong = ((rows != 0).sum(axis=1) != 1) | ((rows == 1).sum(axis=1) != 1)
        if wrong.any():
            index = first + int(np.argmax(wrong))
            raise InputError(
                f"{path}: `{name}` has shape {shape} and its row {index} is no one-hot label "
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
