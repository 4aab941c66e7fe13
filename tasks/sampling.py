"""Stage: pick images for the report."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from goodnet.activations import ActivationCache
from tasks.activations import open_frontier, open_set
from tasks.caching import cache_file, cached
from tasks.records import EvaluationActivations, Network, PruneOrder, Samples, StoredFile


@task(name="samples", **cached(version=3))
def choose_samples(
    network: Network,
    activations: tuple[EvaluationActivations, ...],
    order: PruneOrder,
    step: int,
    drop: float,
    *,
    artifacts: Path,
) -> Samples:
    """Pick images that the G of one checkpoint catches, misses or flags for nothing."""
    from goodnet.samples import pick_samples, write_samples

    samples = [
        sample
        for one in activations
        if one.images.role in ("clean_test", "poisoned_test")
        for sample in pick_samples(
            ActivationCache(one.file.path),
            open_set(network, one.images, artifacts=artifacts),
            frontier=open_frontier(network),
            order=order.channels,
            step=step,
            drop=drop,
            poisoned=one.images.role == "poisoned_test",
        )
    ]
    path = cache_file(artifacts, "samples", ".npz", network, activations, order, step, drop)
    write_samples(path, samples)
    return Samples(file=StoredFile.of(path))
