"""Which repaired nets are kept of all that the methods offer, by clean validation alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from goodnet.defenses.repairs import FALLBACK, REPAIRS
from goodnet.defenses.seam import Candidate, Learnt
from goodnet.storage.run_folder import PRUNING

MOST_LOST = 1.0
"""In points: a head on a shallow part of B is recommended if it loses no more than this."""


@dataclass(frozen=True)
class Kept:
    """A candidate that is kept.

    Attributes:
        method: as of the candidate.
        setting: as of the candidate.
        details: as of the candidate.
        drops: the budgets, in points, of which it is the best of its method.
        recommended: whether it is the one to use.
    """

    method: str
    setting: int
    details: dict[str, str | int | float]
    drops: tuple[float, ...]
    recommended: bool


def choose_repaired(learnt: Learnt, methods: Sequence[str], drops: Sequence[float]) -> list[Kept]:
    """Return the repaired nets to keep, of all methods but pruning, which has checkpoints.

    Args:
        learnt: what was learnt from clean validation.
        methods: names of the table of repairs.
        drops: the budgets of clean accuracy, in points.
    """
    kept = []
    offered = [list(REPAIRS[name](learnt)) for name in methods if name != PRUNING]
    best = _recommended([one for candidates in offered for one in candidates], min(drops))
    for candidates in offered:
        within = {drop: _within(candidates, drop) for drop in drops}
        for one in candidates:
            budgets = tuple(drop for drop, chosen in within.items() if chosen is one)
            if budgets:
                details = dict(one.details)
                kept.append(Kept(one.method, one.setting, details, budgets, one is best))
    return kept


def find_candidate(learnt: Learnt, kept: Kept) -> Candidate:
    """Return the candidate that was kept."""
    return next(one for one in REPAIRS[kept.method](learnt) if one.setting == kept.setting)


def _within(candidates: Iterable[Candidate], drop: float) -> Candidate | None:
    """Return the candidate that changes B most of those that lose no more than `drop` points."""
    affordable = [candidate for candidate in candidates if 100 * candidate.lost <= drop]
    return affordable[-1] if affordable else None


def _recommended(candidates: Sequence[Candidate], drop: float) -> Candidate | None:
    """Return the net to use.

    The head that discriminants offer for the budget, if it is on the shallower half of B, which
    never had the backdoor, and costs next to nothing; else B with a second opinion. Fine-tuning and
    pruning leave an attack as it is too often: see docs/methods.md.
    """
    heads = [one for one in candidates if one.method == "discriminant"]
    head = _within(heads, drop)
    if head is not None and head.setting > len(heads) / 2 and 100 * head.lost <= MOST_LOST:
        return head
    return _within((one for one in candidates if one.method == FALLBACK), drop)
