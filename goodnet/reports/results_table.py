"""The table of a run's results: as it is printed, and as results.csv."""

from __future__ import annotations

from dataclasses import dataclass

from goodnet.metrics import percent
from goodnet.reports.results import RATES, Rates, Results, Unreached
from goodnet.reports.tables import format_csv
from goodnet.storage.files import atomic_path
from goodnet.storage.run_folder import RunFolder


@dataclass(frozen=True)
class NetRow:
    """A net of the table.

    Attributes:
        net: B, B' or G.
        drop: of its checkpoint, in points; None for B.
        channels: how many are removed.
        rates: what was measured of it.
    """

    net: str
    drop: float | None
    channels: int
    rates: Rates


def net_rows(results: Results) -> list[NetRow]:
    """Return a row for B and for B' and G of each reached checkpoint."""
    rows = [NetRow("B", None, 0, results.baseline)]
    for point in results.reached:
        rows.append(NetRow("B'", point.drop, point.step, point.b_prime))
        rows.append(NetRow("G", point.drop, point.step, point.goodnet))
    return rows


def printed_rows(results: Results) -> list[dict[str, str]]:
    """Return the table as it is printed: a line for each net, percentages with two decimals.

    Recovery has a column only where the labels from before the trigger are known.
    """
    return [
        {
            "net": row.net if row.drop is None else f"{row.net} at {row.drop:g} %",
            "channels pruned": str(row.channels),
            **_printed(row.rates, results.rate_names),
        }
        for row in net_rows(results)
    ]


def _printed(rates: Rates, names: list[str]) -> dict[str, str]:
    found = rates.by_name()
    return {RATES[name].title: percent(found[name]) if name in found else "" for name in names}


def detector_rows(results: Results) -> list[dict[str, str]]:
    """Return the table of detectors as it is printed, the control first, that of G last."""
    return [
        {
            "detector": f"{one.name} (control)" if one.control else one.name,
            "detection": percent(one.detection_rate),
            "false alarms": percent(one.false_alarm_rate),
            "AUC": percent(None) if one.auc is None else f"{one.auc:.3f}",
        }
        for one in results.detectors
    ]


def unreached(results: Results) -> list[str]:
    """Return a sentence for each drop that no step reaches."""
    return [
        f"No step drops clean validation accuracy by {point.drop:g} points: no files."
        for point in results.checkpoints
        if isinstance(point, Unreached)
    ]


def plain_rows(results: Results) -> list[dict[str, object]]:
    """Return `net_rows` as plain values, rates as fractions, None where there is no rate."""
    rows: list[dict[str, object]] = []
    for row in net_rows(results):
        found = row.rates.by_name()
        rates = {name: found.get(name) for name in RATES}
        rows.append({"net": row.net, "drop": row.drop, "channels": row.channels, **rates})
    return rows


def write_csv(folder: RunFolder, results: Results) -> None:
    """Write `plain_rows`, empty where there is no rate."""
    rows = plain_rows(results)
    with atomic_path(folder.table) as temporary:
        temporary.write_text("\r\n".join([*format_csv(rows), ""]), encoding="utf-8", newline="")
