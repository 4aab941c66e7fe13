"""The results of a run: results.json and the types for it.

A file of format 1, which has neither `format` nor `method`, is read as one of today.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from math import inf
from typing import Literal, NamedTuple, TypeVar

from goodnet.pruning.poisoned import Attack
from goodnet.pruning.stop_rule import describe_budget, describe_checkpoint
from goodnet.reports.reading import (
    as_flag,
    as_list,
    as_mapping,
    as_number,
    as_text,
    as_whole,
    optional,
    reading,
)
from goodnet.storage.files import read_json, write_json
from goodnet.storage.run_folder import PRUNING, RunFolder

FORMAT = 2


class RateMeaning(NamedTuple):
    """What a rate is called in tables of text, and on pages; the set it is counted on."""

    title: str
    heading: str
    role: str


SETS = {
    "clean_valid": "clean validation",
    "clean_test": "clean test",
    "poisoned_test": "poisoned test",
    "poisoned_valid": "poisoned validation",
}
"""What tables and plots call each set of images."""

RATES = {
    "clean_valid_accuracy": RateMeaning(SETS["clean_valid"], SETS["clean_valid"], "clean_valid"),
    "clean_test_accuracy": RateMeaning(SETS["clean_test"], SETS["clean_test"], "clean_test"),
    "attack_success_rate": RateMeaning("ASR", "attack success", "poisoned_test"),
    "recovery_rate": RateMeaning("recovery", "recovery", "poisoned_test"),
    "detection_rate": RateMeaning("detection", "detection", "poisoned_test"),
    "false_alarm_rate": RateMeaning("false alarms", "false alarms", "clean_test"),
}
"""All rates, by their names in results.json, in the order of every table."""


def clean_set(given: Collection[str]) -> Literal["clean_test", "clean_valid"]:
    """Return the set whose accuracy to judge by: test, because validation chose the checkpoint."""
    return "clean_test" if "clean_test" in given else "clean_valid"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates of B, fractions 0 … 1; None for a set that was not given."""

    clean_valid_accuracy: float
    clean_test_accuracy: float | None
    attack_success_rate: float | None

    def by_name(self) -> dict[str, float | None]:
        """Return the rates that such a net has, measured or not."""
        return asdict(self)

    @property
    def clean_set(self) -> Literal["clean_test", "clean_valid"]:
        """The set whose accuracy to judge by."""
        return clean_set(() if self.clean_test_accuracy is None else ("clean_test",))

    @property
    def clean_accuracy(self) -> float:
        """The accuracy on that set."""
        return measured(self.by_name()[f"{self.clean_set}_accuracy"])


@dataclass(frozen=True, kw_only=True)
class RepairedRates(Rates):
    """The rates of B'; recovery is None where the labels before the trigger are not known."""

    recovery_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class GoodNetRates(RepairedRates):
    """The rates of G, and how many images of a set it answers with class N."""

    detection_rate: float | None
    false_alarm_rate: float | None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """B' and G at a step of the pruning.

    Attributes:
        method: the repair that they come from.
        drop: the budget in points that this is the first step to spend; None where a number of
            channels was asked for.
        step: channels removed.
        channels: which, in prune order.
        b_prime: rates of B'.
        goodnet: rates of G.
    """

    method: str = PRUNING
    drop: float | None
    step: int
    channels: tuple[int, ...]
    b_prime: RepairedRates
    goodnet: GoodNetRates

    @property
    def asked(self) -> str:
        """What was asked for, which tells it from the others: `budget 2 points`, `45 channels`."""
        return describe_checkpoint(self.drop, self.step)


@dataclass(frozen=True, kw_only=True)
class Unreached:
    """A budget of clean accuracy, in points, that a method has no net for."""

    method: str = PRUNING
    drop: float

    @property
    def asked(self) -> str:
        """What was asked for."""
        return describe_budget(self.drop)


