from dataclasses import replace
from typing import NamedTuple

import pytest

from goodnet.pruning.poisoned import Attack
from goodnet.reports.results import (
    Checkpoint,
    GoodNetRates,
    Rates,
    RepairedRates,
    Results,
    Unreached,
)
from goodnet.reports.verdict import attack_doubt, remarks, verdict

CLEAN = 0.9862


class Point(NamedTuple):
    drop: float
    accuracy: float = CLEAN
    attack: float | None = None
    detection: float | None = None
    alarms: float | None = 0.05
    reached: bool = True


class Case(NamedTuple):
    name: str
    attack: float | None
    points: list[Point]
    expected: str
    has_clean_test: bool = True


CASES = [
    Case(
        "the lab's net",
        1.0,
        [
            Point(2, 0.95744, 1.0, 0.0),
            Point(4, 0.92128, 0.9998, 0.0002),
            Point(10, 0.84334, 0.7721, 0.2279, 0.1505),
        ],
        "The repair does not stop the attack: the GoodNet at budget 10 points still lets 77.21 % "
        "of the poisoned images through, flags 22.79 % of them, raises false alarms on 15.05 % of "
        "the clean test images and costs 14.29 points of clean test accuracy; at budget 2 points "
        "it detects nothing.",
    ),
    Case(
        "cheapest of those that stop the attack",
        1.0,
        [Point(2, 0.9662, 0.5, 0.5), Point(4, 0.9462, 0.04, 0.96), Point(10, 0.88, 0.0, 1.0)],
        "The repair stops the attack: the GoodNet at budget 4 points lets 4.00 % of the poisoned "
        "images through, flags 96.00 % of them, raises false alarms on 5.00 % of the clean test "
        "images and costs 4.00 points of clean test accuracy; at budget 2 points it lets 50.00 % "
        "through.",
    ),
    Case(
        "no tail where the cheapest is the best",
        0.98,
        [Point(2, 0.9662, 0.3, 0.7), Point(4, 0.9462, 0.3, 0.7)],
        "The repair weakens the attack: the GoodNet at budget 2 points still lets 30.00 % of the "
        "poisoned images through, flags 70.00 % of them, raises false alarms on 5.00 % of the "
        "clean test images and costs 2.00 points of clean test accuracy.",
    ),
    Case(
        "a net that no longer works is not a repair",
        1.0,
        [Point(10, 0.10, 0.0, 1.0, 0.9)],
        "The repair ruins the network: the GoodNet at budget 10 points lets 0.00 % of the "
        "poisoned images through, flags 100.00 % of them, raises false alarms on 90.00 % of the "
        "clean test images and costs 88.62 points of clean test accuracy.",
    ),
    Case(
        "a working net is preferred to a ruined one that stops the attack",
        1.0,
        [Point(4, 0.9462, 0.4, 0.6), Point(10, 0.10, 0.0, 1.0)],
        "The repair weakens the attack: the GoodNet at budget 4 points still lets 40.00 % of the "
        "poisoned images through, flags 60.00 % of them, raises false alarms on 5.00 % of the "
        "clean test images and costs 4.00 points of clean test accuracy.",
    ),
    Case(
        "nothing detected anywhere",
        1.0,
        [Point(2, 0.9662, 1.0, 0.0), Point(2.5, 0.9562, 1.0, 0.0)],
        "The repair does not stop the attack: no GoodNet flags a single poisoned image, and "
        "100.00 % of them get through, although the GoodNets cost 2.00 to 3.00 points of clean "
        "test accuracy.",
    ),
    Case(
        "no poisoned images",
        None,
        [Point(2, 0.9574), Point(10, 0.8433)],
        "The attack could not be measured, because no poisoned images were given: all that is "
        "known is that the GoodNets cost 2.88 to 14.29 points of clean test accuracy.",
    ),
    Case(
        "GoodNets that cost the same",
        None,
        [Point(2, 0.3887), Point(4, 0.38870001), Point(10, 0.3887)],
        "The attack could not be measured, because no poisoned images were given: all that is "
        "known is that each of the GoodNets costs 59.75 points of clean test accuracy.",
    ),
    Case(
        "no poisoned images and no clean test",
        None,
        [Point(2, 0.9574, alarms=None)],
        "The attack could not be measured, because no poisoned images were given: all that is "
        "known is that the GoodNet costs 2.88 points of clean validation accuracy.",
        has_clean_test=False,
    ),
    Case(
        "poisoned images but no clean test",
        1.0,
        [Point(2, 0.9574, 0.0, 1.0, None)],
        "The repair stops the attack: the GoodNet at budget 2 points lets 0.00 % of the poisoned "
        "images through, flags 100.00 % of them and costs 2.88 points of clean validation "
        "accuracy.",
        has_clean_test=False,
    ),
    Case(
        "not backdoored by this trigger",
        0.01,
        [Point(2, 0.9574, 0.0, 0.1)],
        "B gives only 1.00 % of the poisoned images the attacker's label: these images show no "
        "backdoor that a repair could remove, which does not mean that there is none, while "
        "the GoodNet costs 2.88 points of clean test accuracy.",
    ),
    Case(
        "no checkpoint reached",
        1.0,
        [Point(2, reached=False), Point(4, reached=False), Point(10, reached=False)],
        "There is no repaired network to judge: no step of the pruning costs 2, 4 or 10 points of "
        "clean validation accuracy.",
    ),
    Case(
        "the only checkpoint not reached",
        None,
        [Point(2.5, reached=False)],
        "There is no repaired network to judge: no step of the pruning costs 2.5 points of clean "
        "validation accuracy.",
    ),
    Case(
        "an unreached checkpoint beside a reached one",
        1.0,
        [Point(2, 0.9574, 0.0, 1.0), Point(99, reached=False)],
        "The repair stops the attack: the GoodNet at budget 2 points lets 0.00 % of the poisoned "
        "images through, flags 100.00 % of them, raises false alarms on 5.00 % of the clean test "
        "images and costs 2.88 points of clean test accuracy.",
    ),
]


