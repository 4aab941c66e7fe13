"""The command `python -m flows.serve`: a repair or an audit on a schedule, by one machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.checks import check_audit, check_repair
from flows.command import add_allowance, add_artifacts, add_dask, add_limits, add_method, add_sets
from flows.settings import ROOT, configure_run
from goodnet.command import DONE, Parser, exit_code
from goodnet.errors import InputError, given_without

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.runner import Runner

_NIGHTLY = "0 2 * * *"
_ONLY_AUDITS = (
    *("max_false_alarm_rate", "max_clean_accuracy_loss", "max_attack_success_rate"),
    *("max_minutes_per_model", "max_gigabytes_per_model"),
)


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m flows.serve") -> int:
    """Run what is due, one run at a time, until Ctrl-C; return 2 for what can be mended."""
    parameters = vars(_parser(prog).parse_args(arguments))
    return exit_code(lambda: _serve(parameters))


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        description="Repair a net, or every net in a folder, on a schedule on this machine,\n"
        "without a work pool. Needs a Prefect server: PREFECT_API_URL, or the one of `make ui`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Examples:\n"
        "  %(prog)s --models models --clean-valid valid.h5 \\\n"
        "      --clean-test test.h5 --cron '0 */6 * * *'\n"
        "  %(prog)s --model net.keras --clean-valid valid.h5 \\\n"
        "      --clean-test test.h5\n",
    )
    files = parser.add_argument_group("what to repair", "One of the first two.")
    files.add_argument("--model", type=Path, metavar="FILE", help="repair this net (default: none)")
    files.add_argument(
        "--models", type=Path, metavar="DIR", help="audit the nets in this folder (default: none)"
    )
    add_sets(files)
    parser.add_argument(
        "--cron",
        default=_NIGHTLY,
        metavar="TIMES",
        help="when, in the five fields of cron, in UTC (default: '%(default)s', each night at two)",
    )
    add_limits(parser)
    add_method(parser.add_argument_group("how"))
    add_allowance(parser)
    add_dask(parser)
    add_artifacts(parser)
    return parser


def _check(parameters: dict[str, Any]) -> None:
    """Find what can be found wrong before the first run is due."""
    if (parameters["model"] is None) == (parameters["models"] is None):
        raise InputError(
            "what to repair is one of --model FILE and --models DIR, each with --clean-valid and "
            "--clean-test"
        )
    if parameters["models"] is None:
        check_repair(parameters)
    else:
        missing = [name for name in ("clean_valid", "clean_test") if parameters[name] is None]
        if missing:
            raise given_without("models", *missing)
        check_audit(parameters)


def _flow_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the flow that is served, with paths that hold in any folder."""
    audit = parameters["models"] is not None
    no_parameters = {"cron", "model"} if audit else {"cron", "models", *_ONLY_AUDITS}
    return {
        name: value.absolute() if isinstance(value, Path) else value
        for name, value in parameters.items()
        if name not in no_parameters
    }


def _serve(parameters: dict[str, Any]) -> int:
    _check(parameters)
    of_flow = _flow_parameters(parameters)
    os.chdir(ROOT)
    configure_run()
    from prefect.runner import Runner
    from prefect.settings import get_current_settings

    from flows.paths import sendable_parameters
    from flows.server import connected, find_announced
    from tasks.cluster import pickle_by_name

    if not (get_current_settings().api.url or find_announced()):
        raise InputError("no Prefect server is up: start one with `make ui` or set PREFECT_API_URL")
    with connected():  # marks killed runs, which would keep the next of their deployment waiting
        pickle_by_name()  # The runner pickles a flow for the process of a run.
        runner = Runner(limit=1)
        name = _add(runner, sendable_parameters(of_flow), parameters["cron"])
        _say(f"serving {name}: {parameters['cron']} UTC")
        _say("Ctrl-C ends it.")
        asyncio.run(_run(runner))
        _say("The schedule is paused until the next start.")
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


def _add(runner: Runner, parameters: dict[str, Any], cron: str) -> str:
    """Serve the flow with these parameters; return the name of its deployment.

    The runner is given the flow itself, so that the server says when a run is due and with which
    parameters, but not which code runs: a deployment's entrypoint, path and pull steps, which
    whoever may write to the server can change, are not read.
    """
    from prefect.client.schemas.schedules import CronSchedule

    from flows.audit_models import audit
    from flows.repair import repair
    from tasks.markdown import artifact_key

    flow: Flow[..., Any] = audit if "models" in parameters else repair
    what = Path(parameters["models"] if "models" in parameters else parameters["model"])
    try:
        schedule = CronSchedule(cron=cron, timezone="UTC")
    except ValueError as error:
        raise InputError(
            f"--cron is {cron!r}, expected five fields such as {_NIGHTLY!r}"
        ) from error
    name = artifact_key(what.stem, "served")  # not a work pool's, which it would spoil
    runner.add_flow(
        flow, name=name, schedules=[schedule], parameters=parameters, concurrency_limit=1
    )
    return f"{flow.name}/{name}"


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
