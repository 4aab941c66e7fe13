"""What the commands over many nets share: their flow, run to its end, and what it comes to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from prefect import Flow
from prefect.client.schemas.objects import State

from flows.page import Page, StageLines
from flows.paths import sendable_parameters
from flows.server import connected
from goodnet.command import DONE, as_options
from goodnet.errors import printable
from tasks.progress import listening


def run_to_its_end(
    flow: Flow[..., Any],
    parameters: Mapping[str, Any],
    result: Path,
    *,
    shown: StageLines | None,
    show: Callable[[Page, Path], None],
) -> int:
    """Run a flow that goes on past nets that fail; return 0, or 1 where one did or broke a limit.

    Args:
        flow: audit or benchmark.
        parameters: of the flow.
        result: the file that it leaves in its folder.
        shown: is told of the stages, if anything is to be printed.
        show: prints what the folder of the result holds.
    """

    def meanwhile() -> None:
        if shown is not None:
            shown.say("starting a temporary Prefect server")

    with listening(shown), connected(meanwhile):
        given = sendable_parameters(dict(parameters))
        state = cast("State[Any]", flow(**given, return_state=True))
    error = state.result(raise_on_failure=False) if state.is_failed() else None
    if not result.is_file() and isinstance(error, Exception):
        raise error
    if shown is not None:
        show(Page(), result.parent)
    if state.is_completed():
        return DONE
    print(f"error: {as_options(printable(str(state.message)))}", file=sys.stderr)  # noqa: T201
    return 1
