"""The page of a comparison: plots of all runs, in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from goodnet.errors import InputError
from goodnet.reports.compare import Run, comparison_rows, find_differences
from goodnet.reports.report import render_page
from goodnet.reports.results import clean_set
from goodnet.reports.vega import vega_script
from goodnet.reports.vega_lite import (
    PAGE,
    PERCENT,
    Chart,
    category,
    layer,
    layered_chart,
    number,
    percent,
    rate,
)
from goodnet.storage.files import atomic_path, require_folder

ACCURACY, ATTACK = "clean accuracy of G", "attack success of G"


def write_comparison(path: Path, runs: Sequence[Run]) -> Path:
    """Write a page with the table, the plot and the differences of runs, and return its path.

    Raises:
        InputError: it has no folder to go to, or is not named as a page.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: the plot is a page, expected a name that ends in .html")
    require_folder(path.parent)
    page = render_page(
        "comparison.html",
        runs=runs,
        rows=comparison_rows(runs),
        differences=find_differences(runs),
        charts=_charts(runs),
        vega=vega_script(),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")
    return path


def _charts(runs: Sequence[Run]) -> dict[str, Chart]:
    charts = {"chart": comparison_chart(runs), "detection": detection_chart(runs)}
    return {name: chart for name, chart in charts.items() if chart is not None}


def comparison_chart(runs: Sequence[Run]) -> Chart:
    """Draw clean accuracy and attack success of G against the share of channels pruned.

    Nets of any width have the same share. Accuracy is on clean test images, or validation where a
    run has no others. A click in the legend fades the other runs, which may hide one.
    """
    points = [point for run in runs for point in _points(run)]
    base = _coloured(runs) | {
        "x": _share("share", title="channels pruned"),
        "y": rate("rate"),
        "tooltip": [
            category("run"),
            category("measure"),
            number("step", title="channels pruned"),
            percent("rate"),
        ],
    }
    dashes = {"domain": [ACCURACY, ATTACK], "range": [[1, 0], [5, 4]]}
    dash = category("measure", legend=None, scale=dashes)
    lines = layer(points, "line", base | {"strokeDash": dash}, strokeWidth=2)
    marks = layer(points, "circle", base, size=70) | _only("datum.checkpoint")
    return _finished(lines, marks)


def detection_chart(runs: Sequence[Run]) -> Chart | None:
    """Draw detection against false alarms of all G of each run, and of the one to use.

    Returns:
        The chart; None where no run has both clean and poisoned test images.
    """
    points = [point for run in runs for point in _detections(run)]
    if not points:
        return None
    base = _coloured(runs) | {
        "x": _share("alarms", title="false alarms"),
        "y": rate("detection"),
        "tooltip": [
            category("run"),
            category("net"),
            percent("detection"),
            percent("alarms", title="false alarms"),
        ],
    }
    # In the order of the steps: neither rate need rise with each.
    lines = layer(points, "line", base | {"order": number("step")}, strokeWidth=2)
    marks = layer(points, "point", base, size=110, shape="diamond", filled=True)
    return _finished(lines | _only("datum.swept"), marks | _only("!datum.swept"))


def _coloured(runs: Sequence[Run]) -> Chart:
    """Return a colour for each run, which is faded while others are clicked in the legend."""
    colour = category(
        "run",
        title=None,
        legend={"columns": 1, "labelLimit": 0},
        scale={"domain": [run.name for run in runs], "scheme": "tableau10"},
    )
    opacity = {"condition": {"param": "clicked", "value": 1}, "value": 0.15}
    return {"color": colour, "opacity": opacity}


def _finished(lines: Chart, marks: Chart) -> Chart:
    clicked = {"name": "clicked", "select": {"type": "point", "fields": ["run"]}, "bind": "legend"}
    return layered_chart([lines | {"params": [clicked]}, marks], PAGE, height=380)


def _share(field: str, *, title: str) -> Chart:
    scale = {"domain": [0, 1], "nice": False}
    return number(field, title=title, scale=scale, axis=PERCENT | {"grid": False})


def _only(condition: str) -> Chart:
    return {"transform": [{"filter": condition}]}


def _points(run: Run) -> Iterator[dict[str, Any]]:
    steps = {point.step for point in run.results.reached}
    clean = clean_set({row["set"] for row in run.sweep})
    last = max(row["step"] for row in run.sweep)
    for measure, name in ((ACCURACY, clean), (ATTACK, "poisoned_test")):
        for row in run.sweep:
            if row["set"] == name:
                yield {
                    "run": run.name,
                    "measure": measure,
                    "step": row["step"],
                    "share": row["step"] / max(last, 1),
                    "rate": row["goodnet_correct"] / row["images"],
                    "checkpoint": row["step"] in steps,
                }


def _detections(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the G of each step and, where there is one, the calibrated G."""
    flagged = {(row["set"], row["step"]): row["flagged"] / row["images"] for row in run.sweep}
    for name, step in flagged:
        if name == "poisoned_test" and ("clean_test", step) in flagged:
            yield {
                "run": run.name,
                "net": f"G with {step} channels pruned",
                "step": step,
                "alarms": flagged["clean_test", step],
                "detection": flagged[name, step],
                "swept": True,
            }
    for joined in run.results.detectors[-1:]:
        if joined.detection_rate is not None and joined.false_alarm_rate is not None:
            yield {
                "run": run.name,
                "net": "the calibrated G",
                "step": -1,
                "alarms": joined.false_alarm_rate,
                "detection": joined.detection_rate,
                "swept": False,
            }
