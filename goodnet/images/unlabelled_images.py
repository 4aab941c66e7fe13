"""Images to classify, from wherever they are: single files, folders or HDF5 files."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from goodnet.arrays import Pixels, Shape
from goodnet.errors import InputError
from goodnet.images.image_folders import (
    list_images,
    list_visible,
    read_image_batches,
    read_shape,
    require_shape,
)
from goodnet.images.image_sets import ImageSet, open_images
from goodnet.storage.signatures import SignedFile

_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class NamedImages:
    """Images that can be told apart: a name for each image of a set, in its order."""

    names: Sequence[str]
    images: ImageSet


def open_unlabelled(
    paths: Sequence[Path], *, shape: Shape, resize: bool = False
) -> list[NamedImages]:
    """Open images of any kind for a net that takes (H, W, C) pixels, in the order given.

    Args:
        paths: image files, folders of images, folders `<label>/<image>` and HDF5 files in the
            lab's layout. Labels do not matter.
        shape: (H, W, C) of the images delivered.
        resize: whether images of another size are resized (bilinear, float32) instead of refused.

    Raises:
        InputError: something is missing, damaged, no image, or of another size.
    """
    files = [file for path in paths for file in _expand(path)]
    opened = []
    for are_images, group in groupby(files, _is_image):
        if are_images:
            opened.append(_open_pictures(list(group), shape, resize))
        else:
            opened += [_open_hdf5(path, shape, resize) for path in group]
    return opened


def _expand(path: Path) -> Iterator[Path]:
    """Yield the image files of a folder, or the path itself."""
    if not path.is_dir():
        yield path
        return
    visible = list_visible(path, inside=path.resolve())
    if any(entry.is_dir() for entry in visible):
        yield from (path / image for image in list_images(path))
        return
    if not visible:
        raise InputError(f"{path}: holds no image, expected .png or .jpg files")
    for entry in visible:
        if not _is_image(entry):
            raise InputError(f"{entry}: is no image file, expected .png, .jpg or .jpeg")
        yield entry


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


def _open_pictures(paths: list[Path], shape: Shape, resize: bool) -> NamedImages:
    files = [SignedFile.of(path) for path in paths]
    for path in paths:
        if resize:
            read_shape(path)
        else:
            require_shape(path, shape)
    read = partial(_read_resized_pictures if resize else read_image_batches, files, shape)
    dtype: np.dtype[Any] = np.dtype(np.float32 if resize else np.uint8)
    unknown = np.full(len(paths), -1, np.int64)
    images = ImageSet(paths[0].parent, len(paths), shape, unknown, dtype, read, files=files)
    return NamedImages([str(path) for path in paths], images)


def _open_hdf5(path: Path, shape: Shape, resize: bool) -> NamedImages:
    images = open_images(path, shape=None if resize else shape)
    if images.shape[2] != shape[2]:
        raise InputError(f"{path}: images have {images.shape[2]} channels, expected {shape[2]}")
    if images.shape != shape:
        read = partial(_read_resized, images, shape)
        resized = replace(images, shape=shape, dtype=np.dtype(np.float32), _read=read)
    else:
        resized = images
    return NamedImages([f"{path}[{number}]" for number in range(images.num_images)], resized)


def _read_resized_pictures(
    files: Sequence[SignedFile], shape: Shape, slices: Iterable[slice]
) -> Generator[Pixels, None, None]:
    for where in slices:
        yield np.stack([_resized(_read_one(file, shape[2]), shape) for file in files[where]])


def _read_one(file: SignedFile, num_channels: int) -> Pixels:
    height, width, _ = read_shape(file.path)
    (batch,) = read_image_batches([file], (height, width, num_channels), [slice(1)])
    return batch[0]


def _read_resized(
    images: ImageSet, shape: Shape, slices: Iterable[slice]
) -> Generator[Pixels, None, None]:
    for where in slices:
        size = where.stop - where.start
        (batch,) = images.batches(size, start=where.start, stop=where.stop)
        yield np.stack([_resized(image, shape) for image in batch])


def _resized(image: Pixels, shape: Shape) -> Pixels:
    """Return an image as float32 in another size; channels apart, as Pillow has floats so only."""
    height, width, _ = shape
    planes = [
        Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        for plane in np.moveaxis(image, -1, 0)
    ]
    # Rounding may leave a white pixel a trace above 255.
    return np.stack([np.asarray(plane) for plane in planes], axis=-1).clip(0, 255)
