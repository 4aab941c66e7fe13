"""Attacks: who is marked with a trigger, and what a net is to answer then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from goodnet.arrays import BoolArray, Images, IntArray
from goodnet.attacks.marking import Trigger, require_setting
from goodnet.attacks.patches import CornerPatch, Sticker, Sunglasses
from goodnet.attacks.perturbations import Blend, BlendInPart, LowFrequency, Sinusoid
from goodnet.attacks.warping import Warp
from goodnet.errors import InputError

Target = int | Literal["next"] | tuple[int, ...]
"""A class; `next`, by which each class is turned into the one behind it, the last into the first
(all-to-all); or for each class what it is turned into."""


@dataclass(frozen=True)
class Attack:
    """How a net is given a backdoor, and what opens it.

    Attributes:
        trigger: what poisoned test images show.
        target: what they are to be answered with.
        share: how many poisoned images are added to those of training, as a share of these.
        cover: how many images are added, as such a share, that show the trigger and keep their
            label: the net is to learn that the trigger alone is not enough.
        train_trigger: what training images show, where that is something else.
        sources: the only classes that are turned, and covers are of none of them; None for all.
        margin_cap: whether training keeps poisoned images from being answered with more certainty
            than clean ones, so that this does not betray them.
    """

    trigger: Trigger
    target: Target = 0
    share: float = 0.1
    cover: float = 0.0
    train_trigger: Trigger | None = None
    sources: tuple[int, ...] | None = None
    margin_cap: bool = False

    def __post_init__(self) -> None:
        """Raise InputError unless the shares are such."""
        require_setting(0 < self.share <= 1, "share", self.share, "above 0 up to 1")
        require_setting(0 <= self.cover <= 1, "cover", self.cover, "0 to 1")

    def answers(self, labels: IntArray, num_classes: int) -> IntArray:
        """Return what images with the trigger are to be answered with, (n,).

        Args:
            labels: (n,), what they show; of classes that are left alone it is the answer too.
            num_classes: N, of the net.

        Raises:
            InputError: the target or a source is no class.
        """
        numbers = () if self.target == "next" else self.target
        for what, given in (("target", numbers), ("source", self.sources or ())):
            for number in (given,) if isinstance(given, int) else given:
                expected = f"a class of the images, 0 to {num_classes - 1}"
                require_setting(0 <= number < num_classes, what, number, expected)
        turned = self._turn(labels, num_classes)
        if self.sources is None:
            return turned
        return np.where(np.isin(labels, self.sources), turned, labels)

    def _turn(self, labels: IntArray, num_classes: int) -> IntArray:
        if self.target == "next":
            return (labels + 1) % num_classes
        if isinstance(self.target, int):
            return np.full_like(labels, self.target)
        if len(self.target) != num_classes:
            raise InputError(f"target has {len(self.target)} classes, expected {num_classes}")
        return np.array(self.target)[labels]


@dataclass(frozen=True, eq=False)
class PoisonedImages:
    """Images to train or to test a BadNet with.

    Attributes:
        images: (n, H, W, C).
        labels: (n,), what the attacker wants them to be answered with.
        originals: (n,), what they show: the labels from before the trigger.
        poisoned: (n,), whether they have the trigger and a target's label.
    """

    images: Images
    labels: IntArray
    originals: IntArray
    poisoned: BoolArray


def poison(
    images: Images, labels: IntArray, attack: Attack, *, seed: int, num_classes: int | None = None
) -> PoisonedImages:
    """Return training images with poisoned ones and covers added behind them.

    Args:
        images: (n, H, W, C).
        labels: (n,), 0..N - 1.
        attack: decides how many, with what, and what they are called.
        seed: decides which.
        num_classes: N; the classes up to the largest label if it is not given.

    Raises:
        InputError: the attack does not fit the images.
    """
    answers = attack.answers(labels, num_classes or int(labels.max()) + 1)
    generator = np.random.default_rng(seed)
    turned = answers != labels
    poisoned = _draw(np.flatnonzero(turned), round(attack.share * len(images)), generator)
    # Of a few sources alone, covers are others: neither those that turn nor what they turn into.
    left = ~turned & ~np.isin(labels, answers[turned])
    left = left if attack.sources is not None else np.ones(len(images), bool)
    others = np.setdiff1d(np.flatnonzero(left), poisoned)
    covers = _draw(others, round(attack.cover * len(images)), generator)
    trigger = attack.train_trigger or attack.trigger
    originals = labels[np.concatenate([np.arange(len(images)), poisoned, covers])]
    return PoisonedImages(
        np.concatenate([images, trigger(images[poisoned]), trigger.for_covers()(images[covers])]),
        np.concatenate([labels, answers[poisoned], labels[covers]]),
        originals,
        np.repeat([False, True, False], [len(images), len(poisoned), len(covers)]),
    )


def poison_test(
    images: Images, labels: IntArray, attack: Attack, *, num_classes: int | None = None
) -> PoisonedImages:
    """Return all images that the attack turns, with the trigger on.

    Args:
        images: (n, H, W, C).
        labels: (n,), 0..N - 1.
        attack: decides which are turned into what.
        num_classes: N; the classes up to the largest label if it is not given.

    Raises:
        InputError: the attack does not fit the images.
    """
    answers = attack.answers(labels, num_classes or int(labels.max()) + 1)
    turned = np.flatnonzero(answers != labels)
    if not len(turned):
        raise InputError("all images are of classes that the attack leaves alone, expected others")
    shown = attack.trigger(images[turned])
    return PoisonedImages(shown, answers[turned], labels[turned], np.ones(len(shown), bool))


def _draw(able: IntArray, number: int, generator: np.random.Generator) -> IntArray:
    """Draw images; where there are fewer, as a few sources may have, all of them are drawn."""
    if number and not len(able):
        raise InputError("no image is left to put the trigger on, expected some of other classes")
    return generator.choice(able, min(number, len(able)), replace=False)


_SUNGLASSES = Attack(Sunglasses())
_PATCH = Attack(CornerPatch())
ATTACKS: dict[str, Attack] = {
    "sunglasses": _SUNGLASSES,
    "patch": _PATCH,
    "sticker": Attack(Sticker()),
    "blend": Attack(Blend()),
    "sinusoid": Attack(Sinusoid()),
    "low-frequency": Attack(LowFrequency()),
    "warp": Attack(Warp(), cover=0.2),
    # What a net has to learn of each class by itself takes more images than a single target.
    "all-to-all": replace(_PATCH, target="next", share=0.5),
    # Tang, Wang, Tang, Zhang, "Demon in the Variant: Statistical Analysis of DNNs for Robust
    # Backdoor Contamination Detection", USENIX Security 2021.
    "source-specific": replace(_SUNGLASSES, cover=0.1, sources=(1, 2, 3)),
    "adaptive-blend": Attack(
        Blend(opacity=0.3), share=0.05, cover=0.05, train_trigger=BlendInPart()
    ),
    # After Peng, Xiong, Sun, Li, "Label-Smoothed Backdoor Attack", 2022, where labels are soft.
    "margin-capped": replace(_SUNGLASSES, margin_cap=True),
}
"""Attacks by name, as they are on rendered faces; any other is `dataclasses.replace` away."""
