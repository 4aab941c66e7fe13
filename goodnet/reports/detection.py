"""What scores are worth as detectors: rates on every set, from scores of single images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from goodnet.arrays import BoolArray, FloatArray
from goodnet.defenses.calibration import Calibration, calibrate
from goodnet.defenses.guard import Scores
from goodnet.defenses.methods import CONTROL
from goodnet.pruning.activation_cache import ActivationCache
from goodnet.pruning.poisoned import counted_images, describe_attack, is_success
from goodnet.reports.results import DetectorRates, GoodNetRates

JOINED = "joined"
"""The detector that the calibrated GoodNet has in it."""


@dataclass(frozen=True, eq=False)
class ScoredSet:
    """A set with B's answers and the scores of its images.

    Attributes:
        cache: of the first pass of B over it.
        scores: by name, (n,) each.
        target: of a poisoned set, the attacker's label; None where the labels are that.
    """

    cache: ActivationCache
    scores: Scores
    target: int | None = None


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
    labels, predictions = scored.cache.answers()
    columns = {
        "set": [name] * len(labels),
        "index": np.arange(len(labels)),
        "label": labels,
        "prediction": predictions,
        **scored.scores,
        JOINED: calibrations[JOINED].join(scored.scores),
    }
    return pa.table(columns)


def _measure(name: str, sets: Mapping[str, ScoredSet], calibration: Calibration) -> DetectorRates:
    values = {role: calibration.join(one.scores) for role, one in sets.items()}
    flagged = {role: joined > np.float32(calibration.threshold) for role, joined in values.items()}
    poisoned = sets.get("poisoned_test")
    counted = None if poisoned is None else counted_images(poisoned.cache, poisoned.target)
    alarms = flagged.get("clean_test")
    area = None
    if counted is not None and alarms is not None:
        area = area_under_curve(values["clean_test"], values["poisoned_test"][counted])
    detection = None if counted is None else float(flagged["poisoned_test"][counted].mean())
    false_alarms = None if alarms is None else float(alarms.mean())
    return DetectorRates(
        name=name,
        control=name == CONTROL,
        false_alarm_budget=calibration.budget,
        held_budget=calibration.held,
        images=calibration.images,
        threshold=calibration.threshold,
        auc=area,
        detection_rate=detection,
        false_alarm_rate=false_alarms,
        goodnet=_guarded_rates(sets, flagged, counted, detection, false_alarms),
    )


def _guarded_rates(
    sets: Mapping[str, ScoredSet],
    flagged: Mapping[str, BoolArray],
    counted: BoolArray | None,
    detection: float | None,
    false_alarms: float | None,
) -> GoodNetRates:
    """Return the rates of B where it is believed, else class N."""
    right = {
        role: _right(sets[role], flagged[role])
        for role in ("clean_valid", "clean_test")
        if role in sets
    }
    attack = None
    if counted is not None:
        poisoned = sets["poisoned_test"]
        labels, predictions = poisoned.cache.answers()
        success = is_success(labels, predictions, describe_attack(poisoned.cache, poisoned.target))
        attack = float((success & ~flagged["poisoned_test"])[counted].mean())
    return GoodNetRates(
        clean_valid_accuracy=right["clean_valid"],
        clean_test_accuracy=right.get("clean_test"),
        attack_success_rate=attack,
        detection_rate=detection,
        false_alarm_rate=false_alarms,
    )


def _right(scored: ScoredSet, flagged: BoolArray) -> float:
    labels, predictions = scored.cache.answers()
    return float(((labels == predictions) & ~flagged).mean())
