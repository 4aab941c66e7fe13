"""Tables of text: for the terminal, and as CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unicodedata import category, east_asian_width

from goodnet.errors import printable

_GAP = "  "
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # noqa: RUF001
_ON_TOP = ("Mn", "Me")
"""Categories of characters that stand over the one before them."""
_QUOTED = frozenset(',;"\t\r\n')


def format_table(rows: Sequence[Mapping[str, str]], *, num_names: int = 1) -> list[str]:
    """Return the lines of a table: the titles, then the rows.

    The first column names things and stands to the left, the others are to the right; titles of
    several words have a line for each. Nothing is cut off, whatever the width of the terminal.

    Args:
        rows: at least one; cells by title, the same titles in each.
        num_names: how many columns name things.
    """
    titles = [printable(title).split(" ") for title in rows[0]]
    height = max(map(len, titles))
    heads = [*zip(*([""] * (height - len(words)) + words for words in titles), strict=True)]
    table = [*heads, *([*map(printable, row.values())] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    return [
        _GAP.join(
            _align(cell, width, left=column < num_names)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]


def format_csv(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the lines of a CSV table, the titles first, that are safe to open in a spreadsheet.

    Numbers stay numbers and None is empty. Control characters of texts are escaped, and one that
    a spreadsheet would take for a formula gets an apostrophe in front (OWASP, CSV injection).

    Args:
        rows: at least one; cells by title, the same titles in each.
    """
    table = [[*rows[0]], *(row.values() for row in rows)]
    return [",".join(map(_field, cells)) for cells in table]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write what `format_csv` returns to a file, with the ends of lines of RFC 4180."""
    path.write_text("\r\n".join([*format_csv(rows), ""]), "utf-8", newline="")


def format_markdown(rows: Sequence[Mapping[str, str]], *, escape: Callable[[str], str]) -> str:
    """Return a table in Markdown: the first column names things, the others are numbers.

    Args:
        rows: at least one; cells by title, the same titles in each.
        escape: makes Markdown of a text that shows it as it is.
    """
    titles, *cells = ([*map(escape, row)] for row in ([*rows[0]], *(row.values() for row in rows)))
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _field(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, (int, float)):
        return str(cell)
    text = printable(str(cell))
    if text.startswith(_FORMULA):
        text = f"'{text}"
    # Quoted for semicolons too, at which spreadsheets in many countries split a line.
    return '"' + text.replace('"', '""') + '"' if _QUOTED & set(text) else text


def _align(cell: str, width: int, *, left: bool) -> str:
    gap = " " * (width - _width(cell))
    return cell + gap if left else gap + cell


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a Chinese character."""
    return sum(2 if east_asian_width(one) in "WF" else category(one) not in _ON_TOP for one in text)
