"""`python -m benchmarks.stages`: what each stage of a repair takes, and how many cores it wants."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from benchmarks.data import make_badnet, write_faces
from goodnet.command import Parser
from goodnet.reports.about import About
from goodnet.storage.run_folder import RunFolder
from goodnet.tensorflow_start import import_tensorflow

_VALID, _TEST = 4096, (4096, 32_768)
_SECONDS_BETWEEN_LOOKS = 0.02
_LEAST_SECONDS = 0.3
_STARTED = re.compile(r"\s*([\d.]+) s  (.+)")


class Look(NamedTuple):
    """The command at one moment.

    Attributes:
        second: since it was started.
        cpu_seconds: that it has had by then.
        wanting: threads that computed or waited for a core, two at most.
    """

    second: float
    cpu_seconds: float
    wanting: int


class StageCost(NamedTuple):
    """What one stage took.

    Attributes:
        name: as the command shows it.
        seconds: wall time.
        cpu_seconds: of all threads of the command.
        cores: that its threads wanted on average, two at most, whoever else used them.
    """

    name: str
    seconds: float
    cpu_seconds: float
    cores: float


def main() -> None:
    """Run a repair on few test images, then on more, and print what their stages took."""
    Parser(prog="python -m benchmarks.stages", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="goodnet-bench-") as name:
        folder = Path(name)
        os.environ |= {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}
        import_tensorflow()
        make_badnet(folder / "badnet.keras")
        write_faces(folder / "valid.h5", _VALID, seed=10**6, dtype=np.uint8)
        for number in _TEST:
            write_faces(folder / f"{number}.h5", number, seed=10**7 + number, dtype=np.uint8)
            print(f"\n{_VALID:,} images of clean validation, {number:,} of the test\n")
            print("| stage | wall s | CPU s | cores wanted |\n|---|--:|--:|--:|")
            total, costs = _run(folder, number)
            for one in costs:
                cells = f"{one.seconds:.2f} | {one.cpu_seconds:.2f} | {one.cores:.1f}"
                print(f"| {one.name} | {cells} |", flush=True)
            print(f"| the whole command | {total.second:.2f} | {total.cpu_seconds:.2f} | |")


def _run(folder: Path, number: int) -> tuple[Look, list[StageCost]]:
    sets = [f"--clean-valid={folder / 'valid.h5'}", f"--clean-test={folder / f'{number}.h5'}"]
    where = [f"--artifacts={folder / 'artifacts'}", f"--run-name={number}"]
    command = [sys.executable, "-m", "flows.run", f"--model={folder / 'badnet.keras'}"]
    process = subprocess.Popen(
        [*command, *sets, *where], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    began, lines = time.perf_counter(), list[tuple[float, str]]()
    said = process.stderr or ()
    reader = threading.Thread(target=lambda: lines.extend(_timed(said, began)))
    reader.start()
    looks = [*_look(process, began)]
    reader.join()
    if process.returncode:
        raise RuntimeError(f"the command ended with exit code {process.returncode}")
    stages = About.read(RunFolder(folder / "artifacts" / "runs" / str(number))).stages
    seconds = {stage.name: stage.seconds for stage in stages}
    return looks[-1], [*_costs(_starts(lines), seconds, looks)]


def _timed(lines: Iterable[str], began: float) -> Iterator[tuple[float, str]]:
    for line in lines:
        yield time.perf_counter() - began, line


def _starts(lines: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Return when each stage began: a line says that in seconds since some moment after start."""
    found = [(came, match) for came, line in lines if (match := _STARTED.match(line))]
    moment = min(came - float(match[1]) for came, match in found)
    return {match[2].strip(): moment + float(match[1]) for _, match in found}


def _look(process: subprocess.Popen[str], began: float) -> Iterator[Look]:
    """Look at a process until it ends."""
    command = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            used = sum(command.cpu_times()[:2])
            yield Look(time.perf_counter() - began, used, _wanting(process.pid))
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _wanting(pid: int) -> int:
    """Return how many threads of a process run or could, two at most."""
    running = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            running += thread.read_text().rpartition(") ")[2].startswith("R")
    return min(running, 2)


def _costs(
    starts: dict[str, float], seconds: dict[str, float], looks: Sequence[Look]
) -> Iterator[StageCost]:
    for name, start in starts.items():
        within = [one for one in looks if start <= one.second < start + seconds.get(name, 0)]
        if seconds.get(name, 0) >= _LEAST_SECONDS and len(within) > 1:
            used = within[-1].cpu_seconds - within[0].cpu_seconds
            wanted = [one.wanting for one in within if one.wanting]
            cores = sum(wanted) / max(1, len(wanted))
            yield StageCost(name, seconds[name], used, cores)


if __name__ == "__main__":
    main()
