"""Stages: is B right on clean images, and are clean and poisoned sets what they are given for?"""

from __future__ import annotations

from pathlib import Path

from prefect import task

from goodnet.images.image_sets import ImageSet
from tasks.activations import open_frontier, open_set
from tasks.caching import cached
from tasks.records import (
    ActivationsRecord,
    EvaluationActivations,
    EvaluationSet,
    Network,
    Remarks,
)


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
