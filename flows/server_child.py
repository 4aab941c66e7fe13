"""The process of a Prefect server for one run, which may begin before that run imports Prefect."""

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.password import new_password
from flows.processes import is_gone, name_process
from flows.settings import configure, prefect_home, set_environment
from goodnet.errors import InputError

ANNOUNCEMENT = "goodnet-server.json"
"""The file in Prefect's folder that tells where its server is."""

_HOST = "127.0.0.1"
_START_SECONDS = 120
_GOODBYE_SECONDS = 5
_REASON_BYTES = 100_000
_NOTES = "goodnet-servers"
_ERROR = re.compile(r"[\w.]*(Error|Exception): ")


@contextmanager
def begun_server(artifacts: Path) -> Iterator[ServerChild | None]:
    """Begin a server for `flows.server.connected`, and import Prefect as `configure` does.

    The server takes two seconds to start, and this process half of that to import Prefect. None is
    begun where Prefect's settings or an announcement may name one that is up: which of them counts
    is known only after that.

    Args:
        artifacts: absolute, as for `configure`.
    """
    set_environment(artifacts)
    home = prefect_home()
    named = "PREFECT_API_URL" in os.environ or any(
        (home / name).exists() for name in (ANNOUNCEMENT, "profiles.toml")
    )
    child = None if named else start_server(home)
    try:
        configure(artifacts)
        yield child
    finally:
        if child is not None:
            child.end()


def start_server(home: Path) -> ServerChild:
    """Start a server on a free port, after what killed runs may have left has ended."""
    end_leftovers(home)
    return ServerChild(0, new_password(), home)


class ServerChild:
    """A server's process. Connections to its port wait until it is ready.

    Attributes:
        home: Prefect's folder.
        url: of the API.
        password: what it asks for.
        process: its name, as `flows.processes` gives it.
    """

    def __init__(self, port: int, password: str, home: Path) -> None:
        self.home = home
        self.password = password
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
                    # Runs use no blocks of Prefect's. To register them it imports all of its
                    # plugins, Dask's among them: 0.3 s. The server of `make ui` does it.
                    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
                    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
                },
            )
        self._note = _note(home, self._process.pid)
        self.url = f"{address}/api"
        self.process = name_process(self._process.pid)

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
                f"is in {self.home}, PREFECT_HOME chooses another folder"
            )

    def end(self) -> None:
        """End it, if it has not ended."""
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
