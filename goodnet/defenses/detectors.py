"""Detectors: how suspicious B's answer to an image is.

Each score sees another side of an image: how sure B is of its answer, how sure the channels are
that clean images leave quiet, and whether the features at a depth look like the class that B
answers. None of them notices every trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from goodnet.defenses.seam import Detector, Evidence, Value

Item = TypeVar("Item")


def margin(seen: Evidence) -> dict[str, Value]:
    """Return how much more B gives its class than the next one, without any repair.

    The control: what anybody has. Backdoored images are often answered with more certainty than
    any clean one.
    """
    return {"margin": seen.margin}


def expert(seen: Evidence) -> dict[str, Value]:
    """Return how much more the quietest channels alone give B's class than the next one.

    A trigger that lives in channels that clean images leave quiet is all that they know.
    """
    return {"expert": seen.expert}


def distance(seen: Evidence) -> dict[str, Value]:
    """Return how far the features at a middle and the last depth are from the class that B answers.

    Late, a backdoored image is unlike any image of the class that B answers. Other depths find
    little that these do not: see docs/methods.md.
    """
    chosen = chosen_depths(seen.depths)[-2:]
    return {f"distance at {depth.layer}": depth.distance for depth in chosen}


def nearer_class(seen: Evidence) -> dict[str, Value]:
    """Return how much nearer another class is at the first and a middle depth.

    Early, an image is most like the class that it shows.
    """
    chosen = chosen_depths(seen.depths)[:2]
    return {
        f"nearer class at {depth.layer}": depth.nearer
        for depth in chosen
        if depth.tells_classes_apart
    }


def disagreement(seen: Evidence) -> dict[str, Value]:
    """Return B's margin less that of a fine-tuned net, for the class that B answers."""
    return {} if seen.tuned is None else {"disagreement": seen.margin - seen.tuned}


def chosen_depths(depths: Sequence[Item]) -> list[Item]:
    """Return the first, a middle and the last depth: all see the same, and each costs budget."""
    last = len(depths) - 1
    return [depths[number] for number in sorted({0, len(depths) // 2, last})] if depths else []


DETECTORS: dict[str, Detector] = {
    "margin": margin,
    "expert": expert,
    "distance": distance,
    "nearer class": nearer_class,
    "disagreement": disagreement,
}
"""All whose scores are joined, in the order that they have in files."""

CONTROL = "margin"
"""The score that needs no repair; every table of detectors shows it."""


def all_scores(seen: Evidence) -> dict[str, Value]:
    """Return the scores of all detectors by name."""
    return {name: score for detect in DETECTORS.values() for name, score in detect(seen).items()}
