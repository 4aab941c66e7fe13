"""Stages: learn from clean validation, score all images, save and check the nets of that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from goodnet.opening import load_digested, open_saved
from goodnet.parts import DepthFit, ScorePart, fit_at_depth, score_part
from goodnet.pruning.counts import read_counts
from goodnet.storage.files import scratch_folder
from goodnet.storage.signatures import SignedFile
from goodnet.threads import one_blas_thread
from tasks.activations import net_file, open_frontier, open_set
from tasks.caching import cache_file, cached
from tasks.parts import map_parts
from tasks.progress import progress
from tasks.records import (
    ActivationsRecord,
    CleanValidationActivations,
    CleanValidationSweep,
    FineTuned,
    FittedGuard,
    GuardedNet,
    ImageScores,
    Network,
    PruneOrder,
    Remarks,
    RepairedAnswers,
    RepairedNets,
    StoredFile,
    require_clean_validation,
)

if TYPE_CHECKING:
    from goodnet.defenses.guard import FittedDepth
    from goodnet.defenses.seam import CleanPass, Learnt


@task(name="fine-tune", **cached(version=1))
def fine_tune(
    network: Network, activations: CleanValidationActivations, *, artifacts: Path
) -> FineTuned:
    """Train B on clean validation under heavy augmentation."""
    require_clean_validation(activations, CleanValidationActivations)
    from goodnet.defenses import fine_tuning
    from goodnet.defenses.guard_files import write_tuned
    from goodnet.model_files.load import save_model

    clean = _clean_pass(network, activations, artifacts)
    state = cache_file(artifacts, "models", ".training.npz", network, activations)
    with progress("fine-tuning") as advance:
        tuned = fine_tuning.fine_tune(clean, state=state, on_progress=advance)
    if tuned is None:
        return FineTuned(net=None, held=None)
    net = cache_file(artifacts, "models", ".keras", network, activations, "fine-tuned")
    held = cache_file(artifacts, "scores", ".npz", network, activations, "fine-tuned")
    save_model(tuned.model, net)
    write_tuned(held, tuned.held)
    return FineTuned(net=StoredFile.of(net), held=StoredFile.of(held))


@task(name="fit scores", **cached(version=7))
def fit_scores(
    network: Network,
    activations: CleanValidationActivations,
    *,
    order: PruneOrder,
    sweep: CleanValidationSweep,
    tuned: FineTuned,
    artifacts: Path,
) -> FittedGuard:
    """Choose the expert and fit class statistics, from clean validation alone."""
    require_clean_validation(activations, CleanValidationActivations)
    from goodnet.defenses.guard import fit_guard
    from goodnet.defenses.guard_files import read_tuned, write_guard

    clean = _clean_pass(network, activations, artifacts)
    by_tuned = None if tuned.held is None else read_tuned(tuned.held.path)
    experts = read_counts(sweep.file.path, "expert")
    path = cache_file(artifacts, "guards", ".npz", network, activations, order, tuned)
    depths = _fit_depths(clean, path) if len(clean.cache.parts) > 1 else None
    guard, held = fit_guard(clean, order.channels, experts, by_tuned, depths=depths)
    write_guard(path, guard, held)
    return FittedGuard(activations=activations, tuned=tuned, file=StoredFile.of(path))


@task(name="scores", task_run_name="scores of {activations.images.role}", **cached(version=2))
def score_images(
    network: Network,
    activations: ActivationsRecord,
    fitted: FittedGuard,
    *,
    artifacts: Path,
) -> ImageScores:
    """Score the images of a set, from the first pass of B over it."""
    from goodnet.defenses.guard import join_seen
    from goodnet.defenses.guard_files import read_seen, write_seen

    cache, role = activations.cache(), activations.images.role
    images = open_set(network, activations.images, artifacts=artifacts)
    net, guard, tuned = net_file(network), SignedFile.of(fitted.file.path), fitted.tuned.net
    file = None if tuned is None else (tuned.path, tuned.sha256)
    path = cache_file(artifacts, "scores", ".npz", network, activations, fitted)
    with scratch_folder(path) as folder, progress(f"scores of {role}") as advance:
        given = net, cache, guard, file, images
        parts = [
            ScorePart(*given, blocks, folder / f"{number}.npz")
            for number, blocks in enumerate(cache.blocks_by_part())
        ]
        list(map_parts(score_part, parts, advance))
        write_seen(path, join_seen([read_seen(part.path) for part in parts]))
    return ImageScores(role=role, file=StoredFile.of(path))


@task(name="save calibrated GoodNet", **cached(version=3))
def save_guarded(
    network: Network, fitted: FittedGuard, budget: float, *, artifacts: Path
) -> GuardedNet:
    """Fix the threshold and save B guarded by it, in one file that plain Keras loads."""
    from goodnet.defenses.guard_nets import build_guarded
    from goodnet.model_files.load import save_model

    learnt = _learnt(network, fitted, budget, artifacts)
    net = build_guarded(learnt.clean.frontier, learnt.guard, learnt.calibration, learnt.tuned)
    path = cache_file(artifacts, "models", ".keras", network, fitted, budget)
    save_model(net, path)
    return GuardedNet(file=StoredFile.of(path))


@task(name="save repaired nets", **cached(version=1))
def save_repaired(
    network: Network,
    fitted: FittedGuard,
    *,
    budget: float,
    drops: tuple[float, ...],
    methods: tuple[str, ...],
    artifacts: Path,
) -> RepairedNets:
    """Choose the repaired nets of all methods beside pruning and save each in one file."""
    from goodnet.defenses.choice import choose_repaired, find_candidate
    from goodnet.model_files.load import save_model

    learnt = _learnt(network, fitted, budget, artifacts)
    chosen = choose_repaired(learnt, methods, drops)
    files = []
    for kept in chosen:
        parts = (network, fitted, budget, kept.method, kept.setting)
        path = cache_file(artifacts, "models", ".keras", *parts)
        save_model(find_candidate(learnt, kept).build(), path)
        files.append(StoredFile.of(path))
    return RepairedNets(kept=tuple(chosen), files=tuple(files))


@task(name="answers", task_run_name="answers to {activations.images.role}", **cached(version=1))
def answer_by_repaired(
    network: Network,
    activations: ActivationsRecord,
    *,
    scores: ImageScores,
    fitted: FittedGuard,
    repaired: RepairedNets,
    budget: float,
    artifacts: Path,
) -> RepairedAnswers:
    """Find what the repaired nets answer to a set, from what is known of its images."""
    from goodnet.defenses.choice import find_candidate
    from goodnet.defenses.guard_files import read_seen, write_answers

    learnt = _learnt(network, fitted, budget, artifacts)
    cache, seen = activations.cache(), read_seen(scores.file.path)
    answers = [find_candidate(learnt, kept).answers(cache, seen) for kept in repaired.kept]
    path = cache_file(artifacts, "answers", ".npz", network, scores, repaired, budget)
    write_answers(path, answers)
    return RepairedAnswers(file=StoredFile.of(path))


@task(name="verify nets", **cached(version=3))
def verify_nets(
    network: Network,
    activations: tuple[ActivationsRecord, ...],
    *,
    scores: tuple[ImageScores, ...],
    answers: tuple[RepairedAnswers, ...],
    fitted: FittedGuard,
    guarded: GuardedNet,
    repaired: RepairedNets,
    budget: float,
    full: bool,
    artifacts: Path,
) -> Remarks:
    """Load the calibrated GoodNet and the repaired nets and compare what they answer.

    Raises:
        RuntimeError: one answers more images otherwise than rounding explains.
    """
    from goodnet.defenses.answer_check import check_answers, expected_answers
    from goodnet.defenses.calibration import calibrate
    from goodnet.defenses.guard_files import read_answers, read_guard, read_seen

    open_frontier(network)  # which also starts TensorFlow
    _, held = read_guard(fitted.file.path)
    calibration = calibrate(held.scores, budget=budget)
    methods = [kept.method for kept in repaired.kept]
    expected = [
        expected_answers(
            one.cache(),
            read_seen(scored.file.path),
            calibration,
            zip(methods, read_answers(answered.file.path), strict=True),
        )
        for one, scored, answered in zip(activations, scores, answers, strict=True)
    ]
    remarks: list[str] = []
    for number, file in enumerate((guarded.file, *repaired.files)):
        net = load_digested(file.path, file.sha256)
        for one, nets in zip(activations, expected, strict=True):
            with progress(f"check of {nets[number].what} on {one.images.role}") as advance:
                remark = check_answers(
                    net,
                    nets[number],
                    images=open_set(network, one.images, artifacts=artifacts),
                    preprocessing=network.preprocessing,
                    full=full,
                    on_progress=advance,
                )
            remarks += [] if remark is None else [remark]
    return Remarks(remarks=tuple(remarks))


def _fit_depths(clean: CleanPass, path: Path) -> list[FittedDepth]:
    """Fit class statistics to many images, on workers if there are any.

    Of few, the start of workers would take longer than what they do.
    """
    from goodnet.defenses.guard_files import read_fitted

    # Two small products at once are faster than one after the other, each on two threads.
    with (
        scratch_folder(path) as folder,
        progress("class statistics") as advance,
        one_blas_thread(),
    ):
        depths = [
            DepthFit(clean.cache, number, depth.layer, folder / f"{number}.npz")
            for number, depth in enumerate(clean.frontier.depths)
        ]
        list(map_parts(fit_at_depth, depths, advance, num_threads=2))
        return [read_fitted(one.path) for one in depths]


def _clean_pass(
    network: Network, activations: CleanValidationActivations, artifacts: Path
) -> CleanPass:
    from goodnet.defenses.seam import CleanPass

    images = open_set(network, activations.images, artifacts=artifacts)
    return CleanPass(open_frontier(network), images, activations.cache())


def _learnt(network: Network, fitted: FittedGuard, budget: float, artifacts: Path) -> Learnt:
    """Return what was learnt, from the files that hold it."""
    from goodnet.defenses.calibration import calibrate
    from goodnet.defenses.guard_files import read_guard
    from goodnet.defenses.seam import Learnt

    clean = _clean_pass(network, fitted.activations, artifacts)
    guard, held = read_guard(fitted.file.path)
    calibration = calibrate(held.scores, budget=budget)
    file = fitted.tuned.net
    tuned = None if file is None else open_saved(file.path, file.sha256)
    return Learnt(clean, guard, held, calibration, tuned)
