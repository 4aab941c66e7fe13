import csv
from dataclasses import replace

import pytest

from goodnet.metrics import percent
from goodnet.reports.results import (
    RATES,
    Checkpoint,
    GoodNetRates,
    Rates,
    RepairedRates,
    Results,
    Unreached,
)
from goodnet.reports.results_table import net_rows, plain_rows, printed_rows, unreached
from goodnet.reports.tables import write_csv
from goodnet.storage.run_folder import RunFolder


def checkpoint(drop: float | None, step: int, *, recovery: float | None = None) -> Checkpoint:
    rates = {
        "clean_valid_accuracy": 0.9,
        "clean_test_accuracy": 0.8625,
        "attack_success_rate": 0.025,
        "recovery_rate": recovery,
    }
    return Checkpoint(
        drop=drop,
        step=step,
        channels=tuple(range(step)),
        b_prime=RepairedRates(**rates),
        goodnet=GoodNetRates(**rates, detection_rate=0.975, false_alarm_rate=0.1),
    )


RESULTS = Results(
    classes=7,
    baseline=Rates(clean_valid_accuracy=0.96, clean_test_accuracy=0.95, attack_success_rate=1.0),
    checkpoints=(checkpoint(2, 2), checkpoint(4, 3), Unreached(drop=99)),
)


def test_rows_of_nets():
    rows = net_rows(RESULTS)
    assert [(row.net, row.drop, row.channels) for row in rows] == [
        ("B", None, 0),
        ("B'", 2, 2),
        ("G", 2, 2),
        ("B'", 4, 3),
        ("G", 4, 3),
    ]
    assert rows[0].rates == RESULTS.baseline
    assert rows[2].rates == RESULTS.checkpoints[0].goodnet


def test_printed_rows():
    rows = printed_rows(RESULTS)
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
        "net": "G budget 4 points",
        "channels pruned": "3",
        "clean validation": "90.00 %",
        "clean test": "86.25 %",
        "ASR": "2.50 %",
        "detection": "97.50 %",
        "false alarms": "10.00 %",
    }
    assert rows[1]["net"] == "B' budget 2 points"


@pytest.mark.parametrize("rate", [None, 0.0])
def test_a_rate_of_zero_is_printed_otherwise_than_a_missing_one(rate):
    results = replace(RESULTS, baseline=replace(RESULTS.baseline, attack_success_rate=rate))
    assert printed_rows(results)[0]["ASR"] == percent(rate)
    assert percent(0.0) == "0.00 %" != percent(None)


def test_a_checkpoint_of_channels_has_no_drop(tmp_path):
    results = replace(RESULTS, checkpoints=(*RESULTS.checkpoints, checkpoint(None, 5)))
    assert [row["net"] for row in printed_rows(results)[-2:]] == ["B' 5 channels", "G 5 channels"]
    folder = RunFolder(tmp_path)
    results.write(folder)
    assert Results.read(folder) == results
    write_csv(folder.table, plain_rows(results))
    with folder.table.open(newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    assert (last["drop"], last["channels"]) == ("", "5")


def test_a_drop_that_is_not_reached_is_told():
    (line,) = unreached(RESULTS)
    assert "99 points" in line
    assert unreached(replace(RESULTS, checkpoints=RESULTS.checkpoints[:2])) == []


def test_recovery_is_printed_only_where_it_is_known():
    assert "recovery" not in printed_rows(RESULTS)[0]
    known = replace(RESULTS, checkpoints=(checkpoint(2, 2, recovery=0.75),))
    rows = printed_rows(known)
    assert [row["recovery"] for row in rows] == ["", "75.00 %", "75.00 %"]
    assert list(rows[0])[4:6] == ["ASR", "recovery"]


def test_csv_holds_the_same_rows(tmp_path):
    write_csv(tmp_path / "results.csv", plain_rows(RESULTS))
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["net", "method", "drop", "channels", *RATES]
    assert rows[0]["drop"] == rows[0]["detection_rate"] == rows[1]["detection_rate"] == ""
    for row, expected in zip(rows, net_rows(RESULTS), strict=True):
        assert (row["net"], row["channels"]) == (expected.net, str(expected.channels))
        for name, rate in expected.rates.by_name().items():
            assert row[name] == ("" if rate is None else str(rate))
