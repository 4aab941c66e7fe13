"""The Prefect server of a run: the one that is configured or up, or else one for it alone."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Crashed

from flows.processes import is_gone, name_process
from goodnet.files import write_json
from goodnet.lasting import lasting

_START_SECONDS = 120
_ANSWER_SECONDS = 10  # a busy server takes its time
_WATCH_SECONDS = 1.0
_DELIVERY_SECONDS = 10
# A pending run may be one that is to be repeated, and has the tags of the process before.
_BEGUN = [StateType.RUNNING, StateType.CANCELLING]
_UNFINISHED = [StateType.PENDING, *_BEGUN]
_HOST_TAG = "host:"
_PROCESS_TAG = "process:"


def _nothing() -> None:
    pass


@contextmanager
def connected(meanwhile: Callable[[], None] = _nothing) -> Iterator[None]:
    """Run the flows in this block against a server.

    Runs that killed processes of this machine left unfinished are marked Crashed first.

    Args:
        meanwhile: work to do while a server starts, if one has to.
    """
    with find_server(meanwhile) as url, temporary_settings({PREFECT_API_URL: url}):
        mark_crashed_runs()
        yield


@contextmanager
def find_server(meanwhile: Callable[[], None] = _nothing) -> Iterator[str]:
    """Yield the API's address of the server that is configured or up, or of one for this run."""
    known = get_current_settings().api.url or find_announced()
    if known:
        yield known
    else:
        with running_server(meanwhile) as url:
            yield url


@contextmanager
def announced(url: str) -> Iterator[None]:
    """Let runs of this machine that share the server's database find the server of this process.

    Args:
        url: of the API.
    """
    path = _announcement()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"url": url, "host": platform.node(), "process": name_process()})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_announced() -> str | None:
    """Return the API's address of the server that `make ui` started, if it is up."""
    try:
        known = json.loads(_announcement().read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if known["host"] != platform.node() or is_gone(known["process"]):
        return None
    return str(known["url"]) if is_up(known["url"]) else None


def tag_process(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tag a run that begins with its process, so that later ones can tell if that was killed."""
    others = [tag for tag in flow_run.tags if not tag.startswith((_HOST_TAG, _PROCESS_TAG))]
    here = [f"{_HOST_TAG}{platform.node()}", f"{_PROCESS_TAG}{name_process()}"]
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=others + here)


def mark_crashed_runs() -> None:
    """Mark Crashed the runs of this machine that are unfinished and whose process is gone.

    So are their task runs, and before them, because they are found by the unfinished run alone.
    """
    begun = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_BEGUN)),
        tags=FlowRunFilterTags(all_=[f"{_HOST_TAG}{platform.node()}"]),
    )
    unfinished_tasks = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_UNFINISHED))
    )
    state: State[None] = Crashed(message="The process of this run was killed.")
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=begun):
            processes = [tag.removeprefix(_PROCESS_TAG) for tag in run.tags if _is_process(tag)]
            if not processes or not all(is_gone(process) for process in processes):
                continue
            of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            for task_run in client.read_task_runs(
                flow_run_filter=of_run, task_run_filter=unfinished_tasks
            ):
                client.set_task_run_state(task_run.id, state, force=True)
            client.set_flow_run_state(run.id, state, force=True)


@contextmanager
def running_server(meanwhile: Callable[[], None] = _nothing) -> Iterator[str]:
    """Start a server on a free loopback port, yield its API's address, and stop it.

    It stops by itself when this process is killed. Ctrl-C does not reach it: the run has to report
    to it that it was stopped.

    Args:
        meanwhile: work to do while it starts.

    Raises:
        RuntimeError: it did not answer in time.
    """
    port = free_port()
    command = [sys.executable, "-m", "flows.server", str(port)]
    process = subprocess.Popen(command, start_new_session=True)  # noqa: S603
    url = f"http://127.0.0.1:{port}/api"
    try:
        meanwhile()
        _wait_for(url, process)
        try:
            # Nobody watches for heartbeats, and their thread takes up to a second to end.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                yield url
        finally:
            _deliver()  # or else Prefect tries for minutes, at exit, to reach a server that is gone
    finally:
        process.terminate()
        process.wait()


def is_up(url: str) -> bool:
    """Return whether a Prefect API answers at the address."""
    try:
        # Not over httpx, which reads all certificates of the machine for every client.
        health = f"{url}/health"
        with urllib.request.urlopen(health, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])


def _announcement() -> Path:
    """Return the file in the folder of Prefect's database that tells where its server is."""
    return get_current_settings().home / "goodnet-server.json"


def _is_process(tag: str) -> bool:
    return tag.startswith(_PROCESS_TAG)


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


def _serve(port: int) -> None:
    """Serve until the process that started this one is gone."""
    with lasting():
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
