"""What the commands over many nets share: the flow, run to its end, and its work on each net."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prefect import Flow, task
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as this_run

from flows.page import Page, StageLines
from flows.paths import sendable_parameters
from flows.server import connected, mark_crashed_below, require_reachable_from
from flows.server_child import ServerChild
from flows.settings import DEFAULT_DASK, chosen_heartbeats, configure
from goodnet.command import DONE, as_options
from goodnet.errors import printable
from tasks.caching import read_records_alone
from tasks.cluster import Cluster, require_source, source_digest
from tasks.progress import listening, tell_began

if TYPE_CHECKING:
    from prefect_dask.task_runners import PrefectDaskFuture

Promise = Callable[[], Any]
"""Waits for what comes of some work and returns it."""

Submit = Callable[..., Promise]
"""Takes the name of a net, a function of a module, and its arguments."""


def run_to_its_end(
    flow: Flow[..., Any],
    parameters: Mapping[str, Any],
    result: Path,
    *,
    shown: StageLines | None,
    show: Callable[[Page, Path], None],
    begun: ServerChild | None,
) -> int:
    """Run a flow that goes on past nets that fail; return 0, or 1 where one did or broke a limit.

    Args:
        flow: audit or benchmark.
        parameters: of the flow.
        result: the file that it leaves in its folder.
        shown: is told of the stages, if anything is to be printed.
        show: prints what the folder of the result holds.
        begun: the Prefect server that starts already, if one has to.
    """

    def meanwhile() -> None:
        if shown is not None:
            shown.say("starting a temporary Prefect server")

    with listening(shown), connected(meanwhile, begun=begun), chosen_heartbeats():
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


@contextmanager
def submitting(dask: str | None, *, artifacts: Path) -> Iterator[Submit]:
    """Yield what has work on a net done: on Dask from then on, else when its result is asked for.

    Not the flow's own task runner, which would have to be known before the flow's parameters are.

    Args:
        dask: what a flow was given; else GOODNET_DASK.
        artifacts: folder of runs and cache.

    Raises:
        InputError: the cluster cannot be used.
        ConnectionError: it is gone.
    """
    chosen = dask or DEFAULT_DASK
    if not chosen:
        yield lambda name, function, *arguments: partial(function, *arguments)
        return
    cluster = Cluster.parse(chosen)
    if cluster.address is not None:
        require_reachable_from(cluster.host)
    futures: list[PrefectDaskFuture[Any]] = []
    try:
        with cluster.runner(artifacts) as runner:

            def submit(name: str, function: Callable[..., Any], *arguments: Any) -> Promise:
                work = {"function": function, "arguments": arguments, "name": printable(name)}
                work |= {"artifacts": artifacts, "source": source_digest()}
                futures.append(runner.submit(work_on_net, work))
                return partial(_wait, futures[-1], name, cluster)

            try:
                yield submit
            finally:
                runner.client.cancel([one.wrapped_future for one in futures], force=True)
    finally:
        # Of a worker that was killed, or that had no time to say that it was stopped.
        mark_crashed_below(this_run.id)


@task(name="net", task_run_name="{name}", persist_result=False)
def work_on_net(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    name: str,
    artifacts: Path,
    source: str,
) -> Any:
    """Work on one net, in the process of a worker."""
    require_source(source)
    configure(artifacts)
    read_records_alone()
    return function(*arguments)


def _wait(future: PrefectDaskFuture[Any], name: str, cluster: Cluster) -> Any:
    tell_began(printable(f"{name} on Dask"))
    with cluster.errors():
        return future.result()
