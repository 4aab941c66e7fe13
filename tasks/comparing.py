"""Stage: do the sets of a run share images?"""

from __future__ import annotations

import logging

from prefect import task

from goodnet.arrays import DigestArray
from goodnet.inputs import Role, compare_images
from tasks.caching import cached
from tasks.records import (
    ActivationsRecord,
    CleanValidationActivations,
    EvaluationActivations,
    Remarks,
)

logger = logging.getLogger(__name__)


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
