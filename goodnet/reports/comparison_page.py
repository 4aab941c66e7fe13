"""The page of a comparison: plots of all runs, in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from goodnet.errors import InputError
from goodnet.reports import plots, report
from goodnet.reports.compare import Run, comparison_rows, find_differences
from goodnet.reports.results import clean_set
from goodnet.reports.vega import vega_script
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
    page = (
        report.page_environment()
        .get_template("comparison.html")
        .render(
            runs=runs,
            rows=comparison_rows(runs),
            differences=find_differences(runs),
            charts=_charts(runs),
            vega=vega_script(),
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")
    return path


def _charts(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    charts = {"chart": comparison_chart(runs), "detection": detection_chart(runs)}
    return {name: chart.to_dict() for name, chart in charts.items() if chart is not None}


def comparison_chart(runs: Sequence[Run]) -> alt.LayerChart:
    """Draw clean accuracy and attack success of G against the share of channels pruned.

    Nets of any width have the same share. Accuracy is on clean test images, or validation where a
    run has no others. A click in the legend fades the other runs, which may hide one.
    """
    points = [point for run in runs for point in _points(run)]
    share = alt.X("share:Q", title="channels pruned", axis=_percentages(grid=False))
    base = _base(points, runs, share.scale(domain=[0, 1], nice=False)).encode(
        y=alt.Y("rate:Q", title=None, axis=_percentages()).scale(domain=[0, 1]),
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("measure:N"),
            alt.Tooltip("step:Q", title="channels pruned"),
            alt.Tooltip("rate:Q", format=".2%"),
        ],
    )
    dash = alt.StrokeDash("measure:N", legend=None).scale(
        domain=[ACCURACY, ATTACK], range=[[1, 0], [5, 4]]
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    return _finished(lines, base.mark_circle(size=70).transform_filter("datum.checkpoint"))


def detection_chart(runs: Sequence[Run]) -> alt.LayerChart | None:
    """Draw detection against false alarms of all G of each run, and of the one to use.

    Returns:
        The chart; None where no run has both clean and poisoned test images.
    """
    points = [point for run in runs for point in _detections(run)]
    if not points:
        return None
    alarms = alt.X("alarms:Q", title="false alarms", axis=_percentages(grid=False))
    base = _base(points, runs, alarms.scale(domain=[0, 1], nice=False)).encode(
        y=alt.Y("detection:Q", title=None, axis=_percentages()).scale(domain=[0, 1]),
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("net:N"),
            alt.Tooltip("detection:Q", format=".2%"),
            alt.Tooltip("alarms:Q", title="false alarms", format=".2%"),
        ],
    )
    # In the order of the steps: neither rate need rise with each.
    lines = base.mark_line(strokeWidth=2).encode(order="step:Q").transform_filter("datum.swept")
    marks = base.mark_point(size=110, shape="diamond", filled=True)
    return _finished(lines, marks.transform_filter("!datum.swept"))


def _base(points: Sequence[Mapping[str, Any]], runs: Sequence[Run], x: alt.X) -> alt.Chart:
    """Return what lines and marks of a chart share, a colour for each run among it."""
    names = [run.name for run in runs]
    color = alt.Color("run:N", title=None, legend=alt.Legend(columns=1, labelLimit=0))
    return alt.Chart(alt.InlineData([*points])).encode(
        x=x, color=color.scale(domain=names, scheme="tableau10")
    )


def _finished(lines: alt.Chart, marks: alt.Chart) -> alt.LayerChart:
    clicked = alt.selection_point(fields=["run"], bind="legend")
    faded = alt.when(clicked).then(alt.value(1)).otherwise(alt.value(0.15))
    layers = [lines.encode(opacity=faded).add_params(clicked), marks.encode(opacity=faded)]
    return plots.finish_chart(alt.LayerChart(layer=layers), plots.PAGE, height=380)


def _percentages(*, grid: bool = True) -> alt.Axis:
    return alt.Axis(format=".0%", grid=grid)


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
