"""The sweep: what the pruned net answers at every pruning step, for one forward pass in all.

The pre-activations at the linear frontier (see `goodnet.pruning.frontier`) are sums over channels.
The sweep goes from the last step to the first: it starts from what is there without any channel,
the same for every image, and gives back one channel after the other. Each adds one term, and only
for the images on which that channel is not silent anyway. The head runs on those alone.

From the other end, the first k channels of the order are kept and the others removed: the expert
E_k. To keep the first k is to remove the first C - k of the reversed order: the same sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from goodnet.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from goodnet.progress import Progress, silent
from goodnet.pruning.activation_cache import ActivationCache, Block
from goodnet.pruning.counts import Counts, End
from goodnet.pruning.frontier import Frontier
from goodnet.pruning.ranking import block_share
from goodnet.threads import one_blas_thread

Result = TypeVar("Result")


class Swept(NamedTuple):
    """What a sweep from both ends finds: counts, and each block's share of the mean activations."""

    counts: dict[End, Counts]
    shares: DoubleArray


def sweep(
    cache: ActivationCache,
    *,
    frontier: Frontier,
    order: Sequence[int],
    count: Callable[[Block, IntArray], Counts] | None = None,
    blocks: Iterable[int] | None = None,
    num_threads: int = 2,
    on_progress: Progress = silent,
) -> Counts:
    """Map: count the answers of every step over a shard of a set.

    Args:
        cache: the set's activations.
        frontier: of the same model at the same layers.
        order: all channels in prune order.
        count: counts the answers to a block; by default `count_answers`.
        blocks: the shard's block numbers, or all.
        num_threads: blocks worked on at a time; it changes nothing but the time.
        on_progress: called with the numbers of images done and in these blocks.
    """
    scorer = count or count_answers

    def count_block(block: Block) -> Counts:
        return scorer(block, sweep_block(block, frontier=frontier, order=order))

    counted = _map_blocks(count_block, cache, blocks, on_progress, num_threads=num_threads)
    return sum(counted, _no_counts(len(order)))


def sweep_both_ends(
    cache: ActivationCache,
    *,
    frontier: Frontier,
    order: Sequence[int],
    count: Callable[[Block, IntArray], Counts] | None = None,
    blocks: Iterable[int] | None = None,
    on_progress: Progress = silent,
) -> Swept:
    """Count the answers of every step of a set from both ends, in one pass over the cache.

    The mean activations are added up on the way, so that nothing reads the cache for them again.

    Args:
        cache: the set's activations.
        frontier: of the same model at the same layers.
        order: all channels in prune order.
        count: counts the answers to a block; by default `count_answers`.
        blocks: numbers of the blocks to count, or all; the counts of parts of a set add up.
        on_progress: called with the numbers of images done and in these blocks.
    """
    scorer = count or count_answers

    def count_block(block: Block) -> tuple[Counts, Counts, DoubleArray]:
        pruned = sweep_block(block, frontier=frontier, order=order)
        expert = expert_block(block, frontier=frontier, order=order)
        share = block_share(block, cache.num_images)
        return scorer(block, pruned), scorer(block, expert), share

    pruned, expert, shares = _no_counts(len(order)), _no_counts(len(order)), []
    for first, second, share in _map_blocks(count_block, cache, blocks, on_progress):
        pruned, expert = pruned + first, expert + second
        shares.append(share)
    return Swept({"pruned": pruned, "expert": expert}, np.array(shares))


def margins_at(
    cache: ActivationCache,
    *,
    frontier: Frontier,
    order: Sequence[int],
    steps: Sequence[int],
    blocks: Iterable[int] | None = None,
) -> FloatArray:
    """Return the margins of B's class in some experts alone: (len(steps), N).

    A margin is what a net gives B's class less what it gives the best other class, both before
    softmax. The head runs once a step, not once a channel as in a sweep.

    Args:
        cache: the set's activations.
        frontier: of the same model at the same layers.
        order: all channels in prune order.
        steps: the k of the experts E_k; that of all channels is B.
        blocks: numbers of blocks, or all.
    """
    others_first = list(reversed(order))

    def score_block(block: Block) -> FloatArray:
        removed = [len(order) - kept for kept in steps]
        scores = [
            scores_at(block, frontier=frontier, order=others_first, step=step)[0]
            for step in removed
        ]
        return np.stack([margins_of(found, block.predictions) for found in scores])

    parts = _map_blocks(score_block, cache, blocks)
    return np.concatenate(list(parts), axis=1)


EXPERT_SHARE = 0.2
"""The expert whose margin is a score agrees with B on at most this share of clean validation: see
docs/methods.md."""


def choose_expert(agreement: DoubleArray) -> int:
    """Return the largest k of those E_k that agree with B on at most a share of clean images.

    Agreement grows from next to nothing (an expert of quiet channels knows no clean image) to all,
    though not evenly: k is the last one before agreement first exceeds the share, so that a later
    dip, where channels that work against each other are apart, is not taken for it.

    Args:
        agreement: (C + 1,), the share of clean validation that E_0 … E_C answer as B does.
    """
    beyond = np.flatnonzero(agreement > EXPERT_SHARE)
    return max(int(beyond[0]) - 1, 0) if beyond.size else len(agreement) - 1


def _map_blocks(
    function: Callable[[Block], Result],
    cache: ActivationCache,
    blocks: Iterable[int] | None,
    on_progress: Progress = silent,
    *,
    num_threads: int = 2,
) -> Iterator[Result]:
    """Yield what a function makes of blocks, in their order, several of them worked on at a time.

    The arguments are those of `sweep`.
    """
    numbers = range(cache.num_blocks) if blocks is None else list(blocks)
    done, total = 0, cache.images_of(numbers)

    def run(number: int) -> tuple[int, Result]:
        (block,) = cache.blocks([number])
        return len(block), function(block)

    # Each worker keeps one core busy; BLAS threads of its own would only get in the way.
    with one_blas_thread(), ThreadPoolExecutor(num_threads) as threads:
        for num_images, result in threads.map(run, numbers):
            yield result
            done += num_images
            on_progress(done, total)


def _no_counts(num_channels: int) -> Counts:
    nothing = np.zeros(num_channels + 1, np.int64)
    return Counts(0, nothing, nothing, nothing)


def count_answers(block: Block, answers: IntArray) -> Counts:
    """Count what the pruned net answers at each step.

    Args:
        block: the images.
        answers: (steps, n).
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


def expert_block(block: Block, *, frontier: Frontier, order: Sequence[int]) -> IntArray:
    """Return what the experts E_0 … E_C answer, E_k having the first k channels alone.

    Args:
        block: n images.
        frontier: of the same model at the same layers.
        order: all C channels in prune order.

    Returns:
        (C + 1, n) classes.
    """
    return sweep_block(block, frontier=frontier, order=list(reversed(order)))[::-1]


def margins_of(scores: FloatArray, classes: IntArray) -> FloatArray:
    """Return what scores give a class less what they give the best other one: (n,).

    Args:
        scores: (n, N), before softmax; they stay as they are.
        classes: (n,), the class of each row.
    """
    rows, best = np.arange(len(scores)), scores.argmax(axis=1)
    margins = scores[rows, classes] - scores[rows, best]
    # Only where the class is the best one is the second needed: these rows are gone through again.
    sure = np.flatnonzero(best == classes)
    if sure.size:
        others = scores[sure]
        others[np.arange(len(sure)), best[sure]] = -np.inf
        margins[sure] = scores[sure, best[sure]] - others.max(axis=1)
    return np.asarray(margins, np.float32)


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
