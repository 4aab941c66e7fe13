"""Work on one part of an image set, or at one depth: what processes elsewhere do for a stage.

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
from goodnet.opening import NetFile, open_frontier, open_saved
from goodnet.progress import Progress
from goodnet.pruning.activation_cache import ActivationCache, Block, Provenance
from goodnet.pruning.counts import Counts
from goodnet.storage.signatures import SignedFile
from goodnet.threads import one_blas_thread

if TYPE_CHECKING:
    from goodnet.pruning.sweep import Swept


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


@dataclass(frozen=True)
class ScorePart:
    """The scores of the images of some blocks of a set.

    Attributes:
        net: B.
        cache: the set's activations.
        guard: the file of the guard.
        tuned: the file of the fine-tuned net and its digest, if there is one.
        images: the set, for that net.
        blocks: numbers of the blocks, which follow each other.
        path: the file to write.
    """

    net: NetFile
    cache: ActivationCache
    guard: SignedFile
    tuned: tuple[Path, str] | None
    images: ImageSet
    blocks: range
    path: Path

    def __len__(self) -> int:
        return self.cache.images_of(self.blocks)


@dataclass(frozen=True)
class DepthFit:
    """Class statistics at one depth of B.

    Attributes:
        cache: the activations of clean validation.
        depth: the number of the depth.
        layer: the layer there.
        path: the file to write.
    """

    cache: ActivationCache
    depth: int
    layer: str
    path: Path

    def __len__(self) -> int:
        return self.cache.num_images


def pass_over(work: FirstPass, on_progress: Progress) -> FileDigest:
    """Run B over some images and keep what all later stages need; return the file's digest.

    Raises:
        InputError: as `write_activations`, or the set has changed since it was digested.
    """
    from goodnet.pruning.first_pass import write_activations

    write_activations(
        work.path,
        frontier=open_frontier(work.net),
        images=work.images,
        provenance=work.provenance,
        rows=work.rows,
        on_progress=on_progress,
    )
    return digest_file(work.path)


def sweep_part(work: SweepPart, on_progress: Progress) -> Swept:
    """Count the answers of every step to some blocks, and add up their activations.

    Raises:
        InputError: B or the activations have changed since they were digested.
    """
    from goodnet.pruning.sweep import sweep_both_ends

    return sweep_both_ends(
        work.cache,
        frontier=open_frontier(work.net),
        order=work.order,
        count=work.count,
        blocks=work.blocks,
        on_progress=on_progress,
    )


def fit_at_depth(work: DepthFit, on_progress: Progress) -> None:
    """Fit class statistics at a depth and write them into its file.

    Raises:
        InputError: the activations have changed since they were digested.
    """
    from goodnet.defenses.guard import fit_depth
    from goodnet.defenses.guard_files import write_fitted

    # As where several depths are fitted at once: another number of threads rounds otherwise.
    with one_blas_thread():
        write_fitted(work.path, fit_depth(work.cache, work.depth, work.layer))


def score_part(work: ScorePart, on_progress: Progress) -> None:
    """Score the images of some blocks and write what is made of them into the file of the part.

    Raises:
        InputError: a file has changed since it was digested.
    """
    from goodnet.defenses.fine_tuning import answer_images
    from goodnet.defenses.guard_files import read_guard, write_seen

    frontier = open_frontier(work.net)  # which also starts TensorFlow
    with work.guard.unchanged():
        guard, _ = read_guard(work.guard.path)
    by_tuned = None
    if work.tuned is not None:
        _, predictions = work.cache.answers()
        by_tuned = answer_images(
            open_saved(*work.tuned),
            work.images,
            work.cache.provenance.preprocessing,
            predictions,
            rows=work.cache.rows_of(work.blocks),
            on_progress=on_progress,
        )
    write_seen(work.path, guard.look(work.cache, frontier, by_tuned, blocks=work.blocks))
