"""Stage: look at what was given, digest it, so that all that follows is keyed on content, and see
that the disk can hold what will be computed of it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prefect import task

from goodnet.choices import Choices
from goodnet.errors import printable
from goodnet.images.class_names import ClassNames
from goodnet.inputs import Role, check_inputs, require_different_data
from goodnet.storage.disk import require_space
from tasks.activations import open_frontier
from tasks.caching import activations_files, always_run, digest_memory
from tasks.records import CleanValidation, EvaluationSet, Inputs, Network, StoredFile

logger = logging.getLogger(__name__)


@task(name="load", **always_run())
def load_inputs(
    model: Path,
    sets: dict[Role, Path | None],
    choices: Choices,
    *,
    refresh: bool,
    artifacts: Path,
) -> Inputs:
    """Check the files and the disk; an unchanged file is digested again only with `refresh`."""
    checked = check_inputs(model, sets, choices)
    memory = digest_memory(artifacts, refresh=refresh)
    files = {
        role: StoredFile.of(images.path, memory.digest_opened(images))
        for role, images in checked.sets.items()
    }
    if not choices.allow_same_data:
        require_different_data({role: file.sha256 for role, file in files.items()})
    records: dict[Role, dict[str, Any]] = {
        role: {
            "file": files[role],
            "num_images": images.num_images,
            "classes": _names(images.classes),
        }
        for role, images in checked.sets.items()
    }
    inputs = Inputs(
        network=Network(
            file=StoredFile.of(model, memory.digest(model)),
            architecture=choices.architecture,
            layer=checked.layer,
            rank_at=checked.rank_at,
            preprocessing=choices.preprocessing,
            limits=choices.limits,
        ),
        clean_valid=CleanValidation(**records["clean_valid"]),
        evaluation=tuple(
            EvaluationSet(role=role, **records[role]) for role in records if role != "clean_valid"
        ),
        classes=_names(checked.classes),
        remarks=checked.remarks,
    )
    for remark in inputs.remarks:
        logger.info(printable(remark))
    _require_space(inputs, artifacts)
    return inputs


def _names(classes: ClassNames | None) -> tuple[str, ...] | None:
    return None if classes is None else classes.names


def _require_space(inputs: Inputs, artifacts: Path) -> None:
    """Refuse more activations than the disk can hold; those in the cache take no more room."""
    sets: tuple[CleanValidation | EvaluationSet, ...] = (inputs.clean_valid, *inputs.evaluation)
    missing = [
        len(rows)
        for images in sets
        for rows, path in activations_files(artifacts, inputs.network, images).items()
        if not path.exists()
    ]
    if missing:
        from goodnet.pruning.first_pass import image_bytes

        num_images = sum(missing)
        size = image_bytes(open_frontier(inputs.network))
        require_space(artifacts, num_images=num_images, image_bytes=size)
