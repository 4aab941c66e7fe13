"""Suites of a benchmark: which nets are trained on which images, attacked how, and repaired how."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from goodnet.attacks.poisoning import ATTACKS, Attack, Target
from goodnet.attacks.training import Recipe
from goodnet.attacks.triggers import TRIGGERS, make_trigger, settings_of
from goodnet.choices import ALL_REPAIRS, MOST_FALSE_ALARMS, RepairName
from goodnet.errors import InputError
from goodnet.images.preprocessing import Preprocessing
from goodnet.networks.architectures import ARCHITECTURES
from goodnet.reports.leaderboard import Cell
from goodnet.reports.reading import as_flag, as_list, as_mapping, as_number, as_text, as_whole
from goodnet.storage.files import require_readable

_MAX_BYTES = 1_000_000
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
"""What an attack may be called: its name becomes part of files' names."""

_MOST_PEOPLE, _MOST_IMAGES, _MOST_EPOCHS, _MOST_SEED = 10_000, 10_000, 10_000, 2**31
SETS = ("train", "valid", "test")
"""The image sets of a suite."""

Read = Callable[[object], Any]


@dataclass(frozen=True, kw_only=True)
class RenderedFaces:
    """Faces to be rendered: how many people, and images of each in the three sets."""

    people: int
    train: int
    valid: int
    test: int
    seed: int = 71


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """Image sets in files or folders of the user's."""

    train: Path
    valid: Path
    test: Path


@dataclass(frozen=True, kw_only=True)
class Suite:
    """All that a benchmark is made of.

    Attributes:
        name: of the file.
        sha256: of its content.
        images: rendered or given.
        recipes: how a net of each network is trained.
        attacks: by their names in the suite.
        seeds: each network is trained with each attack once for each of them.
        repairs: the methods that offer repaired nets.
        false_alarms: the share of clean images that a detector may flag, in percent.
    """

    name: str
    sha256: str
    images: RenderedFaces | ImageSets
    recipes: tuple[Recipe, ...]
    attacks: Mapping[str, Attack]
    seeds: tuple[int, ...]
    repairs: tuple[RepairName, ...]
    false_alarms: float

    def cells(self) -> list[Cell]:
        """Return what is to be measured: clean twins before what they are the twins of."""
        return [
            Cell(network=recipe.network, attack=attack, seed=seed)
            for recipe in self.recipes
            for seed in self.seeds
            for attack in (None, *self.attacks)
        ]

    def recipe(self, cell: Cell) -> Recipe:
        """Return how the net of a cell is trained."""
        return next(one for one in self.recipes if one.network == cell.network)

    def attack(self, cell: Cell) -> Attack | None:
        """Return the attack of a cell; None for a clean twin."""
        return None if cell.attack is None else self.attacks[cell.attack]


def read_suite(path: Path, *, images: Path | None = None) -> Suite:
    """Read the TOML file of a suite.

    Args:
        path: the file.
        images: the folder that paths of image sets begin in; that of the file by default.

    Raises:
        InputError: it is none, or something in it is not known.
    """
    if require_readable(path, expected="a suite in TOML") > _MAX_BYTES:
        raise InputError(f"{path}: is larger than {_MAX_BYTES:,} bytes, expected a suite in TOML")
    content = path.read_bytes()
    try:
        found = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no TOML ({error})") from error
    table = partial(_read_table, path)
    read = table(
        "",
        found,
        dict.fromkeys(("images", "training", "networks", "attacks"), as_mapping)
        | {"repair": as_mapping, "seeds": _several(_whole(0, _MOST_SEED))},
    )
    training = table("training", read.get("training", {}), _RECIPE)
    repair = table("repair", read.get("repair", {}), _REPAIR)
    for name in ("images", "networks", "attacks"):
        if not read.get(name):
            raise InputError(f"{path}: has no {name}, expected a table [{name}]")
    return Suite(
        name=path.stem,
        sha256=hashlib.sha256(content).hexdigest(),
        images=_read_images(path, read["images"], images),
        recipes=tuple(
            _read_recipe(path, name, training, given) for name, given in read["networks"].items()
        ),
        attacks={name: _read_attack(path, name, one) for name, one in read["attacks"].items()},
        seeds=read.get("seeds", (1,)),
        repairs=repair.get("repairs", ALL_REPAIRS),
        false_alarms=repair.get("false_alarms", 3.0),
    )


def _read_images(
    path: Path, given: Mapping[str, object], folder: Path | None
) -> RenderedFaces | ImageSets:
    if "people" not in given:
        read = _read_table(path, "images", given, dict.fromkeys(SETS, as_text))
        _require(path, "images", read, SETS)
        return ImageSets(**{name: (folder or path.parent) / read[name] for name in SETS})
    if folder is not None:
        raise InputError(f"{path}: renders faces, expected no folder of images with it")
    counts = dict.fromkeys(SETS, _whole(1, _MOST_IMAGES))
    known = {"people": _whole(1, _MOST_PEOPLE), **counts, "seed": _whole(0, _MOST_SEED)}
    read = _read_table(path, "images", given, known)
    _require(path, "images", read, SETS)
    return RenderedFaces(**read)


