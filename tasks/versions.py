"""The versions of the stages: what tells results of this code from those of another."""

from __future__ import annotations

from tasks.activations import compute_evaluation_activations, compute_validation_activations
from tasks.answers import check_clean_answers, check_sets, compare_sets
from tasks.benchmarking import make_sets, poison_images, train_net
from tasks.caching import StageInputs
from tasks.checkpoints import find_checkpoints, save_checkpoint, verify_checkpoint
from tasks.default_case import render_default, train_default
from tasks.guarding import (
    answer_by_repaired,
    fine_tune,
    fit_scores,
    save_guarded,
    save_repaired,
    score_images,
    verify_nets,
)
from tasks.measuring import measure_results
from tasks.ranking import rank_channels
from tasks.sampling import choose_samples
from tasks.sweeping import sweep_evaluation, sweep_validation

CACHED_STAGES = (
    render_default,
    train_default,
    make_sets,
    poison_images,
    train_net,
    compute_validation_activations,
    compute_evaluation_activations,
    check_clean_answers,
    check_sets,
    compare_sets,
    rank_channels,
    sweep_validation,
    sweep_evaluation,
    find_checkpoints,
    save_checkpoint,
    verify_checkpoint,
    fine_tune,
    fit_scores,
    score_images,
    save_guarded,
    save_repaired,
    answer_by_repaired,
    verify_nets,
    choose_samples,
    measure_results,
)
"""Every stage whose result is kept."""


def stage_versions() -> dict[str, int]:
    """Return the version of each cached stage by its name."""
    policies = {stage.name: stage.cache_policy for stage in CACHED_STAGES}
    return {
        name: policy.version for name, policy in policies.items() if isinstance(policy, StageInputs)
    }
