"""Stages: find the checkpoints, save B' and G of each, and check the saved files."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from goodnet.activations import ActivationCache
from goodnet.checkpoints import find_checkpoint
from goodnet.curves import read_counts
from goodnet.images import open_images
from tasks.activations import open_frontier
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


@task(name="save checkpoint", **cached(version=2))
def save_checkpoint(
    network: Network, channels: tuple[int, ...], *, artifacts: Path
) -> SavedCheckpoint:
    """Prune the channels and save B' and G, each in one file that plain Keras loads."""
    from goodnet.detector import build_goodnet
    from goodnet.models import save_model
    from goodnet.pruning import prune_channels

    model = open_frontier(network).model
    files = {}
    for name, build in (("b_prime", prune_channels), ("goodnet", build_goodnet)):
        path = cache_file(artifacts, "models", ".keras", network, channels, name)
        save_model(build(model, network.layer, channels), path)
        files[name] = StoredFile.of(path)
    return SavedCheckpoint(step=len(channels), **files)


@task(name="verify checkpoint", **cached(version=3))
def verify_checkpoint(
    network: Network,
    activations: tuple[ActivationsRecord, ...],
    saved: SavedCheckpoint,
    order: PruneOrder,
    *,
    full: bool,
) -> Verification:
    """Load B' and G again and compare what they answer on every set with what the sweep counted.

    Raises:
        RuntimeError: they disagree on more images of a set than rounding explains.
    """
    from goodnet.models import load_model
    from goodnet.verification import Agreement, check_saved, is_bearable

    files = saved.b_prime, saved.goodnet
    b_prime, goodnet = (load_model(file.path, limits=network.limits) for file in files)
    found: list[Agreement] = []
    for one in activations:
        with progress(f"check of saved nets on {one.images.role}") as advance:
            agreement = check_saved(
                b_prime,
                goodnet,
                cache=ActivationCache(one.file.path),
                images=open_images(one.images.file.path),
                frontier=open_frontier(network),
                order=order.channels,
                step=saved.step,
                full=full,
                on_progress=advance,
            )
        if not is_bearable(agreement):
            raise RuntimeError(
                f"the saved nets with {saved.step} channels pruned disagree with the sweep on "
                f"{agreement.disagreements} of {agreement.images} images of {one.images.role}"
            )
        found.append(agreement)
    return Verification(
        images=sum(agreement.images for agreement in found),
        disagreements=sum(agreement.disagreements for agreement in found),
    )
