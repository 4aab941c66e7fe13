"""What a finished run, audit or benchmark says to the person who started it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.segment import SegmentLines
from rich.table import Table

from flows.page import Page
from goodnet.errors import printable
from goodnet.reports.about import About
from goodnet.reports.audit_files import PAGE, read_audit
from goodnet.reports.leaderboard_files import PAGE as PAGE_OF_BENCHMARK
from goodnet.reports.leaderboard_files import Printed
from goodnet.reports.results import Results
from goodnet.reports.results_table import detector_rows, printed_rows, unreached
from goodnet.reports.verdict import pruning_verdict, remarks
from goodnet.storage.run_folder import RunFolder

_TABLE_WIDTH = 200


def print_run(page: Page, folder: Path, verdict: str) -> None:
    """Print the table of a finished run, what it means, and, last, where its report is."""
    run = RunFolder(folder)
    results, about = Results.read(run), About.read(run)
    _print_whole(page, _table(printed_rows(results)))
    if results.detectors:
        _print_whole(page, _table(detector_rows(results)))
    alone = [] if results.recommended is None else [f"Pruning alone: {pruning_verdict(results)}"]
    said = (verdict, *alone, *unreached(results), *remarks(results))
    for sentence in (*said, *_layers(about), *_times(about)):
        page.tell(sentence)
    page.say()
    page.say(_from_here(run.report))


def _layers(about: About) -> list[str]:
    """Return a line with the pruned layer, and who chose it."""
    if about.chosen is None:
        return []
    layer, rank_at = (
        f"{getattr(about, name)} ({about.chosen[name]})" for name in ("layer", "rank_at")
    )
    return [f"Pruned: channels of {layer}, ranked at {rank_at}."]


def _times(about: About) -> list[str]:
    """Return a line with the time of all stages; run.json and the report have each of them."""
    if not about.stages:
        return []
    cached = sum(stage.state == "Cached" for stage in about.stages)
    seconds = sum(stage.seconds for stage in about.stages)
    return [f"Stages: {len(about.stages)}, {cached} of them cached, {seconds:.1f} s in all."]


def _from_here(path: Path) -> str:
    """Return a path as short as it can be typed in the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def print_audit(page: Page, folder: Path) -> None:
    """Print what a finished audit found, a few lines for each net, and, last, where its page is."""
    for one in read_audit(folder):
        page.say(f"{one.model}: {one.state}")
        judged = ": ".join(filter(None, (one.verdict, one.why)))
        for line in filter(None, (one.error, judged, *one.crossed)):
            page.tell(line)
        page.say()
    page.say(_from_here(folder / PAGE))


def print_benchmark(page: Page, folder: Path) -> None:
    """Print the tables of a finished benchmark, its figures, and, last, where its page is."""
    said = Printed.read(folder)
    cells = [{**row} for row in said.cells]
    remarks = {row["cell"]: row.pop("remark") for row in cells}
    _print_whole(page, _table(cells))
    for cell, remark in remarks.items():
        if remark:
            page.tell(f"{cell}: {remark}")
    if said.methods:
        page.tell("Mean / worst in percent, over the cells that count:")
        _print_whole(page, _table(said.methods))
    for sentence in said.headlines:
        page.tell(sentence)
    page.say()
    page.say(_from_here(folder / PAGE_OF_BENCHMARK))


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
