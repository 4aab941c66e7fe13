"""Stage: one forward pass of B over a set, kept as Parquet."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from goodnet import opening
from goodnet.arrays import Shape
from goodnet.images.class_names import ClassNames
from goodnet.images.image_sets import ImageSet, open_images
from goodnet.images.preprocessing import RAW, PixelRange
from goodnet.inputs import label_limit
from goodnet.pruning.activation_cache import Provenance
from tasks.caching import activations_file, cached, digest_memory
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
    from goodnet.pruning.frontier import Frontier


@task(name="activations of clean_valid", **cached(version=4))
def compute_validation_activations(
    network: Network, images: CleanValidation, *, artifacts: Path
) -> CleanValidationActivations:
    """Run B once over clean validation."""
    return CleanValidationActivations(images=images, file=_first_pass(network, images, artifacts))


@task(name="activations", task_run_name="activations of {images.role}", **cached(version=4))
def compute_evaluation_activations(
    network: Network, images: EvaluationSet, *, artifacts: Path
) -> EvaluationActivations:
    """Run B once over a set that selection never sees."""
    return EvaluationActivations(images=images, file=_first_pass(network, images, artifacts))


def _first_pass(
    network: Network, images: CleanValidation | EvaluationSet, artifacts: Path
) -> StoredFile:
    from goodnet.pruning.first_pass import write_activations

    frontier = open_frontier(network)
    path = activations_file(artifacts, network, images)
    with progress(f"activations of {images.role}") as advance:
        write_activations(
            path,
            frontier=frontier,
            images=open_set(network, images, artifacts=artifacts),
            provenance=Provenance(
                model=network.file.sha256,
                images=images.file.sha256,
                layer=network.layer,
                rank_at=network.rank_at,
                preprocessing=network.preprocessing,
                num_classes=frontier.model.output_shape[-1],
            ),
            on_progress=advance,
        )
    return StoredFile.of(path)


def open_frontier(network: Network) -> Frontier:
    """Load B and find its frontier, once for all stages of a run.

    Raises:
        InputError: the file is no longer the one that was digested, or is refused.
    """
    return opening.open_frontier(
        network.file.path,
        network.file.sha256,
        layer=network.layer,
        rank_at=network.rank_at,
        architecture=network.architecture,
        limits=network.limits,
    )


def open_set(
    network: Network, images: CleanValidation | EvaluationSet, *, artifacts: Path
) -> ImageSet:
    """Open an image set of a run as B takes it: the one door for all stages.

    Raises:
        InputError: it is no longer the one that was digested, now or when it is read.
    """
    model = open_frontier(network).model
    num_classes = model.output_shape[-1]
    classes = None if images.classes is None else ClassNames(images.classes, images.file.path)
    if classes is not None:
        classes.require_number(num_classes)  # Known by now of every net.
    return open_digested(
        images.file,
        artifacts=artifacts,
        shape=model.input_shape[1:],
        num_classes=label_limit(images.role, num_classes),
        classes=classes,
        pixel_range=network.preprocessing.pixel_range,
    )


def open_digested(
    file: StoredFile,
    *,
    artifacts: Path,
    shape: Shape | None = None,
    num_classes: int | None = None,
    classes: ClassNames | None = None,
    pixel_range: PixelRange = RAW,
) -> ImageSet:
    """Open an image set whose digest stands for it in cache keys.

    What it delivers has that digest: it is signed when it is opened, digested again unless this
    signature is known, and held against it whenever it is read.

    Raises:
        InputError: it has another digest by now, or is not as expected.
    """
    images = _open_digested(file, artifacts, shape, num_classes, classes, pixel_range)
    if not images.is_unchanged():
        _open_digested.cache_clear()  # Perhaps only touched or copied: its digest decides.
        images = _open_digested(file, artifacts, shape, num_classes, classes, pixel_range)
    return images


# A folder of 20,000 images takes 2 s to list and digest, and some ten stages open it.
@lru_cache(maxsize=4)
def _open_digested(
    file: StoredFile,
    artifacts: Path,
    shape: Shape | None,
    num_classes: int | None,
    classes: ClassNames | None,
    pixel_range: PixelRange,
) -> ImageSet:
    images = open_images(
        file.path, shape=shape, num_classes=num_classes, classes=classes, pixel_range=pixel_range
    )
    opening.require_digest(file.path, digest_memory(artifacts).digest_opened(images), file.sha256)
    return images
