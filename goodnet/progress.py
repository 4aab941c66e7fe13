"""How far long work is, told to whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Is called with the numbers of images done and in all."""


def silent(done: int, total: int) -> None:
    """Tell nobody."""
