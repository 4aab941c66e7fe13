"""Prefect servers for one run: started, watched and ended by the process of that run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    get_current_settings,
    temporary_settings,
)

from flows.processes import is_gone
from flows.server_child import ServerChild, start_server

_WATCH_SECONDS = 0.2
_TRIES = 50
_DELIVERY_SECONDS = 10


class Server(NamedTuple):
    """Where a Prefect API is, its password, and the process of this machine that serves it.

    Without a password the one in Prefect's settings is used.
    """

    url: str
    password: str | None = None
    process: str | None = None

    def environment(self) -> dict[str, str]:
        """Return what a process needs to know to use it."""
        known = {"PREFECT_API_URL": self.url}
        return known | ({"PREFECT_API_AUTH_STRING": self.password} if self.password else {})

    def settings(self) -> dict[Any, str]:
        """Return the same for this process."""
        known: dict[Any, str] = {PREFECT_API_URL: self.url}
        return known | ({PREFECT_API_AUTH_STRING: self.password} if self.password else {})


def nothing() -> None:
    """Do nothing meanwhile."""


@contextmanager
def running_server(
    meanwhile: Callable[[], None] = nothing, *, begun: ServerChild | None = None
) -> Iterator[Server]:
    """Start a server on a free loopback port, yield it, and stop it.

    It stops by itself when this process is killed. Ctrl-C does not reach it: the run has to report
    to it that it was stopped.

    Args:
        meanwhile: work to do while it starts.
        begun: one that was begun before Prefect was imported.

    Raises:
        InputError: it cannot start.
    """
    home = get_current_settings().home
    if begun is not None and begun.home != home:
        begun.end()  # Prefect's settings name another folder.
        begun = None
    child = begun or start_server(home)
    try:
        meanwhile()
        child.wait()
        server = Server(child.url, child.password, child.process)
        with temporary_settings(server.settings()), kept_up(server):
            yield server
    finally:
        child.end()


@contextmanager
def kept_up(server: Server) -> Iterator[None]:
    """Replace a server of this machine whose process ends while the block runs.

    The new one has the same port, password and database, so that the run goes on.
    """
    ended = threading.Event()
    children: list[ServerChild] = []
    home = get_current_settings().home

    def watch() -> None:
        process, port = server.process, int(server.url.split(":")[2].partition("/")[0])
        tries = _TRIES
        while tries and not ended.wait(_WATCH_SECONDS):
            if process is None or not is_gone(process):
                continue
            try:
                children.append(ServerChild(port, server.password or "", home))
            except OSError:
                # Threads of the one that was killed may hold its port a little longer than it
                # seems to live. If somebody else has taken it, the run ends at its next call.
                tries -= 1
                continue
            process, tries = children[-1].process, _TRIES

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        _deliver()  # or else Prefect tries for minutes, at exit, to reach a server that is gone
        ended.set()
        watcher.join()
        for child in children:
            child.end()


def _deliver() -> None:
    """Wait until the server has the last states and log lines of the run."""
    EventsWorker.drain_all(timeout=_DELIVERY_SECONDS)
    APILogHandler().flush()
