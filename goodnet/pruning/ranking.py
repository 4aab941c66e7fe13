"""The prune order: channels by their mean activation over clean validation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from goodnet.arrays import DoubleArray
from goodnet.pruning.activation_cache import ActivationCache, Block


def block_means(cache: ActivationCache, blocks: Iterable[int] | None = None) -> DoubleArray:
    """Map: return each block's share of the mean activations, (blocks, C) in float64.

    Args:
        cache: of the set.
        blocks: the shard's block numbers, or all.
    """
    return np.array([block_share(block, cache.num_images) for block in cache.blocks(blocks)])


def block_share(block: Block, num_images: int) -> DoubleArray:
    """Return a block's share of the mean activations of its set: (C,), in float64.

    Args:
        block: some images of the set.
        num_images: in the set.
    """
    by_position = block.ranking.reshape(-1, block.ranking.shape[-1])
    positions = len(by_position) // len(block) * num_images
    return np.asarray(by_position.sum(axis=0, dtype=np.float64) / positions)


def mean_activations(shares: DoubleArray) -> DoubleArray:
    """Reduce: add the shares of all blocks, in the order of the blocks, to the means.

    Args:
        shares: (blocks, C) in float64, those that `block_means` returns for all blocks.

    Returns:
        (C,) in float64, the mean of each channel over images and positions.
    """
    return shares.sum(axis=0)


def prune_order(means: DoubleArray) -> list[int]:
    """Return the channels by mean activation, ascending; ties by channel number.

    Args:
        means: (C,), over clean validation.

    Example:
        >>> prune_order(np.array([0.5, 0.0, 0.2, 0.0]))
        [1, 3, 2, 0]
    """
    return [int(channel) for channel in np.argsort(means, kind="stable")]
