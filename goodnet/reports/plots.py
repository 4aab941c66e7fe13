"""The plots of a run, as Vega-Lite: for the report's page and, one of them, as a PNG."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pyarrow as pa
from PIL import Image

from goodnet.metrics import wilson_interval
from goodnet.pruning.counts import End
from goodnet.pruning.stop_rule import describe_budget
from goodnet.pruning.sweep import choose_expert
from goodnet.reports.results import SETS, Checkpoint, clean_set

Palette = Mapping[str, str]

PAPER: Palette = {
    "ink": "#1b1f24",
    "muted": "#5b6470",
    "grid": "#e4e8ed",
    "accuracy-b": "#a9cbef",
    "accuracy-g": "#1d5fa8",
    "attack-b": "#f6bfa6",
    "attack-g": "#c2371d",
}
"""Colours for a picture that stands alone."""

PAGE: Palette = {name: f"var(--{name})" for name in PAPER}
"""Colours left to the page's style sheet, which knows light, dark and print."""

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
) -> alt.LayerChart:
    """Draw clean accuracy and attack success of B' and G against the channels pruned.

    The shade around G is the 95 % interval, which shows where a set has few images.

    Args:
        sweep: the table of sweep.parquet.
        checkpoints: those that were reached, to be marked.
        palette: colours by name, as in PAPER.
    """
    rows = _curve_rows(sweep)
    hover = alt.selection_point(nearest=True, on="pointerover", encodings=["x"], empty=False)
    base = alt.Chart(inline(rows)).encode(x=channels_axis(len(rows) - 1))
    drawn = [curve for curve in CURVES if curve[0] in rows[0]]
    lines = [
        base.mark_line(strokeWidth=width).encode(
            y=alt.Y(f"{_field(label)}:Q", title=None, axis=alt.Axis(format=".0%")).scale(
                domain=[0, 1]
            ),
            color=alt.datum(label, title=None),
        )
        for label, _, width in drawn
    ]
    shades = [
        base.mark_area(color=palette[colour], opacity=0.13).encode(
            y=alt.Y(f"{label}{LOW}:Q", title=None), y2=f"{label}{HIGH}"
        )
        for label, colour, _ in drawn
        if f"{label}{LOW}" in rows[0]
    ]
    pointer = (
        base.mark_rule(color=palette["muted"])
        .encode(
            opacity=alt.when(hover).then(alt.value(0.8)).otherwise(alt.value(0)),
            tooltip=[
                alt.Tooltip("step:Q", title="channels pruned"),
                *(alt.Tooltip(f"{_field(c[0])}:Q", title=c[0], format=".2%") for c in drawn),
            ],
        )
        .add_params(hover)
    )
    colours = alt.Scale(
        domain=[curve[0] for curve in drawn], range=[palette[curve[1]] for curve in drawn]
    )
    marks = _checkpoint_marks(checkpoints, palette, len(rows) - 1)
    chart = alt.LayerChart(layer=[*shades, *marks, *lines, pointer])
    return finish_chart(chart.encode(color=alt.Color(scale=colours)), palette, height=300)


def detection_chart(
    sweep: pa.Table, checkpoints: Sequence[Checkpoint], *, palette: Palette = PAGE
) -> alt.LayerChart | None:
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
    rate = alt.Scale(domain=[0, 1])
    x = alt.X("alarms:Q", title="false alarms on clean test images", scale=rate).axis(format=".0%")
    y = alt.Y("detection:Q", title="poisoned images detected", scale=rate).axis(format=".0%")
    tooltip = [
        alt.Tooltip("step:Q", title="channels pruned"),
        alt.Tooltip("detection:Q", format=".2%"),
        alt.Tooltip("alarms:Q", title="false alarms", format=".2%"),
    ]
    steps = alt.Chart(inline(points)).encode(x=x, y=y, tooltip=tooltip)
    chosen = alt.Chart(inline(reached)).encode(x=x, y=y, tooltip=tooltip)
    chance = (
        alt.Chart(inline([{"alarms": 0, "detection": 0}, {"alarms": 1, "detection": 1}]))
        .mark_line(color=palette["muted"], strokeDash=[4, 4], strokeWidth=1)
        .encode(x=x, y=y)
    )
    cross = chosen.mark_rule(color=palette["attack-g"])
    layers = [
        chance,
        cross.encode(x=f"alarms{LOW}:Q", x2=f"alarms{HIGH}"),
        cross.encode(y=f"detection{LOW}:Q", y2=f"detection{HIGH}"),
        steps.mark_line(color=palette["accuracy-b"], strokeWidth=2).encode(order="step:Q"),
        steps.mark_circle(color=palette["accuracy-g"], size=26, opacity=1),
        chosen.mark_point(color=palette["attack-g"], filled=True, size=130, opacity=1).encode(
            shape=alt.Shape("label:N", title=None, sort=None, legend=alt.Legend(columns=2))
        ),
    ]
    return finish_chart(alt.LayerChart(layer=layers), palette, height=320)


