"""The repairs, from what was learnt of clean validation, and the table of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from goodnet.arrays import IntArray
from goodnet.defenses.calibration import Calibration, share_out
from goodnet.defenses.discriminant import Discriminant, build_head
from goodnet.defenses.guard import Seen
from goodnet.defenses.guard_nets import build_fallback
from goodnet.defenses.seam import Candidate, Learnt, Repair
from goodnet.networks.graph import copy_model
from goodnet.pruning.activation_cache import ActivationCache
from goodnet.pruning.channels import prune_channels
from goodnet.pruning.frontier import Frontier
from goodnet.pruning.sweep import answers_at, sweep

FALLBACK = "fallback"


def prune(learnt: Learnt) -> Iterator[Candidate]:
    """Yield B without its k quietest channels, for k = 1 … C.

    Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
    Networks", RAID 2018. Nothing is fitted, so all images of clean validation count.
    """
    clean, order = learnt.clean, learnt.guard.order
    frontier = clean.frontier
    counts = sweep(clean.cache, frontier=frontier, order=order)
    for step in range(1, len(order) + 1):
        channels = order[:step]
        yield Candidate(
            method="pruning",
            setting=step,
            details={"step": step},
            lost=int(counts.correct[0] - counts.correct[step]) / counts.images,
            answers=partial(_answers_of_pruned, frontier, order, step),
            build=partial(prune_channels, frontier.model, frontier.layer, channels),
        )


def discriminate(learnt: Learnt) -> Iterator[Candidate]:
    """Yield B up to each of its depths with the nearest class as the answer, the deepest first.

    Shallow parts of B are free of its backdoor and less accurate, deep ones the reverse. Nothing is
    offered where clean validation has no two images a class.
    """
    clean = learnt.clean
    for number, fitted in enumerate(reversed(learnt.guard.discriminants), start=1):
        if not fitted.tells_classes_apart:
            return
        yield Candidate(
            method="discriminant",
            setting=number,
            details={"layer": fitted.layer, "components": fitted.kernel.shape[1]},
            lost=_lost(learnt, learnt.held.nearest[fitted.layer]),
            answers=partial(_nearest, fitted),
            build=partial(
                build_head, clean.frontier.model, clean.frontier.depths[fitted.depth], fitted
            ),
        )


def fine_tuned(learnt: Learnt) -> Iterator[Candidate]:
    """Yield M, which was trained on clean validation under heavy augmentation, if there is one."""
    if learnt.tuned is None or learnt.held.tuned is None:
        return
    yield Candidate(
        method="finetuning",
        setting=1,
        details={},
        lost=_lost(learnt, learnt.held.tuned),
        answers=_answers_of_tuned,
        build=partial(copy_model, learnt.tuned),
    )


def fall_back(learnt: Learnt) -> Iterator[Candidate]:
    """Yield B with a second opinion in the place of answers that are not believed.

    What the calibrated GoodNet would flag, the fine-tuned net answers, or else the discriminant at
    a middle depth, leaving out the class that B answers. Few clean images are flagged, so that the
    opinion may be less accurate than B.
    """
    guard, calibration, held = learnt.guard, learnt.calibration, learnt.held
    if held.instead is None:
        return
    labels, predictions = learnt.clean.cache.answers()
    before = predictions[share_out(labels).calibrating]
    opinion = guard.second_opinion if learnt.tuned is None else None
    yield Candidate(
        method=FALLBACK,
        setting=1,
        details={"second_opinion": "finetuning" if opinion is None else opinion.layer},
        lost=_lost(learnt, _fallen_back(calibration, before, held)),
        answers=partial(_answers_of_fallback, calibration),
        build=partial(build_fallback, learnt.clean.frontier, guard, calibration, learnt.tuned),
    )


def _lost(learnt: Learnt, answers: IntArray) -> float:
    """Return how much less often than B answers to the images that calibrate are right."""
    labels, predictions = learnt.clean.cache.answers()
    held = share_out(labels).calibrating
    return float((predictions[held] == labels[held]).mean() - (answers == labels[held]).mean())


def _answers_of_pruned(
    frontier: Frontier, order: tuple[int, ...], step: int, cache: ActivationCache, seen: Seen
) -> IntArray:
    parts = (
        answers_at(block, frontier=frontier, order=order, step=step) for block in cache.blocks()
    )
    return np.concatenate(list(parts))


def _nearest(fitted: Discriminant, cache: ActivationCache, seen: Seen) -> IntArray:
    return seen.nearest[fitted.layer]


def _answers_of_tuned(cache: ActivationCache, seen: Seen) -> IntArray:
    if seen.tuned is None:
        raise ValueError("the set was seen without the fine-tuned net, expected its answers")
    return seen.tuned


def _answers_of_fallback(calibration: Calibration, cache: ActivationCache, seen: Seen) -> IntArray:
    _, predictions = cache.answers()
    return _fallen_back(calibration, predictions, seen)


def _fallen_back(calibration: Calibration, predictions: IntArray, seen: Seen) -> IntArray:
    if seen.instead is None:
        raise ValueError("the set was seen without a second opinion, expected one")
    flagged = calibration.join(seen.scores) > np.float32(calibration.threshold)
    return np.where(flagged, seen.instead, predictions)


REPAIRS: dict[str, Repair] = {
    "pruning": prune,
    "discriminant": discriminate,
    "finetuning": fine_tuned,
    FALLBACK: fall_back,
}
"""All repairs by name."""
