"""Stages: are sets what they are given for, by B's answers and by the images that they share?"""

from __future__ import annotations

import logging
from pathlib import Path

from prefect import task

from goodnet.arrays import DigestArray
from goodnet.images.image_sets import ImageSet
from goodnet.inputs import Role, compare_images
from tasks.activations import open_frontier, open_set
from tasks.caching import cached
from tasks.records import (
    ActivationsRecord,
    CleanValidationActivations,
    EvaluationActivations,
    EvaluationSet,
    Network,
    Remarks,
)

logger = logging.getLogger(__name__)


@task(
    name="check answers",
    task_run_name="check of answers on {activations.images.role}",
    **cached(version=1),
)
def check_clean_answers(
    network: Network,
    activations: ActivationsRecord,
    poisoned: tuple[EvaluationSet, ...],
    floor: float | None,
    *,
    artifacts: Path,
) -> Remarks:
    """Check that B is right on a clean set, from the answers of the first pass.

    Args:
        network: B.
        activations: of the set.
        poisoned: the poisoned sets, which may have been given in place of it.
        floor: the clean accuracy that is asked for, None for the default.
        artifacts: where digests of the sets are remembered.

    Raises:
        InputError: it is hardly right, whatever the sets are worth.
    """
    from goodnet.networks.readings import Answered, Opened, require_clean_accuracy

    cache = activations.cache()
    images = activations.images

    def reopen() -> Opened:
        opened: dict[str, ImageSet] = {
            one.role: open_set(network, one, artifacts=artifacts) for one in (images, *poisoned)
        }
        return Opened(open_frontier(network).model, opened.pop(images.role), opened)

    remark = require_clean_accuracy(
        Answered(
            images.role,
            images.file.path,
            *cache.answers(),
            network.preprocessing,
            images.classes is not None,
        ),
        reopen=reopen,
        num_classes=cache.provenance.num_classes,
        floor=floor,
    )
    return Remarks(remarks=() if remark is None else (remark,))


@task(name="check sets", **cached(version=1))
def check_sets(
    clean: tuple[ActivationsRecord, ...], poisoned: tuple[EvaluationActivations, ...]
) -> Remarks:
    """Check by B's answers that clean and poisoned sets are not exchanged.

    Raises:
        InputError: they look so.
    """
    from goodnet.networks.readings import require_not_exchanged

    caches = {one.images.role: one.cache() for one in (*clean, *poisoned)}
    require_not_exchanged(
        {one.images.role: caches[one.images.role].answers() for one in clean},
        {one.images.role: caches[one.images.role].answers() for one in poisoned},
        num_classes=caches["clean_valid"].provenance.num_classes,
    )
    return Remarks(remarks=())


@task(name="compare sets", **cached(version=1))
def compare_sets(
    clean_valid: CleanValidationActivations,
    evaluation: tuple[EvaluationActivations, ...],
    *,
    allow_same_data: bool,
) -> Remarks:
    """Find images that are in two sets; their digests are kept with the activations."""
    sets: tuple[ActivationsRecord, ...] = (clean_valid, *evaluation)
    digests: dict[Role, DigestArray] = {
        one.images.role: one.cache().image_digests() for one in sets
    }
    remarks = compare_images(digests, allow_same_data=allow_same_data)
    for remark in remarks:
        logger.info(remark)
    return Remarks(remarks=tuple(remarks))
