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

from goodnet.defenses.guard_files import read_answers, read_guard, read_seen
from goodnet.inputs import POISONED_SETS
from goodnet.pruning.counts import read_counts
from goodnet.pruning.poisoned import describe_attack
from goodnet.pruning.stop_rule import Checkpoint
from goodnet.reports.about import About, Input, StageRun, how_chosen
from goodnet.reports.counted_results import make_results
from goodnet.reports.detection import (
    ScoredSet,
    calibrate_all,
    measure_depths,
    measure_detectors,
    measure_repaired,
    scores_table,
)
from goodnet.reports.plots import curve_png
from goodnet.reports.results import Results
from goodnet.reports.results_table import detector_rows, printed_rows, unreached
from goodnet.reports.run_files import write_run_files
from goodnet.reports.samples import Sample, read_samples, thumbnail
from goodnet.reports.tables import format_markdown
from goodnet.reports.verdict import remarks as all_remarks
from goodnet.reports.verdict import verdict
from goodnet.storage.run_folder import PRUNING, RunFolder, git_commit, software_versions
from tasks.caching import always_run
from tasks.markdown import artifact_key, as_cells, as_markdown, markdown_picture
from tasks.records import (
    ActivationsRecord,
    CheckpointSteps,
    CleanValidationActivations,
    EvaluationActivations,
    FittedGuard,
    GuardedNet,
    ImageScores,
    Inputs,
    PruneOrder,
    PublishedRun,
    RepairedAnswers,
    RepairedNets,
    Samples,
    SavedCheckpoint,
    StoredFile,
    SweepRecord,
)


@task(name="write run", **always_run())
def write_run(
    folder: Path,
    *,
    parameters: dict[str, Any],
    inputs: Inputs,
    remarks: tuple[str, ...],
    stage_log: list[StageRun],
    activations: CleanValidationActivations,
    evaluation: tuple[EvaluationActivations, ...],
    target: int | None,
    order: PruneOrder,
    sweeps: tuple[SweepRecord, ...],
    steps: CheckpointSteps,
    saved: Mapping[int, SavedCheckpoint],
    fitted: FittedGuard,
    scores: tuple[ImageScores, ...],
    answers: tuple[RepairedAnswers, ...],
    guarded: GuardedNet,
    repaired: RepairedNets,
    budget: float,
    drops: tuple[float, ...],
    samples: Samples | None,
) -> PublishedRun:
    """Write all files of a run; its folder appears once it is complete.

    Args:
        folder: the run's folder, which is not there yet.
        parameters: of the flow.
        inputs: what was given.
        remarks: what whoever reads the results should know, a sentence each.
        stage_log: each time that a stage ran so far.
        activations: of clean validation.
        evaluation: activations of the other sets.
        target: the attacker's label, None where the labels of the poisoned sets are that.
        order: the prune order.
        sweeps: of all sets.
        steps: of the checkpoints.
        saved: B' and G by step.
        fitted: the scores that calibrate the last G.
        scores: of the images of all sets.
        answers: of the repaired nets to all sets.
        guarded: that calibrated G.
        repaired: B' of other methods than pruning.
        budget: the share of clean images that G may flag.
        drops: the budgets of clean accuracy, in points.
        samples: images for the report, if any checkpoint was reached.
    """
    _, held = read_guard(fitted.file.path)
    calibrations = calibrate_all(held.scores, budget=budget)
    every: tuple[ActivationsRecord, ...] = (activations, *evaluation)
    scored: dict[str, ScoredSet] = {
        one.images.role: ScoredSet(
            one.cache(),
            read_seen(its.file.path),
            target if one.images.role in POISONED_SETS else None,
        )
        for one, its in zip(every, scores, strict=True)
    }
    poisoned = [one.cache() for one in evaluation if one.images.role == "poisoned_test"]
    attacks = [describe_attack(cache, target) for cache in poisoned]
    results = make_results(
        {sweep.role: read_counts(sweep.file.path) for sweep in sweeps},
        [Checkpoint(drop, step) for drop, step in steps.steps],
        order=order.channels,
        num_classes=activations.cache().provenance.num_classes,
        attack=next(iter(attacks), None),
        detectors=measure_detectors(scored, calibrations),
        depths=measure_depths(scored),
        repaired=measure_repaired(
            scored,
            {
                one.role: read_answers(its.file.path)
                for one, its in zip(scores, answers, strict=True)
            },
            repaired.kept,
            drops,
        ),
        recommended_method=next((kept.method for kept in repaired.kept if kept.recommended), None),
        remarks=remarks,
        class_names=inputs.classes or (),
    )
    about = _about(folder.name, parameters, inputs, stage_log)
    table = pa.concat_tables([pq.read_table(sweep.file.path) for sweep in sweeps])
    write_run_files(
        folder,
        results=results,
        about=about,
        sweep=table,
        scores=scores_table(scored, calibrations),
        samples=read_samples(samples.file.path) if samples else (),
        write_nets=partial(_copy_nets, saved, steps, guarded, repaired, results),
    )
    said = verdict(results)
    word, why = (found.verdict, found.why) if (found := results.recommended) else ("done", said)
    return PublishedRun(folder=folder, verdict=said, word=word, why=why)