def make_results(case: Case, *, classes: int = 1283, attack: Attack | None = None) -> Results:
    def rates(accuracy: float, attack_rate: float | None) -> dict[str, float | None]:
        return {
            "clean_valid_accuracy": accuracy,
            "clean_test_accuracy": accuracy if case.has_clean_test else None,
            "attack_success_rate": attack_rate,
        }

    checkpoints = []
    for point in case.points:
        if not point.reached:
            checkpoints.append(Unreached(drop=point.drop))
            continue
        found = rates(point.accuracy, point.attack)
        flags = {"detection_rate": point.detection, "false_alarm_rate": point.alarms}
        nets = {"b_prime": RepairedRates(**found), "goodnet": GoodNetRates(**found, **flags)}
        checkpoints.append(Checkpoint(drop=point.drop, step=45, channels=(), **nets))
    baseline = Rates(**rates(CLEAN, case.attack))
    return Results(
        classes=classes, baseline=baseline, checkpoints=tuple(checkpoints), attack=attack
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict(case: Case):
    assert verdict(make_results(case)) == case.expected


def test_order_of_the_checkpoints_does_not_matter():
    case = CASES[0]
    reversed_case = case._replace(points=case.points[::-1])
    assert verdict(make_results(reversed_case)) == case.expected


def test_a_checkpoint_of_channels_is_judged_like_any_other():
    results = make_results(CASES[0])
    best = results.reached[-1]
    deeper = replace(
        best, drop=None, step=50, goodnet=replace(best.goodnet, attack_success_rate=0.04)
    )
    found = verdict(replace(results, checkpoints=(deeper, *results.checkpoints)))
    assert found.startswith("The repair stops the attack: the GoodNet at 50 channels lets 4.00 %")
    assert found.endswith("; at budget 2 points it detects nothing.")
    shallow = replace(results.reached[0], drop=None, step=7)
    found = verdict(replace(results, checkpoints=(*results.checkpoints, shallow)))
    assert found.endswith("; at 7 channels it detects nothing.")


@pytest.mark.parametrize(
    ("classes", "attack", "shows_backdoor"),
    [(2, 0.4, False), (2, 1.0, True), (4, 0.4, False), (1283, 0.4, True)],
)
def test_what_counts_as_a_backdoor_depends_on_the_number_of_classes(
    classes: int, attack: float, shows_backdoor: bool
):
    case = Case("", attack, [Point(2, 0.9574, 0.0, 1.0)], "")
    sentence = verdict(make_results(case, classes=classes))
    assert sentence.startswith("The repair stops the attack") == shows_backdoor


def with_attack(rate: float, *, classes: int = 10, **found) -> Results:
    """Results where B gives `rate` of the poisoned images what counts as the attacker's label."""
    attack = Attack(
        target=None,
        original_labels=False,
        images=360,
        num_labels=1,
        label=0,
        answer=0,
        answered=360,
        labelled=0,
    )
    case = Case("", rate, [Point(2, 0.9574, rate, 0.0)], "")
    return make_results(case, classes=classes, attack=replace(attack, **found))


DOUBTED = [
    (
        "another trigger's target",
        with_attack(0.0, answer=8),
        "B answers class 8 to 360 of 360 poisoned images; these labels name class 0. So the attack "
        "success rates say nothing of the attack that these images show: give 8 as the target to "
        "measure it.",
    ),
    (
        "labels from before the trigger",
        with_attack(0.1, num_labels=10, labelled=36),
        "B answers class 0 to 360 of 360 poisoned images; these labels name 10 classes. ",
    ),
    (
        "labels from before the trigger, most of them the target",
        with_attack(0.6, num_labels=10, labelled=216),
        "B answers class 0 to 360 of 360 poisoned images; these labels name 10 classes. ",
    ),
    (
        "the same with two classes",
        with_attack(0.5, classes=2, num_labels=2, labelled=180),
        "B answers class 0 to 360 of 360 poisoned images; these labels name 2 classes. ",
    ),
    (
        "another target given",
        with_attack(0.0, target=3, original_labels=True, num_labels=10, labelled=40),
        "B answers class 0 to 360 of 360 poisoned images; the target given is class 3. ",
    ),
    (
        "the attacker's label and another target given, or images of one class that stay so",
        with_attack(0.0, target=3, original_labels=True, label=8, answer=8, labelled=360),
        "B answers class 8 to 360 of 360 poisoned images; the target given is class 3. So the "
        "attack success rates say nothing of the attack that these images show: give 8 as the "
        "target to measure it, or images of other classes too if it is class 8 that they show.",
    ),
]


@pytest.mark.parametrize(("name", "results", "expected"), DOUBTED, ids=[d[0] for d in DOUBTED])
def test_labels_that_do_not_name_the_attack_are_no_good_news(name, results, expected):
    assert verdict(results).startswith(expected)
    assert attack_doubt(results) == verdict(results)
    assert "backdoor" not in verdict(results)


BELIEVED = {
    "an attack": with_attack(1.0),
    "an attack that mostly works": with_attack(0.7, answered=252),
    "one target for each of three triggers": with_attack(
        0.8, num_labels=3, label=1, answer=1, answered=130, labelled=120
    ),
    "no attack": with_attack(0.0, answer=4, answered=50),
    "no attack on the only other class": with_attack(0.0, classes=2, answer=1),
    "images of one class, the only other one, that stay what they were": with_attack(
        0.0, classes=2, target=0, original_labels=True, label=1, answer=1, labelled=360
    ),
    "images of several classes, most of one, that stay what they were": with_attack(
        0.0,
        target=3,
        original_labels=True,
        num_labels=4,
        label=8,
        answer=8,
        labelled=340,
        answered=340,
    ),
}


@pytest.mark.parametrize("results", BELIEVED.values(), ids=BELIEVED)
def test_labels_that_name_the_attack_or_show_none_are_believed(results):
    assert attack_doubt(results) is None


def test_without_an_attack_it_is_said_what_b_answers_instead():
    sentence = verdict(with_attack(0.0, answer=4, answered=50))
    assert "attacker's label and answers class 4 most often (50 of 360): these images" in sentence


def test_remarks_say_how_the_labels_were_taken():
    several = with_attack(0.8, num_labels=3, label=1, answer=1, answered=130, labelled=120)
    (line,) = remarks(several)
    assert line.startswith("The labels of the poisoned images name 3 classes and count as the")
    original = with_attack(1.0, target=0, original_labels=True, num_labels=9)
    assert remarks(replace(original, remarks=("Scale.",))) == [
        "Scale.",
        "The labels of the poisoned images are those from before the trigger: counted are the 360 "
        "that were not of class 0 already.",
    ]
    assert remarks(with_attack(1.0)) == []
    assert remarks(DOUBTED[1][1]) == []
