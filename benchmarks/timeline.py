"""Where a command's time goes: what its processes compute while its stages run, as a picture."""

from __future__ import annotations

import io
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import altair as alt
import psutil
from PIL import Image

_SECONDS_BETWEEN_LOOKS = 0.05
_STAGE = re.compile(r"\s*[\d.]+ s  (.+)")


class Stage(NamedTuple):
    """A line that the command printed, and the second at which it came."""

    start: float
    name: str


class Watched(NamedTuple):
    """One process that was watched to its end.

    Attributes:
        seconds: wall time.
        megabytes: the most memory that it and its children used together, without mapped files.
        cores: rows of second, process and the cores that it kept busy since the row before.
        stages: in the order of their starts.
    """

    seconds: float
    megabytes: float
    cores: Sequence[Mapping[str, float | str]]
    stages: Sequence[Stage]


def watch(command: Sequence[str], environment: Mapping[str, str]) -> Watched:
    """Run a command and look at it and its children twenty times a second.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    stages: list[Stage] = []
    lines = process.stderr or ()
    reader = threading.Thread(target=lambda: stages.extend(_stages(lines, began)))
    reader.start()
    peak, cores, before = 0.0, [], dict[int, float]()
    while process.poll() is None:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        second = time.perf_counter() - began
        used = 0
        for one in _family(process.pid):
            with suppress(psutil.NoSuchProcess):
                name = _name(one, process.pid)
                memory, cpu = one.memory_info(), sum(one.cpu_times()[:2])
                used += memory.rss - memory.shared
                busy = (cpu - before.get(one.pid, 0.0)) / _SECONDS_BETWEEN_LOOKS
                before[one.pid] = cpu
                cores.append({"second": second, "process": name, "cores": busy})
        peak = max(peak, used / 1e6)
    seconds = time.perf_counter() - began
    reader.join()
    if process.returncode:
        raise RuntimeError(f"the command ended with exit code {process.returncode}")
    return Watched(seconds, peak, cores, stages)


def _stages(lines: Iterable[str], began: float) -> Iterator[Stage]:
    for line in lines:
        if found := _STAGE.match(line):
            yield Stage(time.perf_counter() - began, found[1].strip())


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def _name(process: psutil.Process, pid: int) -> str:
    if process.pid == pid:
        return "command"
    line = " ".join(process.cmdline())
    return "Prefect server" if "uvicorn" in line or "server" in line else "other children"


def draw(watched: Mapping[str, Watched], path: Path) -> None:
    """Draw what was watched, each command below the one before, as a PNG.

    Args:
        watched: by what the command is called.
        path: the picture.
    """
    import vl_convert

    charts = [_chart(name, one) for name, one in watched.items()]
    picture = alt.vconcat(*charts).resolve_scale(color="shared").properties(background="white")
    png = Image.open(io.BytesIO(vl_convert.vegalite_to_png(picture.to_dict(), scale=1.5)))
    png.convert("RGB").quantize(64).save(path, "PNG", optimize=True)


def _chart(name: str, one: Watched) -> alt.LayerChart:
    axis = alt.X("second:Q", title="seconds", scale=alt.Scale(domain=[0, one.seconds], nice=False))
    # Of a quarter of a second each: the system counts a process's time in steps of 10 ms.
    area = (
        alt.Chart(alt.InlineData([*one.cores]))
        .transform_calculate(second="floor(datum.second * 4) / 4")
        .transform_aggregate(cores="sum(cores)", looks="count()", groupby=["second", "process"])
        .transform_calculate(
            cores=f"datum.cores * {4 * _SECONDS_BETWEEN_LOOKS}", end="datum.second + 0.25"
        )
        .transform_stack(stack="cores", as_=["low", "high"], groupby=["second"])
        .mark_rect()
        .encode(
            x=axis,
            x2="end:Q",
            y=alt.Y("low:Q", title="cores busy", scale=alt.Scale(domain=[0, 2.2], clamp=True)),
            y2="high:Q",
            color=alt.Color("process:N", title=None, legend=alt.Legend(orient="top")),
        )
    )
    stages = alt.Chart(
        alt.InlineData([{"second": stage.start, "stage": stage.name} for stage in one.stages])
    ).encode(x=axis)
    marks = stages.mark_rule(color="#888", strokeDash=[2, 3])
    names = stages.mark_text(align="left", angle=270, dx=4, dy=8, fontSize=8).encode(
        y=alt.value(146), text="stage:N"
    )
    return alt.LayerChart(layer=[area, marks, names]).properties(
        width=900, height=150, title=f"{name}: {one.seconds:.1f} s, {one.megabytes:,.0f} MB"
    )
