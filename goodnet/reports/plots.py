"""The plots of a run, as Vega-Lite: for the report's page and, one of them, as a PNG."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from goodnet.metrics import wilson_interval
from goodnet.pruning.counts import End
from goodnet.pruning.stop_rule import describe_budget
from goodnet.pruning.sweep import choose_expert
from goodnet.reports.results import SETS, Checkpoint, clean_set
from goodnet.reports.vega_lite import (
    PAGE,
    PAPER,
    Chart,
    Palette,
    Rows,
    category,
    colour_scale,
    coloured,
    dashed_rule,
    layer,
    layered_chart,
    number,
    percent,
    rate,
)

CURVES = (
    ("B' clean accuracy", "accuracy-b", 6),
    ("G clean accuracy", "accuracy-g", 1.8),
    ("B' attack success", "attack-b", 6),
    ("G attack success", "attack-g", 1.8),
)
"""Legend, colour and width: G is drawn as a dark core inside B', since the two often coincide."""

LOW, HIGH = " at least", " at most"
"""What the ends of a rate's 95 % interval are called after the rate."""


def curve_chart(
    sweep: pa.Table, checkpoints: Sequence[Checkpoint], *, palette: Palette = PAGE
) -> Chart:
    """Draw clean accuracy and attack success of B' and G against the channels pruned.

    The shade around G is the 95 % interval, which shows where a set has few images.

    Args:
        sweep: the table of sweep.parquet.
        checkpoints: those that were reached, to be marked.
        palette: colours by name, as in PAPER.
    """
    rows = _curve_rows(sweep)
    x = channels_axis(len(rows) - 1)
    drawn = [curve for curve in CURVES if curve[0] in rows[0]]
    shades = [
        layer(
            rows,
            "area",
            {"x": x, **_interval("y", label, title=None)},
            color=palette[colour],
            opacity=0.13,
        )
        for label, colour, _ in drawn
        if f"{label}{LOW}" in rows[0]
    ]
    lines = [
        layer(
            rows,
            "line",
            {"x": x, "y": rate(_field(label)), "color": {"datum": label, "title": None}},
            strokeWidth=width,
        )
        for label, _, width in drawn
    ]
    told = [
        number("step", title="channels pruned"),
        *(percent(_field(label), title=label) for label, _, _ in drawn),
    ]
    seen = {"condition": {"param": "hover", "empty": False, "value": 0.8}, "value": 0}
    pointer = layer(
        rows, "rule", {"x": x, "opacity": seen, "tooltip": told}, color=palette["muted"]
    )
    nearest = {"type": "point", "encodings": ["x"], "nearest": True, "on": "pointerover"}
    # Not in the layer: Altair, which shows this chart in notebooks, would have it there twice.
    hover = {"name": "hover", "select": nearest, "views": ["pointer"]}
    marks = _checkpoint_marks(checkpoints, palette, len(rows) - 1)
    layers = [*shades, *marks, *lines, pointer | {"name": "pointer"}]
    colours = colour_scale({label: palette[colour] for label, colour, _ in drawn})
    chart = layered_chart(layers, palette, height=300)
    return chart | {"encoding": {"color": {"scale": colours}}, "params": [hover]}


def detection_chart(
    sweep: pa.Table, checkpoints: Sequence[Checkpoint], *, palette: Palette = PAGE
) -> Chart | None:
    """Draw G's detection rate against its false-alarm rate over all steps.

    The crosses at the checkpoints are 95 % intervals.

    Args:
        sweep: the table of sweep.parquet.
        checkpoints: those that were reached, to be marked.
        palette: colours by name, as in PAPER.

    Returns:
        The chart; None where the sweep lacks clean or poisoned test images.
    """
    clean, poisoned = set_rows(sweep, "clean_test"), set_rows(sweep, "poisoned_test")
    if not (clean and poisoned):
        return None
    points = [
        {"step": row["step"], **_flag_rate("alarms", row), **_flag_rate("detection", bad)}
        for row, bad in zip(clean, poisoned, strict=True)
    ]
    labels = _labels_by_step(checkpoints)
    reached = [{**p, "label": labels[p["step"]]} for p in points if p["step"] in labels]
    place = {
        "x": rate("alarms", title="false alarms on clean test images"),
        "y": rate("detection", title="poisoned images detected"),
    }
    shown = place | {
        "tooltip": [
            number("step", title="channels pruned"),
            percent("detection"),
            percent("alarms", title="false alarms"),
        ]
    }
    label = category("label", title=None, sort=None, legend={"columns": 2})
    chance = [{"alarms": 0, "detection": 0}, {"alarms": 1, "detection": 1}]
    red, pale, dark = (palette[name] for name in ("attack-g", "accuracy-b", "accuracy-g"))
    layers = [
        layer(chance, "line", place, color=palette["muted"], strokeDash=[4, 4], strokeWidth=1),
        *crosses(reached, shown, color=red),
        layer(points, "line", shown | {"order": number("step")}, color=pale, strokeWidth=2),
        layer(points, "circle", shown, color=dark, size=26, opacity=1),
        layer(
            reached, "point", shown | {"shape": label}, color=red, filled=True, size=130, opacity=1
        ),
    ]
    return layered_chart(layers, palette, height=320)


