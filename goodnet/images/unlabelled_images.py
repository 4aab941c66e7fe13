"""Images to classify, from wherever they are: single files, folders, zip, .npz or HDF5 files."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from goodnet.arrays import Pixels, Shape
from goodnet.errors import InputError
from goodnet.images.image_folders import PictureFiles, list_images, list_visible
from goodnet.images.image_sets import ImageSet, open_images
from goodnet.images.npz_sets import is_npz
from goodnet.images.pictures import (
    Pictures,
    Source,
    decode,
    is_picture,
    read_batches,
    read_shape,
    require_shape,
)
from goodnet.images.preprocessing import RAW, PixelRange
from goodnet.images.zipped_folders import list_zip
from goodnet.storage.signatures import SignedFile
from goodnet.storage.zip_files import is_zip


@dataclass(frozen=True)
class NamedImages:
    """Images that can be told apart: a name for each image of a set, in its order."""

    names: Sequence[str]
    images: ImageSet


def open_unlabelled(
    paths: Sequence[Path],
    *,
    shape: Shape,
    resize: bool = False,
    pixel_range: PixelRange = RAW,
) -> list[NamedImages]:
    """Open images of any kind for a net that takes (H, W, C) pixels, in the order given.

    Args:
        paths: pictures, folders and zip files of them or of `<class>/<image>`, HDF5 and `.npz`
            files as `open_images` takes them. Labels do not matter.
        shape: (H, W, C) of the images delivered.
        resize: whether images of another size are resized (bilinear, float32) instead of refused.
        pixel_range: what the pixels must lie in.

    Raises:
        InputError: something is missing, damaged, no image, or of another size.
    """
    files = [file for path in paths for file in _expand(path)]
    opened = []
    for are_pictures, group in groupby(files, is_picture):
        if are_pictures:
            pictures = PictureFiles([SignedFile.of(path) for path in group])
            folder = pictures.names[0].parent
            opened.append(_open_pictures(folder, pictures, shape, resize, pixel_range))
        else:
            opened += [_open_file(path, shape, resize, pixel_range) for path in group]
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
        if not is_picture(entry):
            raise InputError(f"{entry}: is no image file, expected .png, .jpg or .jpeg")
        yield entry


def _open_file(path: Path, shape: Shape, resize: bool, pixel_range: PixelRange) -> NamedImages:
    """Open a file of many images."""
    signed = SignedFile.of(path)
    if is_zip(path) and not is_npz(path):
        return _open_pictures(path, list_zip(signed, flat=True), shape, resize, pixel_range)
    return _open_arrays(path, shape, resize, pixel_range)


def _open_pictures(
    path: Path, pictures: Pictures, shape: Shape, resize: bool, pixel_range: PixelRange
) -> NamedImages:
    names = pictures.names
    check = read_shape if resize else partial(require_shape, shape=shape)
    for _ in pictures.each(range(len(names)), check):
        pass
    load = partial(_decode_resized if resize else decode, shape=shape)
    dtype: np.dtype[Any] = np.dtype(np.float32 if resize else np.uint8)
    unknown = np.full(len(names), -1, np.int64)
    images = ImageSet(
        path,
        len(names),
        shape,
        unknown,
        dtype,
        partial(read_batches, pictures, load),
        pixel_range=pixel_range,
        files=pictures.files,
    )
    return NamedImages([str(name) for name in names], images)


def _open_arrays(path: Path, shape: Shape, resize: bool, pixel_range: PixelRange) -> NamedImages:
    images = open_images(path, shape=None if resize else shape, pixel_range=pixel_range)
    if images.shape[2] != shape[2]:
        raise InputError(f"{path}: images have {images.shape[2]} channels, expected {shape[2]}")
    if images.shape != shape:
        read = partial(_read_resized, images, shape)
        resized = replace(images, shape=shape, dtype=np.dtype(np.float32), _read=read)
    else:
        resized = images
    return NamedImages([f"{path}[{number}]" for number in range(images.num_images)], resized)


def _decode_resized(source: Source, name: Path, shape: Shape) -> Pixels:
    height, width, _ = read_shape(source, name)
    return _resized(decode(source, name, (height, width, shape[2])), shape)


def _read_resized(
    images: ImageSet, shape: Shape, slices: Sequence[slice]
) -> Generator[Pixels, None, None]:
    for batch in images.read(slices):
        yield np.stack([_resized(image, shape) for image in batch])


def _resized(image: Pixels, shape: Shape) -> Pixels:
    """Return an image as float32 in another size; channels apart, as Pillow has floats so only."""
    height, width, _ = shape
    planes = [
        Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        for plane in np.moveaxis(image, -1, 0)
    ]
    # Rounding may leave a white pixel a trace above white.
    return np.stack([np.asarray(plane) for plane in planes], axis=-1).clip(image.min(), image.max())
