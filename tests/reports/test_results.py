import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from goodnet.errors import InputError
from goodnet.pruning.poisoned import Attack
from goodnet.reports.about import About, Input
from goodnet.reports.results import Rates, Results, Unreached, clean_set
from goodnet.storage.run_folder import RunFolder

OLD_RUN = Path(__file__).parent / "format_1"
RESULTS = {
    "format": 2,
    "classes": 7,
    "class_names": ["ape", "bee", "cat", "dog", "eel", "fox", "gnu"],
    "remarks": [],
    "attack": None,
    "baseline": {
        "clean_valid_accuracy": 48 / 50,
        "clean_test_accuracy": 76 / 80,
        "attack_success_rate": 1.0,
    },
    "detectors": [
        {
            "name": name,
            "control": name == "margin",
            "false_alarm_budget": 0.03,
            "held_budget": held,
            "images": 50,
            "threshold": -1.5,
            "auc": 0.75,
            "detection_rate": 30 / 40,
            "false_alarm_rate": None,
            "goodnet": {
                "clean_valid_accuracy": 46 / 50,
                "clean_test_accuracy": 72 / 80,
                "attack_success_rate": 10 / 40,
                "recovery_rate": None,
                "detection_rate": 30 / 40,
                "false_alarm_rate": None,
            },
        }
        for name, held in (("margin", 0.03), ("joined", 0.058))
    ],
    "recommended": {
        "goodnet": "goodnet.keras",
        "repaired": "repaired.keras",
        "method": "discriminant",
        "verdict": "weakened",
        "why": "It lets less through.",
    },
    "depths": [
        {
            "layer": "pool_1",
            "rates": {
                "clean_valid_accuracy": 0.9,
                "clean_test_accuracy": 0.91,
                "attack_success_rate": 0.0,
                "recovery_rate": None,
            },
        }
    ],
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
        {
            "method": "discriminant",
            "drop": 4,
            "reached": True,
            "details": {"layer": "pool_1", "components": 12},
            "b_prime": {
                "clean_valid_accuracy": 46 / 50,
                "clean_test_accuracy": 70 / 80,
                "attack_success_rate": 0.0,
                "recovery_rate": None,
            },
            "goodnet": {
                "clean_valid_accuracy": 45 / 50,
                "clean_test_accuracy": 69 / 80,
                "attack_success_rate": 0.0,
                "recovery_rate": None,
                "detection_rate": 1.0,
                "false_alarm_rate": 9 / 80,
            },
        },
        {
            "method": "finetuning",
            "drop": 4,
            "reached": False,
            "details": None,
            "step": None,
            "channels": None,
            "b_prime": None,
            "goodnet": None,
        },
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    return RunFolder(tmp_path)


def test_a_file_is_read_and_written_to_the_same(folder):
    results = Results.read(folder)
    point, _, missed = results.checkpoints
    assert (results.classes, results.baseline.clean_test_accuracy) == (7, 0.95)
    assert (point.method, point.drop, point.channels) == ("pruning", 2, (3, 1))
    assert (point.b_prime.recovery_rate, point.goodnet.detection_rate) == (None, 1 / 40)
    assert missed == Unreached(method="pruning", drop=99)
    head, none = results.repaired
    assert (head.title, head.b_prime.attack_success_rate) == ("discriminant, pool_1", 0)
    assert none == Unreached(method="finetuning", drop=4)
    assert results.repaired_nets == [head]
    assert [results.describe_class(number) for number in (0, 6, 7)] == ["0 (ape)", "6 (gnu)", "7"]
    folder.results.unlink()
    results.write(folder)
    assert json.loads(folder.results.read_text()) == RESULTS


def test_results_are_read_as_they_were_written(folder):
    attack = Attack(None, False, 40, 6, 3, 0, 40, 0)
    results = replace(Results.read(folder), attack=attack, remarks=("One.", "Two."))
    results.write(folder)
    assert Results.read(folder) == results


def test_a_run_of_format_1_is_read(tmp_path):
    results = Results.read(RunFolder(OLD_RUN))
    point, missed = results.checkpoints
    assert (point.method, point.step, point.channels) == ("pruning", 2, (3, 1))
    assert (point.goodnet.detection_rate, point.goodnet.recovery_rate) == (0.025, None)
    assert missed == Unreached(method="pruning", drop=99)
    assert (results.attack, results.remarks) == (None, ())
    results.write(RunFolder(tmp_path))
    assert json.loads((tmp_path / "results.json").read_text())["format"] == 2
    assert Results.read(RunFolder(tmp_path)) == results


def test_what_an_old_run_says_of_itself_is_read(tmp_path):
    about = About.read(RunFolder(OLD_RUN))
    assert (about.run, about.layer, about.chosen, about.git_commit) == ("format_1", *3 * [None])
    model = Input("/somewhere/net.h5", sha256="aa", size=1000)
    assert about.inputs["model"] == model
    assert list(about.inputs) == ["model", "clean_valid"]
    about.write(RunFolder(tmp_path))
    assert About.read(RunFolder(tmp_path)) == about


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
def test_what_is_no_result_is_refused(folder, way, value, said):
    document = copy.deepcopy(RESULTS)
    place = document
    for name in way[:-1]:
        place = place[name]
    place[way[-1]] = value
    folder.results.write_text(json.dumps(document))
    with pytest.raises(InputError, match="is damaged or of another kind") as refused:
        Results.read(folder)
    assert said in str(refused.value)


def test_clean_test_counts_or_else_clean_validation():
    rates = Rates(clean_valid_accuracy=0.96, clean_test_accuracy=0.95, attack_success_rate=None)
    assert clean_set(["clean_valid", "clean_test"]) == rates.clean_set == "clean_test"
    assert rates.clean_accuracy == 0.95
    alone = replace(rates, clean_test_accuracy=None)
    assert clean_set(["clean_valid"]) == alone.clean_set == "clean_valid"
    assert alone.clean_accuracy == 0.96
