"""The table of triggers: a new one is a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from goodnet.attacks.marking import Trigger
from goodnet.attacks.patches import CornerPatch, Overlay, Sticker, Sunglasses
from goodnet.attacks.perturbations import Blend, BlendInPart, LowFrequency, Sinusoid
from goodnet.attacks.warping import Warp
from goodnet.errors import InputError

TRIGGERS: dict[str, type[Trigger]] = {
    "sunglasses": Sunglasses,
    "corner-patch": CornerPatch,
    "sticker": Sticker,
    "overlay": Overlay,
    "blend": Blend,
    "blend-in-part": BlendInPart,
    "sinusoid": Sinusoid,
    "low-frequency": LowFrequency,
    "warp": Warp,
}
"""All triggers by name."""


def make_trigger(name: str, settings: Mapping[str, object]) -> Trigger:
    """Make a trigger from its name in the table and its settings, as a user writes them.

    Args:
        name: in `TRIGGERS`.
        settings: by name; texts and numbers are taken alike.

    Raises:
        InputError: there is no such trigger, or a setting is not one of its own.
    """
    if name not in TRIGGERS:
        raise InputError(f"trigger is {name}, expected one of {', '.join(TRIGGERS)}")
    kind = TRIGGERS[name]
    known = settings_of(kind)
    for setting in settings:
        if setting not in known:
            expected = f"one of {', '.join(known)}" if known else "none: it has no settings"
            raise InputError(f"setting of {name} is {setting}, expected {expected}")
    if "file" in known and "file" not in settings:
        raise InputError(f"trigger {name} has no file, expected a setting file=PICTURE")
    return kind(**{key: _read(key, value, known[key]) for key, value in settings.items()})


def settings_of(kind: type[Trigger]) -> dict[str, Any]:
    """Return the types of a trigger's settings by name."""
    types = get_type_hints(kind)
    return {one.name: types[one.name] for one in fields(kind) if one.init}  # type: ignore[arg-type]


def _read(name: str, value: object, expected: Any) -> Any:
    """Return the value of a setting in its type."""
    if isinstance(expected, UnionType):
        expected, _ = get_args(expected)
    if expected in (int, float, Path):
        try:
            return expected(str(value))
        except ValueError as error:
            kind = "a whole number" if expected is int else "a number"
            raise InputError(f"{name} is {value}, expected {kind}") from error
    return str(value)
