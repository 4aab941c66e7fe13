"""The table of a run's results: as it is printed, and as plain values for results.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from goodnet.metrics import percent
from goodnet.reports.results import RATES, Rates, Results, Unreached


@dataclass(frozen=True)
class NetRow:
    """A net of the table.

    Attributes:
        title: what the printed table calls it.
        net: B, B' or G.
        method: the repair or the detector that it comes from; None for B.
        drop: of its checkpoint, in points; None for B and detectors.
        channels: how many are removed; None where another method made it.
        rates: what was measured of it.
    """

    title: str
    net: str
    method: str | None
    drop: float | None
    channels: int | None
    rates: Rates


def net_rows(results: Results) -> list[NetRow]:
    """Return a row for B, for B' and G of each checkpoint of pruning, and for other repairs."""
    rows = [NetRow("B", "B", None, None, 0, results.baseline)]
    for point in results.reached:
        place = point.method, point.drop, point.step
        rows.append(NetRow(f"B' {point.asked}", "B'", *place, point.b_prime))
        rows.append(NetRow(f"G {point.asked}", "G", *place, point.goodnet))
    for one in results.repaired_nets:
        rows.append(NetRow(f"B' {one.title}", "B'", one.title, one.drop, None, one.b_prime))
    return rows


def printed_rows(results: Results) -> list[dict[str, str]]:
    """Return the table as it is printed: a line for each net, percentages with two decimals.

    Recovery has a column only where the labels from before the trigger are known.

    Args:
        results: of a run; its rates are fractions.

    Returns:
        Texts by the title of their column: B, then B' and G of each checkpoint, then B' of other
        repairs; a dash stands for a rate that was not measured.
    """
    return [
        {
            "net": row.title,
            "channels pruned": "" if row.channels is None else str(row.channels),
            **printed_rates(row.rates, results.rate_names),
        }
        for row in net_rows(results)
    ]


def printed_rates(rates: Rates, names: Sequence[str]) -> dict[str, str]:
    """Return some rates of a net by their titles, empty where such a net has none."""
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
    """Return a sentence for each budget that no step spends."""
    return [
        f"{point.asked.capitalize()}: no step costs so much clean validation accuracy, no files."
        for point in results.checkpoints
        if isinstance(point, Unreached)
    ]


def plain_rows(results: Results) -> list[dict[str, object]]:
    """Return all nets as plain values, rates as fractions, None where there is no rate.

    Behind `net_rows` comes a G for each detector; results.csv holds these rows.
    """
    rows: list[dict[str, object]] = []
    guarded = [
        NetRow(f"G {one.name}", "G", one.name, None, None, one.goodnet) for one in results.detectors
    ]
    for row in (*net_rows(results), *guarded):
        found = row.rates.by_name()
        rates = {name: found.get(name) for name in RATES}
        place = {"net": row.net, "method": row.method, "drop": row.drop, "channels": row.channels}
        rows.append({**place, **rates})
    return rows
