"""PNG and JPEG files that hold more than a picture: what is delivered, or the one line."""

import io
import os
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from PIL import Image

from goodnet.errors import InputError
from goodnet.images.image_sets import open_images

SHAPE = (5, 4, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


@cache
def bomb():
    """256 MiB in 256 KiB, made when the first test wants them."""
    return zlib.compress(bytes(2**28), 9)


def encode(kind, picture=PICTURE, **options):
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def header(width=4, height=5, bits=8, colour=2):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def png(*chunks):
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks, chunk(b"IEND", b"")])


def inserted(*chunks):
    """Chunks behind the header of a good PNG."""
    good = encode("PNG")
    return good[:33] + b"".join(chunks) + good[33:]


def segments(*contents):
    """Segments behind the start of a good JPEG."""
    good = encode("JPEG")
    made = [
        bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in contents
    ]
    return good[:2] + b"".join(made) + good[2:]


def sixteen_bits(colour, channels):
    rows = b"".join(b"\0" + os.urandom(8 * channels) for _ in range(5))
    return png(header(bits=16, colour=colour), chunk(b"IDAT", zlib.compress(rows)))


def animated():
    others = [Image.new("RGB", (4, 5), color) for color in ("red", "blue")]
    return encode("PNG", save_all=True, append_images=others)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # "Turn me by 90 degrees": nets were trained on what is stored.
    return exif


def read(folder, name, content):
    (folder / "0").mkdir(exist_ok=True)
    (folder / "0" / name).write_bytes(content)
    (batch,) = open_images(folder, shape=SHAPE).batches(2)
    return batch[0]


TOO_LARGE = "cannot be decoded, it is damaged"
REFUSED = {
    "text.png": (lambda: inserted(chunk(b"zTXt", b"k\0\0" + bomb())), TOO_LARGE),
    "unicode text.png": (lambda: inserted(chunk(b"iTXt", b"k\0\1\0\0\0" + bomb())), TOO_LARGE),
    "colour profile.png": (lambda: inserted(chunk(b"iCCP", b"k\0\0" + bomb())), TOO_LARGE),
    "much text.png": (lambda: inserted(chunk(b"tEXt", b"k\0" + bytes(2**27))), TOO_LARGE),
    "two headers.png": (lambda: inserted(header(60_000, 60_000)), "declares more pixels than any"),
    "grey.png": (lambda: sixteen_bits(0, 1), "pixels of type I;16"),
    "colour.png": (lambda: sixteen_bits(2, 3), "pixels of type RGB;16B, expected 8 bits a channel"),
    "grey with alpha.png": (lambda: sixteen_bits(4, 2), "pixels of type LA;16B"),
    "colour with alpha.png": (lambda: sixteen_bits(6, 4), "pixels of type RGBA;16B"),
    "lossless.jpg": (
        lambda: encode("JPEG").replace(b"\xff\xc0", b"\xff\xc3"),
        "cannot be decoded, it is damaged",
    ),
    "12 bits.jpg": (
        lambda: encode("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        "is no readable PNG or JPEG image",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_that_are_refused(tmp_path, name):
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        read(tmp_path, name, make())


READ = {
    "more pixels than the header says.png": lambda: png(header(), chunk(b"IDAT", bomb())),
    "animated.png": animated,
    "endless animation.png": lambda: inserted(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "turned.png": lambda: encode("PNG", exif=turned()),
    "transparent.png": lambda: encode("PNG", transparency=tuple(map(int, PIXELS[0, 0]))),
    "followed.png": lambda: encode("PNG") + bytes(10**6),
    "turned.jpg": lambda: encode("JPEG", exif=turned()),
    "junk in exif.jpg": lambda: segments((0xE1, b"Exif\0\0" + os.urandom(300))),
    "profiles.jpg": lambda: segments(
        *((0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + bytes(60_000)) for n in range(1, 255))
    ),
    "followed.jpg": lambda: encode("JPEG") + bytes(10**6),
}


@pytest.mark.parametrize("name", READ)
def test_what_lies_beside_the_picture_changes_no_pixel(tmp_path, name):
    found = read(tmp_path, name, READ[name]())
    if name.startswith("more pixels"):
        expected = np.zeros(SHAPE, np.uint8)
    else:
        expected = np.asarray(Image.open(io.BytesIO(encode(name[-3:].replace("jpg", "jpeg")))))
    np.testing.assert_array_equal(found, expected)
