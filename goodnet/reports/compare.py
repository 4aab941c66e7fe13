"""Several runs side by side: their results, and what differs in what they were given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from goodnet.errors import InputError, printable
from goodnet.pruning.counts import read_sweep
from goodnet.reports.published_numbers import recognise
from goodnet.reports.results import printed_rows, unreached
from goodnet.reports.tables import format_table

_FILES = ("results.json", "run.json", "sweep.parquet")

# Values of another type, numbers out of range, nesting without end: JSON and Parquet hold them all.
_STUMBLES = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError),
    *(OSError, pa.ArrowException),
)

# The inputs are told by their content, the layers by what was chosen in the end, and where a
# run's files went changes nothing about them.
_OTHER_PARAMETERS = frozenset(
    {"model", "clean_valid", "clean_test", "poisoned_test", "poisoned_valid"}
    | {"layer", "rank_at", "artifacts", "run_name", "refresh"}
)


@dataclass(frozen=True)
class Run:
    """What a comparison needs of a finished run.

    Attributes:
        name: the folder's name, or its path where two runs have one name.
        rows: the results as they are printed: B, and G of each checkpoint.
        unreached: a sentence for each drop that no step reaches.
        given: all that may differ between runs: what identifies it, and how it is printed.
        sweep: the rows of sweep.parquet.
        steps: channels pruned at the checkpoints that were reached.
    """

    name: str
    rows: Sequence[Mapping[str, str]]
    unreached: Sequence[str]
    given: Mapping[str, tuple[str, str]]
    sweep: Sequence[Mapping[str, Any]]
    steps: Sequence[int]


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in all runs: each value with the names of its runs."""

    what: str
    values: Mapping[str, Sequence[str]]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the folders of finished runs.

    Raises:
        InputError: there are fewer than two, one is given twice, or a folder is not a run's.
    """
    if len(folders) < 2:
        raise InputError(f"{len(folders)} run is given, expected at least two to compare")
    places = [folder.resolve() for folder in folders]
    for number, folder in enumerate(folders):
        if places[number] in places[:number]:
            raise InputError(f"{folder}: is given twice")
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_read_run(*pair) for pair in zip(folders, names, strict=True)]


def find_differences(runs: Sequence[Run]) -> list[Difference]:
    """Return what differs between runs in inputs, parameters and software, in this order."""
    differences = []
    whats = dict.fromkeys(what for run in runs for what in run.given)
    for what in sorted(whats, key=lambda what: what.partition(" ")[0]):
        keys, texts = zip(*(run.given.get(what, ("", "not given")) for run in runs), strict=True)
        if len(set(keys)) > 1:
            text_of = dict(zip(keys, texts, strict=True))
            names: dict[str, list[str]] = {text: [] for text in text_of.values()}
            for key, run in zip(keys, runs, strict=True):
                names[text_of[key]].append(run.name)
            differences.append(Difference(what, names))
    return differences


def comparison_rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return one table of all results: a row for B and each G of each run.

    Where one run alone knows the recovery, the others have that column too, empty.
    """
    titles = max((list(row) for run in runs for row in run.rows), key=len)
    return [
        {"run": run.name, **{title: row.get(title, "") for title in titles}}
        for run in runs
        for row in run.rows
    ]


def describe_comparison(runs: Sequence[Run]) -> list[str]:
    """Return lines of text: the table of results, then what differs."""
    lines = format_table(comparison_rows(runs))
    lines += [printable(f"{run.name}: {text}") for run in runs for text in run.unreached]
    differences = find_differences(runs)
    if not differences:
        return [*lines, "", "Inputs, parameters and software are the same."]
    lines += ["", "What differs:"]
    for difference in differences:
        lines.append(f"  {printable(difference.what)}")
        for value, names in difference.values.items():
            lines.append(printable(f"    {', '.join(names)}: {value}"))
    return lines


def _read_run(folder: Path, name: str) -> Run:
    for file in _FILES:
        if not (folder / file).is_file():
            raise InputError(f"{folder}: is not the folder of a finished run, it has no {file}")
    with _reading(folder / "results.json") as path:
        results = json.loads(path.read_text("utf-8"))
        rows = [row for row in printed_rows(results) if not row["net"].startswith("B'")]
        missed = unreached(results)
        steps = [int(point["step"]) for point in results["checkpoints"] if point["reached"]]
    with _reading(folder / "run.json") as path:
        given = _given(json.loads(path.read_text("utf-8")))
    with _reading(folder / "sweep.parquet") as path:
        sweep = read_sweep(path).to_pylist()
        if not all(row["images"] > 0 for row in sweep):
            raise ValueError("counts of no images")
    return Run(name, rows, missed, given, sweep, steps)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turn whatever a file that is not a run's stumbles over into an `InputError`."""
    try:
        yield path
    except _STUMBLES as error:
        kind = type(error).__name__
        raise InputError(f"{path}: is damaged or of another kind ({kind}: {error})") from error


def _given(about: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return all that may differ, from run.json."""
    given = {f"input {role}": _input(file) for role, file in about["inputs"].items() if file}
    parameters = about["parameters"]
    settings = {name: about.get(name, parameters.get(name)) for name in ("layer", "rank_at")}
    settings |= {k: value for k, value in parameters.items() if k not in _OTHER_PARAMETERS}
    if parameters.get("model") is not None:
        settings.pop("default_case", None)
    software = {**about["versions"], "commit": about.get("git_commit")}
    for group, values in (("parameter", settings), ("software", software)):
        for name, value in values.items():
            text = json.dumps(value, sort_keys=True)
            given[f"{group} {name}"] = (text, text)
    return given


def _input(file: Mapping[str, Any]) -> tuple[str, str]:
    """Return an input's digest and how it is printed."""
    if not isinstance(file["sha256"], str):
        raise TypeError("SHA-256 is no text")
    official = recognise(file["sha256"])
    lab = f", the lab's {official}" if official else ""
    size = f"{file['size']:,} bytes, SHA-256 {file['sha256'][:12]}"
    return file["sha256"], f"{Path(file['path']).name}, {size}{lab}"
