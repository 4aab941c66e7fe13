"""Stages: find the checkpoints, save B' and G of each, and check the saved files."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from goodnet.opening import load_digested
from goodnet.pruning import stop_rule
from goodnet.pruning.counts import read_counts
from tasks.activations import open_frontier, open_set
from tasks.caching import cache_file, cached
from tasks.progress import progress
from tasks.records import (
    ActivationsRecord,
    CheckpointSteps,
    CleanValidationSweep,
    Network,
    PruneOrder,
    Remarks,
    SavedCheckpoint,
    StoredFile,
    require_clean_validation,
)


@task(name="find checkpoints", **cached(version=2))
def find_checkpoints(
    sweep: CleanValidationSweep, drops: tuple[float, ...], channels: tuple[int, ...]
) -> CheckpointSteps:
    """Find the first step that spends each budget; those that prune so many channels follow.

    Raises:
        InputError: there are not so many channels.
    """
    require_clean_validation(sweep, CleanValidationSweep)
    counts = read_counts(sweep.file.path)
    found = stop_rule.find_checkpoints(
        counts.correct.tolist(), images=counts.images, drops=drops, channels=channels
    )
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


@task(name="verify checkpoint", **cached(version=7))
def verify_checkpoint(
    network: Network,
    activations: tuple[ActivationsRecord, ...],
    saved: SavedCheckpoint,
    order: PruneOrder,
    *,
    full: bool,
    artifacts: Path,
) -> Remarks:
    """Load B' and G again and compare what they answer on every set with what the sweep counted.

    Raises:
        RuntimeError: they disagree on more images of a set than rounding explains.
    """
    from goodnet.pruning.verification import check_saved

    frontier = open_frontier(network)  # which also starts TensorFlow
    nets = [load_digested(file.path, file.sha256) for file in (saved.b_prime, saved.goodnet)]
    remarks: list[str] = []
    for one in activations:
        with progress(f"check of saved nets on {one.images.role}") as advance:
            agreement = check_saved(
                *nets,
                cache=one.cache(),
                images=open_set(network, one.images, artifacts=artifacts),
                frontier=frontier,
                order=order.channels,
                step=saved.step,
                full=full,
                on_progress=advance,
            )
        remark = agreement.remark(one.images.role, step=saved.step)
        remarks += [] if remark is None else [remark]
    return Remarks(remarks=tuple(remarks))
