import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.pruning.counts import Counts
from goodnet.pruning.poisoned import Attack
from goodnet.pruning.stop_rule import Checkpoint
from goodnet.reports.results import Results, Unreached, clean_set, make_results
from goodnet.storage.run_folder import RunFolder

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
    "format": 2,
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
            "method": "pruning",
            "drop": 2,
            "reached": True,
            "details": {"step": 2, "channels": [3, 1]},
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
            "method": "pruning",
            "drop": 4,
            "reached": True,
            "details": {"step": 3, "channels": [3, 1, 0]},
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
            "method": "pruning",
            "drop": 99,
            "reached": False,
            "details": None,
            "step": None,
            "channels": None,
            "b_prime": None,
            "goodnet": None,
        },
    ],
}


FORMAT_1 = """
{
  "classes": 7,
  "baseline": {
    "clean_valid_accuracy": 0.96, "clean_test_accuracy": 0.95, "attack_success_rate": 1.0
  },
  "checkpoints": [
    {
      "drop": 2.0, "reached": true, "step": 2, "channels": [3, 1],
      "b_prime": {
        "clean_valid_accuracy": 0.94, "clean_test_accuracy": 0.9125, "attack_success_rate": 0.975
      },
      "goodnet": {
        "clean_valid_accuracy": 0.92, "clean_test_accuracy": 0.9, "attack_success_rate": 0.975,
        "detection_rate": 0.025, "false_alarm_rate": 0.05
      }
    },
    {
      "drop": 99.0, "reached": false, "step": null, "channels": null,
      "b_prime": null, "goodnet": null
    }
  ]
}
"""


@pytest.fixture
def results() -> Results:
    return make_results(CURVES, CHECKPOINTS, order=ORDER, num_classes=7)


def test_rates_are_exact_fractions(results, tmp_path):
    results.write(RunFolder(tmp_path))
    assert json.loads((tmp_path / "results.json").read_text()) == RESULTS


def test_results_are_read_as_they_were_written(results, tmp_path):
    attack = Attack(None, False, 40, 6, 3, 0, 40, 0)
    for one in (results, replace(results, attack=attack, remarks=("One.", "Two."))):
        one.write(RunFolder(tmp_path))
        assert Results.read(RunFolder(tmp_path)) == one


def test_a_run_of_format_1_is_read(tmp_path):
    (tmp_path / "results.json").write_text(FORMAT_1)
    results = Results.read(RunFolder(tmp_path))
    point, missed = results.checkpoints
    assert (point.method, point.step, point.channels) == ("pruning", 2, (3, 1))
    assert (point.goodnet.detection_rate, point.goodnet.recovery_rate) == (0.025, None)
    assert missed == Unreached(method="pruning", drop=99)
    assert (results.attack, results.remarks) == (None, ())
    results.write(RunFolder(tmp_path))
    assert json.loads((tmp_path / "results.json").read_text())["format"] == 2
    assert Results.read(RunFolder(tmp_path)) == results


@pytest.mark.parametrize(
    ("way", "value", "said"),
    [
        (["format"], 3, "format 3 found, expected 2 or 1"),
        (["baseline", "clean_valid_accuracy"], None, "not measured"),
        (["baseline", "clean_test_accuracy"], 1.5, "expected a number of 0 to 1"),
        (["baseline", "clean_test_accuracy"], True, "bool found, expected a number"),
        (["checkpoints"], "none", "str found, expected a list"),
        (["checkpoints", 0, "reached"], 1, "expected true or false"),
        (["checkpoints", 0, "step"], -1, "expected a number from 0 on"),
        (["checkpoints", 0, "channels"], [0.5], "expected a whole number"),
        (["remarks"], [1], "int found, expected a text"),
        (["attack"], [], "list found, expected values by name"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, way, value, said):
    document = copy.deepcopy(RESULTS)
    place = document
    for name in way[:-1]:
        place = place[name]
    place[way[-1]] = value
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="is damaged or of another kind") as refused:
        Results.read(RunFolder(tmp_path))
    assert said in str(refused.value)


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
    curves = CURVES | {"poisoned_test": counts(40, [0] * 5, [0] * 5, [0] * 5)}
    results = make_results(curves, CHECKPOINTS, order=ORDER, num_classes=7)
    assert results.baseline.attack_success_rate == 0.0


def test_clean_test_counts_or_else_clean_validation(results):
    assert clean_set(["clean_valid", "clean_test"]) == results.baseline.clean_set == "clean_test"
    assert results.baseline.clean_accuracy == 76 / 80
    alone = replace(results.baseline, clean_test_accuracy=None)
    assert clean_set(["clean_valid"]) == alone.clean_set == "clean_valid"
    assert alone.clean_accuracy == 48 / 50


def test_recovery_is_there_only_where_it_is_known(results):
    assert "recovery_rate" not in results.rate_names
    right = np.array([0, 1, 2, 30, 4])
    known = replace(CURVES["poisoned_test"], recovered=right, goodnet_recovered=right // 2)
    results = make_results(
        CURVES | {"poisoned_test": known}, CHECKPOINTS, order=ORDER, num_classes=7
    )
    assert results.checkpoints[1].b_prime.recovery_rate == 30 / 40
    assert results.checkpoints[1].goodnet.recovery_rate == 15 / 40
    assert results.rate_names[2:4] == ["attack_success_rate", "recovery_rate"]
