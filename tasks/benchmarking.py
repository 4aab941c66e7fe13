"""Stages of a benchmark: image sets, attacks, the training of nets, and the leaderboard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from goodnet.arrays import Images, IntArray
from goodnet.attacks.faces import render_faces
from goodnet.attacks.poisoned_sets import read_bytes
from goodnet.attacks.poisoning import Attack, poison_test
from goodnet.attacks.training import Recipe
from goodnet.images.class_names import ClassNames
from goodnet.images.image_sets import open_images, write_images
from goodnet.reports.leaderboard import DETECTED, PUBLISHED, REPAIRED, Leaderboard
from goodnet.reports.leaderboard_files import (
    PAGE,
    cell_rows,
    headline_lines,
    summary_rows,
    write_leaderboard,
)
from goodnet.reports.tables import format_markdown
from goodnet.suites import SETS, ImageSets, RenderedFaces
from goodnet.tensorflow_start import import_tensorflow
from tasks.activations import open_digested
from tasks.caching import always_run, cache_file, cached, digest_memory
from tasks.markdown import artifact_key, as_cells, as_markdown
from tasks.progress import progress
from tasks.records import PoisonedTest, StoredFile, SuiteSets, TrainedNet

GivenSets = tuple[StoredFile, ...]
"""Files or folders of the user's: to train, to validate and to test with."""


def digest_sets(sets: ImageSets, *, artifacts: Path, refresh: bool) -> GivenSets:
    """Digest image sets of the user's, unless that is known of them.

    Raises:
        InputError: one is missing, damaged or none.
    """
    memory = digest_memory(artifacts, refresh=refresh)
    opened = [open_images(getattr(sets, name)) for name in SETS]
    return tuple(StoredFile.of(one.path, memory.digest_opened(one)) for one in opened)


@task(name="make image sets", **cached(version=1))
def make_sets(images: RenderedFaces | GivenSets, *, artifacts: Path) -> SuiteSets:
    """Render faces, or read sets of the user's; all that follows has files of one kind."""
    sets = _render(images) if isinstance(images, RenderedFaces) else _read(images, artifacts)
    files = {}
    for name, (pixels, labels) in sets.items():
        path = cache_file(artifacts, "benchmark", ".h5", images, name)
        write_images(path, pixels, labels)
        files[name] = StoredFile.of(path)
    return SuiteSets(
        train=files["train"],
        clean_valid=files["valid"],
        clean_test=files["test"],
        num_classes=int(sets["train"][1].max()) + 1,
    )


def _render(faces: RenderedFaces) -> dict[str, tuple[Images, IntArray]]:
    sets = {}
    for number, name in enumerate(SETS):
        labels = np.tile(np.arange(faces.people), getattr(faces, name))
        sets[name] = render_faces(labels, seed=faces.seed + number), labels
    return sets


def _read(files: GivenSets, artifacts: Path) -> dict[str, tuple[Images, IntArray]]:
    """Read sets whose folders may have names: those of the first number the classes of all."""
    sets = {}
    classes: ClassNames | None = None
    for name, file in zip(SETS, files, strict=True):
        images = open_digested(file, artifacts=artifacts, classes=classes)
        classes = classes or images.classes
        sets[name] = read_bytes(images), images.labels
    return sets


@task(name="poison test images", **cached(version=1))
def poison_images(sets: SuiteSets, attack: Attack, *, artifacts: Path) -> PoisonedTest:
    """Put the trigger on all clean test images that the attack turns, under its labels."""
    pixels, labels = _open(sets.clean_test, artifacts)
    shown = poison_test(pixels, labels, attack, num_classes=sets.num_classes)
    path = cache_file(artifacts, "benchmark", ".h5", sets, attack)
    write_images(path, shown.images, shown.labels)
    return PoisonedTest(file=StoredFile.of(path))


@task(name="train net", task_run_name="train {name}", **cached(version=1))
def train_net(
    train: StoredFile,
    recipe: Recipe,
    attack: Attack | None,
    seed: int,
    *,
    name: str,
    artifacts: Path,
) -> TrainedNet:
    """Train a BadNet, or a clean twin; a training that was stopped goes on from its last epoch.

    Args:
        train: the clean images to train on.
        recipe: how.
        attack: what makes it a BadNet; None for a clean twin.
        seed: of the training.
        name: of the cell, which becomes part of that of the file.
        artifacts: folder of runs and cache.
    """
    import_tensorflow()
    from goodnet.attacks.training import train as train_any
    from goodnet.model_files.load import save_model

    pixels, labels = _open(train, artifacts)
    path = cache_file(artifacts, "nets", ".keras", train, recipe, attack, seed)
    path = path.with_name(f"{name}-{path.name}")
    unfinished = path.with_suffix(".training")
    start = time.monotonic()
    with progress(f"train {name}") as advance:
        model = train_any(
            pixels,
            labels,
            recipe,
            attack=attack,
            seed=seed,
            state=unfinished,
            on_progress=advance,
        )
    save_model(model, path)
    unfinished.unlink(missing_ok=True)
    return TrainedNet(file=StoredFile.of(path), seconds=round(time.monotonic() - start, 3))


def _open(file: StoredFile, artifacts: Path) -> tuple[Images, IntArray]:
    images = open_digested(file, artifacts=artifacts)
    return read_bytes(images), images.labels


@task(name="publish leaderboard", **always_run())
def publish_leaderboard(folder: Path, board: Leaderboard, suite: Mapping[str, Any]) -> None:
    """Write the files of a benchmark into a new folder and show its tables in the Prefect UI.

    Args:
        folder: of the benchmark, which is not there yet.
        board: the leaderboard.
        suite: what was measured, plain values, its name among them.
    """
    write_leaderboard(folder, board, suite)
    name = str(suite["name"])
    create_table_artifact(
        [as_cells(row) for row in cell_rows(board)],
        key=artifact_key(name, "leaderboard"),
        description=as_markdown(" ".join(headline_lines(board))),
    )
    paragraphs = [
        f"# {as_markdown(name)}",
        *map(as_markdown, headline_lines(board)),
        *(
            as_markdown(f"Others: {PUBLISHED[what].figure} ({PUBLISHED[what].source}).")
            for what in (REPAIRED, DETECTED)
        ),
        as_markdown("Mean / worst in percent over the cells that count:"),
        format_markdown(summary_rows(board), escape=as_markdown) if board.summaries else "",
        f"All of it: {as_markdown(str((folder / PAGE).resolve()))}",
    ]
    create_markdown_artifact("\n\n".join(paragraphs), key=artifact_key(name, "benchmark"))
