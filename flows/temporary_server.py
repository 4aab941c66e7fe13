"""Prefect servers for one run: started, watched and ended by the process of that run."""

from __future__ import annotations

import os
import platform
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)

from flows.password import new_password
from flows.processes import is_gone, name_process
from goodnet.errors import InputError

_HOST = "127.0.0.1"
_START_SECONDS = 120
_WATCH_SECONDS = 0.2
_TRIES = 50
_DELIVERY_SECONDS = 10
_GOODBYE_SECONDS = 5
_REASON_BYTES = 100_000
_NOTES = "goodnet-servers"
_ERROR = re.compile(r"[\w.]*(Error|Exception): ")


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
def running_server(meanwhile: Callable[[], None] = nothing) -> Iterator[Server]:
    """Start a server on a free loopback port, yield it, and stop it.

    It stops by itself when this process is killed. Ctrl-C does not reach it: the run has to report
    to it that it was stopped.

    Args:
        meanwhile: work to do while it starts.

    Raises:
        InputError: it cannot start.
    """
    home = get_current_settings().home
    end_leftovers(home)
    child = _Child(0, new_password(), home)
    try:
        meanwhile()
        child.wait()
        # Nobody watches for heartbeats, and their thread takes up to a second to end.
        settings = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, **child.server.settings()}
        with temporary_settings(settings), kept_up(child.server):
            yield child.server
    finally:
        child.end()


@contextmanager
def kept_up(server: Server) -> Iterator[None]:
    """Replace a server of this machine whose process ends while the block runs.

    The new one has the same port, password and database, so that the run goes on.
    """
    ended = threading.Event()
    children: list[_Child] = []
    home = get_current_settings().home

    def watch() -> None:
        process, port = server.process, int(server.url.split(":")[2].partition("/")[0])
        tries = _TRIES
        while tries and not ended.wait(_WATCH_SECONDS):
            if process is None or not is_gone(process):
                continue
            try:
                children.append(_Child(port, server.password or "", home))
            except OSError:
                # Threads of the one that was killed may hold its port a little longer than it
                # seems to live. If somebody else has taken it, the run ends at its next call.
                tries -= 1
                continue
            process, tries = children[-1].server.process, _TRIES

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


class _Child:
    """A server's process. Connections to its port wait until it is ready."""

    def __init__(self, port: int, password: str, home: Path) -> None:
        self._home = home
        with socket.socket() as ours:
            # Also of the first: its half-closed connections, which have what it has, would keep the
            # port from the one that replaces it, for a minute. While one listens nobody else can.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ours.bind((_HOST, port))
            # Now, not when it is ready: no other user of the machine can take the port before it.
            ours.listen()
            address = f"http://{_HOST}:{ours.getsockname()[1]}"
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "flows.server_process", str(ours.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
                pass_fds=[ours.fileno()],
                env=os.environ
                | {
                    "PREFECT_HOME": str(home),
                    "PREFECT_SERVER_API_AUTH_STRING": password,
                    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
                },
            )
        self._note = _note(home, self._process.pid)
        self.server = Server(f"{address}/api", password, name_process(self._process.pid))

    def wait(self) -> None:
        """Wait until it answers."""
        output = self._process.stdout
        if output is None:
            raise RuntimeError("the server's output goes nowhere")
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            ready = selector.select(_START_SECONDS) and output.readline()
        if ready != b"ready\n":
            raise InputError(
                f"the Prefect server of this run could not start ({self._reason()}); its database "
                f"is in {self._home}, PREFECT_HOME chooses another folder"
            )

    def end(self) -> None:
        with self._process:  # closes its pipes
            self._process.terminate()
            try:
                self._process.wait(_GOODBYE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._errors.close()
        with suppress(OSError):  # It may never have come to be, and is cleaned up otherwise.
            self._note.unlink()

    def _reason(self) -> str:
        """Return the last line that it has written that names an error."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _REASON_BYTES))
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = [line for line in lines if line.strip()]
        errors = [line for line in said if _ERROR.match(line)]  # Explanations may follow it.
        return (errors or said or ["it did not say why"])[-1]


def _note(home: Path, pid: int) -> Path:
    """Write down which process serves for this one, for whoever comes after a kill."""
    note = home / _NOTES / f"{name_process()}_{name_process(pid)}_{platform.node()}"
    with suppress(OSError):  # A full disk is reported by the server, which says more.
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        note.touch()
    return note


def end_leftovers(home: Path) -> None:
    """End the servers of runs that were killed, if they did not end by themselves."""
    for note in (home / _NOTES).glob("*_*_*"):
        of, server, host = note.name.split("_", 2)
        if host != platform.node() or not is_gone(of):
            continue
        if not is_gone(server):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(server.partition("-")[0]), signal.SIGKILL)
        note.unlink(missing_ok=True)


def _deliver() -> None:
    """Wait until the server has the last states and log lines of the run."""
    EventsWorker.drain_all(timeout=_DELIVERY_SECONDS)
    APILogHandler().flush()
