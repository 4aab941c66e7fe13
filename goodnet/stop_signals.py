"""Ctrl-C, and the signals that end a command as it does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_STOPPING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP

_Handler = Callable[[int, "FrameType | None"], Any]


class Stopped(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def signals_not_lost() -> Iterator[None]:
    """Raise what a signal raises in this block, if nowhere else then at its end.

    While modules are imported, signals raise where exceptions are dropped, in destructors and
    callbacks of the import system, and where native modules make an ImportError of them.
    """
    raised: list[BaseException] = []

    def noting(handler: _Handler) -> _Handler:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                raised.append(error)
                raise

        return handle

    try:
        with _handled_by(noting):
            yield
    except Exception as error:
        if raised:
            raise raised[0] from error
        raise
    if raised:
        raise raised[0]


@contextmanager
def signals_held() -> Iterator[None]:
    """Let no signal raise in this block, but at its end."""
    held: list[int] = []
    try:
        with _handled_by(lambda handler: lambda number, frame: held.append(number)):
            yield
    finally:
        for number in held[:1]:
            signal.raise_signal(number)


@contextmanager
def _handled_by(other: Callable[[_Handler], _Handler]) -> Iterator[None]:
    """Put others in the place of the handlers of Ctrl-C and the signals that end a command."""
    handlers = {one: signal.getsignal(one) for one in _STOPPING}
    found = {one: handler for one, handler in handlers.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        found = {}  # Python has signals in the main thread alone.
    for one, handler in found.items():
        signal.signal(one, other(handler))
    try:
        yield
    finally:
        for one, handler in found.items():
            signal.signal(one, handler)


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
