"""Stage: one forward pass of B over a set, kept as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.settings import get_current_settings

from goodnet import opening
from goodnet.arrays import Shape
from goodnet.digests import digest_once
from goodnet.images.class_names import ClassNames
from goodnet.images.image_sets import ImageSet, open_images
from goodnet.images.preprocessing import RAW, PixelRange
from goodnet.inputs import label_limit
from goodnet.opening import NetFile
from goodnet.parts import FirstPass, pass_over
from goodnet.pruning.activation_cache import Provenance
from goodnet.storage.files import read_json, write_json
from tasks.caching import activations_files, cache_file, cached, digest_memory
from tasks.parts import map_parts
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

_VERSION = 6
"""Of the stages below, and of each part that they keep."""


@task(name="activations of clean_valid", **cached(version=_VERSION))
def compute_validation_activations(
    network: Network, images: CleanValidation, *, artifacts: Path
) -> CleanValidationActivations:
    """Run B once over clean validation."""
    return CleanValidationActivations(images=images, parts=_first_pass(network, images, artifacts))


@task(name="activations", task_run_name="activations of {images.role}", **cached(version=_VERSION))
def compute_evaluation_activations(
    network: Network, images: EvaluationSet, *, artifacts: Path
) -> EvaluationActivations:
    """Run B once over a set that selection never sees."""
    return EvaluationActivations(images=images, parts=_first_pass(network, images, artifacts))


def _first_pass(
    network: Network, images: CleanValidation | EvaluationSet, artifacts: Path
) -> tuple[StoredFile, ...]:
    """Compute the parts that are not there from a run that was ended before it had all of them."""
    net, opened = net_file(network), open_set(network, images, artifacts=artifacts)
    provenance = Provenance(
        model=network.file.sha256,
        images=images.file.sha256,
        layer=network.layer,
        rank_at=network.rank_at,
        preprocessing=network.preprocessing,
        num_classes=open_frontier(network).model.output_shape[-1],
    )
    every = [
        FirstPass(net, opened, rows, path, provenance)
        for rows, path in activations_files(artifacts, network, images).items()
    ]
    found = _find_parts(every, artifacts) if len(every) > 1 else {}
    missing = [one for one in every if one.path not in found]
    with progress(f"activations of {images.role}") as advance:
        digests = map_parts(pass_over, missing, advance)
        for one, digest in zip(missing, digests, strict=True):
            file = found[one.path] = StoredFile.of(one.path, digest)
            if len(every) > 1:
                write_json(_record(one, artifacts), file.model_dump(mode="json"))
    return tuple(found[one.path] for one in every)


def _find_parts(parts: Sequence[FirstPass], artifacts: Path) -> dict[Path, StoredFile]:
    """Return the files of parts that an earlier run left, which are what they were then."""
    found: dict[Path, StoredFile] = {}
    if get_current_settings().tasks.refresh_cache:
        return found
    for part in parts:
        with suppress(OSError, ValueError):
            file = StoredFile.model_validate(read_json(_record(part, artifacts)))
            if file.path == part.path and digest_once(part.path).sha256 == file.sha256:
                found[part.path] = file
    return found


def _record(part: FirstPass, artifacts: Path) -> Path:
    return cache_file(artifacts, "parts", ".json", _VERSION, part.path.name)


def net_file(network: Network) -> NetFile:
    """Return B as work on parts takes it."""
    return NetFile(
        network.file.path,
        network.file.sha256,
        network.layer,
        network.rank_at,
        network.architecture,
        network.limits,
    )


def open_frontier(network: Network) -> Frontier:
    """Load B and find its frontier, once for all stages of a run.

    Raises:
        InputError: the file is no longer the one that was digested, or is refused.
    """
    return opening.open_frontier(net_file(network))


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
