"""The process of one repair of an audit; `flows.repair_apart` starts it, and says what it says."""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from flows.processes import end_with_parent
from flows.settings import chosen_heartbeats
from goodnet.command import describe_os_error
from goodnet.stop_signals import stopped_in_order

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

OUT_OF_MEMORY = (
    "its repair takes more memory than it may, expected a smaller model, or a larger "
    "--max-gigabytes-per-model"
)

_MEMORY_ERRORS = ("ResourceExhaustedError", "ArrowMemoryError")
"""TensorFlow's and Arrow's names for it, which are not imported here."""

_SAID_OF_MEMORY = ("allocate", "start new thread", "out of memory", "failed to map segment")
"""What others say where the system refuses them memory: for threads, libraries, buffers."""


def main(run: str, max_bytes: str, show: str) -> None:
    """Run a flow run that the server has, and say what came of it in a line of JSON.

    Args:
        run: its id.
        max_bytes: how much memory this process may reserve.
        show: "progress" to show how far it is, else nothing.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Native code may print what it likes.
        with stopped_in_order(), suppress(KeyboardInterrupt):
            _limit_memory(int(max_bytes))
            json.dump(_repair(UUID(run), shown=show == "progress"), out)


def _limit_memory(max_bytes: int) -> None:
    """Let the system refuse more memory than that; the size of mapped files does not count."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        max_bytes = min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _repair(run: UUID, *, shown: bool) -> dict[str, str]:
    try:
        from prefect.client.orchestration import get_client
        from prefect.flow_engine import run_flow

        from flows.page import Page, Progressing
        from flows.repair import repair
        from tasks import progress

        if shown:
            progress.listeners.append(Progressing(Page(stderr=True)))
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(run)
        with chosen_heartbeats():
            state = cast("State[Any]", run_flow(repair, flow_run=flow_run, return_type="state"))
        result = state.result(raise_on_failure=False)
    except Exception as error:  # whatever it is, the audit goes on with the next net
        result = error
    if isinstance(result, Exception):
        return {"error": _describe(result)}
    return {"run": str(result.folder)}


def _wants_memory(error: BaseException | None) -> bool:
    """Return whether an error, or what it came of, is that the system refused more memory."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ in _MEMORY_ERRORS:
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if any(words in str(error).lower() for words in _SAID_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def _describe(error: Exception) -> str:
    if _wants_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, OSError):
        return describe_os_error(error)
    return str(error) or type(error).__name__


if __name__ == "__main__":
    end_with_parent()
    main(*sys.argv[1:])
