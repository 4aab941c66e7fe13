"""Do the saved files answer what the sweep counted?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from goodnet.arrays import BoolArray, FloatArray, IntArray, Pixels
from goodnet.images.image_sets import ImageSet
from goodnet.networks.evaluation import require_finite
from goodnet.networks.rounding import explains, near_ties, strays
from goodnet.progress import Progress, silent
from goodnet.pruning.activation_cache import ActivationCache, Block
from goodnet.pruning.frontier import Frontier
from goodnet.pruning.sweep import scores_at

if TYPE_CHECKING:
    import keras

_POOL_IMAGES = 256
SAMPLE_IMAGES = 64
"""Of a set, where not all are checked: of so many, the telling ones."""


@dataclass(frozen=True)
class Agreement:
    """How the saved nets' answers compare with the sweep's.

    Attributes:
        images: answered.
        near_ties: of them, those that B' or G answers otherwise because two classes have the same
            score but for rounding: the sweep adds in another order than the net does.
        wrong: of them, those that are answered otherwise and rounding does not explain it.
    """

    images: int
    near_ties: int
    wrong: int

    def remark(self, role: str, *, step: int) -> str | None:
        """Return what is to be said of near-ties, if there are any.

        Args:
            role: of the set that the images are from.
            step: how many channels are pruned.

        Raises:
            RuntimeError: rounding does not explain all that is answered otherwise.
        """
        if self.wrong:
            raise RuntimeError(
                f"the saved nets with {step} channels pruned disagree with the sweep on "
                f"{self.wrong} of {self.images} images of {role}"
            )
        if not self.near_ties:
            return None
        return (
            f"With {step} channels pruned, two classes have the same score but for rounding on "
            f"{self.near_ties} of {self.images} images of {role} that were checked: there the "
            "saved nets may answer either."
        )


def load_saved(path: Path) -> keras.Model:
    """Load a net that was saved here as whoever gets it does, by Keras alone.

    Nothing that a stranger made: what a stranger's file is checked for takes twenty times as long.
    """
    import keras

    return keras.saving.load_model(path, compile=False)


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
    on_progress: Progress = silent,
) -> Agreement:
    """Let the saved nets, run by plain Keras, answer images; compare with the sweep one by one.

    Of B' the numbers are compared, of G, which tells only whether B and B' agree, the classes.

    Args:
        b_prime: B' as loaded from its file.
        goodnet: G as loaded from its file.
        cache: the activations of the set.
        images: the set itself.
        frontier: of B.
        order: all channels in prune order.
        step: how many of them are pruned.
        full: all images, or a sample from the middle of the set: half of it those on which two
            classes are closest, where a wrong net first answers otherwise.
        on_progress: called with the numbers of images done and in all.

    Raises:
        InputError: an answer is NaN or infinite.
    """
    # The last block may hold a single image; it is in the middle of none but itself.
    numbers = range(cache.num_blocks) if full else [(cache.num_blocks - 1) // 2]
    num_images = num_near_ties = num_wrong = 0
    batches: Iterator[Pixels] | None = None
    for block in cache.blocks(numbers):
        block = block if full else _at(block, slice(0, _POOL_IMAGES))
        # One pass over the set, as all blocks but the last have one size.
        batches = batches or images.batches(len(block), start=block.first)
        found, affected = scores_at(block, frontier=frontier, order=order, step=step)
        rows = np.arange(len(block)) if full else _telling(found)
        block = _at(block, rows)
        pixels = cache.provenance.preprocessing.apply(next(batches)[rows].astype(np.float32))
        other, explained = _compare(
            _answers(b_prime, pixels, f"{images.path}: the answer of B'", block.first, rows),
            _answers(goodnet, pixels, f"{images.path}: the answer of G", block.first, rows),
            block,
            found[rows],
            affected[rows],
            before=partial(scores_at, block, frontier=frontier, order=order, step=0),
        )
        num_images += len(block)
        num_near_ties += int(np.count_nonzero(other & explained))
        num_wrong += int(np.count_nonzero(other & ~explained))
        on_progress(num_images, cache.num_images if full else num_images)
    return Agreement(num_images, num_near_ties, num_wrong)


def _telling(scores: FloatArray) -> IntArray:
    """Return which images to check: those with the smallest margins, others from everywhere.

    Args:
        scores: (n, N), of the pruned net.
    """
    if len(scores) <= SAMPLE_IMAGES:
        return np.arange(len(scores))
    second, best = np.partition(scores, -2, axis=1)[:, -2:].T
    # Near-ties may be answered either way and would tell nothing.
    margins = np.where(near_ties(scores), np.inf, best - second)
    closest = np.argsort(margins, kind="stable")[: SAMPLE_IMAGES // 2]
    others = np.setdiff1d(np.arange(len(scores)), closest)
    spread = np.linspace(0, len(others) - 1, SAMPLE_IMAGES - len(closest)).astype(int)
    return np.sort(np.concatenate([closest, others[spread]]))


def _compare(
    b_prime: FloatArray,
    goodnet: FloatArray,
    block: Block,
    found: FloatArray,
    affected: BoolArray,
    *,
    before: Callable[[], tuple[FloatArray, BoolArray]],
) -> tuple[BoolArray, BoolArray]:
    """Return which images B' or G answers otherwise than the sweep, and which rounding explains.

    Args:
        b_prime: (n, N), the answers of B'.
        goodnet: (n, N + 1), the answers of G.
        block: the n images.
        found: (n, N), the scores of the pruned net as the sweep computes them.
        affected: (n,), whether pruning changes them.
        before: returns the scores of B.
    """
    pruned = np.where(affected, found.argmax(axis=1), block.predictions)
    flagged = np.where(pruned == block.predictions, pruned, found.shape[1])
    stray = strays(found, b_prime)
    explained = explains(found, pruned, b_prime) & ~stray
    differs = goodnet.argmax(axis=1) != flagged
    if differs.any():
        # G compares B and B' with each other, so a near-tie of either can turn its answer.
        explained &= ~differs | near_ties(before()[0]) | near_ties(found)
    return (b_prime.argmax(axis=1) != pruned) | stray | differs, explained


def _answers(
    model: keras.Model, pixels: FloatArray, what: str, first: int, rows: IntArray
) -> FloatArray:
    outputs = np.asarray(model(pixels, training=False))
    require_finite(outputs, what, first=first, rows=rows)
    return outputs


def _at(block: Block, rows: slice | IntArray) -> Block:
    return replace(
        block,
        labels=block.labels[rows],
        predictions=block.predictions[rows],
        ranking=block.ranking[rows],
        start=block.start[rows],
        skips=tuple(skip[rows] for skip in block.skips),
    )
