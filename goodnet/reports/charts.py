"""All charts of a run's page, as Vega-Lite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from goodnet.reports import detector_plots, plots
from goodnet.reports.reading import as_mapping, reading
from goodnet.reports.results import Results
from goodnet.storage.files import read_json

Charts = Mapping[str, Mapping[str, Any]]
"""Vega-Lite by the name that the page has for a chart."""


def draw_charts(results: Results, *, sweep: pa.Table, scores: pa.Table | None) -> Charts:
    """Return each chart that a run has the data for.

    Args:
        results: what it found.
        sweep: the table of sweep.parquet.
        scores: the table of scores.parquet; None in runs from before there were scores.
    """
    reached = results.reached
    charts = {
        "detectors": None if scores is None else detector_plots.detectors_chart(results, scores),
        "scores": None if scores is None else detector_plots.scores_chart(results, scores),
        "depths": detector_plots.depths_chart(results, sweep),
        "curves": plots.curve_chart(sweep, reached),
        "detection": plots.detection_chart(sweep, reached),
        "activations": plots.activation_chart(sweep, reached),
        "expert": plots.expert_chart(sweep),
    }
    return {name: chart for name, chart in charts.items() if chart is not None}


def read_charts(path: Path) -> Charts:
    """Read what `draw_charts` returned from a JSON file.

    Raises:
        InputError: the file is damaged or of another kind.
    """
    with reading(path):
        return {name: as_mapping(chart) for name, chart in as_mapping(read_json(path)).items()}