@dataclass(frozen=True, kw_only=True)
class RepairedNet:
    """B' of another method than pruning, the best of it within `drop` points.

    Attributes:
        method: the repair that it comes from.
        drop: clean validation accuracy that it may lose, in points.
        details: what the method says of it, plain values.
        b_prime: rates of B'.
        goodnet: rates of the GoodNet by disagreement of B and B', which has no file.
    """

    method: str
    drop: float
    details: Mapping[str, object]
    b_prime: RepairedRates
    goodnet: GoodNetRates

    @property
    def asked(self) -> str:
        """The budget that it is within."""
        return describe_budget(self.drop)

    @property
    def title(self) -> str:
        """What tables call it: the method and its layer or second opinion, if it has one."""
        layer = self.details.get("layer", self.details.get("second_opinion"))
        return self.method if layer is None else f"{self.method}, {layer}"


@dataclass(frozen=True, kw_only=True)
class DepthRates:
    """What the nearest class at a depth of B is worth as an answer.

    Attributes:
        layer: the layer there.
        rates: of B cut there, with the nearest class as its answer.
    """

    layer: str
    rates: RepairedRates


@dataclass(frozen=True, kw_only=True)
class DetectorRates:
    """What a detector is worth at its threshold.

    Attributes:
        name: of the score, or `joined`.
        control: whether it is what anybody has without a repair.
        false_alarm_budget: the share of clean images that it may flag, as was asked.
        held_budget: the share that the threshold holds with 95 % confidence.
        images: of clean validation, that calibrated it.
        threshold: above it an image is flagged.
        auc: area under the ROC curve, clean test against poisoned test.
        detection_rate: share of poisoned test images that are flagged.
        false_alarm_rate: share of clean test images that are flagged.
        goodnet: rates of B guarded by it.
    """

    name: str
    control: bool
    false_alarm_budget: float
    held_budget: float
    images: int
    threshold: float
    auc: float | None
    detection_rate: float | None
    false_alarm_rate: float | None
    goodnet: GoodNetRates


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to use of a run.

    Attributes:
        goodnet: the file of the GoodNet.
        repaired: the file of the repaired net, if one is worth it.
        method: the repair that it comes from.
        verdict: stopped, weakened, not stopped, network ruined, not measured, no sign of a
            backdoor.
        why: in a sentence or two.
    """

    goodnet: str
    repaired: str | None
    method: str | None = None
    verdict: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a run found.

    Attributes:
        classes: B's classes N.
        baseline: rates of B.
        checkpoints: one for each budget and then each number of channels that was asked for.
        attack: what B answers to the poisoned test images, if there are any.
        remarks: sentences that whoever reads the rates should know.
        class_names: of B's classes, by their numbers; nothing where they are not known.
        detectors: the control first, the one of the calibrated GoodNet last; nothing in runs from
            before there were any.
        recommended: what to use; None in such runs.
        repaired: nets of other methods than pruning, in the order of methods and budgets.
        depths: of B, from the image to the answer, where classes have images enough.
    """

    classes: int
    baseline: Rates
    checkpoints: tuple[Checkpoint | Unreached, ...]
    attack: Attack | None = None
    remarks: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    detectors: tuple[DetectorRates, ...] = ()
    recommended: Recommendation | None = None
    repaired: tuple[RepairedNet | Unreached, ...] = ()
    depths: tuple[DepthRates, ...] = ()

    @property
    def repaired_nets(self) -> list[RepairedNet]:
        """Those of other methods that there are, each once, for the least budget that it fits."""
        found: dict[tuple[str, str], RepairedNet] = {}
        for one in self.repaired:
            if isinstance(one, RepairedNet):
                found.setdefault((one.method, repr(one.details)), one)
        return [*found.values()]

    @property
    def repaired_to_use(self) -> RepairedNet | None:
        """The repaired net to use, if there is one."""
        method = None if self.recommended is None else self.recommended.method
        return next((one for one in self.repaired_nets if one.method == method), None)

    @property
    def recommends_repaired(self) -> bool:
        """Whether there is a repaired net to use."""
        return self.recommended is not None and self.recommended.repaired is not None

    @property
    def reached(self) -> list[Checkpoint]:
        """The checkpoints for which there are nets."""
        return [point for point in self.checkpoints if isinstance(point, Checkpoint)]

    @property
    def rate_names(self) -> list[str]:
        """The rates to show: recovery only where labels from before the trigger are known."""
        nets = (rates for point in self.reached for rates in (point.b_prime, point.goodnet))
        known = any(rates.recovery_rate is not None for rates in nets)
        return [name for name in RATES if name != "recovery_rate" or known]

    def describe_class(self, number: int) -> str:
        """Return a class as readers see it: `3`, or `3 (dog)` where its name is known."""
        known = 0 <= number < len(self.class_names)
        return f"{number} ({self.class_names[number]})" if known else str(number)

    @classmethod
    def read(cls, folder: RunFolder) -> Results:
        """Read results.json.

        Raises:
            InputError: it is damaged or of another kind.
        """
        with reading(folder.results) as path:
            found = as_mapping(read_json(path))
            if found.get("format", 1) not in (1, FORMAT):
                raise ValueError(f"format {found['format']!r} found, expected {FORMAT} or 1")
            points = as_list(found["checkpoints"], _read_any)
            return cls(
                classes=as_whole(found["classes"]),
                baseline=read_rates(Rates, found["baseline"]),
                checkpoints=_of_pruning(points),
                repaired=_of_others(points),
                attack=optional(found.get("attack"), _read_attack),
                remarks=as_list(found.get("remarks", ()), as_text),
                class_names=as_list(found.get("class_names", ()), as_text),
                detectors=as_list(found.get("detectors", ()), _read_detector),
                recommended=optional(found.get("recommended"), _read_recommendation),
                depths=as_list(found.get("depths", ()), _read_depth),
            )

    def write(self, folder: RunFolder) -> None:
        """Write results.json."""
        contents = {
            "format": FORMAT,
            "classes": self.classes,
            "class_names": self.class_names,
            "remarks": self.remarks,
            "attack": None if self.attack is None else asdict(self.attack),
            "baseline": asdict(self.baseline),
            "checkpoints": [
                *(_checkpoint_contents(point) for point in self.checkpoints),
                *(_repaired_contents(one) for one in self.repaired),
            ],
            "detectors": [asdict(detector) for detector in self.detectors],
            "depths": [asdict(depth) for depth in self.depths],
            "recommended": None if self.recommended is None else asdict(self.recommended),
        }
        write_json(folder.results, contents)


