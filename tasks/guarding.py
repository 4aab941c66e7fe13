"""Stages: fit scores to clean validation, score all images, save and check the GoodNet of them."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from goodnet.digests import digest_file
from goodnet.opening import require_digest
from goodnet.pruning.activation_cache import ActivationCache
from tasks.activations import open_frontier, open_set
from tasks.caching import cache_file, cached
from tasks.progress import progress
from tasks.records import (
    ActivationsRecord,
    CleanValidationActivations,
    FittedGuard,
    GuardedNet,
    ImageScores,
    Network,
    PruneOrder,
    Remarks,
    StoredFile,
    require_clean_validation,
)


@task(name="fit scores", **cached(version=4))
def fit_scores(
    network: Network, activations: CleanValidationActivations, order: PruneOrder, *, artifacts: Path
) -> FittedGuard:
    """Choose the expert and fit class statistics, from clean validation alone."""
    require_clean_validation(activations, CleanValidationActivations)
    from goodnet.defenses.guard import fit_guard
    from goodnet.defenses.guard_files import write_guard
    from goodnet.defenses.seam import CleanPass

    images = open_set(network, activations.images, artifacts=artifacts)
    cache = ActivationCache(activations.file.path)
    guard, held = fit_guard(CleanPass(open_frontier(network), images, cache), order.channels)
    path = cache_file(artifacts, "guards", ".npz", network, activations, order)
    write_guard(path, guard, held)
    return FittedGuard(file=StoredFile.of(path))


@task(name="scores", task_run_name="scores of {activations.images.role}", **cached(version=1))
def score_images(
    network: Network, activations: ActivationsRecord, fitted: FittedGuard, *, artifacts: Path
) -> ImageScores:
    """Score the images of a set, from the first pass of B over it."""
    from goodnet.defenses.guard_files import read_guard, write_scores

    guard, _ = read_guard(fitted.file.path)
    cache = ActivationCache(activations.file.path)
    path = cache_file(artifacts, "scores", ".npz", network, activations, fitted)
    write_scores(path, guard.scores(cache, open_frontier(network)))
    return ImageScores(role=activations.images.role, file=StoredFile.of(path))


@task(name="save calibrated GoodNet", **cached(version=2))
def save_guarded(
    network: Network, fitted: FittedGuard, budget: float, *, artifacts: Path
) -> GuardedNet:
    """Fix the threshold and save B guarded by it, in one file that plain Keras loads."""
    from goodnet.defenses.calibration import calibrate
    from goodnet.defenses.guard import build_guarded
    from goodnet.defenses.guard_files import read_guard
    from goodnet.model_files.load import save_model

    guard, held = read_guard(fitted.file.path)
    net = build_guarded(open_frontier(network), guard, calibrate(held, budget=budget))
    path = cache_file(artifacts, "models", ".keras", network, fitted, budget)
    save_model(net, path)
    return GuardedNet(file=StoredFile.of(path))


@task(name="verify calibrated GoodNet", **cached(version=2))
def verify_guarded(
    network: Network,
    activations: tuple[ActivationsRecord, ...],
    scores: tuple[ImageScores, ...],
    fitted: FittedGuard,
    saved: GuardedNet,
    budget: float,
    *,
    full: bool,
    artifacts: Path,
) -> Remarks:
    """Load the calibrated GoodNet and compare what it flags with what the scores say.

    Raises:
        RuntimeError: they disagree on more images than rounding explains.
    """
    from goodnet.defenses.calibration import calibrate
    from goodnet.defenses.guard_check import check_guarded
    from goodnet.defenses.guard_files import read_guard, read_scores
    from goodnet.pruning.verification import load_saved

    require_digest(saved.file.path, digest_file(saved.file.path), saved.file.sha256)
    open_frontier(network)  # which also starts TensorFlow
    net = load_saved(saved.file.path)
    _, held = read_guard(fitted.file.path)
    calibration = calibrate(held, budget=budget)
    remarks: list[str] = []
    for one, scored in zip(activations, scores, strict=True):
        with progress(f"check of the calibrated net on {one.images.role}") as advance:
            remark = check_guarded(
                net,
                cache=ActivationCache(one.file.path),
                images=open_set(network, one.images, artifacts=artifacts),
                scores=read_scores(scored.file.path),
                calibration=calibration,
                full=full,
                on_progress=advance,
            )
        remarks += [] if remark is None else [remark]
    return Remarks(remarks=tuple(remarks))
