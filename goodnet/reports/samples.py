"""Images worth looking at: what a GoodNet catches, misses and flags for nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from goodnet.arrays import BoolArray, Images, IntArray, Pixels
from goodnet.images.image_sets import ImageSet
from goodnet.images.preprocessing import RAW, PixelRange
from goodnet.pruning.activation_cache import ActivationCache, Block
from goodnet.pruning.frontier import Frontier
from goodnet.pruning.poisoned import Attack, is_success
from goodnet.pruning.sweep import answers_at
from goodnet.storage.files import atomic_path

SampleKind = Literal["poisoned caught", "poisoned missed", "clean flagged"]

SAMPLES_PER_KIND = 8
_BLOCKS_SEARCHED = 8
_THUMBNAIL_SIDE = 128


@dataclass(frozen=True)
class Sample:
    """An image worth looking at.

    Attributes:
        image: (H, W, C), uint8.
        label: what the file says; for a poisoned image mostly the attacker's target.
        kind: what G made of it.
        b_answer: class that B answers.
        b_prime_answer: class that B' answers; G answers class N where the two differ.
        checkpoint: what the one whose G is meant is called: `budget 10 points`.
    """

    image: Images
    label: int
    kind: SampleKind
    b_answer: int
    b_prime_answer: int
    checkpoint: str


def pick_samples(
    cache: ActivationCache,
    images: ImageSet,
    *,
    frontier: Frontier,
    order: Sequence[int],
    step: int,
    checkpoint: str,
    attack: Attack | None,
) -> Iterator[Sample]:
    """Yield a few images of each kind from the first blocks of a set.

    Args:
        cache: the activations of the set.
        images: the set itself.
        frontier: of B.
        order: all channels in prune order.
        step: how many of them are pruned at the checkpoint.
        checkpoint: what it is called.
        attack: what counts as its success, if the set's images carry the trigger.
    """
    wanted: dict[SampleKind, int] = dict.fromkeys(
        ("poisoned caught", "poisoned missed") if attack else ("clean flagged",),
        SAMPLES_PER_KIND,
    )
    for block in cache.blocks(range(min(cache.num_blocks, _BLOCKS_SEARCHED))):
        answers = answers_at(block, frontier=frontier, order=order, step=step)
        for kind in wanted:
            rows = _spread(np.flatnonzero(_is_of_kind(kind, block, answers, attack)), wanted[kind])
            wanted[kind] -= len(rows)
            numbers = [block.first + row for row in rows.tolist()]
            pictures = images.read(slice(number, number + 1) for number in numbers)
            for row, (picture,) in zip(rows, pictures, strict=True):
                seen = int(block.labels[row]), kind, int(block.predictions[row])
                shown = _as_bytes(picture, images.pixel_range)
                yield Sample(shown, *seen, int(answers[row]), checkpoint)
        if not any(wanted.values()):
            return


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write samples to an .npz file, which holds plain arrays only."""
    columns: dict[str, Any] = {
        name: np.array([getattr(sample, name) for sample in samples])
        for name in Sample.__dataclass_fields__
    }
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **columns)


def read_samples(path: Path) -> list[Sample]:
    """Read what `write_samples` wrote."""
    with np.load(path, allow_pickle=False) as file:
        columns = [file[name] for name in Sample.__dataclass_fields__]
    return [
        Sample(image, int(label), str(kind), int(b), int(b_prime), str(name))  # type: ignore[arg-type]
        for image, label, kind, b, b_prime, name in zip(*columns, strict=True)
    ]


def thumbnail(image: Images) -> bytes:
    """Return a sample as a PNG of at most 128 pixels; of unusual channels, what a screen shows.

    Args:
        image: (H, W, C), uint8.
    """
    picture = Image.fromarray(image[..., :3] if image.shape[-1] >= 3 else image[..., 0])
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(image: Images) -> str:
    """Return such a PNG as an address that a page can hold."""
    return f"data:image/png;base64,{base64.b64encode(thumbnail(image)).decode()}"


def _is_of_kind(
    kind: SampleKind, block: Block, answers: IntArray, attack: Attack | None
) -> BoolArray:
    flagged = answers != block.predictions
    if attack is not None and kind == "poisoned missed":
        return ~flagged & is_success(block.labels, answers, attack)
    return flagged


def _spread(rows: IntArray, number: int) -> IntArray:
    """Return at most `number` of the rows, evenly spread: sets are often sorted by label."""
    return rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(int)]


def _as_bytes(picture: Pixels, pixel_range: PixelRange) -> Images:
    """Return a picture in 0..255; one whose pixels are all at most 1 is taken for 0..1."""
    lowest, highest = pixel_range
    if pixel_range == RAW and picture.dtype != np.uint8 and picture.max() <= 1:
        highest = 1
    return np.round((picture - lowest) * (255 / (highest - lowest))).astype(np.uint8)
