"""The JSON in which a model file describes its network, of bounded size and depth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from goodnet.errors import InputError

_MAX_DEPTH = 100


def parse_json(text: str | bytes, *, where: str, max_bytes: int) -> Any:
    """Parse JSON of bounded size and depth; `where` starts the message of the `InputError`."""
    if len(text) > max_bytes:
        raise InputError(f"{where} has {len(text):,} bytes, expected {max_bytes:,} or less")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error})") from error
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise InputError(f"{where} is nested deeper than {_MAX_DEPTH} levels")
        level = [child for item in level for child in children(item)]
    return value


def children(value: Any) -> list[Any]:
    """Return the objects and lists directly inside a JSON value."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in items if isinstance(child, dict | list)]


def iterate_objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in a JSON value, itself included, each before those in it."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
        pending.extend(reversed(children(item)))


def read_text(item: dict[str, Any], key: str) -> str:
    """Return the text under a key of a JSON object, an empty one if there is none."""
    value = item.get(key)
    return value if isinstance(value, str) else ""


def require_object(value: Any, what: str) -> dict[str, Any]:
    """Return `value` if it is a JSON object; `what` starts the message of the `InputError`."""
    if not isinstance(value, dict):
        raise InputError(f"{what} is {json.dumps(value)[:40]}, expected an object")
    return value


def require_list(value: Any, what: str) -> list[Any]:
    """Return `value` if it is a JSON list; `what` starts the message of the `InputError`."""
    if not isinstance(value, list):
        raise InputError(f"{what} is {json.dumps(value)[:40]}, expected a list")
    return value
