"""What `run.json` says about the stages of a run, and computing all of them again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from prefect.tasks import Task

from goodnet.reports.about import StageRun
from tasks.progress import tell_began, tell_ended

StageLog = list[StageRun]
"""Each stage that has ended well, in that order."""

_log: ContextVar[StageLog | None] = ContextVar("stage_log", default=None)


@contextmanager
def logged_stages(*, refresh: bool) -> Iterator[StageLog]:
    """Keep a log of the stages that are called within.

    Args:
        refresh: compute every stage again; else one with a stored result is not run.

    Yields:
        The log, which grows with each stage.
    """
    log: StageLog = []
    token = _log.set(log)
    try:
        with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: refresh}):
            yield log
    finally:
        _log.reset(token)


def tell_stage(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    """Tell whoever listens on this process that a stage begins: the other hook of every stage."""
    tell_began(_name(task, task_run))


def log_stage(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    """Add a stage that has ended well to the log, and say so: the hook of every stage."""
    tell_ended()
    log = _log.get()
    if log is None or task_run.start_time is None:
        return
    seconds = (state.timestamp - task_run.start_time).total_seconds()
    name, ended = _name(task, task_run), str(state.name)
    log.append(StageRun(name, round(seconds, 3), ended, round(_most_memory() / 1e6)))


def _most_memory() -> int:
    """Return the bytes that this process has used at most, mapped files among them."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _name(task: Task[..., Any], task_run: TaskRun) -> str:
    # Prefect makes names such as `load-1a2` where a task has no template for them.
    return task_run.name if isinstance(task.task_run_name, str) else task.name
