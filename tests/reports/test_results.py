import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from goodnet.pruning.counts import Counts
from goodnet.pruning.poisoned import Attack
from goodnet.pruning.stop_rule import Checkpoint
from goodnet.reports.results import make_results, net_rows, printed_rows, unreached, write_csv
from goodnet.storage.files import write_json

ORDER = [3, 1, 0, 2]


def counts(images, *columns) -> Counts:
    return Counts(images, *(np.array(column, np.int64) for column in columns))


CURVES = {
    # right, flagged, right and not flagged at steps 0 to 4
    "clean_valid": counts(50, [48, 48, 47, 46, 5], [0, 0, 2, 3, 45], [48, 48, 46, 45, 4]),
    "clean_test": counts(80, [76, 76, 73, 70, 9], [0, 1, 4, 8, 70], [76, 75, 72, 69, 8]),
    "poisoned_test": counts(40, [40, 40, 39, 1, 0], [0, 0, 1, 39, 40], [40, 40, 39, 1, 0]),
}
CHECKPOINTS = [Checkpoint(2, 2), Checkpoint(4, 3), Checkpoint(99, None)]
RESULTS = {
    "classes": 7,
    "remarks": [],
    "attack": None,
    "baseline": {
        "clean_valid_accuracy": 48 / 50,
        "clean_test_accuracy": 76 / 80,
        "attack_success_rate": 1.0,
    },
    "checkpoints": [
        {
            "drop": 2,
            "reached": True,
            "step": 2,
            "channels": [3, 1],
            "b_prime": {
                "clean_valid_accuracy": 47 / 50,
                "clean_test_accuracy": 73 / 80,
                "attack_success_rate": 39 / 40,
                "recovery_rate": None,
            },
            "goodnet": {
                "clean_valid_accuracy": 46 / 50,
                "clean_test_accuracy": 72 / 80,
                "attack_success_rate": 39 / 40,
                "recovery_rate": None,
                "detection_rate": 1 / 40,
                "false_alarm_rate": 4 / 80,
            },
        },
        {
            "drop": 4,
            "reached": True,
            "step": 3,
            "channels": [3, 1, 0],
            "b_prime": {
                "clean_valid_accuracy": 46 / 50,
                "clean_test_accuracy": 70 / 80,
                "attack_success_rate": 1 / 40,
                "recovery_rate": None,
            },
            "goodnet": {
                "clean_valid_accuracy": 45 / 50,
                "clean_test_accuracy": 69 / 80,
                "attack_success_rate": 1 / 40,
                "recovery_rate": None,
                "detection_rate": 39 / 40,
                "false_alarm_rate": 8 / 80,
            },
        },
        {
            "drop": 99,
            "reached": False,
            "step": None,
            "channels": None,
            "b_prime": None,
            "goodnet": None,
        },
    ],
}


@pytest.fixture
def results() -> dict:
    return make_results(CURVES, CHECKPOINTS, order=ORDER, num_classes=7)


def test_rates_are_exact_fractions(results):
    assert results == RESULTS


def test_results_are_json(results, tmp_path):
    write_json(tmp_path / "results.json", results)
    assert json.loads((tmp_path / "results.json").read_text()) == RESULTS


def test_a_set_that_was_not_given_has_no_rate():
    clean = {name: curve for name, curve in CURVES.items() if name != "poisoned_test"}
    results = make_results(clean, CHECKPOINTS, order=ORDER, num_classes=7)
    first, *_ = results["checkpoints"]
    assert results["baseline"]["attack_success_rate"] is None
    assert first["b_prime"]["attack_success_rate"] is None
    assert first["goodnet"]["attack_success_rate"] is None
    assert first["goodnet"]["detection_rate"] is None
    assert first["goodnet"]["false_alarm_rate"] == 4 / 80
    assert printed_rows(results)[0]["ASR"] == "–"  # noqa: RUF001


def test_a_rate_of_zero_is_not_a_missing_one():
    curves = CURVES | {"poisoned_test": counts(40, [0] * 5, [0] * 5, [0] * 5)}
    results = make_results(curves, CHECKPOINTS, order=ORDER, num_classes=7)
    assert results["baseline"]["attack_success_rate"] == 0.0
    assert printed_rows(results)[0]["ASR"] == "0.00 %"


def test_rows_of_nets(results):
    rows = net_rows(results)
    assert [(row["net"], row["drop"], row["channels"]) for row in rows] == [
        ("B", None, 0),
        ("B'", 2, 2),
        ("G", 2, 2),
        ("B'", 4, 3),
        ("G", 4, 3),
    ]
    assert rows[2] == {"net": "G", "drop": 2, "channels": 2} | RESULTS["checkpoints"][0]["goodnet"]


def test_printed_rows(results):
    rows = printed_rows(results)
    assert rows[0] == {
        "net": "B",
        "channels pruned": "0",
        "clean validation": "96.00 %",
        "clean test": "95.00 %",
        "ASR": "100.00 %",
        "detection": "",
        "false alarms": "",
    }
    assert rows[4] == {
        "net": "G at 4 %",
        "channels pruned": "3",
        "clean validation": "90.00 %",
        "clean test": "86.25 %",
        "ASR": "2.50 %",
        "detection": "97.50 %",
        "false alarms": "10.00 %",
    }
    assert rows[1]["net"] == "B' at 2 %"


def test_a_drop_that_is_not_reached_is_told(results):
    (line,) = unreached(results)
    assert "99 points" in line
    assert unreached(make_results(CURVES, CHECKPOINTS[:2], order=ORDER, num_classes=7)) == []


def test_recovery_is_printed_only_where_it_is_known(results):
    assert "recovery" not in printed_rows(results)[0]
    right = np.array([0, 1, 2, 30, 4])
    known = replace(CURVES["poisoned_test"], recovered=right, goodnet_recovered=right // 2)
    attack = Attack(0, True, 40, 6, 3, 0, 40, 0)
    results = make_results(
        CURVES | {"poisoned_test": known},
        CHECKPOINTS,
        order=ORDER,
        num_classes=7,
        attack=attack,
        remarks=["One."],
    )
    assert results["attack"]["target"] == 0
    assert results["remarks"] == ["One."]
    assert results["checkpoints"][1]["b_prime"]["recovery_rate"] == 30 / 40
    assert results["checkpoints"][1]["goodnet"]["recovery_rate"] == 15 / 40
    rows = printed_rows(results)
    assert [row["recovery"] for row in rows] == ["", "5.00 %", "2.50 %", "75.00 %", "37.50 %"]
    assert list(rows[0])[4:6] == ["ASR", "recovery"]


def test_csv_holds_the_same_rows(results, tmp_path):
    write_csv(tmp_path / "results.csv", results)
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["net", "drop", "channels", *RESULTS["checkpoints"][0]["goodnet"]]
    assert rows[0]["drop"] == rows[0]["detection_rate"] == rows[1]["detection_rate"] == ""
    for row, expected in zip(rows, net_rows(results), strict=True):
        for name, value in expected.items():
            assert row[name] == ("" if value is None else str(value))
