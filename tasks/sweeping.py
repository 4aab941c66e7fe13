"""Stage: what pruned nets and experts answer at every step, counted over one set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from prefect import task

from goodnet.parts import SweepPart, sweep_part
from goodnet.pruning.counts import add_counts, write_curves
from goodnet.pruning.ranking import mean_activations
from tasks.activations import net_file
from tasks.caching import cache_file, cached
from tasks.parts import map_parts
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

    cache, net = activations.cache(), net_file(network)
    count = attack_counter(cache, target)
    parts = [
        SweepPart(net, cache, blocks, order.channels, count) for blocks in cache.blocks_by_part()
    ]
    with progress(f"sweep of {activations.images.role}") as advance:
        swept = list(map_parts(sweep_part, parts, advance))
    counts = add_counts([one.counts for one in swept])
    path = cache_file(artifacts, "sweeps", ".parquet", network, activations, order, target)
    means = mean_activations(np.concatenate([one.shares for one in swept]))
    write_curves(path, activations.images.role, counts, order=order.channels, means=means)
    return StoredFile.of(path)
