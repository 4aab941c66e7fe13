"""The plots of detectors and depths, as Vega-Lite, for the report's page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from goodnet.arrays import DoubleArray, FloatArray
from goodnet.reports.plots import crosses, set_rows, with_interval
from goodnet.reports.results import Results
from goodnet.reports.vega_lite import (
    PAGE,
    PERCENT,
    Chart,
    category,
    coloured,
    dashed_rule,
    layer,
    layered_chart,
    number,
    percent,
    rate,
)

_POINTS = 120
"""Of a curve: more would not show, and each is written into the page."""
_BINS = 50
_OTHERS = "single scores"


def detectors_chart(results: Results, scores: pa.Table) -> Chart | None:
    """Draw detection against false alarms for all thresholds of each detector, and where they are.

    The axis of false alarms is stretched at its beginning, where detectors are used.

    Args:
        results: of the run.
        scores: the table of scores.parquet.

    Returns:
        The chart; None where the run lacks clean or poisoned test images.
    """
    columns = _of_set(scores, "clean_test"), _poisoned(results, scores)
    if not all(columns) or not results.detectors:
        return None
    *others, joined = results.detectors
    kinds = {one.name: f"{one.name} (control)" if one.control else _OTHERS for one in others}
    kinds[joined.name] = joined.name
    rows, marks = [], []
    for one in results.detectors:
        clean, poisoned = (part[one.name] for part in columns)
        its: dict[str, str | float] = {"detector": one.name, "kind": kinds[one.name]}
        rows += [
            its | {"alarms": x, "detection": y}
            for x, y in zip(*_curve(clean, poisoned), strict=True)
        ]
        if one.false_alarm_rate is not None and one.detection_rate is not None:
            alarms, caught = round(one.false_alarm_rate * len(clean)), one.detection_rate
            marks.append(
                {
                    **its,
                    **with_interval("alarms", alarms, len(clean)),
                    **with_interval("detection", round(caught * len(poisoned)), len(poisoned)),
                }
            )
    # The joined score is the first in the legend.
    colours = {joined.name: PAGE["attack-g"]}
    for kind in kinds.values():
        colours.setdefault(kind, PAGE["accuracy-b" if kind == _OTHERS else "muted"])
    stretched = {"type": "pow", "exponent": 0.35, "domain": [0, 1]}
    alarms_axis = number(
        "alarms",
        title="false alarms on clean test images",
        scale=stretched,
        axis=PERCENT | {"values": [0, 0.01, 0.03, 0.1, 0.3, 1]},
    )
    place = {
        "x": alarms_axis,
        "y": number("detection", title="poisoned images detected", axis=PERCENT),
        "color": coloured("kind", colours),
    }
    told = [category("detector"), percent("detection"), percent("alarms", title="false alarms")]
    lines, points = place | {"detail": category("detector")}, place | {"tooltip": told}
    layers = [
        dashed_rule([{"alarms": joined.false_alarm_budget}], {"x": alarms_axis}, PAGE),
        layer(rows, "line", lines, strokeWidth=1.6, interpolate="step-after"),
        *crosses(marks, points),
        layer(marks, "circle", points, size=70, opacity=1),
    ]
    return layered_chart(layers, PAGE, height=320)


def scores_chart(results: Results, scores: pa.Table) -> Chart | None:
    """Draw how the joined score is spread over clean and poisoned test images, and its threshold.

    Args:
        results: of the run.
        scores: the table of scores.parquet.

    Returns:
        The chart; None where the run has no test images to show.
    """
    if not results.detectors or results.baseline.clean_test_accuracy is None:
        return None
    joined = results.detectors[-1]
    sets = {"clean": _of_set(scores, "clean_test"), "poisoned": _poisoned(results, scores)}
    values = {
        name: part[joined.name] for name, part in sets.items() if part and len(part[joined.name])
    }
    # In the precision of the edges: rounded up, the highest would lie beyond the last of them.
    values = {name: part.astype(np.float64) for name, part in values.items()}
    low = min(joined.threshold, *(float(part.min()) for part in values.values()))
    # Beyond three times the way to the threshold all are alike: certain. Where all are beyond it,
    # they are told apart up to the largest.
    high = joined.threshold + 3 * (joined.threshold - low)
    if low == joined.threshold:
        high = max(float(part.max()) for part in values.values())
    high = max(high, low + 1e-6 * max(1.0, abs(low)))
    edges = np.linspace(low, high, _BINS + 1)
    rows = []
    for name, part in values.items():
        counts, _ = np.histogram(np.clip(part, low, high), edges)
        rows += [
            {"images": name, "from": float(a), "to": float(b), "share": float(n / len(part))}
            for a, b, n in zip(edges, edges[1:], counts, strict=False)
        ]
    colours = dict(zip(values, (PAGE["accuracy-g"], PAGE["attack-g"]), strict=False))
    bars = {
        "x": number(
            "from",
            title="joined score; the last bar holds all above",
            scale={"domain": [low, high], "nice": False},
        ),
        "x2": {"field": "to"},
        "y": number("share", title="share of images", stack=None, axis=PERCENT),
        "y2": {"datum": 0},
        "color": coloured("images", colours),
        "tooltip": [category("images"), percent("share"), number("from", format=".3g")],
    }
    threshold = [{"from": joined.threshold, "label": "threshold"}]
    at = {"x": number("from")}
    label = at | {"y": {"value": 2}, "text": category("label")}
    look = {"color": PAGE["muted"], "align": "left", "dx": 5, "baseline": "top"}
    layers = [
        layer(rows, "rect", bars, opacity=0.6),
        dashed_rule(threshold, at, PAGE),
        layer(threshold, "text", label, **look),
    ]
    return layered_chart(layers, PAGE, height=220)


def depths_chart(results: Results, sweep: pa.Table) -> Chart | None:
    """Draw clean accuracy against attack success of B' at each depth, and of pruning at each step.

    Args:
        results: of the run.
        sweep: the table of sweep.parquet.

    Returns:
        The chart; None where no attack or no depth was measured.
    """
    depths = [one for one in results.depths if one.rates.attack_success_rate is not None]
    clean, poisoned = set_rows(sweep, results.baseline.clean_set), set_rows(sweep, "poisoned_test")
    if not depths or not poisoned:
        return None
    curve = [
        {"attack": bad["correct"] / bad["images"], "clean": row["correct"] / row["images"]}
        | {"step": row["step"], "kind": "pruning, step by step"}
        for row, bad in zip(clean, poisoned, strict=True)
    ]
    points = [
        {"attack": one.rates.attack_success_rate, "clean": one.rates.clean_accuracy}
        | {"depth": one.layer, "kind": "nearest class at a depth"}
        for one in depths
    ]
    colours = {curve[0]["kind"]: PAGE["accuracy-b"], points[0]["kind"]: PAGE["attack-g"]}
    place = {
        "x": rate("attack", title="attack success"),
        "y": rate("clean", title="clean accuracy"),
    }
    kind, told = coloured("kind", colours), [percent("clean"), percent("attack")]
    steps = place | {"color": kind, "tooltip": [number("step"), *told]}
    chosen = place | {"color": kind, "tooltip": [category("depth"), *told]}
    layers = [
        layer(curve, "line", steps | {"order": number("step")}, strokeWidth=2),
        layer(curve, "circle", steps, size=22),
        layer(points, "circle", chosen, size=110, opacity=1),
    ]
    name = place | {"text": category("depth")}
    for index, point in enumerate(points):
        # Depths often lie close together, so each has its name lower than the one before.
        look = {"align": "left", "dx": 9, "dy": 14 * index + 4, "color": PAGE["ink"]}
        layers.append(layer([point], "text", name, **look))
    return layered_chart(layers, PAGE, height=320)


def _poisoned(results: Results, scores: pa.Table) -> dict[str, Any]:
    """Return the columns of the poisoned test images that count."""
    found, attack = _of_set(scores, "poisoned_test"), results.attack
    if not found or attack is None:
        return found
    counted = attack.counted(found["label"])
    return {name: values[counted] for name, values in found.items()}


def _of_set(scores: pa.Table, name: str) -> dict[str, Any]:
    """Return the columns of a set; nothing where it was not given."""
    rows = scores.filter(np.asarray(scores["set"].to_pylist(), str) == name).drop_columns(["set"])
    return {column: rows[column].to_numpy() for column in rows.column_names} if len(rows) else {}


def _curve(clean: FloatArray, poisoned: FloatArray) -> tuple[DoubleArray, DoubleArray]:
    """Return the share of clean and of poisoned images above each of some thresholds."""
    levels = np.linspace(0, 1, _POINTS) ** 3  # most of them where few clean images are flagged
    thresholds = np.quantile(clean, 1 - levels)
    alarms, caught = (
        1 - np.searchsorted(np.sort(values), thresholds, "right") / len(values)
        for values in (clean, poisoned)
    )
    return np.append(alarms, 1.0), np.append(caught, 1.0)
