"""Stages that always run: write the folder of a run, and show its results in the Prefect UI."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_table_artifact,
)
from pydantic_core import to_jsonable_python

from goodnet.reports.about import About, Input, StageRun
from goodnet.reports.charts import read_charts
from goodnet.reports.results import Results
from goodnet.reports.results_table import detector_rows, printed_rows, unreached
from goodnet.reports.run_files import write_run_files
from goodnet.reports.samples import Sample, read_samples, thumbnail
from goodnet.reports.tables import format_markdown
from goodnet.reports.verdict import remarks as all_remarks
from goodnet.reports.verdict import verdict
from goodnet.storage.run_folder import PRUNING, RunFolder
from tasks.caching import always_run
from tasks.markdown import artifact_key, as_cells, as_markdown, markdown_picture
from tasks.records import (
    CheckpointSteps,
    GuardedNet,
    Inputs,
    Measured,
    PublishedRun,
    RepairedNets,
    Samples,
    SavedCheckpoint,
    StoredFile,
)


@task(name="write run", **always_run())
def write_run(
    folder: Path,
    *,
    parameters: dict[str, Any],
    inputs: Inputs,
    stage_log: list[StageRun],
    measured: Measured,
    steps: CheckpointSteps,
    saved: Mapping[int, SavedCheckpoint],
    guarded: GuardedNet,
    repaired: RepairedNets,
    samples: Samples | None,
) -> PublishedRun:
    """Write all files of a run; its folder appears once it is complete.

    Args:
        folder: the run's folder, which is not there yet.
        parameters: of the flow.
        inputs: what was given.
        stage_log: each time that a stage ran so far.
        measured: what the nets are worth.
        steps: of the checkpoints.
        saved: B' and G by step.
        guarded: the calibrated G.
        repaired: B' of other methods than pruning.
        samples: images for the report, if any checkpoint was reached.
    """
    results = Results.read(RunFolder(measured.results.path.parent))
    write_run_files(
        folder,
        results=results,
        about=_about(folder.name, parameters, inputs, stage_log),
        sweep=_read_table(measured.sweep),
        scores=_read_table(measured.scores),
        charts=read_charts(measured.charts.path),
        samples=read_samples(samples.file.path) if samples else (),
        write_nets=partial(_copy_nets, saved, steps, guarded, repaired, results),
    )
    said = verdict(results)
    word, why = (found.verdict, found.why) if (found := results.recommended) else ("done", said)
    return PublishedRun(folder=folder, verdict=said, word=word, why=why)


def _read_table(file: StoredFile) -> pa.Table:
    # Not `read_table`, which imports pandas where it is installed: 0.3 s.
    with pq.ParquetFile(file.path) as opened:
        return opened.read()


def _about(
    name: str, parameters: dict[str, Any], inputs: Inputs, stage_log: list[StageRun]
) -> About:
    """Return all that tells one run from another."""
    valid = inputs.clean_valid
    return About.of(
        name,
        parameters=to_jsonable_python(parameters),
        layer=inputs.network.layer,
        rank_at=inputs.network.rank_at,
        inputs={
            "model": _input(inputs.network.file),
            valid.role: _input(valid.file, valid.num_images),
            **{one.role: _input(one.file, one.num_images) for one in inputs.evaluation},
        },
        stages=stage_log,
    )


def _input(file: StoredFile, num_images: int | None = None) -> Input:
    return Input(str(file.path), sha256=file.sha256, size=file.size, images=num_images)


def _copy_nets(
    saved: Mapping[int, SavedCheckpoint],
    steps: CheckpointSteps,
    guarded: GuardedNet,
    repaired: RepairedNets,
    results: Results,
    folder: RunFolder,
) -> None:
    shutil.copyfile(guarded.file.path, folder.calibrated)
    for kept, file in zip(repaired.kept, repaired.files, strict=True):
        for drop in kept.drops:
            shutil.copyfile(file.path, folder.b_prime(kept.method, drop))
        if kept.recommended and results.recommends_repaired:
            shutil.copyfile(file.path, folder.repaired)
    for asked, step in steps.steps:
        if step is not None:
            b_prime = folder.b_prime(PRUNING, asked, channels=step)
            goodnet = folder.goodnet(asked, channels=step)
            shutil.copyfile(saved[step].b_prime.path, b_prime)
            shutil.copyfile(saved[step].goodnet.path, goodnet)


@task(name="publish artifacts", **always_run())
def publish_artifacts(
    run: PublishedRun, net: str, measured: Measured, samples: Samples | None
) -> PublishedRun:
    """Show the table, and what matters of the report, in the Prefect UI.

    A page may not open files of this machine, so that a link to report.html would lead nowhere.

    Args:
        run: a finished one.
        net: its name.
        measured: what the nets are worth.
        samples: images of the report.
    """
    folder = RunFolder(run.folder)
    results = Results.read(folder)
    rows = [as_cells(row) for row in printed_rows(results)]
    verdict = as_markdown(run.verdict)
    create_table_artifact(rows, key=artifact_key(net, "results"), description=verdict)
    shown = read_samples(samples.file.path) if samples else []
    lines = _report_lines(run, net, results, measured.curve.path.read_bytes(), shown)
    create_markdown_artifact("\n\n".join(lines), key=artifact_key(net, "report"))
    return run


def _report_lines(
    run: PublishedRun, net: str, results: Results, curve: bytes, samples: Sequence[Sample]
) -> Iterator[str]:
    """Yield the paragraphs of the report in Markdown."""
    yield f"# {as_markdown(net)}: {as_markdown(run.word)}"
    yield from map(as_markdown, (run.why, run.verdict, *all_remarks(results), *unreached(results)))
    yield format_markdown(printed_rows(results), escape=as_markdown)
    if results.detectors:
        yield format_markdown(detector_rows(results), escape=as_markdown)
    yield markdown_picture(curve, "accuracy and attack success rate")
    for kind in dict.fromkeys(sample.kind for sample in samples):
        of_kind = [sample for sample in samples if sample.kind == kind]
        yield f"**{kind}** at {of_kind[0].checkpoint}"
        yield " ".join(
            markdown_picture(thumbnail(one.image), f"label {one.label}, B says {one.b_answer}")
            for one in of_kind
        )
    yield f"All of it: {as_markdown(str(RunFolder(run.folder).report.resolve()))}"
