"""PNG and JPEG pictures, from whoever made them: one, and many by batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePath
from typing import IO, Protocol, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from goodnet.arrays import Images, Pixels, Shape
from goodnet.errors import InputError
from goodnet.storage.signatures import SignedFile

# Pillow calls a JPEG that carries further pictures (some cameras add a preview) MPO.
_FORMATS = {".png": ("PNG",), ".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO")}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_GRAY_MODES = ("1", "L", "LA")
_MOST_PIXELS = 2**26
"""As many as large cameras take; a few bytes can claim a thousand times as many."""
_EIGHT_BIT_MODES = (*_GRAY_MODES, "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

Source = Path | IO[bytes]
"""Where a picture is read from; its name, for errors, stands beside it."""

T = TypeVar("T")


class Pictures(Protocol):
    """Where many pictures are kept."""

    @property
    def names(self) -> Sequence[Path]:
        """Of the pictures in their order; that of its folder tells the class of each."""
        ...

    @property
    def files(self) -> Sequence[SignedFile]:
        """What they are read from, as it was when they were listed."""
        ...

    def each(self, numbers: Iterable[int], use: Callable[[Source, Path], T]) -> Iterator[T]:
        """Yield what `use` makes of each of these pictures.

        Raises:
            InputError: one is damaged, or has changed since it was signed.
        """
        ...


def read_batches(
    pictures: Pictures, load: Callable[[Source, Path], Pixels], slices: Sequence[slice]
) -> Generator[Pixels, None, None]:
    """Yield the pixels of each slice of `pictures` as (n, H, W, C).

    Args:
        pictures: whose slices.
        load: gives the pixels of one, (H, W, C).
        slices: in any order.

    Raises:
        InputError: a picture is damaged, of another size, or has changed since it was signed.
    """
    sizes = [where.stop - where.start for where in slices]
    numbers = (number for where in slices for number in range(where.start, where.stop))
    loaded = pictures.each(numbers, load)
    for size in sizes:
        yield np.stack(list(islice(loaded, size)))


def is_picture(name: PurePath) -> bool:
    """Return whether a file is called as pictures are."""
    return name.suffix.lower() in _FORMATS


def read_shape(source: Source, name: Path) -> Shape:
    """Return the (H, W, C) that a picture declares, without decoding it.

    Raises:
        InputError: it is damaged, or its type is another.
    """
    with _opened(source, name) as image:
        return image.height, image.width, 1 if image.mode in _GRAY_MODES else 3


def require_shape(source: Source, name: Path, shape: Shape) -> None:
    """Check, without decoding it, that a picture can give pixels of `shape`.

    Raises:
        InputError: it is damaged, or its size or type is another.
    """
    with _opened(source, name) as image:
        _require_size(image, name, shape)


def decode(source: Source, name: Path, shape: Shape) -> Images:
    """Return the pixels of a picture, (H, W, C).

    Raises:
        InputError: it is damaged, or its size or type is another.
    """
    with _opened(source, name) as image:
        _require_size(image, name, shape)
        # Pillow warns when a palette with transparency goes to RGB directly.
        direct = image.convert("RGBA") if image.mode == "P" else image
        return np.asarray(direct.convert(_MODES[shape[2]])).reshape(shape)


@contextmanager
def _opened(source: Source, name: Path) -> Iterator[Image.Image]:
    """Open a picture, of which nothing but the header is read at first."""
    try:
        with Image.open(source, formats=("PNG", "JPEG")) as image:
            _require_format(image, name)
            _require_sensible_size(image, name)
            yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: is no readable PNG or JPEG image") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: declares more pixels than any image should have") from error
    except Exception as error:
        # Decoders fail on hostile bytes with whatever they stumble over.
        raise InputError(f"{name}: cannot be decoded, it is damaged ({error})") from error


def _require_format(image: Image.Image, name: Path) -> None:
    expected = _FORMATS[name.suffix.lower()]
    if image.format not in expected:
        raise InputError(f"{name}: is a {image.format} image, but its name says {expected[0]}")
    # Pillow cuts colours of 16 bits to 8 without a word; before decoding it names what is stored.
    tiles = getattr(image, "tile", [])
    types = [image.mode, *(str(part.args) for part in tiles if ";16" in str(part.args))]
    for found in types:
        if found not in _EIGHT_BIT_MODES:
            raise InputError(f"{name}: has pixels of type {found}, expected 8 bits a channel")


def _require_sensible_size(image: Image.Image, name: Path) -> None:
    if image.width * image.height > _MOST_PIXELS:
        raise InputError(
            f"{name}: declares {image.height} x {image.width} pixels, "
            f"expected at most {_MOST_PIXELS:,}"
        )


def _require_size(image: Image.Image, name: Path, shape: Shape) -> None:
    height, width, channels = shape
    if channels not in _MODES:
        raise InputError(f"{name}: images have 1, 3 or 4 channels, expected {channels}")
    if (image.height, image.width) != (height, width):
        raise InputError(
            f"{name}: image is {image.height} x {image.width} (height x width), "
            f"expected {height} x {width}"
        )
