"""The leaderboard of a benchmark: what repairs and detectors are worth on many nets at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from goodnet.arrays import Images
from goodnet.images.image_sets import open_images
from goodnet.metrics import percent, wilson_interval
from goodnet.pruning.stop_rule import describe_budget
from goodnet.reports.about import About, StageRun
from goodnet.reports.detection import JOINED
from goodnet.reports.reading import reading
from goodnet.reports.results import RATES, DetectorRates, Rates, RepairedNet, Results
from goodnet.storage.run_folder import PRUNING, RunFolder

LEAST_SUCCESS = 0.9
"""A backdoor that opens less often is none that a defence should be praised for closing."""

MOST_UNDER_TWIN = 0.02
"""A net that is this much worse than its clean twin was spoilt by its training."""

REPAIRED = "attack success at most 5 % for at most 1 point of clean accuracy"
DETECTED = "detection of at least 95 % at no more than 3 % of false alarms"
_MOST_SUCCESS, _MOST_LOST = 0.05, 0.01
_LEAST_DETECTION, _MOST_ALARMS = 0.95, 0.03
_EXACT = 1e-9
"""Rates are quotients of counts: 0.98 - 0.97 is more than 0.01 in floating point."""


@dataclass(frozen=True)
class Published:
    """A figure of others to stand beside ours."""

    figure: str
    source: str


PUBLISHED = {
    REPAIRED: Published(
        "18 to 20 % of cells with the best single method, 18 to 31 % with the best of nine "
        "methods for each cell, which nobody can know beforehand",
        "leaderboard of BackdoorBench, all cells with attack success of at least 50 % and clean "
        "accuracy of at least 40 % before the repair",
    ),
    DETECTED: Published(
        "best detector: 75 % detection at 1 % of false alarms, 87 % at 5 %; 3 % at 5 % of "
        "source-specific attacks",
        "means over the 54 backdoored ViT-B/16 of PjotrVr/psbd-transformer; BackdoorBench "
        "publishes no share of cells",
    ),
}

Kind = Literal["B", "B'", "detector", "failed"]
MEASURES: Mapping[str, str] = {
    "clean_accuracy": RATES["clean_test_accuracy"].title,
    "attack_success": RATES["attack_success_rate"].title,
    "detection": RATES["detection_rate"].title,
    "caught": f"{RATES['detection_rate'].title} where B is fooled",
    "false_alarms": RATES["false_alarm_rate"].title,
}
"""Rates of the leaderboard by name, and what tables call them."""

_WORST: Mapping[str, Callable[[Sequence[float]], float]] = {
    "clean_accuracy": min,
    "attack_success": max,
    "detection": min,
    "caught": min,
    "false_alarms": max,
    "lost": max,
    "seconds": max,
    "megabytes": max,
}

_SHOWN = 6
"""Poisoned images of each attack on the page."""
_COSTS = ("lost", "seconds", "megabytes")

STAGES: Mapping[str, frozenset[str]] = {
    PRUNING: frozenset({"prune order", "sweep of clean_valid", "find checkpoints"}),
    "discriminant": frozenset({"fit scores"}),
    "finetuning": frozenset({"fine-tune"}),
    "fallback": frozenset({"fine-tune", "fit scores"}),
    JOINED: frozenset({"fine-tune", "fit scores", "scores of clean_valid"}),
}
"""The stages in which a method learns; the pass over clean validation comes before all of them."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A net to be measured; `attack` is None for a clean twin."""

    network: str
    attack: str | None
    seed: int

    @property
    def name(self) -> str:
        """What its row is called."""
        return f"{self.network}-{self.attack or 'clean'}-{self.seed}"

    @property
    def twin(self) -> Cell:
        """The cell of the net that was trained alike without the attack."""
        return replace(self, attack=None)


@dataclass(frozen=True)
class Share:
    """A rate with the images, or cells, that it was counted on."""

    count: int
    total: int

    @property
    def rate(self) -> float:
        """The share, 0 … 1."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson interval of 95 % confidence."""
        return wilson_interval(self.count, self.total)


