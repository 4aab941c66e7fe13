"""The files of a benchmark: for people, for programs, and for spreadsheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodnet.errors import printable
from goodnet.metrics import percent, points
from goodnet.reports.leaderboard import (
    DETECTED,
    MEASURES,
    PUBLISHED,
    Leaderboard,
    MeasuredCell,
    Row,
    Share,
    Spread,
    value_of,
)
from goodnet.reports.reading import as_list, as_mapping, as_text, as_texts, reading
from goodnet.reports.report import link_to_report, render_page
from goodnet.reports.samples import data_uri
from goodnet.reports.tables import write_csv
from goodnet.storage.files import atomic_folder, read_json, write_json

LEADERBOARD = "leaderboard.json"
PAGE = "leaderboard.html"
FORMAT = 1
_CELL_COLUMNS: Mapping[str, pa.DataType] = {
    "cell": pa.string(),
    "network": pa.string(),
    "attack": pa.string(),
    "seed": pa.int64(),
    "kind": pa.string(),
    "method": pa.string(),
    "drop": pa.float64(),
    "recommended": pa.bool_(),
    "control": pa.bool_(),
    "marked": pa.string(),
    "error": pa.string(),
    "train_seconds": pa.float64(),
    "repair_seconds": pa.float64(),
    "report": pa.string(),
    "lost": pa.float64(),
    "seconds": pa.float64(),
    "megabytes": pa.float64(),
    "control_detection": pa.float64(),
    "control_false_alarms": pa.float64(),
}
_SHARE_COLUMNS: Mapping[str, pa.DataType] = {
    "count": pa.int64(),
    "total": pa.int64(),
    "rate": pa.float64(),
    "low": pa.float64(),
    "high": pa.float64(),
}
SCHEMA = pa.schema(
    [*_CELL_COLUMNS.items()]
    + [(f"{name}_{part}", kind) for name in MEASURES for part, kind in _SHARE_COLUMNS.items()]
)
"""Of leaderboard.parquet; the columns of leaderboard.csv are the same."""


def write_leaderboard(folder: Path, board: Leaderboard, suite: Mapping[str, object]) -> None:
    """Write leaderboard.json, .csv, .parquet and .html; their folder appears once it is complete.

    Args:
        folder: of the benchmark, which is not there yet.
        board: what is to be written.
        suite: what was measured, plain values: its `name` and the `sha256` of its file among them.
    """
    rows = plain_rows(board, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        contents = _contents(folder.name, board, suite, rows)
        write_json(temporary / LEADERBOARD, contents)
        write_csv(temporary / "leaderboard.csv", rows)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary / "leaderboard.parquet")
        (temporary / PAGE).write_text(_page(folder, board, suite), "utf-8")


@dataclass(frozen=True)
class Printed:
    """What is printed of a leaderboard: tables of text, and sentences.

    Attributes:
        cells: a row for each.
        methods: a row for each; nothing where no cell counts.
        headlines: the figures to compare with those of others.
    """

    cells: Sequence[Mapping[str, str]]
    methods: Sequence[Mapping[str, str]]
    headlines: Sequence[str]

    @classmethod
    def of(cls, board: Leaderboard) -> Printed:
        """Return what is to be printed of a leaderboard."""
        return cls(cell_rows(board), summary_rows(board), headline_lines(board))

    @classmethod
    def read(cls, folder: Path) -> Printed:
        """Read it from the leaderboard.json of a benchmark's folder.

        Raises:
            InputError: the file is damaged or of another kind.
        """
        with reading(folder / LEADERBOARD) as path:
            found = as_mapping(as_mapping(read_json(path))["printed"])
            return cls(
                cells=as_list(found["cells"], as_texts),
                methods=as_list(found["methods"], as_texts),
                headlines=as_list(found["headlines"], as_text),
            )


def plain_rows(board: Leaderboard, folder: Path) -> list[dict[str, Any]]:
    """Return all rows as plain values, rates as fractions, None where there is none.

    Args:
        board: the leaderboard.
        folder: that the paths of reports begin in.
    """
    cells = {one.cell: one for one in board.measured}
    controls = {row.cell: row for row in board.rows if row.control}
    return [
        _plain(row, cells[row.cell], controls.get(row.cell), board, folder) for row in board.rows
    ]


def _plain(
    row: Row, one: MeasuredCell, control: Row | None, board: Leaderboard, folder: Path
) -> dict[str, Any]:
    beside = control if row.kind == "detector" else None
    shares = {
        f"{name}_{part}": value
        for name in MEASURES
        for part, value in plain_share(row.shares.get(name)).items()
    }
    return {
        "cell": row.cell.name,
        "network": row.cell.network,
        "attack": row.cell.attack,
        "seed": row.cell.seed,
        "kind": row.kind,
        "method": row.method or None,
        "drop": row.drop,
        "recommended": row.recommended,
        "control": row.control,
        "marked": board.marked.get(row.cell.name),
        "error": one.error,
        "train_seconds": one.train_seconds,
        "repair_seconds": one.repair_seconds,
        "report": link_to_report(one.run, folder),
        "lost": row.lost,
        "seconds": row.seconds,
        "megabytes": row.megabytes,
        "control_detection": None if beside is None else value_of(beside, "detection"),
        "control_false_alarms": None if beside is None else value_of(beside, "false_alarms"),
        **shares,
    }


def plain_share(share: Share | None) -> dict[str, Any]:
    """Return the parts of a rate; None each if it was not measured."""
    if share is None:
        return dict.fromkeys(_SHARE_COLUMNS)
    low, high = share.interval
    parts = (share.count, share.total, share.rate, low, high)
    return dict(zip(_SHARE_COLUMNS, parts, strict=True))


def cell_rows(board: Leaderboard) -> list[dict[str, str]]:
    """Return a line for each cell as it is printed: B, the repaired net to use, the detectors."""
    return [_cell_row(one, board) for one in board.measured]


def _cell_row(one: MeasuredCell, board: Leaderboard) -> dict[str, str]:
    rows = [row for row in board.rows if row.cell == one.cell]
    base = next((row for row in rows if row.kind == "B"), None)
    used = next((row for row in rows if row.kind == "B'" and row.recommended), None)
    joined = next((row for row in rows if row.kind == "detector" and row.recommended), None)
    control = next((row for row in rows if row.control), None)
    seconds = [part for part in (one.train_seconds, one.repair_seconds) if part is not None]
    return {
        "cell": printable(one.cell.name),
        MEASURES["clean_accuracy"]: _rate(base, "clean_accuracy"),
        MEASURES["attack_success"]: _rate(base, "attack_success"),
        "repaired by": "" if used is None else used.title,
        "points lost": "" if used is None or used.lost is None else points(used.lost),
        f"{MEASURES['attack_success']} then": _rate(used, "attack_success"),
        MEASURES["detection"]: _rate(joined, "detection"),
        MEASURES["false_alarms"]: _rate(joined, "false_alarms"),
        f"control {MEASURES['detection']}": _rate(control, "detection"),
        "seconds": f"{sum(seconds):.0f}" if seconds else "",
        "remark": printable(one.error or board.marked.get(one.cell.name, "")),
    }


def _rate(row: Row | None, name: str) -> str:
    return "" if row is None else percent(value_of(row, name))


def summary_rows(board: Leaderboard) -> list[dict[str, str]]:
    """Return a line for each method as it is printed: the mean of each rate and the worst."""
    titles = {**MEASURES, "lost": f"{MEASURES['clean_accuracy']} lost"}
    return [
        {
            "method": one.title,
            "cells": str(one.cells),
            **{title: _mean_and_worst(one.spreads.get(name)) for name, title in titles.items()},
            "seconds": _mean_and_worst(one.spreads.get("seconds"), unit=1),
            "MB": _mean_and_worst(one.spreads.get("megabytes"), unit=1),
        }
        for one in board.summaries
    ]


def _mean_and_worst(spread: Spread | None, *, unit: float = 100) -> str:
    return "" if spread is None else f"{unit * spread.mean:.1f} / {unit * spread.worst:.1f}"


def headline_lines(board: Leaderboard) -> list[str]:
    """Return the two figures to compare with those of others, and what clean nets come to."""
    lines = [_headline(what, share, board) for what, share in board.headlines.items()]
    lines = lines or ["No cell counts: each has failed or is marked."]
    return lines + _clean_nets(board)


def _headline(what: str, share: Share, board: Leaderboard) -> str:
    low, high = share.interval
    control = ""
    if what == DETECTED and board.control is not None:
        control = f"; B's margin alone, the control, in {board.control.count}"
    return (
        f"{what[0].upper()}{what[1:]}: {share.count} of {share.total} cells, "
        f"{percent(share.rate)} (95 % interval {percent(low)} to {percent(high)}){control}."
    )


def _clean_nets(board: Leaderboard) -> list[str]:
    """Say what becomes of nets without a backdoor: nothing, if all is well."""
    rows = [row for row in board.rows if row.cell.attack is None and row.kind != "failed"]
    nets = {row.cell for row in rows}
    if not nets:
        return []
    repaired = {row.cell for row in rows if row.kind == "B'" and row.recommended}
    joined = [row for row in rows if row.kind == "detector" and row.recommended]
    alarms = max((value_of(row, "false_alarms") or 0 for row in joined), default=None)
    return [
        f"Clean nets: a repaired net is recommended for {len(repaired)} of {len(nets)}; the "
        f"GoodNet flags up to {percent(alarms)} of their clean test images."
    ]


def _contents(
    name: str, board: Leaderboard, suite: Mapping[str, object], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "benchmark": name,
        "suite": suite,
        "headlines": {
            what: {**plain_share(share), "others": asdict(PUBLISHED[what])}
            for what, share in board.headlines.items()
        },
        "control": plain_share(board.control),
        "marked": board.marked,
        "summaries": [asdict(one) for one in board.summaries],
        "rows": rows,
        "printed": asdict(Printed.of(board)),
    }


def _page(folder: Path, board: Leaderboard, suite: Mapping[str, object]) -> str:
    return render_page(
        PAGE,
        name=folder.name,
        suite=suite,
        board=board,
        headlines=headline_lines(board),
        published=PUBLISHED,
        measures=MEASURES,
        cells=[*zip(cell_rows(board), board.measured, strict=True)],
        rows=[*zip(board.rows, plain_rows(board, folder), strict=True)],
        pictures={
            one.cell.attack: [*map(data_uri, one.shown)]
            for one in board.measured
            if one.cell.attack is not None
        },
        reports={one.cell.name: link_to_report(one.run, folder) for one in board.measured},
    )
