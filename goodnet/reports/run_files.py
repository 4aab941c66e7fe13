"""Writing the folder of a run: all its files together, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from goodnet.reports.about import About
from goodnet.reports.charts import Charts
from goodnet.reports.model_card import write_model_card
from goodnet.reports.report import write_report
from goodnet.reports.results import Results
from goodnet.reports.results_table import plain_rows
from goodnet.reports.samples import Sample
from goodnet.reports.tables import write_csv
from goodnet.storage.files import atomic_folder, write_json
from goodnet.storage.run_folder import RunFolder


def write_run_files(
    folder: Path,
    *,
    results: Results,
    about: About,
    sweep: pa.Table,
    scores: pa.Table,
    charts: Charts,
    samples: Sequence[Sample],
    write_nets: Callable[[RunFolder], None],
) -> None:
    """Write all files of a run; its folder appears once it is complete.

    Args:
        folder: the run's folder, which is not there yet.
        results: what was found.
        about: what was given.
        sweep: the rows of sweep.parquet.
        scores: the rows of scores.parquet.
        charts: of the report.
        samples: images for the report.
        write_nets: writes B' and G of each checkpoint and the calibrated G into a folder that it is
            given, under the names that this has for them.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        unfinished = RunFolder(temporary)
        results.write(unfinished)
        write_csv(unfinished.table, plain_rows(results))
        about.write(unfinished)
        if results.class_names:
            write_json(unfinished.classes, results.class_names)
        pq.write_table(sweep, unfinished.sweep)
        pq.write_table(scores, unfinished.scores)
        unfinished.checkpoints.mkdir()
        write_nets(unfinished)
        write_model_card(unfinished, results=results, about=about)
        write_report(
            unfinished,
            results=results,
            about=about,
            sweep=sweep,
            charts=charts,
            samples=samples,
        )
