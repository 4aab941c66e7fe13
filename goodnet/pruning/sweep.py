"""The sweep: what the pruned net answers at every pruning step, for one forward pass in all.

The pre-activations at the linear frontier (see `goodnet.pruning.frontier`) are sums over channels.
The sweep goes from the last step to the first: it starts from what is there without any channel,
the same for every image, and gives back one channel after the other. Each adds one term, and only
for the images on which that channel is not silent anyway. The head runs on those alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from goodnet.arrays import BoolArray, FloatArray, IntArray
from goodnet.pruning.activation_cache import ActivationCache, Block
from goodnet.pruning.counts import Counts
from goodnet.pruning.frontier import Frontier


def sweep(
    cache: ActivationCache,
    *,
    frontier: Frontier,
    order: Sequence[int],
    count: Callable[[Block, IntArray], Counts] | None = None,
    blocks: Iterable[int] | None = None,
    num_threads: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counts:
    """Map: count the answers of every step over a shard of a set.

    Args:
        cache: the set's activations.
        frontier: of the same model at the same layers.
        order: all channels in prune order.
        count: counts the answers to a block; by default `count_answers`.
        blocks: the shard's block numbers, or all.
        num_threads: blocks worked on at a time; it changes nothing but the time.
        on_progress: called with the numbers of images done and in the set.
    """
    numbers = range(cache.num_blocks) if blocks is None else blocks
    scorer = count or count_answers
    done = 0

    def count_block(number: int) -> tuple[int, Counts]:
        (block,) = cache.blocks([number])
        answers = sweep_block(block, frontier=frontier, order=order)
        return len(block), scorer(block, answers)

    nothing = np.zeros(len(order) + 1, np.int64)
    total = Counts(0, nothing, nothing, nothing)
    # Each worker keeps one core busy; BLAS threads of its own would only get in the way.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(num_threads) as threads:
        for num_images, counts in threads.map(count_block, numbers):
            total += counts
            done += num_images
            on_progress(done, cache.num_images)
    return total


def count_answers(block: Block, answers: IntArray) -> Counts:
    """Count what the pruned net answers at each step.

    Args:
        block: the images.
        answers: (steps, n), starting with B's own.
    """
    right, same = answers == block.labels, answers == block.predictions
    counts = (np.count_nonzero(found, axis=1) for found in (right, ~same, right & same))
    return Counts(len(block), *counts)


def sweep_block(block: Block, *, frontier: Frontier, order: Sequence[int]) -> IntArray:
    """Return what the net answers with the first k channels of `order` removed, k = 0 … C.

    Args:
        block: n images.
        frontier: of the same model at the same layers.
        order: all C channels in prune order.

    Returns:
        (C + 1, n) classes.
    """
    state = _BlockState(block, frontier, order)
    # affected[k]: whether any of the first k + 1 channels matters to the image at all.
    affected = np.logical_or.accumulate(state.matters)
    answers = np.empty((len(order) + 1, len(block)), np.int64)
    answers[-1] = state.answers
    for step in reversed(range(1, len(order))):
        answers[step] = answers[step + 1]
        # Images that no earlier step moves are as B sees them again.
        rows = np.flatnonzero(state.matters[step] & affected[step - 1])
        if rows.size:
            answers[step, rows] = state.answer(state.restore(step, rows), rows)
    answers[0] = block.predictions
    np.copyto(answers[1:], block.predictions, where=~affected)
    return answers


def answers_at(block: Block, *, frontier: Frontier, order: Sequence[int], step: int) -> IntArray:
    """Return one row of `sweep_block`, computed alone: (n,) classes.

    Args:
        block: n images.
        frontier: of the same model at the same layers.
        order: all C channels in prune order.
        step: how many of them are removed.
    """
    scores, affected = scores_at(block, frontier=frontier, order=order, step=step)
    return np.where(affected, scores.argmax(axis=1), block.predictions)


def scores_at(
    block: Block, *, frontier: Frontier, order: Sequence[int], step: int
) -> tuple[FloatArray, BoolArray]:
    """Return what the net gives the classes with the first `step` channels of `order` removed.

    Args:
        block: n images.
        frontier: of the same model at the same layers.
        order: all C channels in prune order.
        step: how many of them are removed, from 0.

    Returns:
        The scores before softmax, (n, N), and for each image whether that changes anything, (n,).
    """
    state = _BlockState(block, frontier, order)
    for other in reversed(range(step, len(order))):
        rows = np.flatnonzero(state.matters[other])
        if rows.size:
            state.restore(other, rows)
    return state.score(state.tensors, slice(None)), state.matters[:step].any(axis=0)


class _BlockState:
    """What the head needs of a block of images, at first without any channel.

    Attributes:
        tensors: for each input of the head (n, features).
        answers: (n,), the classes that the net gives at first, or (1,) where all are the same.
        matters: (C, n), whether removing the channel at a place in the order changes anything.
    """

    def __init__(self, block: Block, frontier: Frontier, order: Sequence[int]) -> None:
        if sorted(order) != list(range(frontier.num_channels)):
            raise ValueError(f"the order must name each of {frontier.num_channels} channels once")
        self._frontier = frontier
        self._skips = block.skips
        self._order = list(order)
        begun = frontier.prepare(block.start, block.skips)
        self.answers = self.answer(begun.states, slice(None))
        self.tensors = [np.repeat(x, len(block) // len(x), axis=0) for x in begun.states]
        self._sources = [_by_channel(source.activation, frontier) for source in begun.sources]
        self._changes = [
            _change(by_channel, _by_channel(source.constant, frontier))
            for by_channel, source in zip(self._sources, begun.sources, strict=True)
        ]
        # Bit for bit: a channel that is silent on an image adds exactly nothing to its answers.
        matters = np.logical_or.reduce([change.any(axis=2) for change in self._changes])
        self.matters = matters[self._order]

    def answer(self, tensors: list[FloatArray], rows: IntArray | slice) -> IntArray:
        """Return the classes that the head gives for some images, from their tensors."""
        return self.score(tensors, rows).argmax(axis=1)

    def score(self, tensors: list[FloatArray], rows: IntArray | slice) -> FloatArray:
        """Return the scores of the classes for some images, from their tensors: (n, N)."""
        skips = (skip[rows] for skip in self._skips)
        return self._frontier.head(*tensors, *skips)

    def restore(self, place: int, rows: IntArray) -> list[FloatArray]:
        """Give some images the channel at a place in the order; return their tensors."""
        channel = self._order[place]
        restored = []
        for head_input, tensor in zip(self._frontier.head_inputs, self.tensors, strict=True):
            updated = tensor[rows]
            number = self._frontier.sources.index(head_input.source)
            if head_input.layer is not None:
                updated += head_input.term(self._changes[number][channel][rows], channel)
            else:
                # The activation itself is read, so the channel takes its place in it again.
                source = self._sources[number][channel]
                updated[:, channel :: self._frontier.num_channels] = source[rows]
            tensor[rows] = updated
            restored.append(updated)
        return restored


def _by_channel(tensor: FloatArray, frontier: Frontier) -> FloatArray:
    """Return a tensor (n, ..., C), flattened or not, as (C, n, positions)."""
    return np.moveaxis(tensor.reshape(len(tensor), -1, frontier.num_channels), -1, 0)


def _change(source: FloatArray, constant: FloatArray) -> FloatArray:
    change = np.array(source, order="C")  # transposing first: a third of the time
    change -= constant
    return change
