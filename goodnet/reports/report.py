"""The page that a run leaves behind: one HTML file that needs nothing from outside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import jinja2
import pyarrow as pa

from goodnet.errors import printable
from goodnet.metrics import percent, points, wilson_interval
from goodnet.pruning.stop_rule import describe_budget
from goodnet.reports.about import About, stage_times
from goodnet.reports.charts import Charts
from goodnet.reports.glance import figures, sign_of
from goodnet.reports.published_numbers import compare_to_published, recognise
from goodnet.reports.recommendation import NET_RUINED
from goodnet.reports.results import RATES, Checkpoint, Rates, Results, Unreached
from goodnet.reports.samples import SAMPLES_PER_KIND, Sample, SampleKind, data_uri
from goodnet.reports.vega import vega_script
from goodnet.reports.verdict import pruning_verdict, remarks, verdict
from goodnet.storage.files import atomic_path
from goodnet.storage.run_folder import RunFolder

_SETTINGS = ("parameters", "layer", "rank_at", "versions", "git_commit")


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

    asked: str
    drop: float | None
    net: str
    channels: int | None
    cells: Sequence[Cell]


def write_report(
    folder: RunFolder,
    *,
    results: Results,
    about: About,
    sweep: pa.Table,
    charts: Charts,
    samples: Sequence[Sample] = (),
) -> Path:
    """Write report.html into a run's folder.

    Args:
        folder: of the run.
        results: what it found.
        about: what it was given.
        sweep: the table of sweep.parquet.
        charts: from `draw_charts`.
        samples: images to show, the first few of each kind.

    Returns:
        Where the page is.
    """
    sizes = _set_sizes(sweep)
    page = render_page(
        "report.html",
        verdict=verdict(results),
        pruning=pruning_verdict(results) if results.recommended else None,
        remarks=remarks(results),
        figures=figures(results),
        results=results,
        rows=_result_rows(results, sizes),
        sizes=sizes,
        about=about,
        repaired=_repaired_rows(results, sizes),
        files=_files(folder, results.reached),
        comparisons=compare_to_published(results, about.inputs),
        charts=charts,
        samples=_sample_groups(samples, results.baseline),
        sampled=samples[0].checkpoint if samples else None,
        stages=stage_times(about.stages),
        settings={name: getattr(about, name) for name in _SETTINGS},
        vega=vega_script(),
    )
    with atomic_path(folder.report) as temporary:
        temporary.write_text(page, "utf-8")
    return folder.report


def render_page(template: str, **values: object) -> str:
    """Return the page that a template makes of values."""
    return page_environment().get_template(template).render(**values)


def link_to_report(run: Path | str | None, folder: Path) -> str | None:
    """Return where the report of a run is, as a link of a page in a folder; None without a run."""
    if run is None:
        return None
    # Both folders lie in that of the artifacts, which may be moved as a whole.
    return Path(os.path.relpath(RunFolder(Path(run)).report, folder)).as_posix()


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
    environment.filters |= {
        "percent": percent,
        "points": points,
        "lab_file": recognise,
        "describe_budget": describe_budget,
        "sign_of": sign_of,
    }
    environment.globals["NET_RUINED"] = NET_RUINED
    return environment


def _set_sizes(sweep: pa.Table) -> dict[str, int]:
    """Return how many images each set of the sweep has."""
    return {row["set"]: row["images"] for row in sweep.select(["set", "images"]).to_pylist()}


def _files(folder: RunFolder, reached: Sequence[Checkpoint]) -> list[tuple[str, str]]:
    """Return the file of G and that of B' of each checkpoint, as links of the page."""
    files = []
    for point in reached:
        goodnet = folder.goodnet(point.drop, channels=point.step)
        b_prime = folder.b_prime(point.method, point.drop, channels=point.step)
        files.append((goodnet.name, str(b_prime.relative_to(folder.path))))
    return files


def _result_rows(results: Results, sizes: Mapping[str, int]) -> list[Row]:
    names = results.rate_names
    rows = [Row("as given", None, "B", 0, _cells(results.baseline, sizes, names))]
    for point in results.checkpoints:
        if isinstance(point, Unreached):
            rows.append(Row(point.asked, point.drop, "", None, ()))
            continue
        for net, rates in (("B'", point.b_prime), ("G", point.goodnet)):
            cells = _cells(rates, sizes, names)
            rows.append(Row(point.asked, point.drop, net, point.step, cells))
    return rows


def _repaired_rows(results: Results, sizes: Mapping[str, int]) -> list[Row]:
    """Return a line for each repaired net of another method than pruning."""
    names = results.rate_names
    return [
        Row(one.asked, one.drop, f"B' {one.title}", None, _cells(one.b_prime, sizes, names))
        for one in results.repaired_nets
    ]


def _cells(rates: Rates, sizes: Mapping[str, int], names: Sequence[str]) -> list[Cell]:
    cells = []
    found = rates.by_name()
    for name in names:
        rate, size = found.get(name), sizes.get(RATES[name].role)
        interval = wilson_interval(round(rate * size), size) if size and rate is not None else None
        cells.append(Cell(name, RATES[name].heading, name in found, rate, interval))
    return cells


def _sample_groups(
    samples: Sequence[Sample], baseline: Rates
) -> dict[str, list[tuple[Sample, str]]]:
    """Return the first samples of each kind, each with its picture as a data URI.

    A kind without samples is there if the run had the set that they would be from.
    """
    groups = {}
    for kind in get_args(SampleKind):
        poisoned = kind.startswith("poisoned")
        rate = baseline.attack_success_rate if poisoned else baseline.clean_test_accuracy
        if samples and rate is not None:
            chosen = [sample for sample in samples if sample.kind == kind][:SAMPLES_PER_KIND]
            groups[kind] = [(sample, data_uri(sample.image)) for sample in chosen]
    return groups
