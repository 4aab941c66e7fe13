"""The command `python -m flows.serve`: the deployments of prefect.yaml, served by one machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, cast

from flows.settings import ROOT, configure_run
from goodnet.command import DONE, Parser, exit_code
from goodnet.errors import InputError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment


def main() -> int:
    """Run what is due, one run at a time, until Ctrl-C; return 2 if no server is up."""
    Parser(
        prog="python -m flows.serve",
        description="Run the scheduled deployments of prefect.yaml on this machine, without a "
        "work pool. Needs a Prefect server: PREFECT_API_URL, or the one of `make ui`.",
    ).parse_args()
    return exit_code(_serve)


def _serve() -> int:
    os.chdir(ROOT)
    configure_run()
    import yaml  # type: ignore[import-untyped]
    from prefect import serve
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    from flows.server import find_announced, mark_crashed_runs

    url = get_current_settings().api.url or find_announced()
    if not url:
        raise InputError("no Prefect server is up: start one with `make ui` or set PREFECT_API_URL")
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    with temporary_settings({PREFECT_API_URL: url}):
        mark_crashed_runs()  # which would keep the next run of their deployment waiting
        serve(*(_deployment(entry) for entry in entries), limit=1)
    return DONE


def _deployment(entry: dict[str, Any]) -> RunnerDeployment:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    from flows.audit import audit
    from flows.repair import repair

    flows: dict[str, Flow[..., Any]] = {"repair": repair, "audit": audit}
    deployment = flows[entry["entrypoint"].rpartition(":")[2]].to_deployment(
        f"{entry['name']}-served",  # not the name of a work pool's deployment, which it would spoil
        schedules=[
            (CronSchedule if "cron" in schedule else IntervalSchedule).model_validate(schedule)
            for schedule in entry["schedules"]
        ],
        parameters=entry["parameters"],
        description=entry["description"],
        concurrency_limit=entry["concurrency_limit"],
    )
    return cast("RunnerDeployment", deployment)


if __name__ == "__main__":
    sys.exit(main())
