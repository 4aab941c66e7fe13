"""What a run says to the person who started it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from goodnet.errors import printable
from goodnet.results import printed_rows, unreached

_PLAIN_SECONDS = 10.0


class ImagesPerSecond(ProgressColumn):
    """The speed of a stage."""

    def render(self, task: Task) -> Text:
        """Return images a second, empty until something is done."""
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


class Progressing:
    """Shows how far long stages are: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, Progress] = {}
        self._spoke = time.monotonic()

    def advanced(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` images are through."""
        if not self._console.is_terminal:
            self._say(f"{stage}: {done:,} of {total:,} images")
            return
        bar = self._bars.get(stage)
        if bar is None:
            bar = self._bars[stage] = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                ImagesPerSecond(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            bar.add_task(stage, total=total)
            bar.start()
        bar.update(bar.task_ids[0], completed=done)

    def finished(self, stage: str) -> None:
        """The stage has ended."""
        bar = self._bars.pop(stage, None)
        if bar is not None:
            bar.stop()

    def _say(self, line: str) -> None:
        if time.monotonic() - self._spoke >= _PLAIN_SECONDS:
            self._spoke = time.monotonic()
            self._console.print(line, highlight=False, markup=False)


def print_plan(console: Console, parameters: Mapping[str, Any]) -> None:
    """Print what a run is about to do."""
    model = parameters["model"]
    net = printable(str(model)) if model else "a BadNet trained on rendered faces"
    drops = ", ".join(f"{drop:g}" for drop in parameters["drops"])
    line = f"Repairing {net}: activations, prune order, sweep, B' and G at {drops} points"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_run(console: Console, folder: Path, verdict: str) -> None:
    """Print the table of a finished run, what it means, where its files are and what took time."""
    results = json.loads((folder / "results.json").read_text("utf-8"))
    about = json.loads((folder / "run.json").read_text("utf-8"))
    console.print(_table(printed_rows(results)))
    for line in (*unreached(results), verdict):
        console.print(line, markup=False, highlight=False)
    console.print()
    console.print(f"Files: {printable(str(folder))}", soft_wrap=True, markup=False, highlight=False)
    console.print(_times(about["stages"]), markup=False, highlight=False)


def print_audit(console: Console, folder: Path) -> None:
    """Print what a finished audit found: a few lines for each net."""
    audited = json.loads((folder / "audit.json").read_text("utf-8"))["models"]
    for one in audited:
        lines = [f"{one['model']}: {one['state']}", one["error"], one["verdict"], *one["crossed"]]
        for line in filter(None, lines):
            console.print(printable(line), soft_wrap=True, markup=False, highlight=False)
        console.print()
    console.print(f"Files: {printable(str(folder))}", soft_wrap=True, markup=False, highlight=False)


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in rows[0]:
        words = title.replace(" ", "\n")
        table.add_column(words, justify="left" if title == "net" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values(), end_section=not row["net"].startswith("B'"))
    return table


def _times(stages: Sequence[Mapping[str, Any]]) -> str:
    by_name: dict[str, float] = {}
    for stage in stages:
        by_name[stage["name"]] = by_name.get(stage["name"], 0) + stage["seconds"]
    total = sum(by_name.values())
    cached = sum(stage["state"] == "Cached" for stage in stages)
    parts = [f"{name} {seconds:.1f} s" for name, seconds in by_name.items() if seconds >= 0.1]
    parts.append(f"{cached} of {len(stages)} cached")
    return f"Stages: {total:.1f} s ({', '.join(parts)})"
