"""The page that a run leaves behind: one HTML file that needs nothing from outside."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from goodnet.errors import printable
from goodnet.metrics import percent, wilson_interval
from goodnet.reports import plots
from goodnet.reports.published_numbers import compare_to_published, recognise
from goodnet.reports.samples import SAMPLES_PER_KIND, Sample, SampleKind
from goodnet.reports.vega import vega_script
from goodnet.reports.verdict import remarks, verdict
from goodnet.storage.files import atomic_path
from goodnet.storage.run_folder import stage_times

if TYPE_CHECKING:
    import numpy as np

SAMPLE_SIDE = 128
"""Longest side of a sample on the page, in pixels of the image: larger ones are scaled down."""

COLUMNS = (
    ("clean_valid_accuracy", "clean validation", "clean_valid"),
    ("clean_test_accuracy", "clean test", "clean_test"),
    ("attack_success_rate", "attack success", "poisoned_test"),
    ("recovery_rate", "recovery", "poisoned_test"),
    ("detection_rate", "detection", "poisoned_test"),
    ("false_alarm_rate", "false alarms", "clean_test"),
)
"""The rates of results.json: key, heading, and the set of the sweep that they were counted on."""

_SHOWN_APART = ("run", "inputs", "stages", "seconds", "chosen")


@dataclass(frozen=True)
class Cell:
    """A rate in the results table; `measured` is false where the net has no such rate at all."""

    key: str
    heading: str
    measured: bool
    rate: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """A line of the results table; without cells where the checkpoint was not reached."""

    drop: float | None
    net: str
    channels: int | None
    cells: Sequence[Cell]


def write_report(run_folder: Path, *, samples: Sequence[Sample] = ()) -> Path:
    """Write report.html into a run's folder.

    Args:
        run_folder: holds results.json, sweep.parquet and run.json.
        samples: images to show, the first few of each kind.

    Returns:
        Where the page is.
    """
    results = json.loads((run_folder / "results.json").read_text("utf-8"))
    run = json.loads((run_folder / "run.json").read_text("utf-8"))
    sweep = pq.read_table(run_folder / "sweep.parquet")
    inputs = {role: given for role, given in run.get("inputs", {}).items() if given}
    sizes = _set_sizes(sweep)
    page = (
        page_environment()
        .get_template("report.html")
        .render(
            name=run.get("run", run_folder.resolve().name),
            verdict=verdict(results),
            remarks=remarks(results),
            results=results,
            rows=_result_rows(results, sizes),
            sizes=sizes,
            inputs=inputs,
            comparisons=compare_to_published(results, inputs),
            charts=_charts(sweep, results["checkpoints"]),
            samples=_sample_groups(samples, results["baseline"]),
            sample_drop=samples[0].drop if samples else None,
            stages=stage_times(run.get("stages", [])),
            chosen=run.get("chosen"),
            settings={key: run[key] for key in run if key not in _SHOWN_APART},
            vega=vega_script(),
        )
    )
    path = run_folder / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")
    return path


def page_environment() -> jinja2.Environment:
    """Return the templates; every string that came from outside is escaped and made visible."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("goodnet.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
        ),
    )
    environment.filters |= {"percent": percent, "lab_file": recognise}
    return environment


def _set_sizes(sweep: pa.Table) -> dict[str, int]:
    """Return how many images each set of the sweep has."""
    return {row["set"]: row["images"] for row in sweep.select(["set", "images"]).to_pylist()}


def _result_rows(results: Mapping[str, Any], sizes: Mapping[str, int]) -> list[Row]:
    # Recovery is known only where poisoned images keep the labels from before the trigger.
    nets = [
        c[net] for c in results["checkpoints"] if c["reached"] for net in ("b_prime", "goodnet")
    ]
    known = any(rates.get("recovery_rate") is not None for rates in nets)
    columns = [column for column in COLUMNS if column[0] != "recovery_rate" or known]
    rows = [Row(None, "B", 0, _cells(results["baseline"], sizes, columns))]
    for checkpoint in results["checkpoints"]:
        drop, step = checkpoint["drop"], checkpoint["step"]
        if not checkpoint["reached"]:
            rows.append(Row(drop, "", None, ()))
            continue
        rows.append(Row(drop, "B'", step, _cells(checkpoint["b_prime"], sizes, columns)))
        rows.append(Row(drop, "G", step, _cells(checkpoint["goodnet"], sizes, columns)))
    return rows


def _cells(
    rates: Mapping[str, Any], sizes: Mapping[str, int], columns: Sequence[tuple[str, str, str]]
) -> list[Cell]:
    cells = []
    for key, heading, images in columns:
        rate, size = rates.get(key), sizes.get(images)
        interval = wilson_interval(round(rate * size), size) if size and rate is not None else None
        cells.append(Cell(key, heading, key in rates, rate, interval))
    return cells


def _charts(sweep: pa.Table, checkpoints: plots.Checkpoints) -> dict[str, dict[str, Any]]:
    """Return the Vega-Lite of each chart that the run has the data for."""
    charts = {
        "curves": plots.curve_chart(sweep, checkpoints),
        "detection": plots.detection_chart(sweep, checkpoints),
        "activations": plots.activation_chart(sweep, checkpoints),
    }
    return {name: chart.to_dict() for name, chart in charts.items() if chart is not None}


def _sample_groups(
    samples: Sequence[Sample], baseline: Mapping[str, Any]
) -> dict[str, list[tuple[Sample, str]]]:
    """Return the first samples of each kind, each with its picture as a data URI.

    A kind without samples is there if the run had the set that they would be from.
    """
    groups = {}
    for kind in get_args(SampleKind):
        rate = "attack_success_rate" if kind.startswith("poisoned") else "clean_test_accuracy"
        if samples and baseline[rate] is not None:
            chosen = [sample for sample in samples if sample.kind == kind][:SAMPLES_PER_KIND]
            groups[kind] = [(sample, _data_uri(sample.image)) for sample in chosen]
    return groups


def _data_uri(image: np.ndarray) -> str:
    """Return an image as a PNG in a data URI; of unusual channel counts, what a screen can show."""
    shown = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    picture = Image.fromarray(shown)
    picture.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