def expert_chart(sweep: pa.Table) -> Chart | None:
    """Draw how often the net with the first k channels alone answers as B does, over all k.

    A trigger that lives in channels that clean images leave quiet shows as a gap between the lines.
    The dashed line marks the expert whose margin is a score.

    Returns:
        The chart; None where the sweep is of an older run, from one end alone.
    """
    sets = {role: SETS[role] for role in ("clean_valid", "poisoned_test")}
    points = [
        {"step": row["step"], "agreement": 1 - row["flagged"] / row["images"], "images": label}
        for role, label in sets.items()
        for row in set_rows(sweep, role, "expert")
    ]
    clean = [one["agreement"] for one in points if one["images"] == sets["clean_valid"]]
    if not clean:
        return None
    kept = channels_axis(len(clean) - 1, title="channels kept, the quietest first")
    colours = zip(sets.values(), (PAGE["accuracy-g"], PAGE["attack-g"]), strict=True)
    lines = {
        "x": kept,
        "y": rate("agreement"),
        "color": coloured("images", dict(colours)),
        "tooltip": [category("images"), number("step"), percent("agreement")],
    }
    layers = [
        dashed_rule([{"step": choose_expert(np.array(clean))}], {"x": kept}, PAGE),
        layer(points, "line", lines, strokeWidth=2),
        layer(points, "circle", lines, size=26, opacity=1),
    ]
    return layered_chart(layers, PAGE, height=220)


def activation_chart(
    sweep: pa.Table, checkpoints: Sequence[Checkpoint], *, palette: Palette = PAGE
) -> Chart:
    """Draw each channel's mean activation on clean validation images, in prune order.

    Channels that no image activates have a dot in place of a bar.

    Args:
        sweep: the table of sweep.parquet; means are as the layer that ranks gives them, no units.
        checkpoints: those that were reached, to be marked.
        palette: colours by name, as in PAPER.
    """
    rows = [
        {
            "channel": row["channel"],
            "left": row["step"] - 0.9,
            "step": row["step"],
            "right": row["step"] - 0.1,
            "mean": row["mean_activation"],
            "kind": "silent" if row["mean_activation"] == 0 else "mean activation",
        }
        for row in set_rows(sweep, "clean_valid")
        if row["step"] > 0
    ]
    last = len(rows)
    colours = {"mean activation": palette["accuracy-g"], "silent": palette["attack-g"]}
    shown = {
        "color": coloured("kind", colours),
        "tooltip": [
            category("channel"),
            number("step", title="pruned at step"),
            number("mean", title="mean activation", format=".4g"),
        ],
    }
    bars = {"x": channels_axis(last, "left"), "x2": {"field": "right"}}
    bars |= {"y": number("mean", title=None), "y2": {"datum": 0}}
    layers = [*_checkpoint_marks(checkpoints, palette, last), layer(rows, "rect", shown | bars)]
    if any(row["mean"] == 0 for row in rows):  # Vega warns of an axis without data
        dots = {"x": channels_axis(last, "middle"), "y": number("mean")}
        silent = layer(rows, "circle", shown | dots, size=22, opacity=1)
        middle = {"calculate": "datum.step - 0.5", "as": "middle"}
        layers.append(silent | {"transform": [{"filter": "datum.mean === 0"}, middle]})
    return layered_chart(layers, palette, height=220)


