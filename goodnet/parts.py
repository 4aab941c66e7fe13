"""Work on one part of an image set: what processes on other machines do for a stage.

What such work is made of travels small: a net and a set as files with what tells them from others,
results as counts and digests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from goodnet.arrays import IntArray
from goodnet.digests import FileDigest, digest_file
from goodnet.images.image_sets import ImageSet
from goodnet.model_files.limits import ModelLimits
from goodnet.opening import open_frontier
from goodnet.pruning.activation_cache import ActivationCache, Block, Provenance
from goodnet.pruning.counts import Counts

if TYPE_CHECKING:
    from goodnet.pruning.frontier import Frontier
    from goodnet.pruning.sweep import Swept

Advance = Callable[[int, int], None]
"""Is called with the numbers of images done and in all of the part."""


@dataclass(frozen=True)
class NetFile:
    """B as `goodnet.opening.open_frontier` takes it."""

    path: Path
    sha256: str
    layer: str
    rank_at: str
    architecture: str | None
    limits: ModelLimits

    def open(self) -> Frontier:
        """Load B and find its frontier, once in a process.

        Raises:
            InputError: the file is no longer the one that was digested, or is refused.
        """
        return open_frontier(
            self.path,
            self.sha256,
            layer=self.layer,
            rank_at=self.rank_at,
            architecture=self.architecture,
            limits=self.limits,
        )


@dataclass(frozen=True)
class FirstPass:
    """The first pass over some images of a set.

    Attributes:
        net: B.
        images: the set.
        rows: which of its images.
        path: the Parquet file to write.
        provenance: what the file says that it comes from.
    """

    net: NetFile
    images: ImageSet
    rows: range
    path: Path
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class SweepPart:
    """The sweep of some blocks of a set from both ends.

    Attributes:
        net: B.
        cache: the set's activations.
        blocks: numbers of the blocks.
        order: all channels in prune order.
        count: counts the answers to a block.
    """

    net: NetFile
    cache: ActivationCache
    blocks: range
    order: tuple[int, ...]
    count: Callable[[Block, IntArray], Counts]

    def __len__(self) -> int:
        return self.cache.images_of(self.blocks)


def pass_over(work: FirstPass, on_progress: Advance) -> FileDigest:
    """Run B over some images and keep what all later stages need; return the file's digest.

    Raises:
        InputError: as `write_activations`, or the set has changed since it was digested.
    """
    from goodnet.pruning.first_pass import write_activations

    write_activations(
        work.path,
        frontier=work.net.open(),
        images=work.images,
        provenance=work.provenance,
        rows=work.rows,
        on_progress=on_progress,
    )
    return digest_file(work.path)


def sweep_part(work: SweepPart, on_progress: Advance) -> Swept:
    """Count the answers of every step to some blocks, and add up their activations.

    Raises:
        InputError: B or the activations have changed since they were digested.
    """
    from goodnet.pruning.sweep import sweep_both_ends

    return sweep_both_ends(
        work.cache,
        frontier=work.net.open(),
        order=work.order,
        count=work.count,
        blocks=work.blocks,
        on_progress=on_progress,
    )
