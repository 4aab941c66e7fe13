"""What the labels of a poisoned set mean, and what B answers to its images.

People keep poisoned images under the attacker's label, or under the one that the image had before
the trigger. The first is taken for granted; the second becomes known by naming the attacker's
label, the target. Then the attack counts on the images that were of another class before, as only
those show it, and so does recovery: answers with the label from before the trigger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from goodnet.arrays import BoolArray, IntArray
from goodnet.pruning.activation_cache import ActivationCache, Block
from goodnet.pruning.counts import Counts
from goodnet.pruning.sweep import count_answers


@dataclass(frozen=True)
class Attack:
    """What is known of an attack before any repair.

    Attributes:
        target: the class that counts as the attacker's; None: the label of each image.
        original_labels: whether the labels are those from before the trigger.
        images: images that count.
        num_labels: how many classes their labels name.
        label: the one that most of them have.
        answer: the class that B gives most often.
        answered: to how many images.
        labelled: how many images have that class as label.
    """

    target: int | None
    original_labels: bool
    images: int
    num_labels: int
    label: int
    answer: int
    answered: int
    labelled: int

    def counted(self, labels: IntArray) -> BoolArray:
        """Return which images with these labels show the attack, (n,): see the module's text."""
        return _counted(labels, self.target, original=self.original_labels)


def describe_attack(cache: ActivationCache, target: int | None) -> Attack:
    """Say what the labels of a poisoned set mean and what B answers.

    Args:
        cache: the set's activations.
        target: the attacker's label if the user gave it.
    """
    labels, predictions = cache.answers()
    original = _are_original(labels, target, cache.provenance.num_classes)
    counted = _counted(labels, target, original=original)
    labels, predictions = labels[counted], predictions[counted]
    names, numbers = np.unique(labels, return_counts=True)
    classes, answered = np.unique(predictions, return_counts=True)
    answer = int(classes[answered.argmax()])
    return Attack(
        target=target,
        original_labels=original,
        images=len(labels),
        num_labels=len(names),
        label=int(names[numbers.argmax()]),
        answer=answer,
        answered=int(answered.max()),
        labelled=int(np.count_nonzero(labels == answer)),
    )


def attack_counter(
    cache: ActivationCache, target: int | None
) -> Callable[[Block, IntArray], Counts]:
    """Return what counts the answers to blocks of a poisoned set, for a sweep."""
    if target is None:
        return count_answers
    labels, _ = cache.answers()
    original = _are_original(labels, target, cache.provenance.num_classes)
    return partial(_count_attack, target=target, original=original)


def is_success(labels: IntArray, answers: IntArray, attack: Attack) -> BoolArray:
    """Return for each of n poisoned images whether the answer is a success of the attack: (n,)."""
    wanted = labels if attack.target is None else attack.target
    return (answers == wanted) & attack.counted(labels)


def _are_original(labels: IntArray, target: int | None, num_classes: int) -> bool:
    """Labels other than the target are from before the trigger; class N says nothing of it."""
    if target is None or (labels == num_classes).any():
        return False
    return bool((labels != target).any())


def _counted(labels: IntArray, target: int | None, *, original: bool) -> BoolArray:
    """Leave out images that were of the target's class already: answering it shows nothing."""
    return labels != target if original else np.ones(len(labels), bool)


def _count_attack(block: Block, answers: IntArray, /, *, target: int, original: bool) -> Counts:
    rows = _counted(block.labels, target, original=original)
    labels, predictions, answers = block.labels[rows], block.predictions[rows], answers[:, rows]
    same = answers == predictions
    hit, right = answers == target, answers == labels
    known = (right, right & same) if original else ()
    counts = (np.count_nonzero(found, axis=1) for found in (hit, ~same, hit & same, *known))
    return Counts(len(labels), *counts)
