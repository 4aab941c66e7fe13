import json
from dataclasses import replace

import altair as alt
import numpy as np
import pyarrow as pa
import pytest

from goodnet.pruning.poisoned import Attack
from goodnet.reports.detector_plots import depths_chart, detectors_chart, scores_chart
from goodnet.reports.plots import expert_chart
from goodnet.reports.results import (
    DepthRates,
    DetectorRates,
    GoodNetRates,
    Rates,
    RepairedRates,
    Results,
)

CLEAN = np.linspace(0, 1, 100)
POISONED = np.array([0.2, 5.0, 6.0, 50.0])
LABELS = np.array([0, 1, 2, 3])


def detector(name, *, detection, alarms):
    rates = GoodNetRates(
        clean_valid_accuracy=0.9,
        clean_test_accuracy=0.9,
        attack_success_rate=0.1,
        detection_rate=detection,
        false_alarm_rate=alarms,
    )
    return DetectorRates(
        name=name,
        control=name == "margin",
        false_alarm_budget=0.03,
        held_budget=0.03,
        images=1000,
        threshold=0.97,
        auc=0.9,
        detection_rate=detection,
        false_alarm_rate=alarms,
        goodnet=rates,
    )


def results(**changes):
    depth = RepairedRates(
        clean_valid_accuracy=0.8, clean_test_accuracy=0.7, attack_success_rate=0.2
    )
    given = {
        "classes": 4,
        "baseline": Rates(
            clean_valid_accuracy=0.9, clean_test_accuracy=0.9, attack_success_rate=1.0
        ),
        "checkpoints": (),
        "detectors": (
            detector("margin", detection=0.5, alarms=0.04),
            detector("joined", detection=0.75, alarms=0.03),
        ),
        "depths": (DepthRates(layer="pool_1", rates=depth),),
    }
    return Results(**{**given, **changes})


def table(*, clean=True, poisoned=True):
    sets = {"clean_test": CLEAN if clean else [], "poisoned_test": POISONED if poisoned else []}
    parts = [
        pa.table(
            {
                "set": [name] * len(scores),
                "label": np.resize(LABELS, len(scores)),
                "margin": np.array(scores, np.float32),
                "joined": np.array(scores, np.float32),
            }
        )
        for name, scores in sets.items()
        if len(scores)
    ]
    return pa.concat_tables(parts)


def data_of(chart):
    """The rows that each layer of a chart draws, if it is what Vega-Lite takes."""
    chart = json.loads(json.dumps(chart))
    alt.LayerChart.from_dict(chart)
    return [chart["datasets"][layer["data"]["name"]] for layer in chart["layer"]]


def test_lines_hold_what_each_threshold_would_flag():
    lines = data_of(detectors_chart(results(), table()))[1]
    assert {row["detector"] for row in lines} == {"margin", "joined"}
    for row in lines:
        flagged = round(100 * row["alarms"])
        highest_left = CLEAN[::-1][flagged] if flagged < 100 else -np.inf
        assert row["detection"] == (highest_left < POISONED).mean()
    assert max(row["alarms"] for row in lines) == 1


def test_dots_are_at_the_measured_rates_with_intervals():
    dots = data_of(detectors_chart(results(), table()))[-1]
    assert [(dot["detector"], dot["alarms"]) for dot in dots] == [
        ("margin", 0.04),
        ("joined", 0.03),
    ]
    for dot in dots:
        assert dot["detection at least"] < dot["detection"] < dot["detection at most"]


def test_shares_of_images_add_up_and_none_is_lost():
    bars = data_of(scores_chart(results(), table()))[0]
    for name in ("clean", "poisoned"):
        assert sum(bar["share"] for bar in bars if bar["images"] == name) == pytest.approx(1)
    (last,) = [bar for bar in bars if bar["images"] == "poisoned"][-1:]
    assert last["share"] == 0.75


def test_images_of_the_targets_class_count_as_little_as_in_the_rates():
    attack = Attack(3, True, 3, 3, 0, 3, 3, 0)
    bars = data_of(scores_chart(results(attack=attack), table()))[0]
    (last,) = [bar for bar in bars if bar["images"] == "poisoned"][-1:]
    assert last["share"] == pytest.approx(2 / 3)


def test_without_a_set_there_is_no_chart_of_it():
    assert detectors_chart(results(), table(poisoned=False)) is None
    assert detectors_chart(results(detectors=()), table()) is None
    assert {
        bar["images"] for bar in data_of(scores_chart(results(), table(poisoned=False)))[0]
    } == {"clean"}
    only_valid = Rates(clean_valid_accuracy=0.9, clean_test_accuracy=None, attack_success_rate=None)
    assert scores_chart(results(baseline=only_valid), table()) is None


@pytest.mark.parametrize("threshold", [-5.0, 0.0, 0.97, 1e9])
def test_every_image_is_in_a_bar_wherever_the_threshold_lies(threshold):
    joined = replace(detector("joined", detection=0.5, alarms=0.01), threshold=threshold)
    bars = data_of(scores_chart(results(detectors=(joined,)), table()))[0]
    for images in ("clean", "poisoned"):
        its = [bar for bar in bars if bar["images"] == images]
        assert sum(bar["share"] for bar in its) == pytest.approx(1)
        assert all(bar["from"] < bar["to"] for bar in its)


def test_depths_stand_beside_the_steps_of_pruning():
    rows = [
        {"set": name, "end": "pruned", "step": step, "correct": correct, "images": 10}
        for name, counts in (("clean_test", (9, 5)), ("poisoned_test", (10, 4)))
        for step, correct in enumerate(counts)
    ]
    chart = depths_chart(results(), pa.Table.from_pylist(rows))
    curve, _, dots, names = data_of(chart)
    assert [(row["attack"], row["clean"]) for row in curve] == [(1.0, 0.9), (0.4, 0.5)]
    assert [(dot["depth"], dot["attack"], dot["clean"]) for dot in dots] == [("pool_1", 0.2, 0.7)]
    assert names == dots
    assert depths_chart(results(depths=()), pa.Table.from_pylist(rows)) is None
    assert depths_chart(results(), pa.Table.from_pylist(rows[:2])) is None


def test_the_expert_answers_as_b_does_on_poisoned_images_sooner():
    rows = [
        {"set": name, "end": end, "step": step, "flagged": flagged, "images": 10}
        for name, flags in (("clean_valid", (10, 9, 2, 0)), ("poisoned_test", (10, 0, 0, 0)))
        for end in ("pruned", "expert")
        for step, flagged in enumerate(flags)
    ]
    mark, lines, dots = data_of(expert_chart(pa.Table.from_pylist(rows)))
    assert mark == [{"step": 1}]  # The last that agrees on at most a fifth of clean validation.
    agreement = {(row["images"], row["step"]): row["agreement"] for row in lines}
    assert agreement["clean validation", 2] == pytest.approx(0.8)
    assert agreement["poisoned test", 1] == 1
    assert len(agreement) == 8
    assert dots == lines
    older = [row for row in rows if row["end"] == "pruned"]
    assert expert_chart(pa.Table.from_pylist(older)) is None
