from dataclasses import replace

import numpy as np

from goodnet.pruning import stop_rule
from goodnet.pruning.counts import Counts
from goodnet.pruning.poisoned import Attack
from goodnet.reports.counted_results import make_results
from goodnet.reports.results import Checkpoint, GoodNetRates, Rates, RepairedRates, Unreached

ORDER = [3, 1, 0, 2]


def counts(images, *columns) -> Counts:
    return Counts(images, *(np.array(column, np.int64) for column in columns))


CURVES = {
    # right, flagged, right and not flagged at steps 0 to 4
    "clean_valid": counts(50, [48, 48, 47, 46, 5], [0, 0, 2, 3, 45], [48, 48, 46, 45, 4]),
    "clean_test": counts(80, [76, 76, 73, 70, 9], [0, 1, 4, 8, 70], [76, 75, 72, 69, 8]),
    "poisoned_test": counts(40, [40, 40, 39, 1, 0], [0, 0, 1, 39, 40], [40, 40, 39, 1, 0]),
}
CHECKPOINTS = [
    stop_rule.Checkpoint(2, 2),
    stop_rule.Checkpoint(4, 3),
    stop_rule.Checkpoint(99, None),
]


def make(**curves):
    return make_results(CURVES | curves, CHECKPOINTS, order=ORDER, num_classes=7)


def test_rates_are_exact_fractions():
    results = make()
    assert results.classes == 7
    assert results.baseline == Rates(
        clean_valid_accuracy=48 / 50, clean_test_accuracy=76 / 80, attack_success_rate=1.0
    )
    first, second, third = results.checkpoints
    assert first == Checkpoint(
        method="pruning",
        drop=2,
        step=2,
        channels=(3, 1),
        b_prime=RepairedRates(
            clean_valid_accuracy=47 / 50, clean_test_accuracy=73 / 80, attack_success_rate=39 / 40
        ),
        goodnet=GoodNetRates(
            clean_valid_accuracy=46 / 50,
            clean_test_accuracy=72 / 80,
            attack_success_rate=39 / 40,
            detection_rate=1 / 40,
            false_alarm_rate=4 / 80,
        ),
    )
    assert (second.step, second.channels) == (3, (3, 1, 0))
    assert second.goodnet.detection_rate == 39 / 40
    assert third == Unreached(method="pruning", drop=99)
    assert results.reached == [first, second]


def test_a_set_that_was_not_given_has_no_rate():
    clean = {name: curve for name, curve in CURVES.items() if name != "poisoned_test"}
    results = make_results(clean, CHECKPOINTS, order=ORDER, num_classes=7)
    first, *_ = results.checkpoints
    assert results.baseline.attack_success_rate is None
    assert first.b_prime.attack_success_rate is None
    assert first.goodnet.attack_success_rate is None
    assert first.goodnet.detection_rate is None
    assert first.goodnet.false_alarm_rate == 4 / 80


def test_a_rate_of_zero_is_not_a_missing_one():
    results = make(poisoned_test=counts(40, [0] * 5, [0] * 5, [0] * 5))
    assert results.baseline.attack_success_rate == 0.0


def test_recovery_is_there_only_where_it_is_known():
    assert "recovery_rate" not in make().rate_names
    right = np.array([0, 1, 2, 30, 4])
    poisoned = CURVES["poisoned_test"]
    known = replace(poisoned, recovered=right, goodnet_recovered=right // 2)
    results = make(poisoned_test=known)
    assert results.checkpoints[1].b_prime.recovery_rate == 30 / 40
    assert results.checkpoints[1].goodnet.recovery_rate == 15 / 40
    assert results.rate_names[2:4] == ["attack_success_rate", "recovery_rate"]


def test_attack_and_remarks_are_passed_on():
    attack = Attack(0, True, 40, 6, 3, 0, 40, 0)
    results = make_results(
        CURVES, CHECKPOINTS, order=ORDER, num_classes=7, attack=attack, remarks=["One."]
    )
    assert (results.attack, results.remarks) == (attack, ("One.",))
