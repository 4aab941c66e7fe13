"""Stage: measure all nets of a run, and draw what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from goodnet.inputs import POISONED_SETS
from goodnet.storage.files import atomic_path, write_json
from goodnet.storage.run_folder import RunFolder
from tasks.caching import cache_folder, cached
from tasks.records import (
    ActivationsRecord,
    CheckpointSteps,
    CleanValidationActivations,
    EvaluationActivations,
    FittedGuard,
    ImageScores,
    Measured,
    PruneOrder,
    RepairedAnswers,
    RepairedNets,
    StoredFile,
    SweepRecord,
)

if TYPE_CHECKING:
    from goodnet.arrays import IntArray
    from goodnet.pruning.poisoned import Attack
    from goodnet.reports.detection import ScoredSet


# All that the imports below are for is spared where nothing has changed.
@task(name="measure", **cached(version=2))
def measure_results(
    activations: CleanValidationActivations,
    evaluation: tuple[EvaluationActivations, ...],
    *,
    order: PruneOrder,
    sweeps: tuple[SweepRecord, ...],
    steps: CheckpointSteps,
    fitted: FittedGuard,
    scores: tuple[ImageScores, ...],
    repaired: RepairedNets,
    answers: tuple[RepairedAnswers, ...],
    target: int | None,
    budget: float,
    drops: tuple[float, ...],
    remarks: tuple[str, ...],
    class_names: tuple[str, ...],
    artifacts: Path,
) -> Measured:
    """Count what B, and B' and G of all methods, are worth.

    Args:
        activations: of clean validation.
        evaluation: activations of the other sets.
        order: the prune order.
        sweeps: of all sets.
        steps: of the checkpoints.
        fitted: the scores that calibrate the last G.
        scores: of the images of all sets.
        repaired: B' of other methods than pruning.
        answers: of the repaired nets to all sets.
        target: the attacker's label, None where the labels of the poisoned sets are that.
        budget: the share of clean images that G may flag.
        drops: the budgets of clean accuracy, in points.
        remarks: what whoever reads the results should know, a sentence each.
        class_names: in the order of B's answer, if they are known.
        artifacts: folder of the cache.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from goodnet.defenses.guard_files import read_answers, read_guard
    from goodnet.pruning.counts import read_counts
    from goodnet.pruning.stop_rule import Checkpoint
    from goodnet.reports.charts import draw_charts
    from goodnet.reports.counted_results import make_results
    from goodnet.reports.detection import (
        calibrate_all,
        measure_depths,
        measure_detectors,
        measure_repaired,
        scores_table,
    )
    from goodnet.reports.plots import curve_png

    _, held = read_guard(fitted.file.path)
    calibrations = calibrate_all(held.scores, budget=budget)
    scored = _scored_sets((activations, *evaluation), scores, target)
    of_repaired: Mapping[str, Sequence[IntArray]] = {
        one.role: read_answers(its.file.path) for one, its in zip(scores, answers, strict=True)
    }
    results = make_results(
        {sweep.role: read_counts(sweep.file.path) for sweep in sweeps},
        [Checkpoint(drop, step) for drop, step in steps.steps],
        order=order.channels,
        num_classes=activations.cache().provenance.num_classes,
        attack=_attack(evaluation, target),
        detectors=measure_detectors(scored, calibrations),
        depths=measure_depths(scored),
        repaired=measure_repaired(scored, of_repaired, repaired.kept, drops),
        recommended_method=next((kept.method for kept in repaired.kept if kept.recommended), None),
        remarks=remarks,
        class_names=class_names,
    )
    sweep = pa.concat_tables([pq.read_table(one.file.path) for one in sweeps])
    table = scores_table(scored, calibrations)
    asked = activations, evaluation, order, sweeps, steps, fitted, scores, repaired, answers
    given = target, budget, drops, remarks, class_names
    folder = RunFolder(cache_folder(artifacts, "measured", *asked, *given))
    results.write(folder)
    for rows, path in ((sweep, folder.sweep), (table, folder.scores)):
        with atomic_path(path) as temporary:
            pq.write_table(rows, temporary)
    drawn = draw_charts(results, sweep=sweep, scores=table)
    write_json(folder.charts, drawn)
    with atomic_path(folder.curve) as temporary:
        temporary.write_bytes(curve_png(drawn["curves"]))
    return Measured(
        results=StoredFile.of(folder.results),
        sweep=StoredFile.of(folder.sweep),
        scores=StoredFile.of(folder.scores),
        charts=StoredFile.of(folder.charts),
        curve=StoredFile.of(folder.curve),
    )


def _scored_sets(
    activations: Sequence[ActivationsRecord], scores: Sequence[ImageScores], target: int | None
) -> dict[str, ScoredSet]:
    from goodnet.defenses.guard_files import read_seen
    from goodnet.reports.detection import ScoredSet

    return {
        one.images.role: ScoredSet(
            one.cache(),
            read_seen(its.file.path),
            target if one.images.role in POISONED_SETS else None,
        )
        for one, its in zip(activations, scores, strict=True)
    }


def _attack(evaluation: Sequence[EvaluationActivations], target: int | None) -> Attack | None:
    from goodnet.pruning.poisoned import describe_attack

    poisoned = (one.cache() for one in evaluation if one.images.role == "poisoned_test")
    return next((describe_attack(cache, target) for cache in poisoned), None)
