"""Pruning as a repair: a candidate for each number of quiet channels that are removed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from goodnet.arrays import IntArray
from goodnet.defenses.guard import Seen
from goodnet.defenses.seam import Candidate, Learnt
from goodnet.pruning.activation_cache import ActivationCache
from goodnet.pruning.channels import prune_channels
from goodnet.pruning.frontier import Frontier
from goodnet.pruning.sweep import answers_at, sweep


def prune(learnt: Learnt) -> Iterator[Candidate]:
    """Yield B without its k quietest channels, for k = 1 … C.

    Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
    Networks", RAID 2018. Nothing is fitted, so all images of clean validation count.
    """
    clean, order = learnt.clean, learnt.guard.order
    frontier = clean.frontier
    counts = sweep(clean.cache, frontier=frontier, order=order)
    for step in range(1, len(order) + 1):
        channels = order[:step]
        yield Candidate(
            method="pruning",
            setting=step,
            details={"step": step},
            lost=int(counts.correct[0] - counts.correct[step]) / counts.images,
            answers=partial(_answers, frontier, order, step),
            build=partial(prune_channels, frontier.model, frontier.layer, channels),
        )


def _answers(
    frontier: Frontier, order: tuple[int, ...], step: int, cache: ActivationCache, seen: Seen
) -> IntArray:
    parts = (
        answers_at(block, frontier=frontier, order=order, step=step) for block in cache.blocks()
    )
    return np.concatenate(list(parts))
