"""A repair in a process of its own, which may take only so much time and memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run as this_run
from prefect.settings import get_current_settings
from prefect.states import Pending
from prefect.utilities.callables import get_call_parameters

from flows.page import Page
from flows.paths import sendable_parameters
from flows.repair import repair
from flows.repair_process import OUT_OF_MEMORY
from flows.server import mark_crashed
from goodnet.errors import InputError, printable
from goodnet.reports.audits import Allowance
from tasks import progress
from tasks.auditing import remember_repair
from tasks.cluster import still_wanted

_GOODBYE_SECONDS = 10
_GIGABYTE = 10**9
_SECONDS_BETWEEN_LOOKS = 0.1

_RESERVED = 4 * _GIGABYTE
"""What a process may reserve beyond what it uses: stacks of threads, buffers that stay empty."""


def repair_apart(parameters: dict[str, Any], allowance: Allowance) -> Path:
    """Repair a net in a process of its own; return the folder of the run.

    In Prefect it is a run below that of this flow, as if it had been called here.

    Args:
        parameters: of the flow `repair`, the model among them.
        allowance: what it may take; then it is ended.

    Raises:
        InputError: it could not be repaired, or not within its allowance.
    """
    run = _create_run(parameters)
    try:
        answer = _run_child(run, allowance)
    except BaseException:
        mark_crashed(run, "What started this repair ended before it.")
        raise
    if "error" in answer:
        # Even where it could say so, the server may not have heard of it: both take memory.
        mark_crashed(run, answer["error"])
        raise InputError(answer["error"])
    return Path(answer["run"])


def repair_and_remember(parameters: dict[str, Any], allowance: Allowance, record: Path) -> Path:
    """Repair a net in a process of its own, and remember that this is done.

    Args:
        parameters: of the flow `repair`, the model among them.
        allowance: what it may take.
        record: where `FinishedRepairs` looks for this repair.

    Raises:
        InputError: as `repair_apart`.
    """
    run = repair_apart(parameters, allowance)
    remember_repair(record, run)
    return run


def _create_run(parameters: dict[str, Any]) -> FlowRun:
    """Create the run of the child on the server, below this flow's.

    Runs hang together by a task run that stands for the lower one; its states follow those.
    """
    every = get_call_parameters(repair.fn, (), sendable_parameters(parameters))
    name = printable(f"repair {parameters['model'].name}")
    with get_client(sync_client=True) as client:
        stands_for = client.create_task_run(
            Task(repair.fn, name="repair"), this_run.id, dynamic_key=name, name=name
        )
        return client.create_flow_run(
            repair,
            parameters=repair.serialize_parameters(every),
            name=name,
            state=Pending(),
            parent_task_run_id=stands_for.id,
        )


def _run_child(run: FlowRun, allowance: Allowance) -> dict[str, str]:
    """Return what the child says, or as its error why it ended without saying anything."""
    # Native code that is refused memory may hang, so that what is used is watched from here. The
    # system refuses only a leap between two looks.
    max_bytes = int(allowance.gigabytes * _GIGABYTE) + _RESERVED
    show = "progress" if progress.listeners else "nothing"
    watched, held = os.pipe()  # The child ends with this process, when the pipe closes.
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "flows.repair_process", str(run.id), str(max_bytes), show],
        stdin=watched,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C comes to this process alone, which hands it on.
        env=_environment(),
    )
    os.close(watched)
    try:
        return _watch(child, allowance)
    except BaseException:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GOODBYE_SECONDS)  # It tells the server that it was stopped.
        raise
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            Page(stderr=True).show_cursor()  # which a bar on a terminal has hidden
        os.close(held)


def _environment() -> dict[str, str]:
    """Return what the child reads: the same server as here, but no workers beside it."""
    given = {name: value for name, value in os.environ.items() if name != "GOODNET_DASK"}
    return given | get_current_settings().to_environment_variables(exclude_unset=True)


def _watch(child: subprocess.Popen[str], allowance: Allowance) -> dict[str, str]:
    """Wait until the child ends or takes too much; return what it says, or what there is to say."""
    end = time.monotonic() + allowance.minutes * 60
    wanted = still_wanted()
    watched = psutil.Process(child.pid)
    while time.monotonic() < end:
        with suppress(subprocess.TimeoutExpired):
            output, _ = child.communicate(timeout=_SECONDS_BETWEEN_LOOKS)
            if not output:
                return {"error": _describe_end(child.returncode, allowance)}
            answer: dict[str, str] = json.loads(output)
            return answer
        if _memory(watched) > allowance.gigabytes * _GIGABYTE:
            return {"error": OUT_OF_MEMORY}
        if not wanted():
            raise InputError("its repair was stopped")
    return {
        "error": f"its repair took more than {allowance.minutes:g} minutes and was ended, expected "
        "a smaller model, or a larger --max-minutes-per-model; what is done of it is kept"
    }


def _memory(process: psutil.Process) -> int:
    """Return how many bytes a process and its children use, without mapped files.

    Linux says what of a process's memory is of files; elsewhere those count.
    """
    used = 0
    with suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = one.memory_info()
                used += memory.rss - getattr(memory, "shared", 0)
    return used


def _describe_end(code: int, allowance: Allowance) -> str:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return (
        f"its repair ended {how} and did not say why; native code ends so where it wants more than "
        f"the {allowance.gigabytes:g} GB of --max-gigabytes-per-model"
    )
