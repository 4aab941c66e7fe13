"""What scores are worth as detectors: rates on every set, from scores of single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from goodnet.arrays import BoolArray, FloatArray, IntArray
from goodnet.defenses.calibration import Calibration, calibrate
from goodnet.defenses.choice import Kept
from goodnet.defenses.detectors import CONTROL
from goodnet.defenses.guard import Seen
from goodnet.defenses.seam import Scores
from goodnet.pruning.activation_cache import ActivationCache
from goodnet.pruning.poisoned import Attack, describe_attack, is_success
from goodnet.reports.results import (
    DepthRates,
    DetectorRates,
    GoodNetRates,
    RepairedNet,
    RepairedRates,
    Unreached,
)

JOINED = "joined"
"""The detector that the calibrated GoodNet has in it."""


@dataclass(frozen=True, eq=False)
class ScoredSet:
    """A set with B's answers and the scores of its images.

    Attributes:
        cache: of the first pass of B over it.
        seen: what the guard made of its images.
        target: of a poisoned set, the attacker's label; None where the labels are that.
    """

    cache: ActivationCache
    seen: Seen
    target: int | None

    @cached_property
    def labels(self) -> IntArray:
        """The labels of its images, (n,)."""
        return self.cache.answers()[0]

    @cached_property
    def predictions(self) -> IntArray:
        """B's answers to them, (n,)."""
        return self.cache.answers()[1]

    @cached_property
    def attack(self) -> Attack:
        """Of a poisoned set, what B answers to it."""
        return describe_attack(self.cache, self.target)

    @cached_property
    def counted(self) -> BoolArray:
        """Which images of a poisoned set show the attack, (n,)."""
        return self.attack.counted(self.labels)


def calibrate_all(held: Scores, *, budget: float) -> dict[str, Calibration]:
    """Return a calibration for each score alone, and the one that joins them.

    Args:
        held: scores of the clean validation images that calibrate.
        budget: the share of clean images that may be flagged.
    """
    alone = {name: calibrate({name: values}, budget=budget) for name, values in held.items()}
    return alone | {JOINED: calibrate(held, budget=budget)}


def measure_detectors(
    sets: Mapping[str, ScoredSet], calibrations: Mapping[str, Calibration]
) -> tuple[DetectorRates, ...]:
    """Measure each detector on every set, the control first and the joined one last.

    Args:
        sets: by name, clean validation at least.
        calibrations: by name of the detector.
    """
    names = sorted(calibrations, key=lambda name: (name == JOINED, name != CONTROL))
    return tuple(_measure(name, sets, calibrations[name]) for name in names)


def area_under_curve(clean: FloatArray, poisoned: FloatArray) -> float:
    """Return the area under the ROC curve of a score.

    It is the chance that a poisoned image has a higher score than a clean one, ties counted half:
    1 for a perfect detector, 0.5 for a coin.

    Args:
        clean: (n,), scores of clean images.
        poisoned: (m,), scores of poisoned images.
    """
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, poisoned, "left") + np.searchsorted(ordered, poisoned, "right")
    return float(below.mean() / (2 * len(clean)))


def scores_table(
    sets: Mapping[str, ScoredSet], calibrations: Mapping[str, Calibration]
) -> pa.Table:
    """Return the rows of scores.parquet: each image of each set, with a column a score."""
    return pa.concat_tables(_score_rows(name, one, calibrations) for name, one in sets.items())


def _score_rows(name: str, scored: ScoredSet, calibrations: Mapping[str, Calibration]) -> pa.Table:
    images = len(scored.labels)
    columns = {
        "set": [name] * images,
        "index": np.arange(images),
        "label": scored.labels,
        "prediction": scored.predictions,
        **scored.seen.scores,
        JOINED: calibrations[JOINED].join(scored.seen.scores),
    }
    return pa.table(columns)