def _about(
    name: str, parameters: dict[str, Any], inputs: Inputs, stage_log: list[StageRun]
) -> About:
    """Return all that tells one run from another."""
    valid = inputs.clean_valid
    return About(
        run=name,
        parameters=to_jsonable_python(parameters),
        layer=inputs.network.layer,
        rank_at=inputs.network.rank_at,
        chosen={name: how_chosen(parameters.get(name)) for name in ("layer", "rank_at")},
        inputs={
            "model": _input(inputs.network.file),
            valid.role: _input(valid.file, valid.num_images),
            **{one.role: _input(one.file, one.num_images) for one in inputs.evaluation},
        },
        versions=software_versions(),
        git_commit=git_commit(),
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
            goodnet = folder.goodnet(PRUNING, asked, channels=step)
            shutil.copyfile(saved[step].b_prime.path, b_prime)
            shutil.copyfile(saved[step].goodnet.path, goodnet)


@task(name="publish artifacts", **always_run())
def publish_artifacts(run: PublishedRun, net: str, samples: Samples | None) -> PublishedRun:
    """Show the table, and what matters of the report, in the Prefect UI.

    A page may not open files of this machine, so that a link to report.html would lead nowhere.

    Args:
        run: a finished one.
        net: its name.
        samples: images of the report.
    """
    folder = RunFolder(run.folder)
    results = Results.read(folder)
    rows = [as_cells(row) for row in printed_rows(results)]
    verdict = as_markdown(run.verdict)
    create_table_artifact(rows, key=artifact_key(net, "results"), description=verdict)
    shown = read_samples(samples.file.path) if samples else []
    create_markdown_artifact(
        "\n\n".join(_report_lines(run, net, results, shown)), key=artifact_key(net, "report")
    )
    return run


def _report_lines(
    run: PublishedRun, net: str, results: Results, samples: Sequence[Sample]
) -> Iterator[str]:
    """Yield the paragraphs of the report in Markdown."""
    folder = RunFolder(run.folder)
    yield f"# {as_markdown(net)}: {as_markdown(run.word)}"
    yield from map(as_markdown, (run.why, run.verdict, *all_remarks(results), *unreached(results)))
    yield format_markdown(printed_rows(results), escape=as_markdown)
    if results.detectors:
        yield format_markdown(detector_rows(results), escape=as_markdown)
    curve = curve_png(pq.read_table(folder.sweep), results.reached)
    yield markdown_picture(curve, "accuracy and attack success rate")
    for kind in dict.fromkeys(sample.kind for sample in samples):
        of_kind = [sample for sample in samples if sample.kind == kind]
        yield f"**{kind}** at {of_kind[0].checkpoint}"
        yield " ".join(
            markdown_picture(thumbnail(one.image), f"label {one.label}, B says {one.b_answer}")
            for one in of_kind
        )
    yield f"All of it: {as_markdown(str(folder.report.resolve()))}"
