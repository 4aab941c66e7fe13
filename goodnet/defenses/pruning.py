"""Pruning as a repair: a candidate for each number of quiet channels that are removed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from goodnet.defenses.seam import Candidate, CleanPass
from goodnet.pruning.channels import prune_channels
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from goodnet.pruning.sweep import sweep


def prune(clean: CleanPass) -> Iterator[Candidate]:
    """Yield B without its k quietest channels, for k = 1 … C.

    Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
    Networks", RAID 2018.
    """
    order = prune_order(mean_activations(block_means(clean.cache)))
    counts = sweep(clean.cache, frontier=clean.frontier, order=order)
    for step in range(1, len(order) + 1):
        channels = order[:step]
        yield Candidate(
            method="pruning",
            setting=step,
            details={"step": step, "channels": [int(channel) for channel in channels]},
            clean_accuracy=int(counts.correct[step]) / counts.images,
            build=partial(prune_channels, clean.frontier.model, clean.frontier.layer, channels),
        )
