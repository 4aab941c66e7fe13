"""Stages: find the checkpoints, save B' and G of each, and check the saved files."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from goodnet.pruning.activation_cache import ActivationCache
from goodnet.pruning.counts import read_counts
from goodnet.pruning.stop_rule import find_checkpoint
from tasks.activations import open_frontier, open_set
from tasks.caching import cache_file, cached
from tasks.progress import progress
from tasks.records import (
    ActivationsRecord,
    CheckpointSteps,
    CleanValidationSweep,
    Network,
    PruneOrder,
    SavedCheckpoint,
    StoredFile,
    Verification,
    require_clean_validation,
)


@task(name="find checkpoints", **cached(version=1))
def find_checkpoints(sweep: CleanValidationSweep, drops: tuple[float, ...]) -> CheckpointSteps:
    """Find the first step at which each drop of clean validation accuracy is reached."""
    require_clean_validation(sweep, CleanValidationSweep)
    counts = read_counts(sweep.file.path)
    found = (find_checkpoint(counts.correct.tolist(), images=counts.images, drop=d) for d in drops)
    return CheckpointSteps(steps=tuple((point.drop, point.step) for point in found))


@task(name="save checkpoint", **cached(version=3))
def save_checkpoint(
    network: Network, channels: tuple[int, ...], *, artifacts: Path
) -> SavedCheckpoint:
    """Prune the channels and save B' and G, each in one file that plain Keras loads."""
    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import save_model
    from goodnet.pruning.channels import prune_channels

    model = open_frontier(network).model
    files = {}
    for name, build in (("b_prime", prune_channels), ("goodnet", build_goodnet)):
        path = cache_file(artifacts, "models", ".keras", network, channels, name)
        save_model(build(model, network.layer, channels), path)
        files[name] = StoredFile.of(path)
    return SavedCheckpoint(step=len(channels), **files)


@task(name="verify checkpoint", **cached(version=4))
def verify_checkpoint(
    network: Network,
    activations: tuple[ActivationsRecord, ...],
    saved: SavedCheckpoint,
    order: PruneOrder,
    *,
    full: bool,
    artifacts: Path,
) -> Verification:
    """Load B' and G again and compare what they answer on every set with what the sweep counted.

    Raises:
        RuntimeError: they disagree on more images of a set than rounding explains.
    """
    from goodnet.model_files.load import load_model
    from goodnet.pruning.verification import Agreement, check_saved

    files = saved.b_prime, saved.goodnet
    b_prime, goodnet = (load_model(file.path, limits=network.limits) for file in files)
    found: list[Agreement] = []
    remarks: list[str] = []
    for one in activations:
        with progress(f"check of saved nets on {one.images.role}") as advance:
            agreement = check_saved(
                b_prime,
                goodnet,
                cache=ActivationCache(one.file.path),
                images=open_set(network, one.images, artifacts=artifacts),
                frontier=open_frontier(network),
                order=order.channels,
                step=saved.step,
                full=full,
                on_progress=advance,
            )
        if agreement.wrong:
            raise RuntimeError(
                f"the saved nets with {saved.step} channels pruned disagree with the sweep on "
                f"{agreement.wrong} of {agreement.images} images of {one.images.role}"
            )
        if agreement.near_ties:
            remarks.append(
                f"With {saved.step} channels pruned, two classes have the same score but for "
                f"rounding on {agreement.near_ties} of {agreement.images} images of "
                f"{one.images.role} that were checked: there the saved nets may answer either."
            )
        found.append(agreement)
    return Verification(
        images=sum(agreement.images for agreement in found),
        near_ties=sum(agreement.near_ties for agreement in found),
        remarks=tuple(remarks),
    )
