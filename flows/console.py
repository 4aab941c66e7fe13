"""What a run says to the person who started it."""

from __future__ import annotations

import json
import sys
import textwrap
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
from rich.segment import SegmentLines
from rich.table import Table
from rich.text import Text

from goodnet.command import silence
from goodnet.errors import printable
from goodnet.reports.about import About, StageRun, stage_times
from goodnet.reports.results import Results
from goodnet.reports.results_table import detector_rows, printed_rows, unreached
from goodnet.reports.tables import format_table
from goodnet.reports.verdict import pruning_verdict, remarks
from goodnet.storage.run_folder import RunFolder

_PLAIN_SECONDS = 10.0
_NO_BREAK = "\N{NO-BREAK SPACE}"
_TABLE_WIDTH = 200


class Page(Console):
    """A console for what strangers have named, which takes nothing in it for a command.

    Its reader may go away: what is printed then is lost, and the work goes on.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def say(self, line: str = "") -> None:
        """Print a line whole: where the terminal ends it is broken, but no word moves."""
        self.print(printable(line), soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Print nothing from now on; Rich would end the process."""
        self.quiet = True
        silence(sys.stderr if self.stderr else sys.stdout)


class ImagesPerSecond(ProgressColumn):
    """The speed of a stage."""

    def render(self, task: Task) -> Text:
        """Return images a second, empty until something is done."""
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


class Progressing:
    """Shows how far long stages are: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._bars: dict[str, Progress] = {}
        self._lines: dict[str, PlainLines] = {}

    def advanced(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` images are through."""
        if not self._page.is_terminal:
            line = self._lines.setdefault(stage, PlainLines(done)).next_line(done, total)
            if line:
                self._page.say(f"{stage}: {line}")
            return
        bar = self._bars.get(stage)
        if bar is None and done == total:
            return
        if bar is None:
            bar = self._bars[stage] = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                ImagesPerSecond(),
                TimeRemainingColumn(),
                console=self._page,
                transient=True,
            )
            bar.add_task(stage, total=total)
            bar.start()
        bar.update(bar.task_ids[0], completed=done)

    def finished(self, stage: str) -> None:
        """The stage has ended."""
        self._lines.pop(stage, None)
        bar = self._bars.pop(stage, None)
        if bar is not None:
            bar.stop()


class PlainLines:
    """What to say now and then of a stage that had `done` images when it was first heard of."""

    def __init__(self, done: int) -> None:
        self._first = done
        self._began = self._spoke = time.monotonic()

    def next_line(self, done: int, total: int) -> str | None:
        """Return how far the stage is, how fast and how long it will take; None if too soon."""
        now = time.monotonic()
        if now - self._spoke < _PLAIN_SECONDS or done == self._first:
            return None
        self._spoke = now
        speed = (done - self._first) / (now - self._began)
        left = (total - done) / speed
        return f"{done:,} of {total:,} images, {speed:,.0f} images/s, {left:.0f} s left"


def print_plan(page: Page, parameters: Mapping[str, Any]) -> None:
    """Print what a run is about to do."""
    net = parameters["model"] or "a BadNet trained on rendered faces"
    drops = ", ".join(f"{drop:g}" for drop in parameters["drops"])
    page.say(f"Repairing {net}: activations, prune order, sweep, B' and G at {drops} points")


def print_run(page: Page, folder: Path, verdict: str) -> None:
    """Print the table of a finished run, what it means, where its files are and what took time."""
    run = RunFolder(folder)
    results, about = Results.read(run), About.read(run)
    _print_whole(page, _table(printed_rows(results)))
    if results.detectors:
        _print_whole(page, _table(detector_rows(results)))
    alone = [] if results.recommended is None else [f"Pruning alone: {pruning_verdict(results)}"]
    said = (verdict, *alone, *unreached(results), *remarks(results))
    for sentence in (*said, *_layers(about)):
        for line in _wrapped(printable(sentence), page.width):
            page.say(line)
    page.say()
    page.say(f"Files: {folder}")
    page.say()
    for line in _times(about.stages):
        page.say(line)


def _layers(about: About) -> list[str]:
    """Return a line with the pruned layer, and who chose it."""
    if about.chosen is None:
        return []
    layer, rank_at = (
        f"{getattr(about, name)} ({about.chosen[name]})" for name in ("layer", "rank_at")
    )
    return [f"Pruned: channels of {layer}, ranked at {rank_at}."]


def print_audit(page: Page, folder: Path) -> None:
    """Print what a finished audit found: a few lines for each net."""
    audited = json.loads((folder / "audit.json").read_text("utf-8"))["models"]
    for one in audited:
        lines = [f"{one['model']}: {one['state']}", one["error"], one["verdict"], *one["crossed"]]
        for line in filter(None, lines):
            page.say(line)
        page.say()
    page.say(f"Files: {folder}")


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in rows[0]:
        words = title.replace(" ", "\n")
        first = title == next(iter(rows[0]))
        table.add_column(words, justify="left" if first else "right", no_wrap=True)
    for row in rows:
        ends = not row.get("net", "B'").startswith("B'")
        table.add_row(*map(printable, row.values()), end_section=ends)
    return table


def _print_whole(page: Page, table: Table) -> None:
    """Print a table as wide as it is: a narrow terminal breaks its lines but cuts no number off."""
    options = page.options.update(max_width=_TABLE_WIDTH)
    lines = page.render_lines(table, options, pad=False)
    page.print(SegmentLines(lines, new_lines=True), crop=False, end="")


def _wrapped(sentence: str, width: int) -> list[str]:
    """Return the lines of a sentence, each number on one line with its %."""
    lines = textwrap.wrap(sentence.replace(" %", f"{_NO_BREAK}%"), width)
    return [line.replace(_NO_BREAK, " ") for line in lines]


def _times(stages: Sequence[StageRun]) -> list[str]:
    times = stage_times(stages)
    rows = [(time.name, time.states, time.seconds) for time in times]
    rows.append(("in all", "", sum(time.seconds for time in times)))
    return format_table(
        [
            {"stage": name, "state": states, "seconds": f"{seconds:.1f}"}
            for name, states, seconds in rows
        ]
    )
