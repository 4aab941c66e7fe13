"""The command `python -m flows.serve`: the deployments of prefect.yaml, served by one machine."""

from __future__ import annotations

import asyncio
import copyreg
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from flows.settings import ROOT, configure_run
from goodnet.command import DONE, Parser, exit_code
from goodnet.errors import InputError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.runner import Runner


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is due, one run at a time, until Ctrl-C; return 2 if no server is up."""
    Parser(
        prog="python -m flows.serve",
        description="Run the scheduled deployments of prefect.yaml on this machine, without a "
        "work pool. Needs a Prefect server: PREFECT_API_URL, or the one of `make ui`.",
    ).parse_args(arguments)
    return exit_code(_serve)


def _serve() -> int:
    os.chdir(ROOT)
    configure_run()
    import yaml  # type: ignore[import-untyped]
    from prefect import Flow
    from prefect.runner import Runner
    from prefect.settings import get_current_settings

    from flows.server import connected, find_announced

    if not (get_current_settings().api.url or find_announced()):
        raise InputError("no Prefect server is up: start one with `make ui` or set PREFECT_API_URL")
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    with connected():  # marks killed runs, which would keep the next of their deployment waiting
        # The runner pickles a flow for the process of a run: as its name in our modules.
        copyreg.pickle(Flow, lambda flow: (resolve_name, (_name(flow),)))
        runner = Runner(limit=1)
        for entry in entries:
            _add(runner, entry)
            _say(f"serving {entry['name']}-served")
        _say("Ctrl-C ends it.")
        asyncio.run(_run(runner))
        _say("The schedules are paused until the next start.")
    return DONE


async def _run(runner: Runner) -> None:
    """Run what is due until a signal; a run that is under way is cancelled."""
    loop = asyncio.get_running_loop()
    running = loop.create_task(runner.start())
    stopping: list[asyncio.Task[None]] = []

    def stop() -> None:
        if runner.started:
            stopping.append(loop.create_task(runner.astop()))
        else:
            running.cancel()

    await asyncio.sleep(0)  # The runner sets its handler of SIGTERM, which ends in a traceback.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    with suppress(asyncio.CancelledError):
        await running


def _name(flow: Flow[..., Any]) -> str:
    return f"{flow.fn.__module__}:{flow.fn.__name__}"


def _add(runner: Runner, entry: dict[str, Any]) -> None:
    """Serve one deployment.

    The runner is given the flow itself, so that the server says when a run is due and with which
    parameters, but not which code runs: a deployment's entrypoint, path and pull steps, which
    whoever may write to the server can change, are not read.
    """
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    from flows.audit_models import audit
    from flows.repair import repair

    flows: dict[str, Flow[..., Any]] = {"repair": repair, "audit": audit}
    runner.add_flow(
        flows[entry["entrypoint"].rpartition(":")[2]],
        name=f"{entry['name']}-served",  # not a work pool's, which it would spoil
        schedules=[
            (CronSchedule if "cron" in schedule else IntervalSchedule).model_validate(schedule)
            for schedule in entry["schedules"]
        ],
        parameters=entry["parameters"],
        description=entry["description"],
        concurrency_limit=entry["concurrency_limit"],
    )


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
