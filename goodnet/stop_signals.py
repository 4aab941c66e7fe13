"""The signals that end a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a terminal that closes, unwind the command and end its server.

    Prefect and uvicorn, which handle SIGTERM for a while, hand it on to this handler afterwards;
    SIGHUP goes their way too. One that is ignored, as after `nohup`, stays so.
    """
    number = signal.SIGTERM

    def stop(*_: object) -> None:
        raise Stopped(number)

    def hang_up(*_: object) -> None:
        nonlocal number
        number = signal.SIGHUP
        signal.raise_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python has signals in the main thread alone.
        return
    handlers: dict[signal.Signals, Any] = {signal.SIGTERM: stop, signal.SIGHUP: hang_up}
    before = {one: signal.getsignal(one) for one in handlers}
    for one, handler in handlers.items():
        if before[one] != signal.SIG_IGN:
            signal.signal(one, handler)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
