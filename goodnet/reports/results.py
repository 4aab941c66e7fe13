"""The results of a run: results.json, results.csv and the table that is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from goodnet.metrics import percent
from goodnet.pruning.counts import Counts
from goodnet.pruning.poisoned import Attack
from goodnet.pruning.stop_rule import Checkpoint
from goodnet.reports.tables import format_csv
from goodnet.storage.files import atomic_path

ACCURACIES = {
    "clean_valid_accuracy": "clean_valid",
    "clean_test_accuracy": "clean_test",
    "attack_success_rate": "poisoned_test",
}
"""Rates of every net, and the set that each is counted on."""

FLAG_RATES = {"detection_rate": "poisoned_test", "false_alarm_rate": "clean_test"}
"""Rates of G alone: images of a set that it answers with class N."""

TITLES = {
    "clean_valid_accuracy": "clean validation",
    "clean_test_accuracy": "clean test",
    "attack_success_rate": "ASR",
    "recovery_rate": "recovery",
    "detection_rate": "detection",
    "false_alarm_rate": "false alarms",
}


def make_results(
    curves: Mapping[str, Counts],
    checkpoints: Sequence[Checkpoint],
    *,
    order: Sequence[int],
    num_classes: int,
    attack: Attack | None = None,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what results.json holds: rates as fractions 0 … 1, None for a set not given.

    Args:
        curves: the counts of each set that was given.
        checkpoints: one for each drop.
        order: the channels in prune order.
        num_classes: B's classes N.
        attack: what B answers to the poisoned test images, if there are any.
        remarks: sentences that whoever reads the rates should know.
    """
    return {
        "classes": num_classes,
        "remarks": list(remarks),
        "attack": None if attack is None else asdict(attack),
        "baseline": _accuracies(curves, "correct", 0),
        "checkpoints": [_checkpoint(curves, checkpoint, order) for checkpoint in checkpoints],
    }


def _checkpoint(
    curves: Mapping[str, Counts], checkpoint: Checkpoint, order: Sequence[int]
) -> dict[str, Any]:
    step = checkpoint.step
    if step is None:
        nothing = {"step": None, "channels": None, "b_prime": None, "goodnet": None}
        return {"drop": checkpoint.drop, "reached": False, **nothing}
    b_prime = _accuracies(curves, "correct", step)
    b_prime["recovery_rate"] = _rate(curves, "poisoned_test", "recovered", step)
    goodnet = _accuracies(curves, "goodnet_correct", step)
    goodnet["recovery_rate"] = _rate(curves, "poisoned_test", "goodnet_recovered", step)
    goodnet |= {rate: _rate(curves, name, "flagged", step) for rate, name in FLAG_RATES.items()}
    return {
        "drop": checkpoint.drop,
        "reached": True,
        "step": step,
        "channels": list(order[:step]),
        "b_prime": b_prime,
        "goodnet": goodnet,
    }


def _accuracies(curves: Mapping[str, Counts], count: str, step: int) -> dict[str, float | None]:
    return {rate: _rate(curves, name, count, step) for rate, name in ACCURACIES.items()}


def _rate(curves: Mapping[str, Counts], name: str, count: str, step: int) -> float | None:
    curve = curves.get(name)
    counted = None if curve is None else getattr(curve, count)
    return None if curve is None or counted is None else int(counted[step]) / curve.images


def net_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for B and for B' and G of each reached checkpoint, rates as fractions."""
    rows = [{"net": "B", "drop": None, "channels": 0, **results["baseline"]}]
    for checkpoint in results["checkpoints"]:
        for name, key in (("B'", "b_prime"), ("G", "goodnet")):
            if checkpoint["reached"]:
                place = {"drop": checkpoint["drop"], "channels": checkpoint["step"]}
                rows.append({"net": name, **place, **checkpoint[key]})
    return rows


def printed_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the table as it is printed: a line for each net, percentages with two decimals.

    Recovery has a column only where the labels from before the trigger are known.
    """
    rows = net_rows(results)
    known = any(row.get("recovery_rate") is not None for row in rows)
    titles = {rate: title for rate, title in TITLES.items() if rate != "recovery_rate" or known}
    return [
        {
            "net": row["net"] if row["drop"] is None else f"{row['net']} at {row['drop']:g} %",
            "channels pruned": str(row["channels"]),
            **{title: percent(row[rate]) if rate in row else "" for rate, title in titles.items()},
        }
        for row in rows
    ]


def unreached(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each drop that no step reaches."""
    return [
        f"No step drops clean validation accuracy by {checkpoint['drop']:g} points: no files."
        for checkpoint in results["checkpoints"]
        if not checkpoint["reached"]
    ]


def write_csv(path: Path, results: Mapping[str, Any]) -> None:
    """Write the rows of `net_rows`, empty where there is no rate."""
    titles = ["net", "drop", "channels", *TITLES]
    rows = [{title: row.get(title) for title in titles} for row in net_rows(results)]
    with atomic_path(path) as temporary:
        temporary.write_text("\r\n".join([*format_csv(rows), ""]), encoding="utf-8", newline="")
