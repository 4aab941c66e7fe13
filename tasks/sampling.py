"""Stage: pick images for the report."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from tasks.activations import open_frontier, open_set
from tasks.caching import cache_file, cached
from tasks.records import EvaluationActivations, Network, PruneOrder, Samples, StoredFile


@task(name="samples", **cached(version=4))
def choose_samples(
    network: Network,
    activations: tuple[EvaluationActivations, ...],
    *,
    order: PruneOrder,
    step: int,
    checkpoint: str,
    target: int | None,
    artifacts: Path,
) -> Samples:
    """Pick images that the G of one checkpoint catches, misses or flags for nothing."""
    from goodnet.pruning.poisoned import describe_attack
    from goodnet.reports.samples import pick_samples, write_samples

    caches = {
        one.images: one.cache()
        for one in activations
        if one.images.role in ("clean_test", "poisoned_test")
    }
    samples = [
        sample
        for images, cache in caches.items()
        for sample in pick_samples(
            cache,
            open_set(network, images, artifacts=artifacts),
            frontier=open_frontier(network),
            order=order.channels,
            step=step,
            checkpoint=checkpoint,
            attack=describe_attack(cache, target) if images.role == "poisoned_test" else None,
        )
    ]
    asked = network, activations, order, step, checkpoint, target
    path = cache_file(artifacts, "samples", ".npz", *asked)
    write_samples(path, samples)
    return Samples(file=StoredFile.of(path))
