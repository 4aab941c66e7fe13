"""Stage: one forward pass of B over a set, kept as Parquet."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from goodnet.activations import Provenance
from goodnet.digests import digest_file
from goodnet.errors import InputError
from goodnet.images import open_images
from goodnet.inputs import label_limit
from tasks.caching import activations_file, cached
from tasks.progress import progress
from tasks.records import (
    CleanValidation,
    CleanValidationActivations,
    EvaluationActivations,
    EvaluationSet,
    Network,
    StoredFile,
)

if TYPE_CHECKING:
    from goodnet.frontier import Frontier


@task(name="activations of clean_valid", **cached(version=1))
def compute_validation_activations(
    network: Network, images: CleanValidation, *, artifacts: Path
) -> CleanValidationActivations:
    """Run B once over clean validation."""
    return CleanValidationActivations(images=images, file=_first_pass(network, images, artifacts))


@task(name="activations", task_run_name="activations of {images.role}", **cached(version=1))
def compute_evaluation_activations(
    network: Network, images: EvaluationSet, *, artifacts: Path
) -> EvaluationActivations:
    """Run B once over a set that selection never sees."""
    return EvaluationActivations(images=images, file=_first_pass(network, images, artifacts))


def _first_pass(
    network: Network, images: CleanValidation | EvaluationSet, artifacts: Path
) -> StoredFile:
    from goodnet.first_pass import write_activations

    frontier = open_frontier(network)
    shape, (_, num_classes) = frontier.model.input_shape[1:], frontier.model.output_shape
    path = activations_file(artifacts, network, images)
    with progress(f"activations of {images.role}") as advance:
        write_activations(
            path,
            frontier=frontier,
            images=open_images(
                images.file.path, shape=shape, num_classes=label_limit(images.role, num_classes)
            ),
            provenance=Provenance(
                model=network.file.sha256,
                images=images.file.sha256,
                layer=network.layer,
                rank_at=network.rank_at,
                pixel_scale=network.pixel_scale,
                num_classes=num_classes,
            ),
            on_progress=advance,
        )
    return StoredFile.of(path)


@lru_cache(maxsize=1)
def open_frontier(network: Network) -> Frontier:
    """Load B and find its frontier; the stages of one run share it and what it compiled.

    Raises:
        InputError: the file is no longer the one that was digested, or is refused.
    """
    if digest_file(network.file.path).sha256 != network.file.sha256:
        raise InputError(f"{network.file.path}: has changed since the run began")
    from goodnet.frontier import find_frontier
    from goodnet.graph import as_functional
    from goodnet.models import load_model

    model = load_model(network.file.path, architecture=network.architecture, limits=network.limits)
    return find_frontier(as_functional(model), layer=network.layer, rank_at=network.rank_at)
