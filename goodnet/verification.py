"""Do the saved files answer what the sweep counted?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.activations import ActivationCache, Block, IntArray
from goodnet.evaluation import require_finite
from goodnet.frontier import Frontier
from goodnet.images import ImageSet
from goodnet.sweep import answers_at

if TYPE_CHECKING:
    import keras

SAMPLE_IMAGES = 256


@dataclass(frozen=True)
class Agreement:
    """How many images were answered, and on how many B' or G disagrees with the sweep."""

    images: int
    disagreements: int


def check_saved(
    b_prime: keras.Model,
    goodnet: keras.Model,
    *,
    cache: ActivationCache,
    images: ImageSet,
    frontier: Frontier,
    order: Sequence[int],
    step: int,
    full: bool,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Agreement:
    """Let the saved nets answer images and compare with the sweep, answer for answer.

    Args:
        b_prime: B' as loaded from its file.
        goodnet: G as loaded from its file.
        cache: the activations of the set.
        images: the set itself.
        frontier: of B.
        order: all channels in prune order.
        step: how many of them are pruned.
        full: all images, or a sample from the middle of the set.
        on_progress: called with the numbers of images done and in all.

    Raises:
        InputError: an answer is NaN or infinite.
    """
    numbers = range(cache.num_blocks) if full else [cache.num_blocks // 2]
    num_images = num_wrong = 0
    for block in cache.blocks(numbers):
        block = block if full else _first(block, SAMPLE_IMAGES)
        pruned = answers_at(block, frontier=frontier, order=order, step=step)
        flagged = np.where(pruned == block.predictions, pruned, goodnet.output_shape[-1] - 1)
        batches = images.batches(len(block), start=block.first, stop=block.first + len(block))
        pixels = next(batches).astype(np.float32) / np.float32(cache.provenance.pixel_scale)
        repaired, guarded = (
            _answers(net, pixels, f"{images.path}: the answer of {name}", first=block.first)
            for net, name in ((b_prime, "B'"), (goodnet, "G"))
        )
        wrong = (repaired != pruned) | (guarded != flagged)
        num_images += len(block)
        on_progress(num_images, cache.num_images if full else num_images)
        num_wrong += int(np.count_nonzero(wrong))
    return Agreement(num_images, num_wrong)


def is_bearable(agreement: Agreement) -> bool:
    """Return whether rounding explains the disagreements.

    The sweep adds in another order than the net does, which flips a tie in about one answer in
    100,000; one image is always allowed.
    """
    return agreement.disagreements <= max(1, agreement.images // 10_000)


def _answers(model: keras.Model, pixels: Any, what: str, *, first: int) -> IntArray:
    outputs = np.asarray(model(pixels, training=False))
    require_finite(outputs, what, first=first)
    return outputs.argmax(axis=1)


def _first(block: Block, num_images: int) -> Block:
    rows = slice(0, num_images)
    return replace(
        block,
        labels=block.labels[rows],
        predictions=block.predictions[rows],
        ranked=block.ranked[rows],
        base=block.base[rows],
        sides=tuple(side[rows] for side in block.sides),
    )
