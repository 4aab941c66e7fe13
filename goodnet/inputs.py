"""What a repair is given, checked before anything slow starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from goodnet.arrays import DigestArray, IntArray
from goodnet.attacks.targets import require_attack_labels, require_target
from goodnet.choices import Choices
from goodnet.errors import InputError, given_without
from goodnet.images.class_names import ClassNames, read_class_names
from goodnet.images.image_sets import ImageSet, open_sets, require_raw
from goodnet.model_files.describe import ModelDescription, describe_model
from goodnet.pruning.layer_choice import choose_layers
from goodnet.pruning.stop_rule import require_channels

Role = Literal["clean_valid", "clean_test", "poisoned_valid", "poisoned_test"]
"""What a set of images is for."""

_COUNTERPARTS: dict[Role, Role] = {
    "clean_test": "poisoned_test",
    "clean_valid": "poisoned_valid",
}

_MOST_SHARED = 0.05
"""Share of a set that may be in another. Public sets hold a few copies of an image, below one in a
hundred. Where validation and test differ by ten points of accuracy, one in twenty flatters the
test by half a point, a quarter of the smallest usual drop.
"""

POISONED_SETS: tuple[Role, ...] = ("poisoned_test", "poisoned_valid")


@dataclass(frozen=True)
class CheckedInputs:
    """What was found in the files.

    Attributes:
        layer: whose channels are pruned.
        rank_at: the layer whose mean activation ranks its channels.
        sets: the image sets that were given.
        classes: the names of the net's classes, where they are known.
        remarks: what a user should know of them, in a sentence each.
    """

    layer: str
    rank_at: str
    sets: Mapping[Role, ImageSet]
    classes: ClassNames | None
    remarks: tuple[str, ...]


def check_inputs(
    model: Path,
    sets: Mapping[Role, Path | None],
    choices: Choices,
) -> CheckedInputs:
    """Check all that can be checked without running the net and return what was found.

    Args:
        model: B's file.
        sets: image sets by role, clean validation first; None where a set is not given.
        choices: what the user chose.

    Raises:
        InputError: something is missing, damaged or does not fit.
    """
    description = describe_model(model, architecture=choices.architecture, limits=choices.limits)
    choices.preprocessing.require_channels(description.input_shape[2])
    layer, rank_at = choose_layers(description, layer=choices.layer, rank_at=choices.rank_at)
    _require_channels(description, layer, choices.channels)
    given = {role: path for role, path in sets.items() if path is not None}
    if not choices.allow_same_data:
        _require_different_files(given)
    num_classes, target = description.num_classes, choices.target
    require_target(target, num_classes=num_classes, poisoned="poisoned_test" in given)
    classes = None if choices.classes is None else read_class_names(choices.classes)
    if classes is not None:
        classes.require_number(num_classes)
    opened = open_sets(
        given,
        shape=description.input_shape,
        num_classes={role: label_limit(role, num_classes) for role in given},
        classes=classes,
        pixel_range=choices.preprocessing.pixel_range,
    )
    for role in POISONED_SETS:
        if role in opened:
            labels = opened[role].labels
            require_attack_labels(given[role], labels, target=target, num_classes=num_classes)
    if "finetuning" in choices.repairs:  # It draws marks on them, from dark to bright.
        require_raw(opened["clean_valid"])
    remarks = [remark for images in opened.values() for remark in images.remarks]
    remarks += remark_labels(opened)
    remarks += remark_missing(opened["clean_valid"].labels, num_classes)
    classes = classes or opened["clean_valid"].classes
    return CheckedInputs(layer, rank_at, opened, classes, tuple(remarks))


def _require_channels(description: ModelDescription, layer: str, asked: Sequence[int]) -> None:
    """Refuse to prune more channels than a layer has, where its description says how many."""
    shape = description.shapes.get(layer)
    if shape and shape[-1] is not None:
        where = f"{description.path}: layer `{layer}`"
        require_channels(asked, channels=shape[-1], layer=where)


def label_limit(role: Role, num_classes: int | None) -> int | None:
    """Return what the labels of a set must be below: of poisoned images, class N is one too."""
    return num_classes + 1 if num_classes is not None and role in POISONED_SETS else num_classes


def require_complete(model: Path | None, sets: Mapping[Role, Path | None]) -> None:
    """Raise InputError unless a net comes with both clean sets, or nothing is given at all."""
    given = [role for role, path in sets.items() if path is not None]
    if model is None and given:
        raise given_without(given[0], "model")
    missing = [role for role in ("clean_valid", "clean_test") if role not in given]
    if model is not None and missing:
        raise given_without("model", *missing)


def require_different_data(digests: Mapping[Role, str]) -> None:
    """Raise InputError if a clean set has the content of another, so that a table would lie.

    Args:
        digests: SHA-256 of each set.
    """
    roles: dict[str, Role] = {}
    for role, digest in digests.items():
        if digest in roles:
            raise InputError(
                f"{role} and {roles[digest]} are the same data, expected different sets; "
                "allow it with allow_same_data=True"
            )
        roles[digest] = role


def remark_labels(sets: Mapping[Role, ImageSet]) -> list[str]:
    """Return a sentence on each clean set all of whose images have one label.

    Raises:
        InputError: a clean set has one label and its poisoned counterpart several, as if the two
            were exchanged: their figures would look well and mean nothing.
    """
    remarks = []
    for clean, poisoned in _COUNTERPARTS.items():
        if clean not in sets or len(set(sets[clean].labels.tolist())) > 1:
            continue
        found = f"all {sets[clean].num_images} images of {clean} have label {sets[clean].labels[0]}"
        others = len(set(sets[poisoned].labels.tolist())) if poisoned in sets else 1
        if others > 1:
            raise InputError(
                f"{sets[clean].path}: {found} and those of {poisoned} {others} labels, expected "
                "clean images of several classes: are the two sets exchanged?"
            )
        remarks.append(f"{found}, so it says nothing of other classes")
    return remarks


def remark_missing(labels: IntArray, num_classes: int | None) -> list[str]:
    """Return a sentence on the classes of the net that clean validation has no image of.

    Where it has one class alone, `remark_labels` says more.
    """
    seen = set(labels.tolist())
    missing = [label for label in range(num_classes or 0) if label not in seen]
    if not missing or len(seen) == 1:
        return []
    listed = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
    return [
        f"clean_valid has no image of {len(missing):,} of the net's {num_classes:,} classes "
        f"({listed}): nothing is learnt of these, and the GoodNets may flag all their images"
    ]


def compare_images(
    digests: Mapping[Role, DigestArray], *, allow_same_data: bool = False
) -> list[str]:
    """Return a sentence on each two sets that share images.

    Args:
        digests: of the images of each set.
        allow_same_data: whether sets may share many images.

    Raises:
        InputError: two sets share so many that the figures would lie.
    """
    remarks = []
    for first, second in combinations(digests, 2):
        shared = {
            role: int(np.isin(digests[role], digests[other]).sum())
            for role, other in ((first, second), (second, first))
        }
        if not shared[first]:
            continue
        found = (
            f"{shared[second]} of {len(digests[second])} images of {second} are also in {first}, "
            "pixel for pixel"
        )
        most = max(count / len(digests[role]) for role, count in shared.items())
        if most > _MOST_SHARED and not allow_same_data:
            raise InputError(
                f"{found}, expected different images; allow it with allow_same_data=True"
            )
        remarks.append(found)
    return remarks


def _require_different_files(paths: Mapping[Role, Path]) -> None:
    existing = {name: str(path.resolve()) for name, path in paths.items() if path.exists()}
    require_different_data(existing)