def _checkpoint_contents(point: Checkpoint | Unreached) -> dict[str, object]:
    """Return what results.json holds of a checkpoint."""
    found = asdict(point) if isinstance(point, Checkpoint) else {}
    place = {name: found.get(name) for name in ("step", "channels")}
    return {
        "method": point.method,
        "drop": point.drop,
        "reached": bool(found),
        # Each method has details of its own; those of pruning stood beside them before there
        # were other methods.
        "details": place if found else None,
        **place,
        "b_prime": found.get("b_prime"),
        "goodnet": found.get("goodnet"),
    }


def _repaired_contents(one: RepairedNet | Unreached) -> dict[str, object]:
    if isinstance(one, Unreached):
        return _checkpoint_contents(one)
    return {**asdict(one), "reached": True, "details": dict(one.details)}


def measured(rate: float | None) -> float:
    """Return a rate of a set that was given.

    Raises:
        ValueError: it was not measured.
    """
    if rate is None:
        raise ValueError("a rate was not measured, expected one on a set that was given")
    return rate


R = TypeVar("R", bound=Rates)


def read_rates(kind: type[R], value: object) -> R:
    """Return the rates of a net from what results.json or audit.json has of them.

    Raises:
        TypeError, ValueError, LookupError: it is something else.
    """
    found = as_mapping(value)
    rates = {}
    for field in fields(kind):
        # Runs from before there was a recovery have no such rate.
        rate = found[field.name] if field.default is MISSING else found.get(field.name)
        rates[field.name] = optional(rate, _as_fraction)
    measured(rates["clean_valid_accuracy"])
    return kind(**rates)  # type: ignore[arg-type]