def _measure(name: str, sets: Mapping[str, ScoredSet], calibration: Calibration) -> DetectorRates:
    values = {role: calibration.join(one.seen.scores) for role, one in sets.items()}
    flagged = {role: joined > np.float32(calibration.threshold) for role, joined in values.items()}
    counted = _counted(sets)
    area = None
    if counted is not None and "clean_test" in values:
        area = area_under_curve(values["clean_test"], values["poisoned_test"][counted])
    answers = {role: _guarded(one, flagged[role]) for role, one in sets.items()}
    rates = _goodnet_rates(sets, answers, flagged)
    return DetectorRates(
        name=name,
        control=name == CONTROL,
        false_alarm_budget=calibration.budget,
        held_budget=calibration.held,
        images=calibration.images,
        threshold=calibration.threshold,
        auc=area,
        detection_rate=rates.detection_rate,
        false_alarm_rate=rates.false_alarm_rate,
        goodnet=rates,
    )


def measure_repaired(
    sets: Mapping[str, ScoredSet],
    answers: Mapping[str, Sequence[IntArray]],
    nets: Sequence[Kept],
    drops: Sequence[float],
) -> tuple[RepairedNet | Unreached, ...]:
    """Measure the repaired nets of methods beside pruning, for each budget.

    Args:
        sets: by name, clean validation at least.
        answers: of each net to the images of each of these sets, (n,).
        nets: those that are kept, those of a method together.
        drops: the budgets of clean accuracy, in points.
    """
    found: list[RepairedNet | Unreached] = []
    for method in dict.fromkeys(net.method for net in nets):
        for drop in drops:
            best = (
                number
                for number, net in enumerate(nets)
                if net.method == method and drop in net.drops
            )
            number = next(best, None)
            if number is None:
                found.append(Unreached(method=method, drop=drop))
            else:
                its = {role: every[number] for role, every in answers.items()}
                found.append(_measure_repaired(sets, its, nets[number], drop))
    return tuple(found)


def measure_depths(sets: Mapping[str, ScoredSet]) -> tuple[DepthRates, ...]:
    """Measure the nearest class at each depth as an answer.

    Args:
        sets: by name, clean validation at least.
    """
    layers = sets["clean_valid"].seen.nearest
    return tuple(
        DepthRates(
            layer=layer,
            rates=_rates(sets, {role: one.seen.nearest[layer] for role, one in sets.items()}),
        )
        for layer in layers
    )


def _measure_repaired(
    sets: Mapping[str, ScoredSet], answers: Mapping[str, IntArray], net: Kept, drop: float
) -> RepairedNet:
    flagged = {role: values != sets[role].predictions for role, values in answers.items()}
    goodnet = {role: _guarded(one, flagged[role]) for role, one in sets.items()}
    return RepairedNet(
        method=net.method,
        drop=drop,
        details=net.details,
        b_prime=_rates(sets, answers),
        goodnet=_goodnet_rates(sets, goodnet, flagged),
    )


def _guarded(scored: ScoredSet, flagged: BoolArray) -> IntArray:
    """Return B's answers, class N where an image is flagged."""
    return np.where(flagged, scored.cache.provenance.num_classes, scored.predictions)


def _goodnet_rates(
    sets: Mapping[str, ScoredSet],
    answers: Mapping[str, IntArray],
    flagged: Mapping[str, BoolArray],
) -> GoodNetRates:
    counted = _counted(sets)
    alarms = flagged.get("clean_test")
    return GoodNetRates(
        **vars(_rates(sets, answers)),
        detection_rate=None if counted is None else float(flagged["poisoned_test"][counted].mean()),
        false_alarm_rate=None if alarms is None else float(alarms.mean()),
    )


def _rates(sets: Mapping[str, ScoredSet], answers: Mapping[str, IntArray]) -> RepairedRates:
    """Return the rates of a net by its answers to the images of each set, (n,) each."""
    right = {role: float((one.labels == answers[role]).mean()) for role, one in sets.items()}
    counted, attack, recovery = _counted(sets), None, None
    if counted is not None:
        poisoned, given = sets["poisoned_test"], answers["poisoned_test"]
        attack = float(is_success(poisoned.labels, given, poisoned.attack)[counted].mean())
        if poisoned.attack.original_labels:
            recovery = float((given == poisoned.labels)[counted].mean())
    return RepairedRates(
        clean_valid_accuracy=right["clean_valid"],
        clean_test_accuracy=right.get("clean_test"),
        attack_success_rate=attack,
        recovery_rate=recovery,
    )


def _counted(sets: Mapping[str, ScoredSet]) -> BoolArray | None:
    """Return which poisoned test images show the attack, if there are any."""
    poisoned = sets.get("poisoned_test")
    return None if poisoned is None else poisoned.counted
