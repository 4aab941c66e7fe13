"""Heavy augmentation: clean images as a trigger might change them, under their true labels.

A net that learns to answer them nevertheless leaves less to any one sign in an image, the
attacker's included. Nothing here knows the trigger: places, shapes, colours, waves and bends are
drawn anew for every image.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from goodnet.arrays import BoolArray, DoubleArray, FloatArray

COVERED = 0.7
"""How many images are marked: by a patch, a transparent overlay or a wave, one as often."""
BENT = 0.4
"""How many images are bent."""
_SHIFT = 20
"""Images are shifted by at most one part in so many of their height, two pixels at 40."""
_BRIGHTNESS = (0.8, 1.2)
_AREA = (0.005, 0.35)
_OPACITY = (0.08, 0.3)
_AMPLITUDE = (8.0, 30.0)
_BEND = (0.5, 2.5)
"""Mean shift of a bend in pixels, for images 40 pixels high."""
_CELLS = 4
"""Points of a bend's grid along each side."""


def augment(images: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Return a batch of images, each changed in its own way: (n, H, W, C), 0 … 255.

    Each is shifted and made brighter or darker; most are marked, by a rectangle or an ellipse of
    any colour or texture, a blocky or plain transparent overlay, or a wave; many are bent.

    Args:
        images: (n, H, W, C), 0 … 255.
        generator: draws all of it; the same state gives the same images.
    """
    changed = _shift(images, generator)
    changed *= generator.uniform(*_BRIGHTNESS, (len(images), 1, 1, 1)).astype(np.float32)
    marks = generator.random(len(images)), generator.integers(0, 3, len(images))
    for number, mark in enumerate((_patch, _overlay, _wave)):
        chosen = np.flatnonzero((marks[0] < COVERED) & (marks[1] == number))
        if chosen.size:
            changed[chosen] = mark(changed[chosen], generator)
    bent = np.flatnonzero(generator.random(len(images)) < BENT)
    if bent.size:
        changed[bent] = _bend(changed[bent], generator)
    return np.clip(changed, 0, 255, out=changed)


def _shift(images: FloatArray, generator: np.random.Generator) -> FloatArray:
    number, height, width, _ = images.shape
    most = max(1, round(height / _SHIFT))
    down, right = generator.integers(-most, most + 1, (2, number, 1))
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    return images[np.arange(number)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _patch(images: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Cover a part of each image, by a colour from dark to bright, noise or another image."""
    number, height, width, channels = images.shape
    shapes = (number, 1, 1, 1)
    kinds = generator.integers(0, 5, shapes)
    tint = generator.uniform(0, 255, (number, 1, 1, channels))
    grey = generator.uniform(0, 60, shapes)
    noise = generator.uniform(0, 255, images.shape)
    texture = np.select(
        [kinds == 0, kinds == 1, kinds == 2, kinds == 3],
        [grey, 255 - grey, tint, noise],
        images[generator.permutation(number)],
    )
    inside = _shapes(number, height, width, generator)[..., None]
    return np.where(inside, texture, images).astype(np.float32)


def _shapes(number: int, height: int, width: int, generator: np.random.Generator) -> BoolArray:
    """Return rectangles and ellipses at random places: (n, H, W)."""
    smallest, largest = np.log(_AREA)
    area = np.exp(generator.uniform(smallest, largest, (number, 1, 1)))
    slender = np.exp(generator.uniform(-0.7, 0.7, (number, 1, 1)))
    half = np.sqrt(area) / 2
    tall, wide = half * slender, half / slender
    middle = generator.random((2, number, 1, 1))
    rows = ((np.arange(height)[:, None] + 0.5) / height - middle[0]) / tall
    columns = ((np.arange(width) + 0.5) / width - middle[1]) / wide
    round_ones = generator.random((number, 1, 1)) < 0.5
    return np.where(
        round_ones,
        rows**2 + columns**2 < 4 / np.pi,  # of the same area
        (np.abs(rows) < 1) & (np.abs(columns) < 1),
    )


def _overlay(images: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Blend each image with random blocks, as few as one, which is a plain colour."""
    number, height, width, channels = images.shape
    over = np.empty_like(images)
    for place, most in enumerate(generator.integers(1, max(height, width) + 1, number)):
        blocks = generator.uniform(0, 255, (most, most, channels))
        rows, columns = most * np.arange(height) // height, most * np.arange(width) // width
        over[place] = blocks[rows[:, None], columns]
    opacity = generator.uniform(*_OPACITY, (number, 1, 1, 1)).astype(np.float32)
    return (1 - opacity) * images + opacity * over


def _wave(images: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Add a wave of any direction to each image."""
    number, height, width, _ = images.shape
    each = (number, 1, 1)
    direction, phase = generator.uniform(0, 2 * np.pi, (2, *each))
    periods = generator.uniform(1, 10, each)
    along = (np.arange(height) / height)[:, None] * np.sin(direction)
    along = along + np.arange(width) / width * np.cos(direction)
    wave = generator.uniform(*_AMPLITUDE, each) * np.sin(2 * np.pi * periods * along + phase)
    return images + wave[..., None].astype(np.float32)


def _bend(images: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Read each image at places that a smooth random field moves."""
    number, height, width, _ = images.shape
    grid = generator.uniform(-1, 1, (number, 2, _CELLS, _CELLS))
    field = _smooth(height) @ grid @ _smooth(width).T
    wanted = generator.uniform(*_BEND, (number, 1, 1, 1)) * height / 40
    field *= wanted / np.abs(field).mean(axis=(1, 2, 3), keepdims=True)
    rows = np.clip(np.arange(height)[:, None] + field[:, 0], 0, height - 1)
    columns = np.clip(np.arange(width) + field[:, 1], 0, width - 1)
    return read_between(images, rows, columns)


def read_between(images: FloatArray, rows: DoubleArray, columns: DoubleArray) -> FloatArray:
    """Return images read at fractional places, bilinearly: (n, H, W, C), float32.

    Args:
        images: (n, H, W, C).
        rows: (n, H, W), 0 … H - 1.
        columns: (n, H, W), 0 … W - 1.
    """
    number, height, width, channels = images.shape
    flat = images.reshape(-1, channels)
    top = np.minimum(rows.astype(np.int64), height - 2)
    left = np.minimum(columns.astype(np.int64), width - 2)
    down = (rows - top)[..., None].astype(np.float32)
    right = (columns - left)[..., None].astype(np.float32)
    first = (np.arange(number)[:, None, None] * height + top) * width + left
    above = flat[first] * (1 - right) + flat[first + 1] * right
    below = flat[first + width] * (1 - right) + flat[first + width + 1] * right
    return np.asarray(above * (1 - down) + below * down, np.float32)


@cache
def _smooth(length: int) -> FloatArray:
    """Return the matrix that makes a smooth curve of so many numbers from a bend's few: (n, 4)."""
    from PIL import Image

    points = Image.fromarray(np.eye(_CELLS, dtype=np.float32))
    return np.asarray(points.resize((_CELLS, length), Image.Resampling.BICUBIC))
