"""Stage: what pruned nets and experts answer at every step, counted over one set."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from goodnet.pruning.activation_cache import ActivationCache
from goodnet.pruning.counts import write_curves
from goodnet.pruning.ranking import block_means, mean_activations
from tasks.activations import open_frontier
from tasks.caching import cache_file, cached
from tasks.progress import progress
from tasks.records import (
    ActivationsRecord,
    CleanValidationActivations,
    CleanValidationSweep,
    EvaluationActivations,
    EvaluationSweep,
    Network,
    PruneOrder,
    StoredFile,
)


@task(name="sweep of clean_valid", **cached(version=4))
def sweep_validation(
    network: Network, activations: CleanValidationActivations, order: PruneOrder, *, artifacts: Path
) -> CleanValidationSweep:
    """Sweep clean validation from both ends."""
    return CleanValidationSweep(file=_sweep(network, activations, order, artifacts))


@task(name="sweep", task_run_name="sweep of {activations.images.role}", **cached(version=4))
def sweep_evaluation(
    network: Network,
    activations: EvaluationActivations,
    order: PruneOrder,
    *,
    target: int | None,
    artifacts: Path,
) -> EvaluationSweep:
    """Sweep a set that selection never sees from both ends.

    Args:
        network: B.
        activations: of the set.
        order: the prune order.
        target: of a poisoned set, the attacker's label; None where the labels are that.
        artifacts: folder of the cache.
    """
    file = _sweep(network, activations, order, artifacts, target=target)
    return EvaluationSweep(role=activations.images.role, file=file)


def _sweep(
    network: Network,
    activations: ActivationsRecord,
    order: PruneOrder,
    artifacts: Path,
    *,
    target: int | None = None,
) -> StoredFile:
    from goodnet.pruning.poisoned import attack_counter
    from goodnet.pruning.sweep import sweep_both_ends

    cache = ActivationCache(activations.file.path)
    with progress(f"sweep of {activations.images.role}") as advance:
        counts = sweep_both_ends(
            cache,
            frontier=open_frontier(network),
            order=order.channels,
            count=attack_counter(cache, target),
            on_progress=advance,
        )
    path = cache_file(artifacts, "sweeps", ".parquet", network, activations, order, target)
    means = mean_activations(block_means(cache))
    write_curves(path, activations.images.role, counts, order=order.channels, means=means)
    return StoredFile.of(path)
