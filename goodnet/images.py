"""Image sets: HDF5 files in the lab's layout, or folders of images, read in batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from goodnet.errors import InputError
from goodnet.image_files import (
    IntArray,
    Pixels,
    open_image_file,
    read_file_batches,
    write_images,
)
from goodnet.image_folders import (
    Shape,
    label_of,
    list_images,
    read_image_batches,
    read_shape,
    require_shape,
)

__all__ = ["ImageSet", "Pixels", "open_images", "write_images"]

_LABEL_LIMIT = 10**9


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
    layout, labels = open_image_file(path, shape, limit)
    read = partial(read_file_batches, path, layout)
    return ImageSet(path, len(labels), layout.shape, labels, layout.dtype, read)


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


def _check_pixels(path: Path, batch: Pixels, first: int) -> None:
    if batch.dtype == np.uint8 or (batch.min() >= 0 and batch.max() <= 255):
        return
    wrong = ~((batch >= 0) & (batch <= 255))
    index = int(np.argmax(wrong.any(axis=(1, 2, 3))))
    value = batch[index][wrong[index]][0]
    raise InputError(f"{path}: image {first + index} has pixel {value}, expected 0 to 255")
