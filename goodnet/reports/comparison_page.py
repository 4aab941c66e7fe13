"""The page of a comparison: one plot of all runs, in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from goodnet.errors import InputError
from goodnet.reports import plots, report
from goodnet.reports.compare import Run, comparison_rows, find_differences
from goodnet.reports.results import clean_set
from goodnet.reports.vega import vega_script
from goodnet.storage.files import atomic_path

ACCURACY, ATTACK = "clean accuracy of G", "attack success of G"


def write_comparison(path: Path, runs: Sequence[Run]) -> Path:
    """Write a page with the table, the plot and the differences of runs, and return its path.

    Raises:
        InputError: it has no folder to go to, or is not named as a page.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: the plot is a page, expected a name that ends in .html")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")
    page = (
        report.page_environment()
        .get_template("comparison.html")
        .render(
            runs=runs,
            rows=comparison_rows(runs),
            differences=find_differences(runs),
            chart=comparison_chart(runs).to_dict(),
            vega=vega_script(),
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")
    return path


def comparison_chart(runs: Sequence[Run]) -> alt.LayerChart:
    """Draw clean accuracy and attack success of G against channels pruned, a colour for each run.

    Accuracy is on clean test images, or validation where a run has no others. A click in the
    legend fades the other runs, which may hide one.
    """
    points = [point for run in runs for point in _points(run)]
    names = [run.name for run in runs]
    clicked = alt.selection_point(fields=["run"], bind="legend")
    base = alt.Chart(alt.InlineData(points)).encode(
        x=plots.channels_axis(max(point["step"] for point in points)),
        y=alt.Y("rate:Q", title=None, axis=alt.Axis(format=".0%")).scale(domain=[0, 1]),
        color=alt.Color("run:N", title=None, legend=alt.Legend(columns=1)).scale(
            domain=names, scheme="tableau10"
        ),
        opacity=alt.when(clicked).then(alt.value(1)).otherwise(alt.value(0.15)),
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
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dash).add_params(clicked)
    marks = base.mark_circle(size=70).transform_filter("datum.checkpoint")
    return plots.finish_chart(alt.LayerChart(layer=[lines, marks]), plots.PAGE, height=380)


def _points(run: Run) -> Iterator[dict[str, Any]]:
    steps = {point.step for point in run.results.reached}
    clean = clean_set({row["set"] for row in run.sweep})
    for measure, name in ((ACCURACY, clean), (ATTACK, "poisoned_test")):
        for row in run.sweep:
            if row["set"] == name:
                yield {
                    "run": run.name,
                    "measure": measure,
                    "step": row["step"],
                    "rate": row["goodnet_correct"] / row["images"],
                    "checkpoint": row["step"] in steps,
                }
