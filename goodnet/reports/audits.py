"""An audit: many nets repaired against the same image sets, and held against limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from goodnet.errors import InputError, given_without, printable
from goodnet.images.image_folders import require_link_inside
from goodnet.metrics import percent
from goodnet.reports.results import RATES, Checkpoint, Rates, Results, checkpoint_contents, measured
from goodnet.reports.verdict import attack_doubt, best_checkpoint, verdict

Limits = Mapping[str, float | None]
"""The most that G may show of a rate of results.json, a fraction; None where anything goes."""

State = Literal["repaired", "unchanged", "failed"]
_SUFFIXES = (".keras", ".h5", ".hdf5")
_B_RATES = ("clean_test_accuracy", "attack_success_rate")
_G_RATES = (*_B_RATES, "detection_rate", "false_alarm_rate")


MOST_ALLOWED = 1e6
"""Of minutes, or gigabytes: as good as no limit, and no number overflows."""


@dataclass(frozen=True)
class Allowance:
    """What the repair of one net may take.

    Attributes:
        minutes: wall time. DeepID takes one third of a minute on the lab's images and two cores; a
            net for which an hour is too short goes on from its last stage in the next audit.
        gigabytes: memory, each 1,000,000,000 bytes, and what threads reserve counts. DeepID takes
            2.4; batches shrink as nets grow, but their weights are there several times.
    """

    minutes: float = 60
    gigabytes: float = 16


DEFAULT_ALLOWANCE = Allowance()


@dataclass(frozen=True)
class AuditedModel:
    """What came of one net.

    Attributes:
        model: name of its file.
        state: whether it was repaired now, repaired before and not changed since, or failed.
        run: the folder of its repair.
        error: why it failed.
        verdict: what the repair is worth.
        baseline: the rates of B.
        checkpoint: the one that the verdict speaks of.
        crossed: the limits that its GoodNet crosses, in words.
    """

    model: str
    state: State
    run: str | None = None
    error: str | None = None
    verdict: str | None = None
    baseline: Rates | None = None
    checkpoint: Checkpoint | None = None
    crossed: Sequence[str] = ()

    @classmethod
    def of(
        cls, model: Path, state: State, *, run: Path, results: Results, limits: Limits
    ) -> AuditedModel:
        """Judge the results of a repair.

        Where they do not measure the attack, the net has failed: its rates keep any limit.
        """
        checkpoint, doubt = best_checkpoint(results), attack_doubt(results)
        return cls(
            model=model.name,
            state="failed" if doubt else state,
            run=str(run),
            error=doubt,
            verdict=None if doubt else verdict(results),
            baseline=results.baseline,
            checkpoint=checkpoint,
            crossed=crossed_limits(checkpoint, limits),
        )


def find_models(folder: Path) -> list[Path]:
    """Return the model files directly in a folder, by name.

    Raises:
        InputError: there is no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    files = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    # Whatever is no folder: a pipe or a link to nothing is a model that fails, not none.
    models = [path for path in files if path.suffix in _SUFFIXES and not path.is_dir()]
    if not models:
        raise InputError(f"{folder}: holds no model, expected .keras, .h5 or .hdf5 files")
    return models


def require_inside(model: Path) -> None:
    """Raise InputError if a model of a folder is a link that leads out of it, or to nothing."""
    if model.is_symlink():
        require_link_inside(model, model.parent.resolve())


def require_measurable(max_attack_success_rate: float | None, poisoned_test: Path | None) -> None:
    """Raise InputError if an attack is to be limited that no images show."""
    if max_attack_success_rate is not None and poisoned_test is None:
        raise given_without("max_attack_success_rate", "poisoned_test")


def crossed_limits(checkpoint: Checkpoint | None, limits: Limits) -> list[str]:
    """Say which limits a checkpoint's G crosses; without a checkpoint, that there is no G."""
    given = {rate: limit for rate, limit in limits.items() if limit is not None}
    if checkpoint is None:
        return ["no GoodNet, since no step drops that far"] if given else []
    rates = checkpoint.goodnet.by_name()
    return [
        f"{RATES[rate].title} {percent(rates[rate])}, at most {percent(limit)} allowed"
        for rate, limit in given.items()
        if measured(rates[rate]) > limit
    ]


def find_problems(audited: Sequence[AuditedModel]) -> list[str]:
    """Return a sentence on the nets that failed and one on those over a limit, if there are any."""
    failed = [f"{one.model} ({one.error})" for one in audited if one.state == "failed"]
    over = [f"{one.model} ({'; '.join(one.crossed)})" for one in audited if one.crossed]
    kinds = {"failed": failed, "over a limit": over}
    return [
        printable(f"{len(names)} of {len(audited)} models {kind}: {', '.join(names)}.")
        for kind, names in kinds.items()
        if names
    ]


def audit_rows(audited: Sequence[AuditedModel]) -> list[dict[str, str]]:
    """Return the table over all nets: B's clean accuracy and ASR, and the rates of its best G."""
    return [_row(one) for one in audited]


def audit_contents(name: str, limits: Limits, audited: Sequence[AuditedModel]) -> dict[str, object]:
    """Return what audit.json holds."""
    return {"audit": name, "limits": dict(limits), "models": [_contents(one) for one in audited]}


def _contents(one: AuditedModel) -> dict[str, object]:
    checkpoint = None if one.checkpoint is None else checkpoint_contents(one.checkpoint)
    return {**asdict(one), "checkpoint": checkpoint}


def _row(one: AuditedModel) -> dict[str, str]:
    row = {"model": printable(one.model), "state": one.state}
    baseline = one.baseline.by_name() if one.baseline else {}
    for rate in _B_RATES:
        row[f"B {RATES[rate].title}"] = percent(baseline.get(rate))
    row["drop"] = f"{one.checkpoint.drop:g} %" if one.checkpoint else percent(None)
    goodnet = one.checkpoint.goodnet.by_name() if one.checkpoint else {}
    for rate in _G_RATES:
        row[f"G {RATES[rate].title}"] = percent(goodnet.get(rate))
    row["remark"] = printable(one.error or "; ".join(one.crossed))
    return row
