"""The words of Vega-Lite that the charts have in common, and their colours.

Charts are plain JSON as Vega-Lite documents it, and tests hold them against its schema. Altair,
which builds the same, takes half a second of every run for its import and for all that it copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Chart = dict[str, Any]
"""A chart, or a part of one, in the words of Vega-Lite: https://vega.github.io/vega-lite/docs/."""

Rows = Sequence[Mapping[str, Any]]
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

PERCENT: Chart = {"format": ".0%"}
"""An axis of rates."""


def number(field: str, **details: Any) -> Chart:
    """Return how a column of numbers is drawn or told."""
    return {"field": field, "type": "quantitative", **details}


def category(field: str, **details: Any) -> Chart:
    """Return how a column of names is drawn or told."""
    return {"field": field, "type": "nominal", **details}


def percent(field: str, **details: Any) -> Chart:
    """Return how a column of rates is told."""
    return number(field, format=".2%", **details)


def rate(field: str, *, title: str | None = None) -> Chart:
    """Return the axis of a column of rates."""
    return number(field, title=title, scale={"domain": [0, 1]}, axis=PERCENT)


def coloured(field: str, colours: Mapping[str, str]) -> Chart:
    """Return the colours of a column of names, in the order of the legend."""
    return category(field, title=None, scale=colour_scale(colours))


def colour_scale(colours: Mapping[str, str]) -> Chart:
    """Return what gives each name its colour."""
    return {"domain": [*colours], "range": [*colours.values()]}


def layer(rows: Rows, mark: str, encoding: Chart, **look: Any) -> Chart:
    """Return what `layered_chart` takes: a mark for each row, or one line or area through all."""
    return {"data": rows, "mark": {"type": mark, **look}, "encoding": encoding}


def dashed_rule(rows: Rows, encoding: Chart, palette: Palette) -> Chart:
    """Return a layer of lines across the chart that mark a place."""
    return layer(rows, "rule", encoding, color=palette["muted"], strokeDash=[3, 3])


def layered_chart(layers: Sequence[Chart], palette: Palette, *, height: int) -> Chart:
    """Return the chart of layers, with its size and the colours of everything that is not data."""
    # Layers with the same rows share them, so that a page holds them once.
    tables = {id(one["data"]): one["data"] for one in layers}
    names = {table: f"rows_{place}" for place, table in enumerate(tables)}
    label = {"labelColor": palette["muted"], "labelFontSize": 12}
    title = {"titleColor": palette["ink"], "titleFontSize": 12, "titleFontWeight": 500}
    axis = {
        **label,
        **title,
        "gridColor": palette["grid"],
        "domainColor": palette["muted"],
        "tickColor": palette["muted"],
        "labelFlush": False,
        "labelSeparation": 4,
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "background": "transparent",
        "datasets": {names[table]: rows for table, rows in tables.items()},
        "layer": [{**one, "data": {"name": names[id(one["data"])]}} for one in layers],
        "config": {
            "font": "system-ui, sans-serif",
            "axis": axis,
            "legend": {"orient": "bottom", "columns": 2, "symbolStrokeWidth": 4, **label},
            "view": {"stroke": None},
            "text": {"fontSize": 12},
        },
    }