def _read_recipe(path: Path, network: str, training: Mapping[str, Any], given: object) -> Recipe:
    where = f"networks.{network}"
    if network not in ARCHITECTURES:
        raise InputError(f"{path}: network is {network}, expected {_one_of(ARCHITECTURES)}")
    read = {**training, **_read_table(path, where, _table_of(path, where, given), _RECIPE)}
    _require(path, where, read, ("epochs",))
    scale = read.pop("pixel_scale", 1.0)
    return Recipe(network=network, preprocessing=Preprocessing(scale=scale), **read)


def _read_attack(path: Path, name: str, given: object) -> Attack:
    where = f"attacks.{name}"
    if not _NAME.fullmatch(name) or name == "clean":
        raise InputError(f"{path}: attack is {name}, expected small letters, digits and dashes")
    read = _read_table(path, where, _table_of(path, where, given), _ATTACK)
    like = read.pop("like", name)
    if like not in ATTACKS:
        raise InputError(f"{path}: {where} is like {like}, expected {_one_of(ATTACKS)}")
    settings = read.pop("trigger", {})
    try:
        attack = replace(ATTACKS[like], **read)
        return (
            replace(attack, trigger=_change_trigger(path, attack, settings)) if settings else attack
        )
    except InputError as error:
        raise InputError(f"{path}: {where}: {error}") from error


def _change_trigger(path: Path, attack: Attack, settings: Mapping[str, object]) -> Any:
    """Return the trigger of an attack with other settings, or another kind of one."""
    given, kinds = dict(settings), {kind: name for name, kind in TRIGGERS.items()}
    own = kinds[type(attack.trigger)]
    kind = str(given.pop("kind", own))
    if "file" in given:
        given["file"] = path.parent / str(given["file"])
    if kind == own:
        known = settings_of(type(attack.trigger))
        values = {name: getattr(attack.trigger, name) for name in known}
        given = {name: one for name, one in values.items() if one is not None} | given
    return make_trigger(kind, given)


def _read_table(
    path: Path, where: str, given: Mapping[str, object], known: Mapping[str, Read]
) -> dict[str, Any]:
    """Return the values of a table in their types.

    Raises:
        InputError: a name is not known, or a value is not of its type.
    """
    read = {}
    for name, value in given.items():
        place = f"{where}.{name}".removeprefix(".")
        if name not in known:
            raise InputError(f"{path}: {place} is not known, expected {_one_of(known)}")
        try:
            read[name] = known[name](value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: {place}: {error}") from error
    return read


def _table_of(path: Path, where: str, given: object) -> Mapping[str, object]:
    if not isinstance(given, Mapping):
        raise InputError(f"{path}: {where} is {given}, expected a table, {{}} for no settings")
    return given


def _require(path: Path, where: str, read: Mapping[str, object], needed: tuple[str, ...]) -> None:
    for name in needed:
        if name not in read:
            raise InputError(f"{path}: {where} has no {name}, expected one")


def _one_of(names: Mapping[str, object]) -> str:
    return f"one of {', '.join(names)}"


def _whole(least: int, most: int) -> Read:
    def read(value: object) -> int:
        number = as_whole(value)
        as_number(number, least=least, most=most)
        return number

    return read


def _number(least: float, most: float) -> Read:
    return lambda value: float(as_number(value, least=least, most=most))


def _several(one: Read) -> Read:
    def read(value: object) -> tuple[Any, ...]:
        found = as_list(value, one)
        if not found or len(set(found)) < len(found):
            raise ValueError(f"{[*found]} found, expected at least one, and none twice")
        return found

    return read


def _target(value: object) -> Target:
    if isinstance(value, str) and value != "next":
        raise ValueError(f"{value} found, expected a class or `next`")
    return "next" if value == "next" else as_whole(value)


def _repair(value: object) -> RepairName:
    for name in ALL_REPAIRS:
        if value == name:
            return name
    raise ValueError(f"{value} found, expected one of {', '.join(ALL_REPAIRS)}")


_RECIPE: Mapping[str, Read] = {
    "epochs": _whole(1, _MOST_EPOCHS),
    "batch_size": _whole(1, _MOST_IMAGES),
    "learning_rate": _number(1e-9, 10),
    "shift": as_whole,
    "pixel_scale": _number(1e-6, 1e6),
}
_REPAIR: Mapping[str, Read] = {
    "repairs": _several(_repair),
    "false_alarms": _number(0.001, MOST_FALSE_ALARMS),
}
_ATTACK: Mapping[str, Read] = {
    "like": as_text,
    "trigger": as_mapping,
    "target": _target,
    "share": _number(0, 1),
    "cover": _number(0, 1),
    "sources": _several(as_whole),
    "margin_cap": as_flag,
}
