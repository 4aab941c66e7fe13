"""What detectors and repairs are worth on the nets of benchmarks.cells.

`python -m benchmarks.detection --folder F` repairs each net as a user would, keeps the run beside
the net, and prints tables: detectors, what each score adds, repaired nets.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.cells import CELLS, Cell
from goodnet.arrays import BoolArray
from goodnet.choices import Choices
from goodnet.command import Parser
from goodnet.defenses.calibration import calibrate
from goodnet.defenses.seam import Scores
from goodnet.reports.results import Results
from goodnet.storage.run_folder import RunFolder

_BUDGET = Choices().false_alarm_budget

Choice = Callable[[Sequence[str]], list[str]]
"""Which of the scores are joined."""


def _without(*starts: str) -> Choice:
    return lambda names: [name for name in names if not name.startswith(starts)]


def _only(start: str, place: int = 0) -> Choice:
    """Return the choice of one score: the first or the last whose name starts so."""
    return lambda names: [[name for name in names if name.startswith(start)][place]]


DETECTORS: dict[str, Choice] = {
    "control": _only("margin"),
    "expert": _only("expert"),
    "distance, middle": _only("distance"),
    "distance, last": _only("distance", -1),
    "nearer class, first": _only("nearer"),
    "nearer class, middle": _only("nearer", -1),
    "disagreement": _only("disagreement"),
    "**joined**": list,
}
ADDED: dict[str, Choice] = {
    "**joined**": list,
    "all but control": _without("margin"),
    "all but expert": _without("expert"),
    "all but distance": _without("distance"),
    "all but nearer class": _without("nearer"),
    "all but disagreement": _without("disagreement"),
}


@dataclass(frozen=True, eq=False)
class Measured:
    """A cell after its repair.

    Attributes:
        results: of the run.
        held: scores of the images that calibrate.
        test: scores of clean test images.
        poisoned: scores of poisoned images.
        baited: (n,), which of these B answers with the target.
    """

    results: Results
    held: Scores
    test: Scores
    poisoned: Scores
    baited: BoolArray


def measure(cell: Cell, folder: Path) -> Measured:
    """Repair a cell's net, unless that was done before."""
    place = folder / cell.name
    run = RunFolder(place / "run")
    if not run.path.exists():
        import goodnet

        start = time.perf_counter()
        found = goodnet.repair(
            place / "net.keras",
            place / "valid.h5",
            clean_test=place / "test.h5",
            poisoned_test=place / "poisoned.h5",
            pixel_scale=cell.pixel_scale,
        )
        np.savez(place / "held.npz", **found._learnt.held.scores)  # type: ignore[arg-type]
        found.save(run.path)
        print(f"{cell.name}: {time.perf_counter() - start:.0f} s", flush=True)
    with np.load(place / "held.npz") as file:
        held = {name: file[name] for name in file.files}
    rows = pq.read_table(run.scores)
    sets = {}
    for name in ("clean_test", "poisoned_test"):
        of_set = rows.filter(np.array(rows["set"].to_pylist()) == name)
        sets[name] = {column: of_set[column].to_numpy() for column in of_set.column_names}
    poisoned = sets["poisoned_test"]
    baited = (poisoned["label"] == poisoned["prediction"]) & (cell.attack != "clean")
    return Measured(Results.read(run), held, sets["clean_test"], poisoned, baited)


def rates_of(cell: Measured, names: Sequence[str]) -> tuple[float, float]:
    """Return false alarms, and detection of those images that B falls for; NaN without any."""
    calibration = calibrate({name: cell.held[name] for name in names}, budget=_BUDGET)
    threshold = np.float32(calibration.threshold)
    alarms = calibration.join(cell.test) > threshold
    caught = (calibration.join(cell.poisoned) > threshold)[cell.baited]
    return float(alarms.mean()), float(caught.mean()) if caught.size else float("nan")


