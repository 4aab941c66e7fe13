"""Names and numbers as Prefect's pages show them: as text, never as what a page would act on."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from goodnet.errors import printable

_MAX_KEY_LENGTH = 60


def as_markdown(text: str) -> str:
    """Return Markdown that shows `text` as it is: a name is neither a link nor HTML."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", printable(text))


def as_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table whose texts Prefect's pages show as they are.

    One of its two pages takes cells for Markdown and the other does not, so no more is escaped
    than what makes links, images, code and HTML; ordinary names have none of it. An address that
    stands in a name (www.…) may become a link that shows where it leads.
    """
    return {
        name: re.sub(r"([\[\]<>`!])", r"\\\1", value) if isinstance(value, str) else value
        for name, value in row.items()
    }


def markdown_picture(png: bytes, title: str) -> str:
    """Return a picture in Markdown, whole, because a page may not open local files."""
    return f"![{as_markdown(title)}](data:image/png;base64,{base64.b64encode(png).decode()})"


def artifact_key(of: str, what: str) -> str:
    """Return the key of an artifact: all that one net has left under it are one list.

    Args:
        of: name of the net, or of a folder of nets.
        what: the artifact is.
    """
    # Prefect takes small letters, digits and dashes only.
    name = re.sub(r"[^a-z0-9]+", "-", of.lower())[:_MAX_KEY_LENGTH].strip("-")
    return f"{name or 'net'}-{what}"