def curve_png(curves: Mapping[str, Any]) -> bytes:
    """Return a page's `curve_chart` as a PNG of well under 100 KB, on white.

    Args:
        curves: the chart as Vega-Lite, in the colours of PAGE.
    """
    import vl_convert

    drawn = json.dumps({**curves, "width": 680, "background": "white"})
    for name, colour in PAPER.items():
        drawn = drawn.replace(PAGE[name], colour)
    picture = Image.open(io.BytesIO(vl_convert.vegalite_to_png(drawn, scale=1.5)))
    buffer = io.BytesIO()
    picture.convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _curve_rows(sweep: pa.Table) -> list[dict[str, Any]]:
    """Return a row for each step with the rates of CURVES; attack rates only where measured."""
    clean = set_rows(sweep, clean_set(set(sweep["set"].to_pylist())))
    poisoned = set_rows(sweep, "poisoned_test")
    rows = []
    for index, row in enumerate(clean):
        rates = _rates(row, "clean accuracy")
        if poisoned:
            rates |= _rates(poisoned[index], "attack success")
        rows.append({"step": row["step"], **rates})
    return rows


def _rates(row: Mapping[str, Any], measure: str) -> dict[str, float]:
    of_g = with_interval(f"G {measure}", row["goodnet_correct"], row["images"])
    return {f"B' {measure}": row["correct"] / row["images"], **of_g}


def _flag_rate(name: str, row: Mapping[str, Any]) -> dict[str, float]:
    return with_interval(name, row["flagged"], row["images"])


def with_interval(name: str, count: int, images: int) -> dict[str, float]:
    """Return a rate and the ends of its 95 % interval, as a row of a chart has them."""
    low, high = wilson_interval(count, images)
    return {name: count / images, f"{name}{LOW}": low, f"{name}{HIGH}": high}


def crosses(rows: Rows, encoding: Chart, **look: Any) -> list[Chart]:
    """Return layers with the 95 % intervals of false alarms and of detection."""
    intervals = _interval("x", "alarms"), _interval("y", "detection")
    return [layer(rows, "rule", encoding | interval, **look) for interval in intervals]


def _interval(axis: str, name: str, **details: Any) -> Chart:
    """Return what draws from one end of a rate's 95 % interval to the other, along x or y."""
    low, high = f"{name}{LOW}", f"{name}{HIGH}"
    return {axis: number(low, **details), f"{axis}2": {"field": high}}


def set_rows(sweep: pa.Table, role: str, end: End = "pruned") -> list[dict[str, Any]]:
    """Return the rows of a set from one end, in the order of their steps."""
    rows = [row for row in sweep.to_pylist() if row["set"] == role and row["end"] == end]
    return sorted(rows, key=lambda row: row["step"])


def _field(label: str) -> str:
    """Escape the quote in a column's name, which has a meaning to Vega."""
    return label.replace("'", "\\'")


def channels_axis(last: int, field: str = "step", title: str = "channels pruned") -> Chart:
    """Return the x axis that all curves share, up to the step `last`."""
    axis = {"title": title, "tickMinStep": 1, "grid": False}
    return number(field, scale={"domain": [0, last], "nice": False}, axis=axis)


def _checkpoint_marks(
    checkpoints: Sequence[Checkpoint], palette: Palette, last: int
) -> list[Chart]:
    """Return a dashed line and a label for each step that a checkpoint chose."""
    marks: list[Chart] = []
    for level, (step, label) in enumerate(sorted(_labels_by_step(checkpoints).items())):
        rows = [{"step": step, "label": label}]
        top = {"x": number("step"), "y": {"value": -18 - 14 * level}}
        # A label is on the side where there is room for it, on a telephone too.
        late = 2 * step > last
        text = layer(
            rows,
            "text",
            top | {"text": category("label")},
            color=palette["muted"],
            align="right" if late else "left",
            dx=-4 if late else 4,
            baseline="top",
        )
        marks += [dashed_rule(rows, top | {"y2": {"value": "height"}}, palette), text]
    return marks


def _labels_by_step(checkpoints: Sequence[Checkpoint]) -> dict[int, str]:
    """Return what to write at each step: several checkpoints may have chosen the same one."""
    by_step: dict[int, list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        by_step[checkpoint.step].append(checkpoint)
    return {step: _label(at_step) for step, at_step in by_step.items()}


def _label(checkpoints: Sequence[Checkpoint]) -> str:
    drops = [checkpoint.drop for checkpoint in checkpoints if checkpoint.drop is not None]
    others = [checkpoint.asked for checkpoint in checkpoints if checkpoint.drop is None]
    return ", ".join([describe_budget(*drops), *others] if drops else others)
