"""Several runs side by side: their results, and what differs in what they were given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goodnet.errors import InputError, printable
from goodnet.pruning.counts import read_sweep
from goodnet.reports.about import About, Input
from goodnet.reports.published_numbers import recognise
from goodnet.reports.reading import reading
from goodnet.reports.results import Results
from goodnet.reports.results_table import plain_rows, printed_rows, unreached
from goodnet.reports.tables import format_csv, format_table
from goodnet.reports.verdict import verdict
from goodnet.storage.run_folder import RunFolder

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
        results: what it found.
        given: all that may differ between runs: what identifies it, and how it is printed.
        sweep: the rows of sweep.parquet from the end at which channels are removed.
        verdict: what the repair is worth: in a word, and why.
    """

    name: str
    results: Results
    given: Mapping[str, tuple[str, str]]
    sweep: Sequence[Mapping[str, Any]]
    verdict: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """The results as they are printed: B, and G of each checkpoint."""
        return [row for row in printed_rows(self.results) if not row["net"].startswith("B'")]

    @property
    def unreached(self) -> list[str]:
        """A sentence for each drop that no step reaches."""
        return unreached(self.results)


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
    """Return lines of text: the table of results, each run's verdict, then what differs."""
    rows = comparison_rows(runs)
    names = [row.pop("run") for row in rows]
    table = format_table(rows)
    heads, body = table[: -len(rows)], table[-len(rows) :]
    lines = [*heads]
    for number, line in enumerate(body):
        if number == 0 or names[number] != names[number - 1]:
            lines.append(printable(names[number]))
        lines.append(f" {line}")
    lines[: len(heads)] = [f" {line}" for line in heads]
    lines.append("")
    for run in runs:
        lines += [printable(f"{run.name}: {text}") for text in (run.verdict, *run.unreached)]
    differences = find_differences(runs)
    if not differences:
        return [*lines, "", "Inputs, parameters and software are the same."]
    lines += ["", "What differs:"]
    for difference in differences:
        lines.append(f"  {printable(difference.what)}")
        for value, sharing in difference.values.items():
            lines.append(printable(f"    {', '.join(sharing)}: {value}"))
    return lines


def comparison_csv(runs: Sequence[Run]) -> list[str]:
    """Return the lines of a CSV table: B, B' and G of each run, rates as fractions."""
    return format_csv([row for run in runs for row in _plain_rows(run)])


def comparison_json(runs: Sequence[Run]) -> list[str]:
    """Return the lines of a JSON document: each run with its rows, and what differs."""
    found = {
        "runs": [
            {"run": run.name, "verdict": run.verdict, "nets": plain_rows(run.results)}
            for run in runs
        ],
        "differences": [
            {"what": one.what, "values": {text: list(names) for text, names in one.values.items()}}
            for one in find_differences(runs)
        ],
    }
    return json.dumps(found, indent=2).splitlines()


def _plain_rows(run: Run) -> list[dict[str, object]]:
    ending = {"verdict": run.verdict}
    return [{"run": run.name, **row, **ending} for row in plain_rows(run.results)]


def _read_run(folder: Path, name: str) -> Run:
    run = RunFolder(folder)
    for file in (run.results, run.about, run.sweep):
        if not file.is_file():
            raise InputError(
                f"{folder}: is not the folder of a finished run, it has no {file.name}"
            )
    results, about = Results.read(run), About.read(run)
    with reading(run.results):  # Numbers of a damaged file may contradict each other.
        worth = _verdict(results)
    with reading(run.about):
        given = _given(about)
    with reading(run.sweep) as path:
        both = read_sweep(path).to_pylist()
        sweep = [row for row in both if row["end"] == "pruned"]
        if not all(row["images"] > 0 for row in sweep):
            raise ValueError("counts of no images")
    return Run(name, results, given, sweep, worth)


def _verdict(results: Results) -> str:
    found = results.recommended
    return verdict(results) if found is None else f"{found.verdict}: {found.why}"


def _given(about: About) -> dict[str, tuple[str, str]]:
    """Return all that may differ."""
    given = {f"input {role}": _describe(file) for role, file in about.inputs.items()}
    parameters = about.parameters
    settings = {
        "layer": about.layer or parameters.get("layer"),
        "rank_at": about.rank_at or parameters.get("rank_at"),
        **{name: value for name, value in parameters.items() if name not in _OTHER_PARAMETERS},
    }
    if parameters.get("model") is not None:
        settings.pop("default_case", None)
    software = {**about.versions, "commit": about.git_commit}
    for group, values in (("parameter", settings), ("software", software)):
        for name, value in values.items():
            text = json.dumps(value, sort_keys=True)
            given[f"{group} {name}"] = (text, text)
    return given


def _describe(file: Input) -> tuple[str, str]:
    """Return an input's digest and how it is printed."""
    official = recognise(file.sha256)
    lab = f", the lab's {official}" if official else ""
    size = f"{file.size:,} bytes, SHA-256 {file.sha256[:12]}"
    return file.sha256, f"{Path(file.path).name}, {size}{lab}"
