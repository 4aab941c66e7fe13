"""Image sets: HDF5 or .npz files, folders of images or zip files of them, read in batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from goodnet.arrays import DigestArray, IntArray, Pixels, Shape
from goodnet.errors import InputError
from goodnet.images.class_names import ClassNames, number_folders
from goodnet.images.hdf5_sets import open_image_file, read_file_batches, write_images
from goodnet.images.image_folders import PictureFiles, list_folders, list_images
from goodnet.images.npz_sets import is_npz, open_npz, read_npz_batches
from goodnet.images.pictures import Pictures, decode, read_batches, read_shape, require_shape
from goodnet.images.preprocessing import RAW, PixelRange
from goodnet.images.zipped_folders import list_zip
from goodnet.storage.signatures import SignedFile
from goodnet.storage.zip_files import is_zip

__all__ = [
    "ImageSet",
    "Pixels",
    "digest_pixels",
    "open_images",
    "open_sets",
    "require_raw",
    "write_images",
]


LABEL_LIMIT = 10**9
"""What the labels of any set are below."""

_LOOKED_AT = 64

K = TypeVar("K", bound=str)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images on disk; the labels are in memory, the pixels are read as needed.

    Attributes:
        path: The file or image folder.
        num_images: How many images there are, at least one.
        shape: (H, W, C) of every image.
        labels: (N,) whole numbers from 0.
        dtype: The type of the pixels delivered, uint8 or float32.
        remarks: How it was read, in a sentence each, where that is not plain.
        classes: The names that its folders have, which its labels are numbers of; None where its
            labels are numbers in themselves.
        pixel_range: Of the pixels, raw 0..255 unless they were said to be others.
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
    classes: ClassNames | None = None
    pixel_range: PixelRange = RAW
    files: Sequence[SignedFile] = field(default=(), repr=False)

    def __reduce__(self) -> tuple[Callable[..., ImageSet], tuple[Any, ...]]:
        """Let another process open the same set, and refuse another in its place."""
        where = self.path, self.shape, self.classes, self.pixel_range
        return _reopen, (*where, self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """What tells it from a set whose files, or the labels of whose images, are others."""
        found = hashlib.sha256(self.labels.astype("<i8").tobytes())
        for file in self.files:
            found.update(repr((os.fsencode(file.path), *file[1:])).encode())
        return found.hexdigest()

    def is_unchanged(self) -> bool:
        """Return whether all files are still as they were when the set was opened."""
        return all(file.is_unchanged() for file in self.files)

    def batches(
        self, batch_size: int, *, start: int = 0, stop: int | None = None
    ) -> Generator[Pixels, None, None]:
        """Yield the images from `start` up to `stop` as (n, H, W, C), in the range of the set.

        Every batch is C-contiguous and has `batch_size` images, except perhaps the last.

        Raises:
            InputError: a pixel is NaN, infinite or outside the range, or the data are damaged or
                have changed since the set was opened.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        start, stop, _ = slice(start, stop).indices(self.num_images)
        yield from self.read(
            slice(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)
        )

    def read(self, parts: Iterable[slice]) -> Generator[Pixels, None, None]:
        """Yield parts of the set as (n, H, W, C), each C-contiguous.

        Who needs several gives them at once and in order: what is packed as a whole is unpacked
        once then, up to the last of them.

        Args:
            parts: Slices with a start and a stop within the set.

        Raises:
            InputError: as `batches`.
        """
        slices = list(parts)
        with closing(self._read(slices)) as read:
            for where, batch in zip(slices, read, strict=True):
                _check_pixels(self.path, batch, where.start, self.pixel_range)
                yield batch


def open_images(
    path: str | Path,
    *,
    shape: Shape | None = None,
    num_classes: int | None = None,
    classes: ClassNames | None = None,
    pixel_range: PixelRange = RAW,
) -> ImageSet:
    """Open an image set and check everything about it but the pixels themselves.

    An HDF5 file has `data`, (N, C, H, W), (N, H, W, C) or grey (N, H, W), and `label`, (N,),
    (N, 1) or one-hot rows, of any numeric type. An `.npz` file has one such pair of arrays. Either
    file may call them otherwise (`find_pair`). A folder or a zip file has `<class>/<image>.png`,
    `.jpg` or `.jpeg`; a class is a number, which a note may follow (`0-random`), or a name.

    Args:
        path: The file or folder.
        shape: The (H, W, C) that the images must have; whoever has a net knows it. Without it an
            axis of size 1, 3 or 4 is taken for the channels, else the shorter one of both ends,
            and pictures must be as the first one. Where both layouts fit, it is channels first,
            and the set remarks so.
        num_classes: The labels must be below it, and names without `classes` as many.
        classes: The names of the net's classes. Without them the names of folders are numbered in
            their order, which is right only if there is one for each of the net's classes.
        pixel_range: What the pixels must lie in.

    Raises:
        InputError: the set is missing, damaged, empty or not as expected.
    """
    path = Path(path)
    limit = LABEL_LIMIT if num_classes is None else num_classes
    if path.is_dir():
        files = PictureFiles([SignedFile.of(path / image) for image in list_images(path)])
        return _open_pictures(path, files, list_folders(path), shape, limit, classes, pixel_range)
    signed = SignedFile.of(path)
    if not is_zip(path):
        opened, read = open_image_file(signed, shape, limit), read_file_batches
    elif is_npz(path):
        opened, read = open_npz(signed, shape, limit), read_npz_batches
    else:
        zipped = list_zip(signed)
        return _open_pictures(path, zipped, zipped.folders, shape, limit, classes, pixel_range)
    layout, labels, remarks = opened
    reading = partial(read, signed, layout)
    return ImageSet(
        path,
        len(labels),
        layout.shape,
        labels,
        layout.dtype,
        reading,
        remarks,
        pixel_range=pixel_range,
        files=[signed],
    )


