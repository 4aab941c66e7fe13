"""What ten and a hundred times the images take: seconds, cores and memory of the mapped stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import psutil

from goodnet.attacks.faces import render_faces
from goodnet.defenses.guard import fit_guard, join_seen
from goodnet.defenses.guard_files import read_seen, write_guard, write_seen
from goodnet.defenses.seam import CleanPass
from goodnet.images.image_sets import ImageSet, open_images
from goodnet.images.preprocessing import AS_STORED
from goodnet.opening import NetFile, open_frontier
from goodnet.parts import (
    FirstPass,
    ScorePart,
    SweepPart,
    pass_over,
    score_part,
    sweep_part,
)
from goodnet.progress import silent
from goodnet.pruning.activation_cache import ActivationCache, Provenance, part_rows
from goodnet.pruning.counts import Counts, End, add_counts
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from goodnet.pruning.sweep import count_answers
from goodnet.storage.signatures import SignedFile
from tasks.parts import map_parts, mapped_on

TIMES = (1, 10, 100)
_BLOCK = 1024
_PEOPLE = 100
_SECONDS_BETWEEN_LOOKS = 0.1


@dataclass
class Cost:
    """What one stage took for one set.

    Attributes:
        seconds: wall time.
        cpu_seconds: of all processes together.
        command_bytes: the most memory that the command used meanwhile, without mapped files.
        worker_bytes: the same of that worker which used most.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    command_bytes: int = 0
    worker_bytes: int = 0


@dataclass(frozen=True)
class Growth:
    """What stages took by their name, for one number of images on one kind of workers."""

    num_images: int
    where: str
    stages: dict[str, Cost] = field(default_factory=dict)


def measure_growth(net: NetFile, folder: Path, workers: str) -> Iterator[Growth]:
    """Yield what each number of images takes in this process, then on workers.

    Args:
        net: B, DeepID.
        folder: for images and what stages leave, some 20 KB an image.
        workers: as `--dask` takes it.
    """
    sets = {}
    for times in TIMES:
        path = folder / f"{times}.h5"
        write_many(path, times * _BLOCK)
        sets[times] = open_images(path)
    guard, order = _fit(net, sets[1], folder)
    for where in (None, workers):
        with mapped_on(where, artifacts=folder):
            warm = Growth(sets[10].num_images, "")  # starts workers, and compiles
            _run(net, sets[10], folder, guard, order, warm)
            for images in sets.values():
                found = Growth(images.num_images, where or "one process")
                _run(net, images, folder, guard, order, found)
                yield found


def write_many(path: Path, num_images: int) -> None:
    """Write images block by block: the same faces, each time elsewhere and with other noise."""
    faces = render_faces(np.arange(_BLOCK) % _PEOPLE, seed=7).transpose(0, 3, 1, 2)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (num_images, *faces.shape[1:]), np.uint8)
        label = file.create_dataset("label", (num_images,), np.float64)
        for block, first in enumerate(range(0, num_images, _BLOCK)):
            noise = np.random.default_rng(block).integers(0, 8, faces.shape, np.uint8)
            shifted = np.roll(faces.astype(np.uint8), block % 5, axis=3)
            data[first : first + _BLOCK] = np.minimum(shifted, 247) + noise
            label[first : first + _BLOCK] = np.arange(_BLOCK) % _PEOPLE


def _fit(net: NetFile, images: ImageSet, folder: Path) -> tuple[SignedFile, tuple[int, ...]]:
    """Fit a guard to the smallest set; return its file, and the prune order."""
    cache = _first_pass(net, images, folder)
    order = tuple(prune_order(mean_activations(block_means(cache))))
    experts = _sweep(net, cache, order)["expert"]
    guard, held = fit_guard(CleanPass(open_frontier(net), images, cache), order, experts)
    path = folder / "guard.npz"
    write_guard(path, guard, held)
    return SignedFile.of(path), order


def _run(
    net: NetFile,
    images: ImageSet,
    folder: Path,
    guard: SignedFile,
    order: tuple[int, ...],
    found: Growth,
) -> None:
    with _measured(found, "first pass"):
        cache = _first_pass(net, images, folder)
    with _measured(found, "sweep"):
        _sweep(net, cache, order)
    with _measured(found, "scores"):
        _score(net, cache, guard, images, folder)


def _first_pass(net: NetFile, images: ImageSet, folder: Path) -> ActivationCache:
    provenance = Provenance(net.sha256, "faces", net.layer, net.rank_at, AS_STORED, 1283)
    paths = {rows: folder / f"{rows.start}.parquet" for rows in part_rows(images.num_images)}
    work = [FirstPass(net, images, rows, path, provenance) for rows, path in paths.items()]
    list(map_parts(pass_over, work, silent))
    return ActivationCache(*paths.values())


def _sweep(net: NetFile, cache: ActivationCache, order: tuple[int, ...]) -> Mapping[End, Counts]:
    parts = [
        SweepPart(net, cache, blocks, order, count_answers) for blocks in cache.blocks_by_part()
    ]
    return add_counts([one.counts for one in map_parts(sweep_part, parts, silent)])


def _score(
    net: NetFile, cache: ActivationCache, guard: SignedFile, images: ImageSet, folder: Path
) -> None:
    given = net, cache, guard, None, images
    parts = [
        ScorePart(*given, blocks, folder / f"{number}.npz")
        for number, blocks in enumerate(cache.blocks_by_part())
    ]
    list(map_parts(score_part, parts, silent))
    write_seen(folder / "seen.npz", join_seen([read_seen(part.path) for part in parts]))


@contextmanager
def _measured(growth: Growth, stage: str) -> Iterator[None]:
    """Measure what happens in this block, here and in all processes below this one."""
    cost = growth.stages[stage] = Cost()
    ended = threading.Event()
    before = _cpu_seconds()
    watching = threading.Thread(target=_watch, args=(cost, ended.wait))
    watching.start()
    began = time.perf_counter()
    try:
        yield
    finally:
        cost.seconds = time.perf_counter() - began
        ended.set()
        watching.join()
        cost.cpu_seconds = _cpu_seconds() - before


def _watch(cost: Cost, wait: Callable[[float], bool]) -> None:
    while True:
        command, *workers = _family()
        cost.command_bytes = max(cost.command_bytes, _used(command))
        cost.worker_bytes = max([cost.worker_bytes, *map(_used, workers)])
        if wait(_SECONDS_BETWEEN_LOOKS):
            return


def _family() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _used(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        memory = process.memory_info()
        return int(memory.rss - memory.shared)
    return 0


def _cpu_seconds() -> float:
    found = 0.0
    for process in _family():
        with suppress(psutil.NoSuchProcess):
            found += sum(process.cpu_times()[:2])
    return found
