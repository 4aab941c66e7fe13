"""The whole command beside the lab's loop, and how it grows; every run is a process of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.data import write_faces
from benchmarks.engine import Comparison
from benchmarks.timeline import Watched, draw, watch
from flows.temporary_server import Server, running_server
from goodnet.reports.about import About, StageRun
from goodnet.storage.run_folder import RunFolder

LAB_SIZES = {"clean_valid": 11_547, "clean_test": 12_830, "poisoned_test": 12_830}
NUM_STEPS = 61
TIMED_STEPS = 2
TOUCHING_IMAGES = ("load", "activations", "sweep", "scores")


class Run(NamedTuple):
    """One command that was watched, and the stages that its run.json names."""

    watched: Watched
    stages: Sequence[StageRun]

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.watched.seconds

    def seconds_of(self, *prefixes: str) -> float:
        """Seconds of the stages whose names start so."""
        return sum(stage.seconds for stage in self.stages if stage.name.startswith(prefixes))


def compare_command(folder: Path, badnet: Path, timeline: Path) -> Iterator[Comparison]:
    """Yield the comparisons of whole commands at the lab's size.

    Args:
        folder: for images, caches and runs.
        badnet: DeepID with 1,283 classes.
        timeline: the picture to draw of these commands.
    """
    sets = _write_lab_sets(folder)
    with running_server():  # makes the database, once for a user
        pass
    pruning = _run(folder / "pruning", badnet, sets, "--repairs", "pruning")
    cold = _run(folder / "cold", badnet, sets, "--quick")
    warm = _median_run(folder / "cold", badnet, sets, "--quick")
    prefect = _median_empty(folder, len(warm.stages))
    with running_server() as server:
        served = _median_run(folder / "cold", badnet, sets, "--quick", server=server)
        prefect_served = _median_empty(folder, len(warm.stages), server=server)
    trained = _run(folder / "cold", badnet, sets)
    loop = _time_lab_loop(badnet, sets)
    yield Comparison(
        "the lab's loop / the whole command without training, cold",
        f"{loop / cold.seconds:.0f} ({loop:.0f} s, {cold.seconds:.1f} s)",
        "at least 30",
    )
    yield Comparison(
        "... its stages alone",
        f"{loop / cold.seconds_of(''):.0f}",
        "",
    )
    yield Comparison(
        "without training / pruning with its scores alone",
        f"{cold.seconds / pruning.seconds:.2f}",
        "at most 1.6",
    )
    yield Comparison("fine-tuning on top", f"{trained.seconds:.0f} s", "at most 4 minutes")
    yield Comparison("without training, all cached", f"{warm.seconds:.1f} s", "at most 2.5 s")
    yield Comparison("... with a server up", f"{served.seconds:.1f} s", "at most 2 s")
    yield Comparison(
        "... of which Prefect takes as many empty tasks; with a server up",
        f"{prefect:.1f} s; {prefect_served:.1f} s",
        "",
    )
    yield Comparison(
        "peak memory, children too: without training; with",
        f"{cold.watched.megabytes:,.0f}; {trained.watched.megabytes:,.0f} MB",
        "at most 2,000 MB",
    )
    draw(
        {
            "at the lab's size, without training": cold.watched,
            "the same again, all cached": warm.watched,
            "... with a server up": served.watched,
        },
        timeline,
    )
    yield from _compare_growth(folder, badnet)


def _compare_growth(folder: Path, badnet: Path) -> Iterator[Comparison]:
    runs = []
    for number in (4_096, 40_960):
        sets = {}
        for seed, name in enumerate(LAB_SIZES):
            sets[name] = folder / f"{name}_{number}.h5"
            poisoned = name == "poisoned_test"
            write_faces(
                sets[name], number, seed=10**6 * (seed + 5), dtype=np.uint8, poisoned=poisoned
            )
        runs.append(_run(folder / f"growth_{number}", badnet, sets, "--quick"))
        for path in sets.values():
            path.unlink()
    small, large = runs
    ratio = large.seconds_of(*TOUCHING_IMAGES) / small.seconds_of(*TOUCHING_IMAGES)
    yield Comparison(
        "10 x the images: time of the stages that touch images", f"{ratio:.1f} x", "at most 10.5 x"
    )
    memory = large.watched.megabytes / small.watched.megabytes
    yield Comparison("10 x the images: peak memory", f"{memory:.2f} x", "at most 1.10 x")


def _write_lab_sets(folder: Path) -> dict[str, Path]:
    paths = {}
    for seed, (name, number) in enumerate(LAB_SIZES.items()):
        paths[name] = folder / f"{name}.h5"
        dtype = np.float64 if name == "clean_valid" else np.float32
        poisoned = name == "poisoned_test"
        write_faces(paths[name], number, seed=10**6 * (seed + 1), dtype=dtype, poisoned=poisoned)
    return paths


def _run(
    artifacts: Path,
    badnet: Path,
    sets: dict[str, Path],
    *others: str,
    server: Server | None = None,
) -> Run:
    options = [f"--{name.replace('_', '-')}={path}" for name, path in sets.items()]
    command = [sys.executable, "-m", "flows.run", f"--model={badnet}", f"--artifacts={artifacts}"]
    watched = watch([*command, *options, *others], _environment(server))
    newest = max((artifacts / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    return Run(watched, About.read(RunFolder(newest)).stages)


def _median_run(
    artifacts: Path,
    badnet: Path,
    sets: dict[str, Path],
    option: str,
    *,
    server: Server | None = None,
) -> Run:
    """Run a command of a few seconds three times: the first finds a server that has just begun."""
    runs = [_run(artifacts, badnet, sets, option, server=server) for _ in range(3)]
    return sorted(runs, key=lambda run: run.seconds)[1]


def _median_empty(folder: Path, num_tasks: int, *, server: Server | None = None) -> float:
    """Return the seconds of a flow whose tasks do nothing: no run of so many takes less."""
    command = [sys.executable, "-m", "benchmarks.empty_flow", str(folder / "empty"), str(num_tasks)]
    return median(watch(command, _environment(server)).seconds for _ in range(3))


def _environment(server: Server | None) -> dict[str, str]:
    """Return the environment of a process that is to use a server, or to start its own."""
    found = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    return found | (server.environment() if server else {})


def _time_lab_loop(badnet: Path, sets: dict[str, Path]) -> float:
    """Return the seconds of `predict` on the three sets at each step, from a few steps."""
    from goodnet.images.image_sets import open_images
    from goodnet.model_files.load import load_model

    model = load_model(badnet)
    seconds = 0.0
    for path in sets.values():
        images = open_images(path)
        pixels = np.concatenate(list(images.batches(1024)))
        model.predict(pixels[:64], verbose=0)
        began = time.perf_counter()
        for _ in range(TIMED_STEPS):
            model.predict(pixels, verbose=0)
        seconds += (time.perf_counter() - began) / TIMED_STEPS
    return NUM_STEPS * seconds
