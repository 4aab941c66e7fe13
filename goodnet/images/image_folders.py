"""Image sets as folders of PNG and JPEG files, `<label>/<image>.png`, from whoever made them."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from goodnet.arrays import Images, Shape
from goodnet.errors import InputError
from goodnet.storage.signatures import SignedFile

# Pillow calls a JPEG that carries further pictures (some cameras add a preview) MPO.
_LABEL = re.compile("(?P<number>[0-9]{1,9})(-.*)?", re.DOTALL)
"""A label and perhaps a note, as in Refool's sets: 0-random, 1-random."""

_FORMATS = {".png": ("PNG",), ".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO")}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_GRAY_MODES = ("1", "L", "LA")
_MOST_PIXELS = 2**26
"""As many as large cameras take; a few bytes can claim a thousand times as many."""
_EIGHT_BIT_MODES = (*_GRAY_MODES, "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def list_images(folder: Path) -> list[Path]:
    """List the images of a folder relative to it, by label number and then by name.

    Hidden files are passed over; anything else that is no image of a label is refused.

    Raises:
        InputError: a name does not belong there, a link leads out of the folder, or there is
            no image at all.
    """
    labels = sorted(_list_labels(folder), key=lambda label: (_number(label), label.name))
    images = [
        image.relative_to(folder)
        for label in labels
        for image in list_visible(label, inside=folder.resolve())
        if _is_image(image)
    ]
    if not images:
        raise InputError(f"{folder}: holds no image, expected <label>/<image>.png or .jpg")
    return images


def list_visible(folder: Path, *, inside: Path) -> list[Path]:
    """List what is in a folder by name, but for hidden files.

    Raises:
        InputError: it cannot be listed, or a link in it leads out of the folder `inside`.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error
    for path in paths:
        if path.is_symlink():
            require_link_inside(path, inside)
    return paths


def label_of(image: Path) -> int:
    """Return the label of an image that `list_images` gave."""
    return _number(image.parent)


def has_note(image: Path) -> bool:
    """Return whether more than a label stands in the name of the image's folder."""
    return not image.parent.name.isdecimal()


def read_shape(path: Path) -> Shape:
    """Return the (H, W, C) that an image file declares, without decoding it."""
    with _opened(path) as image:
        return image.height, image.width, 1 if image.mode in _GRAY_MODES else 3


def require_shape(path: Path, shape: Shape) -> None:
    """Check, without decoding it, that an image file can give pixels of `shape`.

    Raises:
        InputError: it is damaged, or its size or type is another.
    """
    with _opened(path) as image:
        _require_size(image, path, shape)


def read_image_batches(
    images: Sequence[SignedFile], shape: Shape, slices: Iterable[slice]
) -> Generator[Images, None, None]:
    """Yield the pixels of each slice of `images` as (n, H, W, C), raw 0..255.

    Raises:
        InputError: an image is damaged, of another size, or has changed since it was signed.
    """
    for where in slices:
        yield np.stack([_decode(image, shape) for image in images[where]])


def _list_labels(folder: Path) -> Iterator[Path]:
    for path in list_visible(folder, inside=folder.resolve()):
        if not path.is_dir():
            raise InputError(f"{path}: is no folder, expected folders named by their label")
        if not _LABEL.fullmatch(path.name):
            raise InputError(
                f"{path}: folder is named {path.name}, expected a label (0, 1, …): rename each "
                "folder to the number that its class has in the net's answer"
            )
        yield path


def _number(label: Path) -> int:
    return int(label.name.partition("-")[0])


def require_link_inside(link: Path, folder: Path) -> None:
    """Raise InputError if a link leads to nothing or out of a folder, which is resolved."""
    if not link.exists():
        raise InputError(f"{link}: is a link to nothing")
    if not link.resolve().is_relative_to(folder):
        raise InputError(f"{link}: is a link that leads out of the folder")


def _is_image(path: Path) -> bool:
    if path.suffix.lower() not in _FORMATS or not path.is_file():
        raise InputError(f"{path}: is no image file, expected .png, .jpg or .jpeg")
    return True


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image, of which nothing but the header is read at first."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            _require_format(image, path)
            _require_sensible_size(image, path)
            yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: is no readable PNG or JPEG image") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: declares more pixels than any image should have") from error
    except Exception as error:
        # Decoders fail on hostile bytes with whatever they stumble over.
        raise InputError(f"{path}: cannot be decoded, it is damaged ({error})") from error


def _require_format(image: Image.Image, path: Path) -> None:
    expected = _FORMATS[path.suffix.lower()]
    if image.format not in expected:
        raise InputError(f"{path}: is a {image.format} image, but its name says {expected[0]}")
    # Pillow cuts colours of 16 bits to 8 without a word; before decoding it names what is stored.
    tiles = getattr(image, "tile", [])
    types = [image.mode, *(str(part.args) for part in tiles if ";16" in str(part.args))]
    for found in types:
        if found not in _EIGHT_BIT_MODES:
            raise InputError(f"{path}: has pixels of type {found}, expected 8 bits a channel")


def _require_sensible_size(image: Image.Image, path: Path) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise InputError(
            f"{path}: declares {image.height} x {image.width} pixels, "
            f"expected at most {_MOST_PIXELS:,}"
        )


def _require_size(image: Image.Image, path: Path, shape: Shape) -> None:
    height, width, channels = shape
    if channels not in _MODES:
        raise InputError(f"{path}: images have 1, 3 or 4 channels, expected {channels}")
    if (image.height, image.width) != (height, width):
        raise InputError(
            f"{path}: image is {image.height} x {image.width} (height x width), "
            f"expected {height} x {width}"
        )


def _decode(file: SignedFile, shape: Shape) -> Images:
    with file.unchanged(), _opened(file.path) as image:
        _require_size(image, file.path, shape)
        # Pillow warns when a palette with transparency goes to RGB directly.
        direct = image.convert("RGBA") if image.mode == "P" else image
        return np.asarray(direct.convert(_MODES[shape[2]])).reshape(shape)
