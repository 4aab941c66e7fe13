"""What a user chooses of a repair: one value, made where options enter and handed on whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from goodnet.errors import InputError
from goodnet.images.preprocessing import (
    AS_STORED,
    PREPROCESSING_PARAMETERS,
    Preprocessing,
    chosen_preprocessing,
)
from goodnet.model_files.limits import DEFAULT_LIMITS, ModelLimits

RepairName = Literal["pruning", "discriminant", "finetuning", "fallback"]
ALL_REPAIRS: tuple[RepairName, ...] = get_args(RepairName)

MOST_FALSE_ALARMS = 50
"""In percent: who lets more than half of the clean images be flagged wants no detector."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How a net is repaired; the defaults are those of every command.

    Attributes:
        architecture: the network of a weights-only file; None for what the file says.
        layer: whose channels are pruned; None for the default.
        rank_at: the layer whose mean activation ranks the channels; None for the default.
        drops: budgets of clean validation accuracy, in points: a checkpoint where each is spent.
        channels: numbers of channels, a checkpoint where so many are pruned.
        repairs: the methods that offer repaired nets.
        false_alarms: the share of clean images that the calibrated GoodNet may flag, in percent.
        classes: a file with the names of the net's classes; None where the folders of clean
            validation say them, or classes have numbers only.
        preprocessing: what is done to pixels before the net takes them.
        allow_same_data: whether the same images may serve for validation and for evaluation.
        target: the attacker's label; None where the labels of the poisoned images are that.
        min_clean_accuracy: the least clean accuracy of B, 0 to 1; None for the default.
        verify: whether saved nets are checked on a sample of every set or on all images.
        limits: how large the model may be.
    """

    architecture: str | None = None
    layer: str | None = None
    rank_at: str | None = None
    drops: tuple[float, ...] = (2.0, 4.0, 10.0)
    channels: tuple[int, ...] = ()
    repairs: tuple[RepairName, ...] = ALL_REPAIRS
    false_alarms: float = 3.0
    classes: Path | None = None
    preprocessing: Preprocessing = AS_STORED
    allow_same_data: bool = False
    target: int | None = None
    min_clean_accuracy: float | None = None
    verify: Literal["sample", "full"] = "sample"
    limits: ModelLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        """Raise InputError unless numbers are in their ranges, for who calls from Python."""
        if not self.drops:
            raise InputError("drops is empty, expected at least one budget of clean accuracy")
        for drop in self.drops:
            _require_range("drops", drop, 0 < drop <= 100, "above 0 and at most 100 points")
        budget = self.false_alarms
        within = 0 < budget <= MOST_FALSE_ALARMS
        _require_range(
            "false_alarms", budget, within, f"above 0 and at most {MOST_FALSE_ALARMS} percent"
        )
        floor = self.min_clean_accuracy
        if floor is not None:
            _require_range("min_clean_accuracy", floor, 0 <= floor <= 1, "0 to 1")

    @property
    def false_alarm_budget(self) -> float:
        """The share of clean images that may be flagged, 0 … 1."""
        return self.false_alarms / 100

    @property
    def pruning_drops(self) -> tuple[float, ...]:
        """The drops to prune to: none if pruning is not among the methods."""
        return self.drops if "pruning" in self.repairs else ()

    @property
    def pruning_channels(self) -> tuple[int, ...]:
        """The numbers of channels to prune: as for the drops."""
        return self.channels if "pruning" in self.repairs else ()

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Choices:
        """Return the choices among the parameters of a flow or the options of a command.

        The two limits that users set stand there under names of their own, and so does what
        makes up the preprocessing.

        Raises:
            InputError: the preprocessing contradicts itself.
        """
        limits = replace(
            DEFAULT_LIMITS,
            max_file_bytes=parameters["max_model_bytes"],
            max_parameters=parameters["max_parameters"],
        )
        chosen: dict[str, Any] = {
            "drops": tuple(parameters["drops"]),
            "channels": tuple(parameters["channels"]),
            "repairs": tuple(parameters["repairs"]),
            "preprocessing": chosen_preprocessing(parameters),
            "limits": limits,
        }
        names = {field.name for field in fields(cls)} - chosen.keys()
        return cls(**chosen | {name: parameters[name] for name in names})

    def parameters(self) -> dict[str, Any]:
        """Return them under the names that `of` takes them by."""
        names = {field.name for field in fields(self)} - {"preprocessing", "limits"}
        return {
            **{name: getattr(self, name) for name in names},
            **self.preprocessing.parameters(),
            "max_model_bytes": self.limits.max_file_bytes,
            "max_parameters": self.limits.max_parameters,
        }


def _require_range(what: str, value: float, fits: bool, expected: str) -> None:
    if not fits:
        raise InputError(f"{what} has {value:g}, expected {expected}")


LIMIT_PARAMETERS = ("max_model_bytes", "max_parameters")
"""The limits that users set: a model within them is repaired as with any others."""

CHOICE_PARAMETERS = tuple(
    [field.name for field in fields(Choices) if field.name not in ("preprocessing", "limits")]
    + [*PREPROCESSING_PARAMETERS, *LIMIT_PARAMETERS]
)
"""What flows and commands call all that makes up the choices."""
