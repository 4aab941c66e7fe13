"""Running stages one after another, and what `run.json` says about each."""

from __future__ import annotations

import inspect
import logging
import time
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from prefect.tasks import Task

from tasks.records import Record

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R", bound=Record)


@dataclass
class Stages:
    """Runs stages and keeps for each its name, wall time in seconds and state.

    `refresh` computes everything again; else a stage with a stored result is not run.
    """

    refresh: bool
    log: list[dict[str, Any]] = field(default_factory=list)

    def run(self, stage: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one stage and return its record; what it raises is raised here."""
        began = time.perf_counter()
        record, state = self._call(stage, self.refresh, *args, **kwargs)
        if not isinstance(record, Record):
            logger.warning("the stored result of %s is no record, computing it again", stage.name)
            record, state = self._call(stage, True, *args, **kwargs)
        seconds = round(time.perf_counter() - began, 3)
        self.log.append(
            {"name": _run_name(stage, args, kwargs), "seconds": seconds, "state": state}
        )
        return record

    def _call(
        self, stage: Task[P, R], refresh: bool, /, *args: Any, **kwargs: Any
    ) -> tuple[R, str]:
        ready = stage.with_options(refresh_cache=refresh)
        state = ready(*args, **kwargs, return_state=True)
        return state.result(), str(state.name)


def _run_name(stage: Task[..., Any], args: Any, kwargs: Any) -> str:
    """Return what the Prefect UI calls this run of the stage."""
    if not isinstance(stage.task_run_name, str):
        return stage.name
    return stage.task_run_name.format(**inspect.signature(stage.fn).bind(*args, **kwargs).arguments)
