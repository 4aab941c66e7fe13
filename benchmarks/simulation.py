"""`python -m benchmarks.simulation`: what many workers would take, worked out from measured costs.

Nothing here computes a net: what workers, the scheduler, shared storage and the command do is
played through, with costs that `benchmarks.parts` and `benchmarks.stages` measured. It shows which
of them ends the growth: more workers help until one of the others is busy all the time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from goodnet.command import Parser
from goodnet.pruning.activation_cache import part_rows

_WORKERS = (1, 8, 64, 256)


@dataclass(frozen=True)
class Server:
    """Somebody who serves one after another, the first come first: scheduler, storage, command."""

    free: float = 0.0

    def serve(self, when: float, seconds: float) -> Server:
        """Return the server after it has served who came then."""
        return Server(max(self.free, when) + seconds)


@dataclass(frozen=True)
class Costs:
    """Measured costs, in seconds, and what is assumed beside them.

    Attributes:
        schedule: of the scheduler for a task, its way there and back.
        start: until a worker has imported TensorFlow and opened the net.
        reduce: of the command for what comes of a part.
        bandwidth: of shared storage for all together, bytes a second; assumed.
    """

    schedule: float = 0.0033
    start: float = 6.0
    reduce: float = 0.002
    bandwidth: float = 0.5e9


@dataclass(frozen=True)
class Stage:
    """A stage over a large set, for which all others wait.

    Attributes:
        name: what it is called.
        tasks: seconds of a core that each task takes; none if the stage is not mapped.
        num_bytes: that each of them reads and writes on shared storage.
        alone: seconds of the command, on its two cores, before the tasks.
    """

    name: str
    tasks: Sequence[float] = ()
    num_bytes: float = 0.0
    alone: float = 0.0


def simulate(stages: Sequence[Stage], num_workers: int, costs: Costs) -> dict[str, float]:
    """Return how many seconds each stage takes.

    Tasks are handed out in their order to whoever is free, one at a time.

    Args:
        stages: one after another.
        num_workers: that are started with the first stage that has tasks.
        costs: of all that is not a task's own.
    """
    clock, ready = 0.0, [costs.start] * num_workers
    scheduler, storage = Server(), Server()
    seconds = {}
    for stage in stages:
        began, clock = clock, clock + stage.alone
        command = Server(clock)
        free = [max(clock, one) for one in ready]
        heapq.heapify(free)
        ended = []
        for task in stage.tasks:
            scheduler = scheduler.serve(heapq.heappop(free), costs.schedule)
            storage = storage.serve(scheduler.free, stage.num_bytes / costs.bandwidth)
            done = storage.free + task
            ended.append(done)
            heapq.heappush(free, done)
        for done in sorted(ended):
            command = command.serve(done, costs.reduce)
        clock = max(clock, command.free)
        seconds[stage.name] = clock - began
    return seconds


@dataclass(frozen=True)
class Repair:
    """What a repair of DeepID takes, measured on two cores.

    Attributes:
        first_pass: seconds of a core for an image.
        sweep: the same.
        scores: the same, with the fine-tuned net's answers.
        image_bytes: of a picture in the set.
        kept_bytes: that the first pass leaves of an image, all of which the scores read.
        swept_bytes: those of them that the sweep reads.
        digest: seconds for an image of the set, before anything else, in the command.
        between: seconds for an image of what is not mapped, in the command.
        fixed: seconds of clean validation's own stages, fine-tuning among them, and of saving and
            checking nets, whatever the number of images to score.
    """

    first_pass: float
    sweep: float
    scores: float
    image_bytes: float
    kept_bytes: float
    swept_bytes: float
    digest: float
    between: float
    fixed: float


DEEPID = Repair(
    first_pass=0.29e-3,
    sweep=0.35e-3,
    scores=0.35e-3,
    image_bytes=55 * 47 * 3,
    kept_bytes=9_300,
    swept_bytes=740,
    digest=8e-6,
    between=0.01e-3,
    fixed=46.0,
)
"""CPU seconds on two cores that others used as well; docs/operations.md has the measurements."""


def one_set(num_images: int, repair: Repair, costs: Costs) -> list[Stage]:
    """Return the stages of a repair whose set of the test has so many images."""
    parts = [len(rows) for rows in part_rows(num_images)]
    size = max(parts)

    def tasks(seconds: float) -> list[float]:
        return [seconds * part for part in parts]

    waiting = repair.image_bytes / costs.bandwidth
    read, kept = repair.image_bytes * size, repair.kept_bytes * size
    return [
        Stage("digest of the set", alone=num_images * max(repair.digest, waiting)),
        Stage("clean validation, fine-tuning, saving, checking", alone=repair.fixed),
        Stage("first pass", tasks(repair.first_pass), read + kept),
        Stage("sweep", tasks(repair.sweep), repair.swept_bytes * size),
        Stage("scores", tasks(repair.scores), read + kept),
        Stage("what is not mapped", alone=repair.between * num_images),
    ]


@dataclass(frozen=True)
class Nets:
    """What an audit of many nets takes.

    Attributes:
        seconds: of a repair on a worker with two cores; from half of it to one and a half.
        server: of the Prefect server, one process, for a net.
        num_bytes: that a repair writes on shared storage, of 37,207 images.
    """

    seconds: float = 25.0
    server: float = 0.95
    num_bytes: float = 0.5e9


def simulate_nets(num_nets: int, num_workers: int, nets: Nets, costs: Costs) -> float:
    """Return how many seconds an audit takes, whose nets call the Prefect server as they go."""
    drawn = np.random.default_rng(1).uniform(0.5, 1.5, num_nets) * nets.seconds
    free = [costs.start] * num_workers
    scheduler, storage, server = Server(), Server(), Server()
    end = 0.0
    for seconds in drawn:
        scheduler = scheduler.serve(heapq.heappop(free), costs.schedule)
        storage = storage.serve(scheduler.free, nets.num_bytes / costs.bandwidth)
        server = server.serve(scheduler.free, nets.server)
        done = max(storage.free + seconds, server.free)
        heapq.heappush(free, done)
        end = max(end, done)
    return end


def main() -> None:
    """Print the tables of docs/operations.md."""
    parser = Parser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument(
        "--images", type=int, default=10**7, help="of the set (default: 10 million)"
    )
    parser.add_argument("--nets", type=int, default=1000, help="of the audit (default: 1,000)")
    chosen = parser.parse_args()
    costs = Costs()
    stages = one_set(chosen.images, DEEPID, costs)
    _print_row(f"{chosen.images:,} images, minutes on", [f"{one} workers" for one in _WORKERS])
    _print_row("---", ["--:"] * len(_WORKERS))
    found = [simulate(stages, one, costs) for one in _WORKERS]
    for name in found[0]:
        _print_row(name, [f"{one[name] / 60:.1f}" for one in found])
    _print_row("all", [f"{sum(one.values()) / 60:.1f}" for one in found])
    fast = replace(costs, bandwidth=5e9)
    _print_row("all, storage of 5 GB/s", [*_minutes(one_set(chosen.images, DEEPID, fast), fast)])
    print()
    _print_row(f"{chosen.nets:,} nets, minutes on", [f"{one} workers" for one in _WORKERS])
    _print_row("---", ["--:"] * len(_WORKERS))
    for name, nets, of in (
        ("all", Nets(), costs),
        ("all, storage of 5 GB/s", Nets(), fast),
        ("... and a Prefect server that costs nothing", Nets(server=0), fast),
    ):
        every = [simulate_nets(chosen.nets, one, nets, of) for one in _WORKERS]
        _print_row(name, [f"{one / 60:.1f}" for one in every])


def _minutes(stages: Sequence[Stage], costs: Costs) -> Iterator[str]:
    for one in _WORKERS:
        yield f"{sum(simulate(stages, one, costs).values()) / 60:.1f}"


def _print_row(name: str, cells: Sequence[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
