"""Reading files of runs that may be damaged, of another kind, or somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from goodnet.errors import InputError

# Values of another type, numbers out of range, nesting without end: JSON and Parquet hold them all.
_STUMBLES = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError),
    *(OSError, pa.ArrowException),
)

T = TypeVar("T")


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Turn whatever a file that is not a run's stumbles over into an `InputError`."""
    try:
        yield path
    except _STUMBLES as error:
        kind = type(error).__name__
        raise InputError(f"{path}: is damaged or of another kind ({kind}: {error})") from error


def as_text(value: object) -> str:
    """Return a text; raise TypeError if it is none."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} found, expected a text")
    return value


def as_flag(value: object) -> bool:
    """Return true or false; raise TypeError if it is neither."""
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} found, expected true or false")
    return value


def as_whole(value: object) -> int:
    """Return a whole number from 0 on; raise TypeError or ValueError if it is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} found, expected a whole number")
    if value < 0:
        raise ValueError(f"{value} found, expected a number from 0 on")
    return value


def as_number(value: object, *, least: float = 0, most: float) -> float:
    """Return a number in least … most; raise TypeError or ValueError if it is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} found, expected a number")
    if not least <= value <= most:  # NaN is not either
        raise ValueError(f"{value} found, expected a number of {least:g} to {most:g}")
    return value


def as_list(value: object, item: Callable[[object], T]) -> tuple[T, ...]:
    """Return a list whose items `item` takes; raise TypeError if it is none."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{type(value).__name__} found, expected a list")
    return tuple(item(one) for one in value)


def as_texts(value: object) -> Mapping[str, str]:
    """Return texts by name, as of a row of a table; raise TypeError if they are none."""
    return {name: as_text(text) for name, text in as_mapping(value).items()}


def as_mapping(value: object) -> Mapping[str, object]:
    """Return values by name; raise TypeError if they are none."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{type(value).__name__} found, expected values by name")
    return value


def optional(value: object, kind: Callable[[object], T]) -> T | None:
    """Return None for what is not there, and else what `kind` makes of it."""
    return None if value is None else kind(value)
