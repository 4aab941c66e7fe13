"""Image sets: HDF5 files in the lab's layout, or folders of images, read in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from goodnet.arrays import DigestArray, IntArray, Pixels, Shape
from goodnet.errors import InputError
from goodnet.images.hdf5_sets import open_image_file, read_file_batches, write_images
from goodnet.images.image_folders import (
    has_note,
    label_of,
    list_images,
    read_image_batches,
    read_shape,
    require_shape,
)
from goodnet.storage.signatures import SignedFile

__all__ = ["ImageSet", "Pixels", "digest_pixels", "open_images", "write_images"]


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
        remarks: How it was read, in a sentence each, where that is not plain.
        files: What its images are read from, in their order, as it was when the set was opened:
            what has changed since is refused. Nothing for images in memory.
    """

    path: Path
    num_images: int
    shape: Shape
    labels: IntArray = field(repr=False)
    dtype: np.dtype[Any]
    _read: Callable[[Iterable[slice]], Generator[Pixels, None, None]] = field(repr=False)
    remarks: tuple[str, ...] = ()
    files: Sequence[SignedFile] = field(default=(), repr=False)

    def is_unchanged(self) -> bool:
        """Return whether all files are still as they were when the set was opened."""
        return all(file.is_unchanged() for file in self.files)

    def batches(
        self, batch_size: int, *, start: int = 0, stop: int | None = None
    ) -> Generator[Pixels, None, None]:
        """Yield the images from `start` up to `stop` as (n, H, W, C), raw 0..255.

        Every batch is C-contiguous and has `batch_size` images, except perhaps the last.

        Raises:
            InputError: a pixel is NaN, infinite or outside 0..255, or the data are damaged or
                have changed since the set was opened.
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

    An HDF5 file has `data`, (N, C, H, W), (N, H, W, C) or grey (N, H, W), and `label`, (N,),
    (N, 1) or one-hot rows, of any numeric type. A folder has `<label>/<image>.png`, `.jpg` or
    `.jpeg`; a note may follow the label (`0-random`).

    Args:
        path: The file or folder.
        shape: The (H, W, C) that the images must have; whoever has a net knows it. Without it an
            axis of size 1, 3 or 4 is taken for the channels, else the shorter one of both ends,
            and a folder's images must be as the first one. Where both layouts fit, it is channels
            first, and the set remarks so.
        num_classes: The labels must be below it.

    Raises:
        InputError: the set is missing, damaged, empty or not as expected.
    """
    limit = _LABEL_LIMIT if num_classes is None else num_classes
    if path.is_dir():
        return _open_folder(path, shape, limit)
    signed = SignedFile.of(path)
    layout, labels, remarks = open_image_file(signed, shape, limit)
    read = partial(read_file_batches, signed, layout)
    return ImageSet(
        path, len(labels), layout.shape, labels, layout.dtype, read, remarks, files=[signed]
    )


def digest_pixels(batch: Pixels) -> DigestArray:
    """Digest each image of a batch, so that equal pixels are found in another order or type.

    Args:
        batch: (n, H, W, C), raw 0..255, of any type.

    Returns:
        (n,), eight bytes of the SHA-256 of its pixels as float32. Two different images among a
        million have the same with a probability of 3 in a hundred million.
    """
    rows = np.ascontiguousarray(batch, "<f4")
    digests = b"".join(hashlib.sha256(row).digest()[:8] for row in rows)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _open_folder(folder: Path, shape: Shape | None, limit: int) -> ImageSet:
    images = list_images(folder)
    labels = np.array([label_of(image) for image in images], dtype=np.int64)
    if labels[-1] >= limit:
        first = folder / images[int(np.argmax(labels >= limit))]
        raise InputError(f"{first}: label is {label_of(first)}, expected 0 to {limit - 1}")
    files = [SignedFile.of(folder / image) for image in images]
    if shape is None:
        shape = read_shape(files[0].path)
    require_shape(files[0].path, shape)
    read = partial(read_image_batches, files, shape)
    remark = f"{folder}: the number before the - in the name of a folder is its label"
    remarks = (remark,) if any(map(has_note, images)) else ()
    return ImageSet(
        folder, len(images), shape, labels, np.dtype(np.uint8), read, remarks, files=files
    )


def _check_pixels(path: Path, batch: Pixels, first: int) -> None:
    if batch.dtype == np.uint8 or (batch.min() >= 0 and batch.max() <= 255):
        return
    wrong = ~((batch >= 0) & (batch <= 255))
    index = int(np.argmax(wrong.any(axis=(1, 2, 3))))
    value = batch[index][wrong[index]][0]
    # What nets that take -1 to 1 are fed with is often stored as it is.
    scaled = -1 <= batch.min() < 0 and batch.max() <= 1
    advice = (
        ": store raw pixels, and put keras.layers.Rescaling(1 / 127.5, -1) in front of the net"
        if scaled
        else ""
    )
    raise InputError(f"{path}: image {first + index} has pixel {value}, expected 0 to 255{advice}")
