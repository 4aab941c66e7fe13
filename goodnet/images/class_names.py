"""The names of a net's classes, and the numbers that folders named by class stand for."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from goodnet.errors import InputError
from goodnet.storage.files import parse_json
from goodnet.storage.signatures import SignedFile

_NUMBER = re.compile("(?P<number>[0-9]{1,9})(?P<note>-.*)?", re.DOTALL)
"""A label and perhaps a note, as in Refool's sets: 0-random, 1-random."""

_MOST_BYTES = 2**22
_SHOWN = 5


@dataclass(frozen=True)
class ClassNames:
    """The names of a net's classes.

    Attributes:
        names: by the number of the class in the net's answer; nothing where classes have numbers
            only.
        origin: the file or image set that says so.
    """

    names: tuple[str, ...]
    origin: Path

    def require_number(self, num_classes: int | None) -> None:
        """Raise InputError unless there is a name for each of a net's classes, if any has one.

        Args:
            num_classes: the net's classes N, or None if they are not known yet.
        """
        if self.names and num_classes is not None and len(self.names) != num_classes:
            raise InputError(
                f"{self.origin}: names {len(self.names)} classes ({_listed(self.names)}), but the "
                f"net answers {num_classes}, expected a name for each; list them in the net's "
                "order and give classes=FILE, or name folders by number"
            )


@dataclass(frozen=True)
class NumberedFolders:
    """What the folders of an image set stand for.

    Attributes:
        labels: the label by the name of the folder.
        classes: whose names they have, None where they have numbers.
        remarks: how they were read, in a sentence each, where that is not plain.
    """

    labels: dict[str, int]
    classes: ClassNames | None
    remarks: tuple[str, ...]


def read_class_names(path: Path) -> ClassNames:
    """Read the names of a net's classes: a text with one a line, or a JSON list of texts.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    signed = SignedFile.of(path)
    if signed.size > _MOST_BYTES:
        raise InputError(
            f"{path}: has {signed.size:,} bytes, expected a list of class names, "
            f"{_MOST_BYTES:,} or less"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8, expected one class name a line") from error
    names = _parse_json(path, text) if text.lstrip().startswith("[") else _lines(text)
    if not names:
        raise InputError(f"{path}: is empty, expected one class name a line")
    for number, name in enumerate(names):
        if not name.isprintable() or not name:
            raise InputError(
                f"{path}: class {number} is named `{name}`, expected a text that can be printed"
            )
    return ClassNames(tuple(names), path)


def sort_folders(names: Iterable[str]) -> list[str]:
    """Sort folders by label where all have numbers, else by name, as Keras does.

    The order follows from the names alone: it decides the digest of a set.
    """
    names = sorted(names)
    if all(map(_NUMBER.fullmatch, names)):
        return sorted(names, key=_number)
    return names


def number_folders(
    names: Sequence[str], classes: ClassNames | None, *, where: Path
) -> NumberedFolders:
    """Find the label that each folder of an image set stands for.

    Names that `classes` has are these classes. Else numbers are labels, and a note may follow them
    (0-random). Without `classes`, names are numbered in their order, as
    `keras.utils.image_dataset_from_directory` does it.

    Args:
        names: of the folders, in the order of `sort_folders`.
        classes: the names of the net's classes, None where the folders themselves say them.
        where: the set, for errors.

    Raises:
        InputError: a name is unknown or cannot be printed, or numbers and names are mixed.
    """
    known = () if classes is None else classes.names
    numbers = [name for name in names if _NUMBER.fullmatch(name)]
    if len(numbers) == len(names) and not set(names) & set(known):
        noted = any(_NUMBER.fullmatch(name)["note"] for name in names)  # type: ignore[index]
        remark = f"{where}: the number before the - in the name of a folder is its label"
        labels = {name: _number(name) for name in names}
        return NumberedFolders(labels, None, (remark,) if noted else ())
    for name in names:
        if not name.isprintable():
            raise InputError(
                f"{where / name}: folder is named {name}, expected a class name that can be "
                "printed, or a number"
            )
    if classes is None:
        return _number_by_name(names, numbers, where)
    counts = Counter(known)
    for name in names if known else [name for name in names if name not in numbers]:
        if counts[name] != 1:
            raise InputError(f"{where / name}: folder is named {name}, {_unknown(name, classes)}")
    return NumberedFolders({name: known.index(name) for name in names}, classes, ())


def _number_by_name(names: Sequence[str], numbers: Sequence[str], where: Path) -> NumberedFolders:
    if numbers:
        other = next(name for name in names if name not in numbers)
        raise InputError(
            f"{where}: holds a folder {numbers[0]} and a folder {other}, expected all named by "
            "number or all by class; or list all classes in the net's order and give classes=FILE"
        )
    labels = {name: number for number, name in enumerate(names)}
    listed = _listed([f"{name} is {number}" for name, number in labels.items()])
    remark = f"{where}: classes are numbered in the order of their folders' names: {listed}"
    return NumberedFolders(labels, ClassNames(tuple(names), where), (remark,))


def _unknown(name: str, classes: ClassNames) -> str:
    if not classes.names:
        return (
            f"but classes have numbers in {classes.origin}, expected a number; or list all classes "
            "in the net's order and give classes=FILE"
        )
    if name in classes.names:
        return f"which several classes in {classes.origin} are, expected the number of one"
    return f"expected a class of {classes.origin}: {_listed(classes.names)}"


def _number(name: str) -> int:
    return int(name.partition("-")[0])


def _parse_json(path: Path, text: str) -> list[str]:
    try:
        names = parse_json(text.encode())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is no JSON ({error}), expected a list of class names") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}, expected a list of class names") from error
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: holds more than texts, expected a list of class names")
    return list(names)


def _lines(text: str) -> list[str]:
    # Not splitlines, which also ends lines at characters that may stand in a name.
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 2 * _SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:_SHOWN])}, …, {names[-1]}"
