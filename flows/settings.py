"""Process-wide settings, in place before Prefect or TensorFlow is imported."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from goodnet.heavy_imports import importing

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_ARTIFACTS = Path(os.environ.get("GOODNET_ARTIFACTS", ROOT / "artifacts"))
DEFAULT_DASK = os.environ.get("GOODNET_DASK") or None
DEFAULT_SUITE = ROOT / "suites" / "faces.toml"


def configure(artifacts: Path) -> None:
    """Import Prefect, after setting what it and TensorFlow read from the environment.

    Args:
        artifacts: absolute; Prefect's records of stage results are kept in its cache.
    """
    set_environment(artifacts)
    # A server that is gone is reported once, not also by every handler that sends it log lines.
    logging.raiseExceptions = False
    # Prefect warns of a folder that it cannot make. With a server elsewhere none is needed; one
    # here says in a line what it misses.
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")
    # It tells at length of settings that it cannot use, for which every command has one line.
    with redirect_stderr(io.StringIO()), importing():
        import prefect  # noqa: F401


def set_environment(artifacts: Path) -> None:
    """Set what Prefect and TensorFlow read from the environment; what the user set stays.

    Args:
        artifacts: absolute; Prefect's records of stage results are kept in its cache.
    """
    results = artifacts / "cache" / "results"
    settings = {
        "PREFECT_LOCAL_STORAGE_PATH": str(results),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(results),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "goodnet,tasks",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Not the user's to choose: the nets' graphs are TensorFlow's.
    os.environ["KERAS_BACKEND"] = "tensorflow"


@contextmanager
def chosen_heartbeats() -> Iterator[None]:
    """Let runs in this block send heartbeats only if somebody has chosen how often.

    By default it is every three minutes, which an automation that asks for one in 90 seconds takes
    for a run that is dead; and the thread that sends them ends up to a second after the run.
    """
    from prefect.settings import (
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        get_current_settings,
        temporary_settings,
    )

    chosen = "heartbeat_frequency" in get_current_settings().flows.model_fields_set
    with temporary_settings({} if chosen else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def prefect_home() -> Path:
    """Return Prefect's folder, before Prefect is imported."""
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser().absolute()


def configure_run() -> None:
    """Configure the process of a deployed run: a step in prefect.yaml, before Prefect starts it."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO")  # in the worker's log
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "ERROR")
    configure(DEFAULT_ARTIFACTS.resolve())
