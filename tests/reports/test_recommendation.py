from dataclasses import replace

import pytest

from goodnet.reports.glance import sign_of
from goodnet.reports.recommendation import recommend
from goodnet.reports.results import DetectorRates, GoodNetRates, Rates, Results


def detector(name="joined", *, through=0.0, detection=0.97, alarms=0.02, held=0.03):
    rates = GoodNetRates(
        clean_valid_accuracy=0.95,
        clean_test_accuracy=0.94,
        attack_success_rate=through,
        detection_rate=detection,
        false_alarm_rate=alarms,
    )
    return DetectorRates(
        name=name,
        control=name == "margin",
        false_alarm_budget=0.03,
        held_budget=held,
        images=1200,
        threshold=2.5,
        auc=0.99,
        detection_rate=detection,
        false_alarm_rate=alarms,
        goodnet=rates,
    )


def results(joined, *, attack=1.0):
    return Results(
        classes=20,
        baseline=Rates(
            clean_valid_accuracy=0.98, clean_test_accuracy=0.97, attack_success_rate=attack
        ),
        checkpoints=(),
        detectors=(detector("margin", detection=0.4), joined),
    )


@pytest.mark.parametrize(
    ("through", "word"),
    [(0.0, "stopped"), (0.05, "stopped"), (0.051, "weakened"), (0.5, "not stopped")],
)
def test_the_word_follows_from_what_gets_through(through, word):
    found = recommend(results(detector(through=through)), None)
    assert found.verdict == word
    assert found.goodnet == "goodnet.keras"
    assert found.repaired is None


def test_the_sentence_names_the_rates_the_control_and_what_is_held():
    assert recommend(results(detector(through=0.01)), None).why == (
        "goodnet.keras lets 1.00 % of the poisoned images through and flags 97.00 % of them; it "
        "flags 2.00 % of the clean test images; B's margin alone would flag 40.00 %. Its threshold "
        "holds 3 % of false alarms with 95 % confidence, by 1,200 clean validation images."
    )


def test_a_goodnet_that_flags_most_clean_images_has_not_stopped_anything():
    ruined = detector(through=0.0, alarms=0.8)
    ruined = replace(ruined, goodnet=replace(ruined.goodnet, clean_test_accuracy=0.2))
    found = recommend(results(ruined), None)
    assert found.verdict == "network ruined"
    assert sign_of(found.verdict) == "bad"
    assert "it flags 80.00 % of the clean test images" in found.why


@pytest.mark.parametrize(
    ("alarms", "held", "tests", "contradicts"),
    [
        (0.21, 0.03, 400, True),
        (0.0366, 0.03, 600, False),
        (0.0714, 0.03, 28, False),
        (0.21, 0.4507, 400, False),
        (0.21, 0.03, None, False),
    ],
)
def test_more_alarms_than_the_threshold_holds_are_said(alarms, held, tests, contradicts):
    found = recommend(results(detector(alarms=alarms, held=held)), None, clean_tests=tests)
    assert ("chance does not explain so many alarms" in found.why) == contradicts


def test_too_few_images_are_said():
    found = recommend(results(detector(held=0.072)), None)
    assert found.why.endswith(
        "1,200 clean validation images are too few to hold 3 % of false alarms with 95 % "
        "confidence: its threshold holds 7.20 %."
    )


def test_without_poisoned_images_nothing_is_claimed():
    found = recommend(results(detector(through=None, detection=None), attack=None), None)
    assert found.verdict == "not measured"
    assert "nothing can be said of attacks" in found.why
    assert "lets" not in found.why


def test_a_net_that_follows_no_trigger_shows_no_backdoor():
    found = recommend(results(detector(), attack=0.02), None)
    assert found.verdict == "no sign of a backdoor"


def test_a_run_without_detectors_recommends_nothing():
    assert recommend(replace(results(detector()), detectors=()), None) is None
