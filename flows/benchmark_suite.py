"""The benchmark: BadNets of a suite trained, repaired and measured, each cell by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.audit_models import Amount
from flows.many_nets import Promise, submitting
from flows.paths import AnyPath
from flows.repair_apart import repair_and_remember
from flows.run_names import name_run
from flows.server import label_process
from flows.settings import DEFAULT_ARTIFACTS, DEFAULT_SUITE
from goodnet.errors import InputError, printable
from goodnet.reports.audits import DEFAULT_ALLOWANCE, Allowance
from goodnet.reports.leaderboard import Cell, MeasuredCell, make_leaderboard
from goodnet.storage.run_folder import clean_up, reserve_run_folder
from goodnet.suites import RenderedFaces, Suite, read_suite
from tasks.auditing import FinishedRepairs
from tasks.benchmarking import (
    digest_sets,
    make_sets,
    poison_images,
    publish_leaderboard,
    train_net,
)
from tasks.caching import read_records_alone
from tasks.progress import tell_began
from tasks.records import SuiteSets
from tasks.stages import logged_stages
from tasks.versions import stage_versions


@flow(name="benchmark", persist_result=False, on_running=[label_process])
def benchmark(
    suite: AnyPath | None = None,
    images: AnyPath | None = None,
    max_minutes_per_model: Amount = DEFAULT_ALLOWANCE.minutes,
    max_gigabytes_per_model: Amount = DEFAULT_ALLOWANCE.gigabytes,
    refresh: bool = False,
    dask: str | None = None,
    artifacts: AnyPath | None = None,
    benchmark_name: str | None = None,
) -> State[None]:
    """Train the nets of a suite with its attacks, repair each, and rank what came of it.

    A cell is a network, an attack and a seed. One that fails is a row with its error, and the next
    benchmark finds whatever was finished in the cache.

    Args:
        suite: TOML file that says which nets, attacks, images and repairs; else rendered faces.
        images: Folder that the image sets of the suite lie in, if they are not rendered; else that
            of its file.
        max_minutes_per_model: Longest repair of one net; then it is ended and its cell has failed.
        max_gigabytes_per_model: Most memory of the repair of one net, in 1,000,000,000 bytes.
        refresh: Compute again what is cached.
        dask: Workers that take the cells: local or local:N on this machine, or the address of a
            Dask scheduler, tcp://HOST:PORT; else GOODNET_DASK, or one cell at a time, here.
        artifacts: Folder for runs and cache; else GOODNET_ARTIFACTS, or artifacts/ of the project.
        benchmark_name: Name of the benchmark's folder; else the time.
    """
    read_records_alone()
    artifacts = (artifacts or DEFAULT_ARTIFACTS).resolve()
    folder = reserve_run_folder(artifacts, benchmark_name, kind="benchmarks")
    chosen = read_suite(suite or DEFAULT_SUITE, images=images)
    name_run(chosen.name, folder.name)
    clean_up(artifacts)
    allowance = Allowance(max_minutes_per_model, max_gigabytes_per_model)
    with logged_stages(refresh=refresh):
        sets = _make_sets(chosen, artifacts=artifacts, refresh=refresh)
        with submitting(dask, artifacts=artifacts) as submit:
            begun = {
                cell: submit(cell.name, _measure, cell, chosen, sets, allowance, artifacts, refresh)
                for cell in chosen.cells()
            }
            measured = [_finish(cell, promise) for cell, promise in begun.items()]
        publish_leaderboard(folder, make_leaderboard(measured), _describe(chosen, sets))
    failed = [f"{one.cell.name} ({one.error})" for one in measured if one.error is not None]
    if failed:
        said = f"{len(failed)} of {len(measured)} cells failed: {', '.join(failed)}."
        return Failed(message=printable(said))
    return Completed(message=f"{len(measured)} cells, none failed.")


def _make_sets(suite: Suite, *, artifacts: Path, refresh: bool) -> SuiteSets:
    if isinstance(suite.images, RenderedFaces):
        return make_sets(suite.images, artifacts=artifacts)
    given = digest_sets(suite.images, artifacts=artifacts, refresh=refresh)
    return make_sets(given, artifacts=artifacts)


def _finish(cell: Cell, promise: Promise) -> MeasuredCell:
    try:
        measured: MeasuredCell = promise()
    except InputError as error:  # its workers are gone
        return MeasuredCell(cell=cell, error=str(error))
    return measured


def _measure(
    cell: Cell,
    suite: Suite,
    sets: SuiteSets,
    allowance: Allowance,
    artifacts: Path,
    refresh: bool,
) -> MeasuredCell:
    """Return what came of a cell; whatever ends it, the benchmark goes on with the next one."""
    recipe, attack = suite.recipe(cell), suite.attack(cell)
    # What a clean net makes of poisoned images is worth knowing too: nothing, if all is well.
    shown = attack or next(iter(suite.attacks.values()))
    try:
        poisoned = poison_images(sets, shown, artifacts=artifacts)
        net = train_net(sets.train, recipe, attack, cell.seed, name=cell.name, artifacts=artifacts)
        files = {
            "clean_valid": sets.clean_valid.path,
            "clean_test": sets.clean_test.path,
            "poisoned_test": poisoned.file.path,
        }
        method = {
            "repairs": [*suite.repairs],
            "false_alarms": suite.false_alarms,
            "pixel_scale": recipe.preprocessing.scale,
            # Nothing about what was made here can be misread, however short the training was.
            "min_clean_accuracy": 0.0,
        }
        options = {**files, **method, "refresh": refresh, "artifacts": artifacts}
        finished = FinishedRepairs(
            artifacts, files=files, parameters=method | stage_versions(), refresh=refresh
        )
        run = _repair(net.file.path, cell, options, finished, allowance)
        return MeasuredCell.of(cell, run, train_seconds=net.seconds)
    except Exception as error:
        get_run_logger().exception(printable(f"{cell.name} failed"))
        return MeasuredCell(cell=cell, error=printable(str(error) or type(error).__name__))


def _repair(
    model: Path,
    cell: Cell,
    options: dict[str, Any],
    finished: FinishedRepairs,
    allowance: Allowance,
) -> Path:
    run = finished.find(model)
    if run is None:
        tell_began(f"repair of {cell.name}")
        run = repair_and_remember({"model": model, **options}, allowance, finished.record(model))
    return run


def _describe(suite: Suite, sets: SuiteSets) -> dict[str, str | float | list[str]]:
    """Return what was measured as plain values, the digests that tell it from any other first."""
    return {
        "name": suite.name,
        "sha256": suite.sha256,
        "images": str(suite.images),
        "train_sha256": sets.train.sha256,
        "clean_valid_sha256": sets.clean_valid.sha256,
        "clean_test_sha256": sets.clean_test.sha256,
        "recipes": [str(recipe) for recipe in suite.recipes],
        "attacks": [f"{name}: {attack}" for name, attack in suite.attacks.items()],
        "seeds": [str(seed) for seed in suite.seeds],
        "repairs": [*suite.repairs],
        "false_alarms": suite.false_alarms,
    }