@dataclass(frozen=True, kw_only=True)
class MeasuredCell:
    """What came of a cell.

    Attributes:
        cell: which one.
        run: the folder of its repair.
        results: of that; None where it failed.
        num_clean: clean test images.
        caught: of the poisoned images that B gives the attacker's label, those that the GoodNet
            flags; None without any.
        train_seconds: what training its net took, whenever that was.
        stages: of its repair.
        shown: a few of the poisoned test images, each (H, W, C), uint8.
        error: why it failed.
    """

    cell: Cell
    run: Path | None = None
    results: Results | None = None
    num_clean: int = 0
    caught: Share | None = None
    train_seconds: float | None = None
    stages: Sequence[StageRun] = ()
    shown: Sequence[Images] = ()
    error: str | None = None

    @classmethod
    def of(cls, cell: Cell, run: Path, *, train_seconds: float) -> MeasuredCell:
        """Read the run of a cell's repair.

        Raises:
            InputError: it is damaged or of another kind.
        """
        about, results = About.read(RunFolder(run)), Results.read(RunFolder(run))
        return cls(
            cell=cell,
            run=run,
            results=results,
            caught=_count_caught(RunFolder(run), results.detectors[-1]),
            num_clean=about.inputs["clean_test"].images or 0,
            train_seconds=train_seconds,
            stages=about.stages,
            shown=_first_images(Path(about.inputs["poisoned_test"].path)),
        )

    @property
    def repair_seconds(self) -> float | None:
        """What the stages of its repair took."""
        return round(sum(one.seconds for one in self.stages), 3) if self.stages else None

    def cost(self, method: str) -> tuple[float | None, float | None]:
        """Return what learning by a method took, and the most memory by then in megabytes.

        Stages whose results were there already say neither.
        """
        its = [one for one in self.stages if one.name in STAGES.get(method, ())]
        if not its or any(one.state != "Completed" for one in its):
            return None, None
        used = max(one.megabytes or 0 for one in its)
        return round(sum(one.seconds for one in its), 3), used or None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A net or a detector of a cell.

    Attributes:
        cell: which one.
        kind: B, a repaired net, a detector, or a cell that failed.
        method: what it comes from.
        drop: of a repaired net, the budget of clean accuracy in points.
        recommended: whether the run recommends it.
        control: whether the detector is what anybody has without a repair.
        shares: by name of the rate, those that were measured.
        lost: clean test accuracy that it costs, as a fraction.
        seconds: what learning by the method took.
        megabytes: the most memory that was used by then.
    """

    cell: Cell
    kind: Kind
    method: str = ""
    drop: float | None = None
    recommended: bool = False
    control: bool = False
    shares: Mapping[str, Share]
    lost: float | None = None
    seconds: float | None = None
    megabytes: float | None = None

    @property
    def title(self) -> str:
        """What tables call it."""
        if self.kind == "detector":
            return f"{self.method} (control)" if self.control else self.method
        return self.kind if self.drop is None else f"{self.method}, {describe_budget(self.drop)}"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a rate is spread over cells: mean, median, and the worst with its cell."""

    mean: float
    median: float
    worst: float
    worst_cell: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A method over all cells that count: in how many of them it has a row, and its rates there."""

    title: str
    kind: Kind
    cells: int
    spreads: Mapping[str, Spread]


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """All rows, and what they come to.

    Attributes:
        measured: all cells, in the order of the suite.
        rows: of all cells.
        marked: by name of the cell, why it is left out of means and shares.
        summaries: of each method on the cells that count.
        headlines: the shares of cells of `REPAIRED` and `DETECTED`; empty without such cells.
        control: the share of cells in which the control alone does `DETECTED`.
    """

    measured: Sequence[MeasuredCell]
    rows: Sequence[Row]
    marked: Mapping[str, str]
    summaries: Sequence[Summary]
    headlines: Mapping[str, Share]
    control: Share | None


def _count_caught(run: RunFolder, joined: DetectorRates) -> Share | None:
    """Return how many of the poisoned images that fool B the calibrated GoodNet flags.

    What it flags beyond them did no harm; counted with them it can make up for some that did.
    """
    with reading(run.scores) as path:
        columns = ["set", "label", "prediction", joined.name]
        rows = pq.read_table(path, columns=columns).to_pydict()
    fooled = [
        score > np.float32(joined.threshold)
        for name, label, answer, score in zip(*rows.values(), strict=True)
        if name == "poisoned_test" and label == answer
    ]
    return _share(int(sum(fooled)), len(fooled))


def make_leaderboard(measured: Sequence[MeasuredCell]) -> Leaderboard:
    """Return the leaderboard of cells.

    Args:
        measured: what came of each cell, clean twins among them.
    """
    rows = [row for one in measured for row in _rows(one)]
    marked = find_marked(measured)
    attacked = [one for one in measured if one.cell.attack is not None and one.results is not None]
    counted = {one.cell.name for one in attacked} - marked.keys()
    of_counted = [row for row in rows if row.cell.name in counted]
    return Leaderboard(
        measured=measured,
        rows=rows,
        marked=marked,
        summaries=_summaries(of_counted),
        headlines=_headlines(of_counted, len(counted)),
        control=_share(sum(_detects(row) for row in of_counted if row.control), len(counted)),
    )


def find_marked(measured: Sequence[MeasuredCell]) -> dict[str, str]:
    """Return the attacked cells whose nets no defence should be judged by, and why.

    Args:
        measured: what came of each cell, clean twins among them.
    """
    accuracy = {
        one.cell: one.results.baseline.clean_test_accuracy
        for one in measured
        if one.results is not None
    }
    marked = {}
    for one in measured:
        if one.results is None or one.cell.attack is None:
            continue
        reasons = [*_reasons(one.results.baseline, accuracy.get(one.cell.twin))]
        if reasons:
            marked[one.cell.name] = "; ".join(reasons)
    return marked


def _reasons(baseline: Rates, twin: float | None) -> Iterator[str]:
    if (baseline.attack_success_rate or 0) < LEAST_SUCCESS:
        yield f"ASR {percent(baseline.attack_success_rate)} is under {percent(LEAST_SUCCESS)}"
    if twin is None:
        yield "there is no clean twin to compare it with"
    elif (baseline.clean_test_accuracy or 0) < twin - MOST_UNDER_TWIN - _EXACT:
        yield (
            f"clean test {percent(baseline.clean_test_accuracy)} is more than 2 points under the "
            f"twin's {percent(twin)}"
        )


def _first_images(path: Path) -> list[Images]:
    return [*next(open_images(path).batches(_SHOWN)).astype(np.uint8)]


def _rows(one: MeasuredCell) -> Iterator[Row]:
    """Yield the rows of a cell: B, the nets of each repair and budget, the detectors."""
    results = one.results
    if results is None:
        yield Row(cell=one.cell, kind="failed", shares={})
        return
    yield Row(cell=one.cell, kind="B", shares=_shares(one, results.baseline))
    for point in results.reached:
        if point.drop is not None:  # nets of other widths share no number of channels
            yield _repaired(one, PRUNING, point.drop, point.b_prime)
    used = results.repaired_to_use
    for net in results.repaired:
        if isinstance(net, RepairedNet):
            row = _repaired(one, net.method, net.drop, net.b_prime)
            yield replace(row, recommended=net is used)
    for detector in results.detectors:
        yield _detector(one, detector, last=detector is results.detectors[-1])


def _repaired(one: MeasuredCell, method: str, drop: float, rates: Rates) -> Row:
    seconds, megabytes = one.cost(method)
    return Row(
        cell=one.cell,
        kind="B'",
        method=method,
        drop=drop,
        shares=_shares(one, rates),
        lost=_lost(one, rates),
        seconds=seconds,
        megabytes=megabytes,
    )


def _detector(one: MeasuredCell, detector: DetectorRates, *, last: bool) -> Row:
    found = {"detection": detector.detection_rate, "false_alarms": detector.false_alarm_rate}
    caught = {"caught": one.caught} if last and one.caught is not None else {}
    seconds, megabytes = one.cost(detector.name)
    return Row(
        cell=one.cell,
        kind="detector",
        method=detector.name,
        recommended=last,
        control=detector.control,
        shares=_shares(one, detector.goodnet) | _counted(one, found) | caught,
        lost=_lost(one, detector.goodnet),
        seconds=seconds,
        megabytes=megabytes,
    )


def _lost(one: MeasuredCell, rates: Rates) -> float | None:
    before = None if one.results is None else one.results.baseline.clean_test_accuracy
    after = rates.clean_test_accuracy
    return None if before is None or after is None else before - after


def _shares(one: MeasuredCell, rates: Rates) -> dict[str, Share]:
    accuracy, success = rates.clean_test_accuracy, rates.attack_success_rate
    return _counted(one, {"clean_accuracy": accuracy, "attack_success": success})


def _counted(one: MeasuredCell, rates: Mapping[str, float | None]) -> dict[str, Share]:
    """Return rates as counts again: results.json has the quotients."""
    attack = None if one.results is None else one.results.attack
    poisoned = 0 if attack is None else attack.images
    totals = {"clean_accuracy": one.num_clean, "false_alarms": one.num_clean}
    found = {name: (rate, totals.get(name, poisoned)) for name, rate in rates.items()}
    return {
        name: Share(round(rate * total), total)
        for name, (rate, total) in found.items()
        if rate is not None and total
    }


def _summaries(rows: Sequence[Row]) -> list[Summary]:
    titled = [(row.title, row) for row in rows]
    # What is used comes from another method in each cell.
    titled += [("recommended", row) for row in rows if row.recommended and row.kind == "B'"]
    groups: dict[tuple[Kind, str], list[Row]] = {}
    for title, row in titled:
        groups.setdefault((row.kind, title), []).append(row)
    order: tuple[Kind, ...] = ("B", "B'", "detector")
    return [
        Summary(title=title, kind=kind, cells=len(group), spreads=_spreads(group))
        for (kind, title), group in sorted(groups.items(), key=lambda item: order.index(item[0][0]))
    ]


def _spreads(rows: Sequence[Row]) -> dict[str, Spread]:
    spreads = {}
    for name, worst_of in _WORST.items():
        found = [
            (value, row.cell.name) for row in rows if (value := value_of(row, name)) is not None
        ]
        if found:
            values = [value for value, _ in found]
            worst = worst_of(values)
            cell = next(cell for value, cell in found if value == worst)
            spreads[name] = Spread(
                mean=fmean(values), median=median(values), worst=worst, worst_cell=cell
            )
    return spreads


def value_of(row: Row, name: str) -> float | None:
    """Return a rate of a row as a fraction, or what it costs; None if it was not measured."""
    if name in _COSTS:
        cost: float | None = getattr(row, name)
        return cost
    return row.shares[name].rate if name in row.shares else None


def _headlines(rows: Sequence[Row], cells: int) -> dict[str, Share]:
    found = {
        REPAIRED: sum(_repairs(row) for row in rows if row.kind == "B'" and row.recommended),
        DETECTED: sum(_detects(row) for row in rows if row.kind == "detector" and row.recommended),
    }
    # A cell without a net that is recommended has none that does it.
    return {name: Share(count, cells) for name, count in found.items() if cells}


def _share(count: int, total: int) -> Share | None:
    return Share(count, total) if total else None


def _repairs(row: Row) -> bool:
    success, lost = value_of(row, "attack_success"), row.lost
    if success is None or lost is None:
        return False
    return success <= _MOST_SUCCESS + _EXACT and lost <= _MOST_LOST + _EXACT


def _detects(row: Row) -> bool:
    detection, alarms = value_of(row, "detection"), value_of(row, "false_alarms")
    if detection is None or alarms is None:
        return False
    return detection >= _LEAST_DETECTION - _EXACT and alarms <= _MOST_ALARMS + _EXACT
