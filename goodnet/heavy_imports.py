"""Importing what takes a second or more."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from goodnet.stop_signals import signals_not_lost


@contextmanager
def importing() -> Iterator[None]:
    """Take what is there at the end of this block out of the garbage collector's sight.

    Imports of Prefect and TensorFlow make a million objects that stay. The collector would go
    through them again and again, and once more when the process ends: 3 s of a run of 20 s.

    Raises:
        KeyboardInterrupt: a signal came meanwhile, whatever the import made of that.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        with signals_not_lost():
            yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