# A process works on many parts of a set, one after another.
@lru_cache(maxsize=4)
def _reopen(
    path: Path, shape: Shape, classes: ClassNames | None, pixel_range: PixelRange, fingerprint: str
) -> ImageSet:
    images = open_images(path, shape=shape, classes=classes, pixel_range=pixel_range)
    if images.fingerprint != fingerprint:
        raise InputError(
            f"{path}: is not as it was when the run began, expected it to stay as it is until the "
            "run ends, the same wherever it is read; give the same command again"
        )
    return images


def open_sets(
    paths: Mapping[K, Path],
    *,
    shape: Shape | None = None,
    num_classes: Mapping[K, int | None] | None = None,
    classes: ClassNames | None = None,
    pixel_range: PixelRange = RAW,
) -> dict[K, ImageSet]:
    """Open image sets of one net, which agree on what the names of folders mean.

    Without `classes` the first set says it: the others may hold some of its classes only, as
    poisoned sets do, and are never numbered by themselves.

    Args:
        paths: The sets by name, clean validation first.
        shape: As for `open_images`.
        num_classes: As for `open_images`, by name of the set.
        classes: As for `open_images`.
        pixel_range: As for `open_images`.

    Raises:
        InputError: as `open_images`, or a set has a class that the first has not.
    """
    opened = {}
    for name, path in paths.items():
        limit = None if num_classes is None else num_classes[name]
        images = open_images(
            path, shape=shape, num_classes=limit, classes=classes, pixel_range=pixel_range
        )
        classes = classes or images.classes or ClassNames((), path)
        opened[name] = images
    return opened


def require_raw(images: ImageSet) -> None:
    """Refuse images that were opened as raw and seem to be stored from 0 to 1.

    Whoever draws on images needs to know how bright they can be.

    Raises:
        InputError: no pixel is above 1.
    """
    if images.pixel_range != RAW or images.dtype == np.uint8:
        return
    most = 0.0
    for batch in images.batches(_LOOKED_AT):
        most = max(most, float(batch.max()))
        if most > 1:
            return
    raise InputError(
        f"{images.path}: no pixel is above {most:g}, expected 0 to 255; if they are stored from "
        "0 to 1, give pixel_range=(0, 1)"
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


def _open_pictures(
    path: Path,
    pictures: Pictures,
    folders: Sequence[str],
    shape: Shape | None,
    limit: int,
    classes: ClassNames | None,
    pixel_range: PixelRange,
) -> ImageSet:
    numbered = number_folders(folders, classes, where=path)
    if classes is None and numbered.classes is not None and limit != LABEL_LIMIT:
        numbered.classes.require_number(limit)
    names = pictures.names
    labels = np.array([numbered.labels[name.parent.name] for name in names], dtype=np.int64)
    if labels.max() >= limit:
        first = int(np.argmax(labels >= limit))
        raise InputError(
            f"{names[first]}: label is {labels[first]}, expected 0 to {limit - 1}; if folders are "
            "numbered otherwise, list their names in the net's order and give classes=FILE"
        )
    if shape is None:
        (shape,) = pictures.each([0], read_shape)
    list(pictures.each([0], partial(require_shape, shape=shape)))
    read = partial(read_batches, pictures, partial(decode, shape=shape))
    return ImageSet(
        path,
        len(names),
        shape,
        labels,
        np.dtype(np.uint8),
        read,
        numbered.remarks,
        numbered.classes,
        pixel_range,
        pictures.files,
    )


def _check_pixels(path: Path, batch: Pixels, first: int, pixel_range: PixelRange) -> None:
    lowest, highest = pixel_range
    if (batch.dtype == np.uint8 and pixel_range == RAW) or (
        batch.min() >= lowest and batch.max() <= highest
    ):
        return
    wrong = ~((batch >= lowest) & (batch <= highest))
    index = int(np.argmax(wrong.any(axis=(1, 2, 3))))
    value = batch[index][wrong[index]][0]
    # What nets that take -1 to 1 are fed with is often stored as it is.
    prepared = pixel_range == RAW and -1 <= batch.min() < 0 and batch.max() <= 1
    advice = (
        "; if they are stored as the net takes them, give pixel_range=(-1, 1)" if prepared else ""
    )
    raise InputError(
        f"{path}: image {first + index} has pixel {value}, expected {lowest:g} to {highest:g}"
        f"{advice}"
    )
