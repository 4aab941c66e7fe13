"""The discriminant as a repair: a shallow part of B and a head that never saw the backdoor."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from goodnet.defenses.calibration import Folds, share_out
from goodnet.defenses.discriminant import build_head, fit_rows, rows_of
from goodnet.defenses.seam import Candidate, CleanPass


def discriminate(clean: CleanPass) -> Iterator[Candidate]:
    """Yield B up to each of its depths with the nearest class as the answer, the deepest first.

    Shallow parts of B are free of its backdoor and less accurate, deep ones the reverse. The
    accuracy of a candidate is that over images to which its statistics were not fitted: a head of
    class means fits few images better than others. Nothing is offered where clean validation has
    no two images a class.
    """
    labels, _ = clean.cache.answers()
    folds = share_out(labels)
    for place, depth in enumerate(reversed(clean.frontier.depths), start=1):
        number = clean.cache.num_depths - place
        fitted = fit_rows(clean, number, folds.final)
        if not fitted.tells_classes_apart:
            return
        yield Candidate(
            method="discriminant",
            setting=place,
            details={
                "layer": depth.layer,
                "components": fitted.kernel.shape[1],
                "accuracy_images": "held out",
            },
            clean_accuracy=_held_out_accuracy(clean, number, folds),
            build=partial(build_head, clean.frontier.model, depth, fitted),
        )


def _held_out_accuracy(clean: CleanPass, depth: int, folds: Folds) -> float:
    """Return the share of images that statistics of others put into their class, 0 … 1."""
    labels, _ = clean.cache.answers()
    right = images = 0
    for part in folds.parts:
        fitted = fit_rows(clean, depth, part.fit)
        features = np.concatenate(list(rows_of(clean.cache, depth, part.held_out)))
        right += int(np.count_nonzero(fitted.answers(features) == labels[part.held_out]))
        images += len(features)
    return right / images
