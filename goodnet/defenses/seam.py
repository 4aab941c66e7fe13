"""The seam: what a repair and a detector are, and what they may see.

A repair offers repaired nets, a detector gives a suspicion to each image. Both see B, its first
pass over clean validation and what was learnt from that, and nothing else: that no poisoned or test
image can reach them is a matter of types. The tables that runs and tests go through are
`goodnet.defenses.repairs.REPAIRS` and `goodnet.defenses.detectors.DETECTORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

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

Scores = dict[str, FloatArray]
"""Of images by name, (n,) each, larger for more suspicious."""

Value = Any
"""Numbers of n images: an array, (n,), or, in the graph of a net, a tensor of Keras, (n, 1)."""


class DepthEvidence(Protocol):
    """What the class statistics at one depth of B make of images."""

    @property
    def layer(self) -> str:
        """The layer there."""

    @property
    def tells_classes_apart(self) -> bool:
        """Whether two classes at least have a mean of their own."""

    @property
    def distance(self) -> Value:
        """How far the image is from the class that B answers."""

    @property
    def nearer(self) -> Value:
        """How much nearer than that another class is, mostly negative."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What B, and all that was learnt from clean validation, makes of images.

    Attributes:
        margin: by how much the class that B answers exceeds the best other one, before softmax.
        expert: the same class's lead in the net that keeps the quietest channels alone.
        tuned: its lead in the fine-tuned net; None where there is none.
        depths: of B, the first first.
    """

    margin: Value
    expert: Value
    tuned: Value | None
    depths: Sequence[DepthEvidence]


Detector = Callable[[Evidence], dict[str, Value]]
"""Gives its scores by name, none where what it needs is not there.

Each is larger for more suspicious images, with no NaN or infinity where the evidence has none.

It computes with operators that arrays and tensors share, as the same function finds the numbers
that calibrate and becomes a part of the GoodNet.
"""
