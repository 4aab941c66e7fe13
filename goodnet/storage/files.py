"""Files that appear whole or not at all."""

from __future__ import annotations

import filecmp
import json
import os
import platform
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from goodnet.errors import InputError

# Process ids mean nothing on another machine, and a shared folder may be used from several.
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d{1,9})-(?P<host>[0-9a-f]{8})[0-9a-f]{8}\.tmp(\.[^.]*)?")


def file_status(path: Path, *, expected: str = "a file") -> os.stat_result:
    """Return the status of a file that is there, without opening it.

    Args:
        path: the file.
        expected: what it should be, for the message.

    Raises:
        InputError: there is no such file, or it is a folder, a pipe or another device.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from error
    except ValueError as error:  # A NUL in a name.
        raise InputError(f"{path}: cannot be opened ({error})") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is a folder or a device, expected {expected}")
    return status


def require_readable(path: Path, *, expected: str) -> int:
    """Return the size of a file that is there, may be read and is not empty.

    Args:
        path: the file.
        expected: what it should be, for the message.

    Raises:
        InputError: it is not so.
    """
    size = file_status(path, expected=expected).st_size
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from error
    if not size:
        raise InputError(f"{path}: is empty, expected {expected}")
    return size


def require_folder(path: Path) -> None:
    """Raise InputError unless there is such a folder."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the system that name no file name this one, such as those of writing."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it becomes `path` if the block succeeds.

    The temporary keeps the suffix of `path`, because Keras and others choose the format by it.
    Whatever ends the block early, `path` stays as it was and the temporary is removed.
    """
    temporary = _temporary(path)
    try:
        with naming(path):
            yield temporary
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Let a finished temporary become `path`, unless the same bytes stand there already.

    Two runs on one cache may compute the same file. Whoever has opened the first one's takes any
    other file in its place, whatever is in it, for one that was exchanged.
    """
    same = path.is_file() and not path.is_symlink() and filecmp.cmp(temporary, path, shallow=False)
    if not same:
        temporary.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; it becomes `path` if the block succeeds."""
    with scratch_folder(path) as temporary:
        with naming(path):
            yield temporary
        temporary.rename(path)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path` for what is on the way to it."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete from `folder` the temporaries of killed processes of this machine."""
    for path in folder.glob(".*.tmp*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["host"] == _HOST and not _is_running(int(match["pid"])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file of whoever wrote it.

    Raises:
        OSError: there is no such file.
        ValueError: it is no JSON, or nested deeper than any that is written here.
    """
    return parse_json(path.read_bytes())


def parse_json(text: bytes) -> Any:
    """Parse JSON of whoever wrote it.

    Raises:
        ValueError: it is no JSON, or nested deeper than any that is written here.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` atomically, indented and with its keys in the order given.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _temporary(path: Path) -> Path:
    name = f".{path.name}.{os.getpid()}-{_HOST}{secrets.token_hex(4)}.tmp{path.suffix}"
    return path.with_name(name)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return True
