"""The sweep: what the pruned net answers at every pruning step, for one forward pass in all.

Removing a channel subtracts one term from the pre-activations at the linear frontier (see
`goodnet.frontier`), and only for the images on which that channel is not silent anyway. The head
runs on those alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from goodnet.activations import ActivationCache, Block, FloatArray, IntArray
from goodnet.consumers import Consumer
from goodnet.curves import Counts
from goodnet.frontier import Frontier

_REFRESH_STEPS = 32
"""Steps that changed something after which the pre-activations are computed from scratch."""


def sweep(
    cache: ActivationCache,
    *,
    frontier: Frontier,
    order: Sequence[int],
    blocks: Iterable[int] | None = None,
    num_threads: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counts:
    """Map: count the answers of every step over a shard of a set.

    Args:
        cache: the set's activations.
        frontier: of the same model at the same layers.
        order: the channels in prune order.
        blocks: the shard's block numbers, or all.
        num_threads: blocks worked on at a time; it changes nothing but the time.
        on_progress: called with the numbers of images done and in the set.
    """
    numbers = range(cache.num_blocks) if blocks is None else blocks

    def count(number: int) -> Counts:
        (block,) = cache.blocks([number])
        return count_answers(block, sweep_block(block, frontier=frontier, order=order))

    nothing = np.zeros(len(order) + 1, np.int64)
    total = Counts(0, nothing, nothing, nothing)
    # Each worker keeps one core busy; BLAS threads of its own would only get in the way.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(num_threads) as threads:
        for counts in threads.map(count, numbers):
            total += counts
            on_progress(total.images, cache.num_images)
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
    """Return what the net answers with the first k channels of `order` removed, k = 0 … K.

    Args:
        block: n images.
        frontier: of the same model at the same layers.
        order: K channels.

    Returns:
        (K + 1, n) classes.
    """
    answers = np.empty((len(order) + 1, len(block)), np.int64)
    answers[0] = block.predictions
    state = _BlockState(block, frontier)
    for step, channel in enumerate(order, start=1):
        answers[step] = answers[step - 1]
        moved = state.remove(channel)
        if moved is not None:
            rows, tensors = moved
            answers[step, rows] = frontier.head(*tensors).argmax(axis=1)
    return answers


class _BlockState:
    """What the head needs of a block of images, with some channels removed."""

    def __init__(self, block: Block, frontier: Frontier) -> None:
        self._block = block
        self._frontier = frontier
        self._removed: list[int] = []
        self._stale_steps = 0
        self._states, sources, constants = self._prepare(block.base)
        self._constants = [_by_channel(constant, frontier) for constant in constants]
        self._changes = [
            _change(_by_channel(source, frontier), constant)
            for source, constant in zip(sources, self._constants, strict=True)
        ]
        changed = [change.any(axis=2) for change in self._changes]
        self._moves = np.logical_or.reduce(changed)

    def remove(self, channel: int) -> tuple[IntArray | slice, list[FloatArray]] | None:
        """Remove a channel; return the images that change and the head's inputs for them.

        Returns None where the channel already is the constant on every image of the block.
        """
        self._removed.append(channel)
        moving = np.flatnonzero(self._moves[channel])
        if not moving.size:
            return None
        # A slice spares copying.
        rows = slice(None) if moving.size == len(self._block) else moving
        self._stale_steps += 1
        if self._stale_steps == _REFRESH_STEPS:
            self._refresh()
            moved = [state[rows] for state in self._states]
        else:
            pairs = zip(self._frontier.consumers, self._states, strict=True)
            moved = [self._moved(*pair, channel, rows) for pair in pairs]
        return rows, [*moved, *(side[rows] for side in self._block.sides)]

    def _moved(
        self, consumer: Consumer, state: FloatArray, channel: int, rows: IntArray | slice
    ) -> FloatArray:
        """Remove the channel from one consumer's tensor and return its changed rows."""
        moved = state[rows]
        source = self._frontier.sources.index(consumer.source)
        if consumer.layer is not None:
            moved -= consumer.term(self._changes[source][channel][rows], channel)
        else:
            constant = self._constants[source][channel]
            moved[:, channel :: self._frontier.num_channels] = (
                constant if len(constant) == 1 else constant[rows]
            )
        if not isinstance(rows, slice):
            state[rows] = moved
        return moved

    def _refresh(self) -> None:
        """Compute the tensors from scratch, so that rounding errors do not pile up."""
        masked = self._block.base.copy()
        masked[..., self._removed] = self._frontier.base_constant[..., self._removed]
        self._states, _, _ = self._prepare(masked)
        self._stale_steps = 0

    def _prepare(
        self, base: FloatArray
    ) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray]]:
        tensors = [np.asarray(t) for t in self._frontier.prepare(base, *self._block.sides)]
        num_consumers = len(self._frontier.consumers)
        behind = tensors[num_consumers:]
        return [t.copy() for t in tensors[:num_consumers]], behind[::2], behind[1::2]


def _by_channel(tensor: FloatArray, frontier: Frontier) -> FloatArray:
    """Return a tensor (n, ..., C), flattened or not, as (C, n, positions)."""
    return np.moveaxis(tensor.reshape(len(tensor), -1, frontier.num_channels), -1, 0)


def _change(source: FloatArray, constant: FloatArray) -> FloatArray:
    change = np.array(source, order="C")  # transposing first: a third of the time
    change -= constant
    return change
