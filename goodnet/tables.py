"""Tables of text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goodnet.errors import printable

_GAP = "  "
_NUM_NAMES = 2


def format_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the lines of a table: the titles, then the rows.

    The first two columns name things and stand to the left, the others are numbers and stand to
    the right. Nothing is cut off, whatever the width of the terminal.

    Args:
        rows: at least one; cells by title, the same titles in each.
    """
    table = [[*map(printable, cells)] for cells in ([*rows[0]], *(row.values() for row in rows))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [_GAP.join(map(_align, cells, widths, range(len(cells)))).rstrip() for cells in table]


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < _NUM_NAMES else cell.rjust(width)