def expert_chart(sweep: pa.Table, *, palette: Palette = PAGE) -> alt.LayerChart | None:
    """Draw how often the net with the first k channels alone answers as B does, over all k.

    A trigger that lives in channels that clean images leave quiet shows as a gap between the lines.
    The dashed line marks the expert whose margin is a score.

    Returns:
        The chart; None where the sweep is of an older run, from one end alone.
    """
    sets = {name: SETS[name] for name in ("clean_valid", "poisoned_test")}
    points = [
        {"step": row["step"], "agreement": 1 - row["flagged"] / row["images"], "images": label}
        for name, label in sets.items()
        for row in set_rows(sweep, name, "expert")
    ]
    clean = [one["agreement"] for one in points if one["images"] == sets["clean_valid"]]
    if not clean:
        return None
    kept = channels_axis(len(clean) - 1, title="channels kept, the quietest first")
    lines = alt.Chart(inline(points)).encode(
        x=kept,
        y=alt.Y("agreement:Q", title=None, axis=alt.Axis(format=".0%")).scale(domain=[0, 1]),
        color=alt.Color("images:N", title=None).scale(
            domain=list(sets.values()), range=[palette["accuracy-g"], palette["attack-g"]]
        ),
        tooltip=["images:N", "step:Q", alt.Tooltip("agreement:Q", format=".2%")],
    )
    expert = choose_expert(np.array(clean))
    mark = alt.Chart(inline([{"step": expert}])).encode(x=kept)
    layers = [
        mark.mark_rule(color=palette["muted"], strokeDash=[3, 3]),
        lines.mark_line(strokeWidth=2),
        lines.mark_circle(size=26, opacity=1),
    ]
    return finish_chart(alt.LayerChart(layer=layers), palette, height=220)


def activation_chart(
    sweep: pa.Table, checkpoints: Sequence[Checkpoint], *, palette: Palette = PAGE
) -> alt.LayerChart:
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
    base = alt.Chart(inline(rows)).encode(
        color=alt.Color("kind:N", title=None).scale(
            domain=["mean activation", "silent"],
            range=[palette["accuracy-g"], palette["attack-g"]],
        ),
        tooltip=[
            alt.Tooltip("channel:N"),
            alt.Tooltip("step:Q", title="pruned at step"),
            alt.Tooltip("mean:Q", title="mean activation", format=".4g"),
        ],
    )
    bars = base.mark_rect().encode(
        x=channels_axis(last, "left"), x2="right", y=alt.Y("mean:Q", title=None), y2=alt.datum(0)
    )
    silent = (
        base.mark_circle(size=22, opacity=1)
        .encode(x=channels_axis(last, "middle"), y=alt.Y("mean:Q"))
        .transform_filter("datum.mean === 0")
        .transform_calculate(middle="datum.step - 0.5")
    )
    layers = [*_checkpoint_marks(checkpoints, palette, last), bars]
    if any(row["mean"] == 0 for row in rows):  # Vega warns of an axis without data
        layers.append(silent)
    return finish_chart(alt.LayerChart(layer=layers), palette, height=220)


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


def inline(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Return rows as data of a chart, which each layer shares.

    Altair copies what a chart has at each method that is called on it, but for tuples.
    """
    return alt.InlineData(tuple(rows))


def set_rows(sweep: pa.Table, name: str, end: End = "pruned") -> list[dict[str, Any]]:
    """Return the rows of a set from one end, in the order of their steps."""
    rows = [row for row in sweep.to_pylist() if row["set"] == name and row["end"] == end]
    return sorted(rows, key=lambda row: row["step"])


def _field(label: str) -> str:
    """Escape the quote in a column's name, which has a meaning to Vega."""
    return label.replace("'", "\\'")


def channels_axis(last: int, field: str = "step", title: str = "channels pruned") -> alt.X:
    """Return the x axis that all curves share, up to the step `last`."""
    scale = alt.Scale(domain=[0, last], nice=False)
    axis = alt.Axis(title=title, tickMinStep=1, grid=False)
    return alt.X(f"{field}:Q", scale=scale, axis=axis)


def _checkpoint_marks(
    checkpoints: Sequence[Checkpoint], palette: Palette, last: int
) -> list[alt.Chart]:
    """Return a dashed line and a label for each step that a checkpoint chose."""
    marks = []
    for level, (step, label) in enumerate(sorted(_labels_by_step(checkpoints).items())):
        at = alt.Chart(inline([{"step": step, "label": label}])).encode(x="step:Q")
        top = alt.value(-18 - 14 * level)
        rule = at.mark_rule(color=palette["muted"], strokeDash=[3, 3])
        # A label is on the side where there is room for it, on a telephone too.
        late = 2 * step > last
        text = at.mark_text(
            color=palette["muted"],
            align="right" if late else "left",
            dx=-4 if late else 4,
            baseline="top",
        )
        marks.append(rule.encode(y=top, y2=alt.value("height")))
        marks.append(text.encode(y=top, text="label:N"))
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


def finish_chart(chart: alt.LayerChart, palette: Palette, *, height: int) -> alt.LayerChart:
    """Give a chart its size and the colours of everything that is not data."""
    label = {"labelColor": palette["muted"], "labelFontSize": 12}
    title = {"titleColor": palette["ink"], "titleFontSize": 12, "titleFontWeight": 500}
    return (
        chart.properties(width="container", height=height, background="transparent")
        .configure(font="system-ui, sans-serif")
        .configure_axis(
            **label,
            **title,
            gridColor=palette["grid"],
            domainColor=palette["muted"],
            tickColor=palette["muted"],
            labelFlush=False,
            labelSeparation=4,
        )
        .configure_legend(orient="bottom", columns=2, symbolStrokeWidth=4, **label)
        .configure_view(stroke=None)
        .configure_text(fontSize=12)
    )
