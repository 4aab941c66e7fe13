"""A Prefect server for the length of one run, where none is configured or up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import get_current_settings

_START_SECONDS = 120
_WATCH_SECONDS = 1.0
_DELIVERY_SECONDS = 10


@contextmanager
def find_server() -> Iterator[str]:
    """Yield the address of the configured Prefect API, or of a server for this run alone."""
    configured = get_current_settings().api.url
    if configured:
        yield configured
    else:
        with running_server() as url:
            yield url


@contextmanager
def running_server() -> Iterator[str]:
    """Start a server on a free loopback port, yield its API's address, and stop it.

    It stops by itself when this process is killed.

    Raises:
        RuntimeError: it did not answer in time.
    """
    port = _free_port()
    process = subprocess.Popen([sys.executable, "-m", "flows.server", str(port)])  # noqa: S603
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_for(url, process)
        yield url
        _deliver()
    finally:
        process.terminate()
        process.wait()


def is_up(url: str) -> bool:
    """Return whether a Prefect API answers at the address."""
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _deliver() -> None:
    """Wait until the server has the last states and log lines of the run."""
    EventsWorker.drain_all(timeout=_DELIVERY_SECONDS)
    APILogHandler().flush()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_up(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the Prefect server at {url} did not start")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])


def _serve(port: int) -> None:
    """Serve until the process that started this one is gone."""
    import uvicorn
    from prefect.server.api.server import create_app

    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    app = create_app(ephemeral=True, final=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", lifespan="on")


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
