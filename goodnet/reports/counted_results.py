"""Results from counts: the rates of B and of each checkpoint of a pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from goodnet.pruning import stop_rule
from goodnet.pruning.counts import Counts
from goodnet.pruning.poisoned import Attack
from goodnet.reports.recommendation import recommend
from goodnet.reports.results import (
    RATES,
    Checkpoint,
    DepthRates,
    DetectorRates,
    GoodNetRates,
    Rates,
    RepairedNet,
    RepairedRates,
    Results,
    Unreached,
    measured,
)


def make_results(
    curves: Mapping[str, Counts],
    checkpoints: Sequence[stop_rule.Checkpoint],
    *,
    order: Sequence[int],
    num_classes: int,
    attack: Attack | None = None,
    detectors: Sequence[DetectorRates] = (),
    repaired: Sequence[RepairedNet | Unreached] = (),
    recommended_method: str | None = None,
    depths: Sequence[DepthRates] = (),
    remarks: Sequence[str] = (),
    class_names: Sequence[str] = (),
) -> Results:
    """Return the results of a pruning.

    Args:
        curves: the counts of each set that was given, clean validation at least.
        checkpoints: one for each that was asked for.
        order: the channels in prune order.
        num_classes: B's classes N.
        attack: what B answers to the poisoned test images, if there are any.
        detectors: what the scores are worth, if there are any.
        repaired: nets of other methods, if there are any.
        recommended_method: the one of them whose net for the least budget is the one to use.
        depths: what class statistics are worth at each depth of B.
        remarks: sentences that whoever reads the rates should know.
        class_names: of B's classes, by their numbers, if they are known.
    """
    results = Results(
        classes=num_classes,
        baseline=_accuracies(curves, "correct", 0),
        checkpoints=tuple(_checkpoint(curves, one, order) for one in checkpoints),
        attack=attack,
        detectors=tuple(detectors),
        repaired=tuple(repaired),
        depths=tuple(depths),
        remarks=tuple(remarks),
        class_names=tuple(class_names),
    )
    tests = curves["clean_test"].images if "clean_test" in curves else None
    found = recommend(results, recommended_method, clean_tests=tests)
    return replace(results, recommended=found)


def _checkpoint(
    curves: Mapping[str, Counts], checkpoint: stop_rule.Checkpoint, order: Sequence[int]
) -> Checkpoint | Unreached:
    drop, step = checkpoint.drop, checkpoint.step
    if step is None:
        return Unreached(drop=measured(drop))
    return Checkpoint(
        drop=drop,
        step=step,
        channels=tuple(order[:step]),
        b_prime=RepairedRates(
            **vars(_accuracies(curves, "correct", step)),
            recovery_rate=_rate(curves, "recovery_rate", "recovered", step),
        ),
        goodnet=GoodNetRates(
            **vars(_accuracies(curves, "goodnet_correct", step)),
            recovery_rate=_rate(curves, "recovery_rate", "goodnet_recovered", step),
            detection_rate=_rate(curves, "detection_rate", "flagged", step),
            false_alarm_rate=_rate(curves, "false_alarm_rate", "flagged", step),
        ),
    )


def _accuracies(curves: Mapping[str, Counts], count: str, step: int) -> Rates:
    return Rates(
        clean_valid_accuracy=measured(_rate(curves, "clean_valid_accuracy", count, step)),
        clean_test_accuracy=_rate(curves, "clean_test_accuracy", count, step),
        attack_success_rate=_rate(curves, "attack_success_rate", count, step),
    )


def _rate(curves: Mapping[str, Counts], rate: str, count: str, step: int) -> float | None:
    curve = curves.get(RATES[rate].role)
    counted = None if curve is None else getattr(curve, count)
    return None if curve is None or counted is None else int(counted[step]) / curve.images
