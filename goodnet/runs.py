"""The folder of a run, and where its numbers come from."""

from __future__ import annotations

import os
import platform
import secrets
import subprocess
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from goodnet.errors import InputError
from goodnet.files import remove_leftovers

_PACKAGES = ("keras", "tensorflow", "numpy", "pyarrow", "h5py", "prefect")


@dataclass(frozen=True)
class StageTime:
    """How long a stage took, all times that it ran together.

    Attributes:
        name: of the stage.
        seconds: wall time.
        states: how it ended, with the number of times where it ran more than once.
    """

    name: str
    seconds: float
    states: str


def new_run_folder(artifacts: Path, name: str | None, *, kind: str = "runs") -> Path:
    """Return the folder of a new run, which is not there yet.

    Args:
        artifacts: holds a folder for each kind of run.
        name: of the run, or None for one made of the time.
        kind: folder that the run belongs in.

    Raises:
        InputError: the name is no file name, or a run has it already, or the path of the folder
            is no UTF-8, as the libraries that write Parquet files and nets need it.
    """
    try:
        str(artifacts.resolve()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{artifacts.resolve()}: is no UTF-8, expected a folder whose path is, for artifacts"
        ) from error
    if name is None:
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if name != Path(name).name or name.startswith(".") or not name.isprintable():
        raise InputError(f"run name is {name!r}, expected a plain folder name")
    folder = artifacts / kind / name
    if folder.exists():
        raise InputError(f"{folder}: that run is there already, expected a new name")
    return folder


def clean_up(artifacts: Path) -> None:
    """Delete what killed runs of this machine left unfinished."""
    cache = artifacts / "cache"
    for folder in (artifacts / "runs", cache, *cache.glob("*/")):
        remove_leftovers(folder)


def software_versions() -> dict[str, str]:
    """Return the versions of Python, this machine's system and the packages that compute."""
    here = {"python": platform.python_version(), "system": platform.platform()}
    return here | {package: version(package) for package in _PACKAGES}


def git_commit() -> str | None:
    """Return the commit of the source tree that runs, with a + if it was changed, if it is one."""
    source = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],  # noqa: S607
            cwd=source,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def stage_times(stages: Sequence[Mapping[str, Any]]) -> list[StageTime]:
    """Return the time of each stage in the order in which they first ran.

    Args:
        stages: of run.json: name, seconds and state of each time that a stage ran.
    """
    runs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for stage in stages:
        runs[stage["name"]].append(stage)
    return [
        StageTime(name, sum(stage["seconds"] for stage in times), _states(times))
        for name, times in runs.items()
    ]


def _states(times: Sequence[Mapping[str, Any]]) -> str:
    if len(times) == 1:
        return str(times[0]["state"])
    numbers = Counter(str(stage["state"]) for stage in times)
    return ", ".join(f"{number} × {state}" for state, number in numbers.items())  # noqa: RUF001