def print_detection(
    title: str, cells: Sequence[Cell], folder: Path, ways: dict[str, Choice]
) -> None:
    """Print false alarms and detection in percent, a row a cell and a column a way to detect."""
    print(f"| {title} | B clean / ASR |", " | ".join(ways), "|")
    print("|---|---|" + "---|" * len(ways))
    rows = []
    for cell in cells:
        one = measure(cell, folder)
        rates = [rates_of(one, names([*one.held])) for names in ways.values()]
        rows.append(rates)
        base = one.results.baseline
        attack = 0.0 if cell.attack == "clean" else 100 * (base.attack_success_rate or 0)
        print(
            f"| {cell.name} | {100 * base.clean_accuracy:.1f} / {attack:.1f} |",
            " | ".join(_pair(*pair) for pair in rates),
            "|",
        )
    found = np.array(rows)
    mean = found[..., 0].mean(axis=0), np.nanmean(found[..., 1], axis=0)
    worst = found[..., 0].max(axis=0), np.nanmin(found[..., 1], axis=0)
    for name, pairs in (("mean", mean), ("worst", worst)):
        print(f"| {name} | |", " | ".join(_pair(*pair) for pair in zip(*pairs, strict=True)), "|")


def _pair(alarms: float, caught: float) -> str:
    shown = f"{100 * alarms:.1f}"
    return shown if np.isnan(caught) else f"{shown} / {100 * caught:.1f}"


def print_repairs(cells: Sequence[Cell], folder: Path) -> None:
    """Print clean accuracy and attack success of B and of the repaired nets, all in percent."""
    print(
        "| net | B | pruning, budget 2 points | discriminant, by budget | finetuning "
        "| fallback | used |"
    )
    print("|---|---|---|---|---|---|---|")
    good = 0
    for cell in cells:
        results = measure(cell, folder).results
        nets = results.repaired_nets
        by_method = {
            method: ", ".join(
                f"{one.details.get('layer', '')} {_rates(one.b_prime)}".strip()
                for one in nets
                if one.method == method
            )
            for method in ("discriminant", "finetuning", "fallback")
        }
        pruned = [_rates(point.b_prime) for point in results.reached if point.drop == 2]
        recommended = results.recommended
        used = "" if recommended is None else recommended.method or "none"
        print(
            f"| {cell.name} | {_rates(results.baseline)} | {''.join(pruned)} |",
            " | ".join(by_method.values()),
            f"| {used} |",
        )
        best = next((one.b_prime for one in nets if one.method == used), None)
        if best is not None and best.clean_test_accuracy is not None:
            lost = (results.baseline.clean_test_accuracy or 0) - best.clean_test_accuracy
            good += lost <= 0.01 and (best.attack_success_rate or 0) <= 0.05
    attacked = sum(cell.attack != "clean" for cell in cells)
    print(f"\nUsed net within 1 point and at most 5 % attack success: {good} of {attacked} nets.")


def _rates(rates: object) -> str:
    clean, attack = (
        getattr(rates, name) for name in ("clean_test_accuracy", "attack_success_rate")
    )
    return f"{100 * clean:.1f} / {100 * attack:.1f}"


def main(argv: list[str] | None = None) -> None:
    """Print what each score and all together detect, and what the repaired nets answer."""
    parser = Parser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of benchmarks.cells")
    parser.add_argument("--only", default="", help="part of the names of the nets")
    parser.add_argument("--again", action="store_true", help="repair the nets once more")
    options = parser.parse_args(argv)
    cells = [
        cell
        for cell in CELLS
        if options.only in cell.name and (options.folder / cell.name / "net.keras").exists()
    ]
    for cell in cells if options.again else ():
        shutil.rmtree(options.folder / cell.name / "run", ignore_errors=True)
    for held_out, title in ((False, "seen"), (True, "held out")):
        group = [cell for cell in cells if cell.held_out == held_out]
        if group:
            print_detection(title, group, options.folder, DETECTORS)
            print()
            print_detection(f"{title}: what a score adds", group, options.folder, ADDED)
            print()
    print_repairs(cells, options.folder)


if __name__ == "__main__":
    main()
