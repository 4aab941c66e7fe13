"""The folder of a run, the names of its files, and where its numbers come from."""

from __future__ import annotations

import atexit
import fcntl
import os
import platform
import secrets
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from goodnet.errors import InputError
from goodnet.storage.files import remove_leftovers

PRUNING = "pruning"
"""The method whose files need no other name."""

GOODNET_FILE, REPAIRED_FILE = "goodnet.keras", "repaired.keras"
"""The nets to use of a run, which its sentences name too."""

_MAX_NAME_BYTES = 150  # those of temporaries and of flows in Prefect are longer
_MIN_LOCK_SECONDS = 60
_reserved: dict[Path, int] = {}  # open files by the path of the lock
_PACKAGES = ("keras", "tensorflow", "numpy", "pyarrow", "h5py", "prefect")


@dataclass(frozen=True)
class RunFolder:
    """The names of all files of a run.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def results(self) -> Path:
        """The rates of B and of each checkpoint."""
        return self.path / "results.json"

    @property
    def table(self) -> Path:
        """The rates once more, for spreadsheets."""
        return self.path / "results.csv"

    @property
    def about(self) -> Path:
        """What was given, with what it ran, and how long it took."""
        return self.path / "run.json"

    @property
    def classes(self) -> Path:
        """The names of B's classes, where they are known, as repairs and `classify` take them."""
        return self.path / "classes.json"

    @property
    def sweep(self) -> Path:
        """The counts of every set at every step."""
        return self.path / "sweep.parquet"

    @property
    def scores(self) -> Path:
        """The scores of every image of every set."""
        return self.path / "scores.parquet"

    @property
    def charts(self) -> Path:
        """All charts of the page, kept in the cache alone."""
        return self.path / "charts.json"

    @property
    def curve(self) -> Path:
        """One of them as a picture, kept in the cache alone."""
        return self.path / "curve.png"

    @property
    def calibrated(self) -> Path:
        """The calibrated GoodNet, the one to use."""
        return self.path / GOODNET_FILE

    @property
    def repaired(self) -> Path:
        """The repaired net to use, where there is one."""
        return self.path / REPAIRED_FILE

    @property
    def model_card(self) -> Path:
        """What whoever is handed that GoodNet should know."""
        return self.path / "MODEL_CARD.md"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """The folder of the nets B'."""
        return self.path / "checkpoints"

    def b_prime(self, method: str, drop: float | None, *, channels: int = 0) -> Path:
        """B' of a checkpoint; that of pruning has the name that it always had.

        Args:
            method: the repair.
            drop: its budget in points; None for a checkpoint that was asked for by its channels.
            channels: how many it prunes.
        """
        name = "b_prime" if method == PRUNING else method
        return self.checkpoints / f"{name}_{_label(drop, channels)}.keras"

    def goodnet(self, drop: float | None, *, channels: int = 0) -> Path:
        """G of a checkpoint of pruning, as its B'; no other method's has a file."""
        return self.path / f"goodnet_{_label(drop, channels)}.keras"


def _label(drop: float | None, channels: int) -> str:
    """Return what file names have of a checkpoint: 02, 10, 2.5, 45_channels."""
    return f"{channels}_channels" if drop is None else f"{drop:02g}"


def new_run_folder(artifacts: Path, name: str | None, *, kind: str = "runs") -> Path:
    """Return the folder of a new run, which is not there yet.

    Args:
        artifacts: holds a folder for each kind of run; it need not be there yet.
        name: of the run, or None for one made of the time.
        kind: folder that the run belongs in.

    Raises:
        InputError: the name is no file name, a run has it already, files stand where folders have
            to be, or the path is no UTF-8.
    """
    if name is None:
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
    if name != Path(name).name or name.startswith(".") or not name.isprintable():
        raise InputError(f"run name is {name!r}, expected a plain folder name")
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        raise InputError(
            f"run name has {len(os.fsencode(name))} bytes, expected at most {_MAX_NAME_BYTES}"
        )
    folder = artifacts / kind / name
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:  # stored with a run in Prefect's database, which is text
        raise InputError(f"{folder}: is no UTF-8, expected a folder with another name") from error
    if os.path.lexists(folder):
        raise InputError(f"{folder}: that run is there already, expected a new name")
    for place in (folder.parent, *folder.absolute().parents, artifacts / "cache"):
        if os.path.lexists(place) and not place.is_dir():
            raise InputError(f"{place}: is no folder, expected one for what runs leave")
    return folder


def reserve_run_folder(artifacts: Path, name: str | None, *, kind: str = "runs") -> Path:
    """Return the folder of a new run, whose name no other process gets until this one ends.

    The name is reserved by a lock of the operating system, so that a killed run frees it, on any
    machine. A process may reserve its own name again: its command does, and then its flow.

    Args:
        artifacts: holds a folder for each kind of run.
        name: of the run, or None for one made of the time.
        kind: folder that the run belongs in.

    Raises:
        InputError: as `new_run_folder`, the folder may not be written, or another process has the
            name.
        OSError: the folder cannot be made.
    """
    folder = new_run_folder(artifacts, name, kind=kind)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(folder.parent, os.W_OK):
        raise InputError(f"{folder.parent}: may not be written, expected a folder that may")
    if name is None:  # nobody else makes this name, and an audit of many nets makes many
        return folder
    lock = folder.resolve().with_name(f".{folder.name}.lock")
    if lock not in _reserved:
        held = _take(lock)
        if held is None:
            raise InputError(f"{folder}: another run is about to write it, expected a new name")
        _reserved[lock] = held
    if folder.exists():  # its run has ended between the two looks
        raise InputError(f"{folder}: that run is there already, expected a new name")
    return folder


def clean_up(artifacts: Path) -> None:
    """Delete what killed runs of this machine left unfinished."""
    cache = artifacts / "cache"
    kinds = (artifacts / kind for kind in ("runs", "audits", "benchmarks"))
    for folder in (*kinds, cache, *cache.glob("*/")):
        remove_leftovers(folder)
    for lock in artifacts.resolve().glob("*/.*.lock"):
        _remove_old(lock)


def _remove_old(lock: Path) -> None:
    """Delete a lock that nobody has, but not one that somebody is about to take."""
    # Locks of other users, and those that their owners delete meanwhile, are none of ours.
    with suppress(OSError):
        if lock in _reserved or time.time() - lock.stat().st_mtime < _MIN_LOCK_SECONDS:
            return
        held = _take(lock)
        if held is not None:
            _release(lock, held)


def _take(lock: Path) -> int | None:
    """Return the open file of a lock that is now this process's; None if another one has it."""
    while True:
        number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            return None
        # Whoever had it may have deleted the file after it was opened here: then it locks nothing.
        if os.fstat(number).st_nlink:
            return number
        os.close(number)


def _release(lock: Path, held: int) -> None:
    lock.unlink(missing_ok=True)
    os.close(held)


@atexit.register
def _release_all() -> None:
    for lock, held in _reserved.items():
        _release(lock, held)


def software_versions() -> dict[str, str]:
    """Return the versions of Python, this machine's system and the packages that compute."""
    here = {"python": platform.python_version(), "system": platform.platform()}
    # The library alone is of use without Prefect.
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            here[package] = version(package)
    return here


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
