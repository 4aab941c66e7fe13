"""The Prefect server of a run: the one that is configured or up, or else one for it alone."""

from __future__ import annotations

import json
import os
import platform
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Crashed

from flows.processes import is_gone, name_process
from flows.server_child import ANNOUNCEMENT, ServerChild
from flows.temporary_server import Server, kept_up, nothing, running_server
from goodnet.errors import InputError
from goodnet.storage.files import atomic_path

_ANSWER_SECONDS = 10  # a busy server takes its time
# With the pauses between them 6 seconds for each call. A run makes some more to say that it has
# failed, and is to end within half a minute of its server, unless somebody chose otherwise.
_RETRIES = 2
# A pending run may be one that is to be repeated, and has the labels of the process before.
_BEGUN = [StateType.RUNNING, StateType.CANCELLING]
_UNFINISHED = [state for state in StateType if state not in TERMINAL_STATES]
_HOST = "goodnet.host"
_PROCESS = "goodnet.process"


@contextmanager
def connected(
    meanwhile: Callable[[], None] = nothing, *, begun: ServerChild | None = None
) -> Iterator[None]:
    """Run the flows in this block against a server.

    Runs that killed processes of this machine left unfinished are marked Crashed first.

    Args:
        meanwhile: work to do while a server starts, if one has to.
        begun: the one that starts already, if one has to.

    Raises:
        InputError: the server that is configured does not answer, or answers no more.
    """
    with find_server(meanwhile, begun=begun) as server, _errors_of(server):
        mark_crashed_runs()
        yield


@contextmanager
def find_server(
    meanwhile: Callable[[], None] = nothing, *, begun: ServerChild | None = None
) -> Iterator[Server]:
    """Yield the server that is configured or up, or one for this run, and settings that name it.

    Raises:
        InputError: the one that is configured does not answer, or none can start.
    """
    settings = get_current_settings()
    configured = settings.api.url
    announced = find_announced()
    if begun is not None and (announced or configured):
        begun.end()  # It was not to be known before Prefect was imported.
    if announced and configured in (None, announced.url):
        _bypass_proxies(announced.url)
        with temporary_settings(announced.settings()), kept_up(announced):
            yield announced
    elif configured:
        _bypass_proxies(configured)
        if not is_up(configured):
            raise InputError(
                f"no Prefect server answers at {configured}, which PREFECT_API_URL or Prefect's "
                "profile names: start it, or unset PREFECT_API_URL to do without"
            )
        chosen = "max_retries" in settings.client.model_fields_set
        with temporary_settings({} if chosen else {PREFECT_CLIENT_MAX_RETRIES: _RETRIES}):
            yield Server(configured)
    else:
        _bypass_proxies(None)
        with running_server(meanwhile, begun=begun) as server:
            yield server


@contextmanager
def announced(server: Server) -> Iterator[None]:
    """Let runs of this machine that share the server's database find the server of this process."""
    path = _announcement()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = {"url": server.url, "password": server.password, "host": platform.node()}
    with atomic_path(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(known | {"process": name_process()}), "utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_announced() -> Server | None:
    """Return the server that `make ui` started, if it is up."""
    try:
        known = json.loads(_announcement().read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if known["host"] != platform.node() or is_gone(known["process"]):
        return None
    server = Server(known["url"], known["password"], known["process"])
    return server if is_up(server.url) else None


def label_process(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Label a run that begins with its process, so that later ones can tell if that was killed.

    Prefect's pages show tags but not labels: nobody has to read a process's name.
    """
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(
            flow_run.id, {_HOST: platform.node(), _PROCESS: name_process()}
        )


def mark_crashed_runs() -> None:
    """Mark Crashed the runs of this machine that are unfinished and whose process is gone.

    So are their task runs, and before them, because they are found by the unfinished run alone.
    """
    begun = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_BEGUN)))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=begun)
    for run in runs:
        process = run.labels.get(_PROCESS)
        here = run.labels.get(_HOST) == platform.node()
        if here and isinstance(process, str) and is_gone(process):
            mark_crashed(run, "The process of this run was killed.")


def mark_crashed_below(run: UUID) -> None:
    """Mark Crashed what workers left unfinished below a run: their task runs, and repairs."""
    below = FlowRunFilterParentFlowRunId(any_=[run])
    begun = FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNFINISHED))
    message = "The worker that ran it has ended, or was stopped."
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=below, state=begun)
        )
        for one in runs:
            mark_crashed(one, message)
        _mark_tasks_crashed(client, run, Crashed(message=message))


def mark_crashed(run: FlowRun, message: str) -> None:
    """Mark a run Crashed whose process is gone, and its task runs, where they are unfinished.

    The task run of a flow above, which stands for this run, follows it.
    """
    state: State[None] = Crashed(message=message)
    with get_client(sync_client=True) as client:
        _mark_tasks_crashed(client, run.id, state)
        known = client.read_flow_run(run.id).state
        if known is None or not known.is_final():
            client.set_flow_run_state(run.id, state, force=True)


def _mark_tasks_crashed(client: SyncPrefectClient, run: UUID, state: State[None]) -> None:
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    unfinished = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_UNFINISHED))
    )
    for task_run in client.read_task_runs(flow_run_filter=of_run, task_run_filter=unfinished):
        client.set_task_run_state(task_run.id, state, force=True)


def require_reachable_from(host: str) -> None:
    """Raise InputError if processes of another machine were to use a server of this one alone."""
    url = get_current_settings().api.url or ""
    if _is_here(url) and not _is_loopback(host):
        raise InputError(
            f"workers at {host} cannot reach the Prefect server of this machine alone: start one "
            "that they reach, and set PREFECT_API_URL; for workers here give 127.0.0.1"
        )


def is_up(url: str) -> bool:
    """Return whether a Prefect API answers at the address."""
    opener = urllib.request.build_opener(*_no_proxies(url))
    try:
        # Not over httpx, which reads all certificates of the machine for every client.
        with opener.open(f"{url}/health", timeout=_ANSWER_SECONDS) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, HTTPException, ValueError):
        return False


@contextmanager
def _errors_of(server: Server) -> Iterator[None]:
    """Let what goes wrong between this process and the server end the command in one line."""
    try:
        yield
    except (httpx.TransportError, PrefectHTTPStatusError, ImportError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, PrefectHTTPStatusError):
            refused = error.response.status_code in (401, 403)
            reason = f"{error.response.status_code} {error.response.reason_phrase}"
            reason += ", PREFECT_API_AUTH_STRING has to be its password" if refused else ""
        raise InputError(
            f"the Prefect server at {server.url} cannot be used ({reason}); what was computed is "
            "kept, the same command goes on from there"
        ) from error


def _is_here(url: str) -> bool:
    return _is_loopback(urlsplit(url).hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _no_proxies(url: str) -> list[urllib.request.BaseHandler]:
    return [urllib.request.ProxyHandler({})] if _is_here(url) else []


def _bypass_proxies(url: str | None) -> None:
    """Let this process call its server directly where that is on this machine.

    It calls nobody else. The star also keeps httpx from asking for a SOCKS library.
    """
    if url is None or _is_here(url):
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"


def _announcement() -> Path:
    """Return the file in the folder of Prefect's database that tells where its server is."""
    return get_current_settings().home / ANNOUNCEMENT
