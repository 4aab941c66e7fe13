"""Paths as parameters of flows: Prefect sends them as UTF-8, but a file name is any bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from pydantic import BeforeValidator

_SCHEME = "file://"


def sendable(path: Path) -> Path | str:
    """Return the path, or its file: URI, which is ASCII, where its name is no UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.absolute().as_uri()
    return path


def _received(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_SCHEME):
        return Path(os.fsdecode(unquote_to_bytes(value.removeprefix(_SCHEME))))
    return value


AnyPath = Annotated[Path, BeforeValidator(_received)]
"""A path, or the `file:` URI of one."""


def sendable_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a flow with paths that Prefect can send."""
    return {
        name: sendable(value) if isinstance(value, Path) else value
        for name, value in parameters.items()
    }
