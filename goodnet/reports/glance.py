"""What a run is worth at a glance: a sign for the verdict, and the nets to use beside B."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from goodnet.metrics import percent
from goodnet.reports.recommendation import NET_RUINED, NO_SIGN
from goodnet.reports.results import RATES, Recommendation, Results
from goodnet.reports.verdict import attack_doubt

Sign = Literal["good", "fair", "bad", "none", "unknown"]
_SIGNS: dict[str, Sign] = {
    "stopped": "good",
    "weakened": "fair",
    "not stopped": "bad",
    NET_RUINED: "bad",
    NO_SIGN: "none",
}


@dataclass(frozen=True)
class Change:
    """A rate of B, that of a net made of it, both as they are printed, and that net's file."""

    before: str
    after: str
    file: str


@dataclass(frozen=True)
class Figure:
    """A measure: what it is called, how the nets to use change it, and what it costs."""

    title: str
    changes: tuple[Change, ...]
    note: str = ""


def sign_of(verdict: str) -> Sign:
    """Return the kind of sign that a verdict's word has; a page gives it a colour and a shape."""
    return _SIGNS.get(verdict, "unknown")


def figures(results: Results) -> list[Figure]:
    """Return clean accuracy, attack success and detection of the nets that a run recommends."""
    found = results.recommended
    return [] if found is None else [*_figures(results, found)]


def _figures(results: Results, found: Recommendation) -> Iterator[Figure]:
    joined, baseline = results.detectors[-1], results.baseline
    clean = f"{baseline.clean_set}_accuracy"
    nets = {found.goodnet: joined.goodnet.by_name()}
    if found.repaired is not None and results.repaired_to_use is not None:
        nets[found.repaired] = results.repaired_to_use.b_prime.by_name()
    # Images that measure no attack say nothing of one, whatever rates they give.
    counts = baseline.attack_success_rate is not None and attack_doubt(results) is None
    for name, title in ((clean, f"{RATES[clean].title} accuracy"), _ATTACK):
        before = percent(baseline.by_name()[name])
        changes = [Change(before, percent(rates[name]), file) for file, rates in nets.items()]
        yield Figure(title, tuple(changes) if counts or name == clean else ())
    flagged = Change("none", percent(joined.detection_rate), found.goodnet)
    alarms = joined.false_alarm_rate
    note = "" if alarms is None else f"at {percent(alarms)} false alarms"
    yield Figure(RATES["detection_rate"].heading, (flagged,) if counts else (), note)


_ATTACK = ("attack_success_rate", RATES["attack_success_rate"].heading)
