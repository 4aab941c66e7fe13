"""Stage: the prune order, from clean validation alone."""

from __future__ import annotations

from prefect import task

from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from tasks.caching import cached
from tasks.records import CleanValidationActivations, PruneOrder, require_clean_validation


@task(name="prune order", **cached(version=3))
def rank_channels(activations: CleanValidationActivations) -> PruneOrder:
    """Order the channels by mean activation, the quietest first."""
    require_clean_validation(activations, CleanValidationActivations)
    means = mean_activations(block_means(activations.cache()))
    return PruneOrder(channels=tuple(prune_order(means)))
