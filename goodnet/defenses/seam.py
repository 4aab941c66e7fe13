"""The seam: what a repair and a detector are, and what they may see.

A repair offers repaired nets, a detector gives a suspicion to each image. Both see B, its first
pass over clean validation and what was learnt from that, and nothing else: that no poisoned or test
image can reach them is a matter of types. To add one is one file here, one line in a table of
`goodnet.defenses.methods`, and nothing in its tests but what is its own: the tests of the table run
over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goodnet.arrays import FloatArray
from goodnet.images.image_sets import ImageSet
from goodnet.pruning.activation_cache import ActivationCache
from goodnet.pruning.frontier import Frontier

if TYPE_CHECKING:
    import keras

    from goodnet.arrays import IntArray
    from goodnet.defenses.calibration import Calibration
    from goodnet.defenses.guard import Guard, Seen


@dataclass(frozen=True, eq=False)
class CleanPass:
    """All that a defence sees.

    Attributes:
        frontier: of B, `frontier.model`, at the pruned layer.
        images: clean validation.
        cache: what the first pass of B over it left.
    """

    frontier: Frontier
    images: ImageSet
    cache: ActivationCache


@dataclass(frozen=True, eq=False)
class Learnt:
    """What was learnt from clean validation.

    Attributes:
        clean: B and its pass over clean validation.
        guard: class statistics and the prune order.
        held: what is made of the images that calibrate, by statistics and nets that have not seen
            them.
        calibration: of the joined score.
        tuned: the fine-tuned net, if there is one.
    """

    clean: CleanPass
    guard: Guard
    held: Seen
    calibration: Calibration
    tuned: keras.Model | None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A repaired net that a method offers.

    Attributes:
        method: its name in the table of repairs; file names carry it.
        setting: what tells it from the method's other candidates: of pruning the step.
        details: what results.json says of it, plain values.
        lost: how much less often than B it is right on clean validation images that it was not
            fitted to, a fraction; below 0 if it is right more often.
        answers: gives its answers to the images of a set, (n,), from B's pass over it and what the
            guard made of it.
        build: makes the net, B', which maps images as B does.
    """

    method: str
    setting: int
    details: Mapping[str, str | int | float]
    lost: float
    answers: Callable[[ActivationCache, Seen], IntArray]
    build: Callable[[], keras.Model]


Repair = Callable[[Learnt], Iterator[Candidate]]
"""Offers its candidates, the one that changes B least first."""

Detector = Callable[[FloatArray, FloatArray], FloatArray]
"""Takes what B and a repaired net give the classes of n images, each (n, N) before softmax.

Returns how suspicious each image is, (n,), larger for more, with no NaN or infinity.
"""
