"""What is found wrong in what was given before anything slow is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goodnet.attacks.targets import require_target
from goodnet.choices import Choices
from goodnet.images.class_names import read_class_names
from goodnet.images.image_sets import open_sets
from goodnet.images.preprocessing import chosen_preprocessing
from goodnet.inputs import Role, check_inputs, require_complete
from goodnet.reports.audits import find_models, require_measurable
from tasks.cluster import Cluster

_SETS: tuple[Role, ...] = ("clean_valid", "clean_test", "poisoned_test", "poisoned_valid")


def given_sets(parameters: Mapping[str, Any]) -> dict[Role, Path | None]:
    """Return the image sets among the parameters of a flow."""
    return {role: parameters[role] for role in _SETS}


def check_repair(parameters: Mapping[str, Any]) -> None:
    """Raise InputError if a repair with these parameters could not begin."""
    check_dask(parameters["dask"])
    sets = given_sets(parameters)
    require_complete(parameters["model"], sets)
    if parameters["model"] is not None:
        check_inputs(parameters["model"], sets, Choices.of(parameters))


def check_dask(dask: str | None) -> None:
    """Raise InputError if this names no cluster, or nobody answers there."""
    if dask is not None:
        Cluster.parse(dask).require_answer()


def check_audit(parameters: Mapping[str, Any]) -> None:
    """Raise InputError if an audit with these parameters could not begin."""
    check_dask(parameters["dask"])
    find_models(parameters["models"])
    poisoned = parameters["poisoned_test"]
    require_measurable(parameters["max_attack_success_rate"], poisoned)
    require_target(parameters["target"], num_classes=None, poisoned=poisoned is not None)
    sets = {role: path for role, path in given_sets(parameters).items() if path is not None}
    classes = parameters["classes"]
    chosen_preprocessing(parameters)
    open_sets(sets, classes=None if classes is None else read_class_names(classes))
