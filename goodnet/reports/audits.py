"""An audit: many nets repaired against the same image sets, and held against limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from goodnet.errors import InputError, given_without, printable
from goodnet.images.image_folders import require_link_inside
from goodnet.metrics import percent
from goodnet.reports.results import RATES, GoodNetRates, Rates, Results
from goodnet.reports.verdict import attack_doubt, best_checkpoint, verdict
from goodnet.storage.files import require_folder
from goodnet.storage.run_folder import RunFolder

State = Literal["repaired", "unchanged", "failed"]
_SUFFIXES = (".keras", ".h5", ".hdf5")
_LIMITED = {
    "false_alarm_rate": RATES["false_alarm_rate"].title,
    "clean_accuracy_loss": "loss of clean accuracy",
    "attack_success_rate": RATES["attack_success_rate"].title,
}

MOST_ALLOWED = 1e6
"""Of minutes, or gigabytes: as good as no limit, and no number overflows."""


@dataclass(frozen=True)
class Limits:
    """The most that the GoodNet of a net may show, fractions 0 … 1; None where anything goes.

    Attributes:
        false_alarm_rate: on clean test images. By default three times the usual budget, so that
            a small set does not cross it by chance.
        clean_accuracy_loss: of the clean accuracy that B has. By default as much as the largest of
            the usual drops.
        attack_success_rate: on poisoned test images, which not every audit has.
    """

    false_alarm_rate: float | None = 0.1
    clean_accuracy_loss: float | None = 0.1
    attack_success_rate: float | None = None


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Allowance:
    """What the repair of one net may take.

    Attributes:
        minutes: wall time. DeepID takes one third of a minute on the lab's images and two cores; a
            net for which an hour is too short goes on from its last stage in the next audit.
        gigabytes: memory in use, each 1,000,000,000 bytes, without mapped files. Batches shrink as
            nets grow, but their weights are there several times.
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
        verdict: what the repair is worth, in a word or three.
        why: the same in a sentence.
        baseline: the rates of B.
        file: the GoodNet that is judged, which is the one that the run recommends.
        goodnet: its rates.
        crossed: the limits that it crosses, in words.
    """

    model: str
    state: State
    run: str | None = None
    error: str | None = None
    verdict: str | None = None
    why: str | None = None
    baseline: Rates | None = None
    file: str | None = None
    goodnet: GoodNetRates | None = None
    crossed: Sequence[str] = ()

    @classmethod
    def of(
        cls, model: Path, state: State, *, run: Path, results: Results, limits: Limits
    ) -> AuditedModel:
        """Judge the results of a repair.

        Where they do not measure the attack, the net has failed: its rates keep any limit.
        """
        doubt, (file, goodnet) = attack_doubt(results), _judged(results, RunFolder(run))
        found = results.recommended
        return cls(
            model=model.name,
            state="failed" if doubt else state,
            run=str(run),
            error=doubt,
            verdict=None if doubt or found is None else found.verdict,
            why=None if doubt else verdict(results) if found is None else found.why,
            baseline=results.baseline,
            file=file,
            goodnet=goodnet,
            crossed=crossed_limits(results.baseline, goodnet, limits),
        )

    @property
    def passed(self) -> bool:
        """Whether it could be repaired and its GoodNet keeps all limits."""
        return self.state != "failed" and not self.crossed

    @property
    def remark(self) -> str:
        """Why it has not passed, if so."""
        return printable("; ".join(filter(None, (self.error, *self.crossed))))


def _judged(results: Results, run: RunFolder) -> tuple[str | None, GoodNetRates | None]:
    """Return the file of the GoodNet to use and its rates.

    Runs from before there were calibrated ones have those of pruning alone.
    """
    if results.recommended is not None:
        return results.recommended.goodnet, results.detectors[-1].goodnet
    best = best_checkpoint(results)
    if best is None:
        return None, None
    return run.goodnet(best.drop, channels=best.step).name, best.goodnet


def find_models(folder: Path) -> list[Path]:
    """Return the model files directly in a folder, by name.

    Raises:
        InputError: there is no such folder, or no model in it.
    """
    require_folder(folder)
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


def crossed_limits(baseline: Rates, goodnet: GoodNetRates | None, limits: Limits) -> list[str]:
    """Say which limits a GoodNet crosses; without one, that there is none.

    Args:
        baseline: the rates of B.
        goodnet: those of the GoodNet, if there is one.
        limits: a rate that was not measured crosses none.
    """
    given = {name: limit for name, limit in asdict(limits).items() if limit is not None}
    if goodnet is None:
        return ["no GoodNet, since no step drops that far"] if given else []
    found = goodnet.by_name()
    found["clean_accuracy_loss"] = baseline.clean_accuracy - goodnet.clean_accuracy
    return [
        f"{_LIMITED[name]} {percent(found[name])}, at most {percent(limit)} allowed"
        for name, limit in given.items()
        if (found[name] or 0) > limit
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
    """Return the table over all nets as it is printed: what matters first, then B → its GoodNet."""
    return [_row(one) for one in audited]


def plain_audit_rows(audited: Sequence[AuditedModel]) -> list[dict[str, object]]:
    """Return the same as plain values for other programs, rates as fractions."""
    return [_plain_row(one) for one in audited]


def audit_contents(name: str, limits: Limits, audited: Sequence[AuditedModel]) -> dict[str, object]:
    """Return what audit.json holds."""
    models = [{**asdict(one), "passed": one.passed} for one in audited]
    return {"audit": name, "limits": asdict(limits), "models": models}


def _row(one: AuditedModel) -> dict[str, str]:
    before = one.baseline.by_name() if one.baseline else {}
    after = one.goodnet.by_name() if one.goodnet else {}
    row = {
        "model": printable(one.model),
        "passed": "yes" if one.passed else "NO",
        "verdict": one.verdict or "",
        "remark": one.remark,
    }
    for name in ("clean_test_accuracy", "attack_success_rate"):
        row[RATES[name].title] = f"{percent(before.get(name))} → {percent(after.get(name))}"
    for name in ("detection_rate", "false_alarm_rate"):
        row[RATES[name].title] = percent(after.get(name))
    return row | {"state": one.state}


def _plain_row(one: AuditedModel) -> dict[str, object]:
    names = [name for name in RATES if name != "recovery_rate"]
    before = one.baseline.by_name() if one.baseline else {}
    after = one.goodnet.by_name() if one.goodnet else {}
    return {
        "model": one.model,
        "passed": "yes" if one.passed else "no",
        "verdict": one.verdict,
        "remark": one.remark,
        "state": one.state,
        **{f"b_{name}": before.get(name) for name in names[:3]},
        **{f"goodnet_{name}": after.get(name) for name in names},
        "run": one.run,
    }