Point = Checkpoint | RepairedNet | Unreached


def _of_pruning(points: Sequence[Point]) -> tuple[Checkpoint | Unreached, ...]:
    ours = (one for one in points if one.method == PRUNING)
    return tuple(one for one in ours if not isinstance(one, RepairedNet))


def _of_others(points: Sequence[Point]) -> tuple[RepairedNet | Unreached, ...]:
    others = (one for one in points if one.method != PRUNING)
    return tuple(one for one in others if not isinstance(one, Checkpoint))


def _read_any(value: object) -> Point:
    found = as_mapping(value)
    method = as_text(found.get("method", PRUNING))
    if not as_flag(found["reached"]):
        return Unreached(method=method, drop=_as_drop(found["drop"]))
    if method != PRUNING:
        return RepairedNet(
            method=method,
            drop=_as_drop(found["drop"]),
            details={
                as_text(name): _as_plain(one) for name, one in as_mapping(found["details"]).items()
            },
            b_prime=read_rates(RepairedRates, found["b_prime"]),
            goodnet=read_rates(GoodNetRates, found["goodnet"]),
        )
    return Checkpoint(
        method=method,
        drop=optional(found["drop"], _as_drop),
        step=as_whole(found["step"]),
        channels=as_list(found["channels"], as_whole),
        b_prime=read_rates(RepairedRates, found["b_prime"]),
        goodnet=read_rates(GoodNetRates, found["goodnet"]),
    )


def _read_detector(value: object) -> DetectorRates:
    found = as_mapping(value)
    return DetectorRates(
        name=as_text(found["name"]),
        control=as_flag(found["control"]),
        false_alarm_budget=_as_fraction(found["false_alarm_budget"]),
        held_budget=_as_fraction(found["held_budget"]),
        images=as_whole(found["images"]),
        threshold=as_number(found["threshold"], least=-inf, most=inf),
        auc=optional(found["auc"], _as_fraction),
        detection_rate=optional(found["detection_rate"], _as_fraction),
        false_alarm_rate=optional(found["false_alarm_rate"], _as_fraction),
        goodnet=read_rates(GoodNetRates, found["goodnet"]),
    )


def _read_depth(value: object) -> DepthRates:
    found = as_mapping(value)
    rates = read_rates(RepairedRates, found["rates"])
    return DepthRates(layer=as_text(found["layer"]), rates=rates)


def _read_recommendation(value: object) -> Recommendation:
    found = as_mapping(value)
    return Recommendation(
        goodnet=as_text(found["goodnet"]),
        repaired=optional(found["repaired"], as_text),
        method=optional(found.get("method"), as_text),
        verdict=as_text(found["verdict"]),
        why=as_text(found["why"]),
    )


def _read_attack(value: object) -> Attack:
    found = as_mapping(value)
    return Attack(
        target=optional(found["target"], as_whole),
        original_labels=as_flag(found["original_labels"]),
        images=as_whole(found["images"]),
        num_labels=as_whole(found["num_labels"]),
        label=as_whole(found["label"]),
        answer=as_whole(found["answer"]),
        answered=as_whole(found["answered"]),
        labelled=as_whole(found["labelled"]),
    )


def _as_plain(value: object) -> object:
    return as_text(value) if isinstance(value, str) else as_number(value, least=-inf, most=inf)


def _as_drop(value: object) -> float:
    return as_number(value, most=100)


def _as_fraction(value: object) -> float:
    return as_number(value, most=1)
