"""Temporary folders that are for one process, and go with it or with the next that needs one."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_PREFIX = "goodnet-model-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
_FRESH_SECONDS = 60.0


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new folder that nobody else can read; it is deleted at the end of the block.

    Those of killed processes are deleted at the first call. A lock, which the kernel lets go with
    its process, tells them from those in use, also by containers that share the folder for
    temporary files.
    """
    _remove_leftovers(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(descriptor)


@cache
def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{_PREFIX}*"):
        if not _NAME.fullmatch(path.name):
            continue
        with suppress(OSError):  # It is another user's, or just deleted by another process.
            _remove_unless_used(path)


def _remove_unless_used(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or time.time() - found.st_mtime < _FRESH_SECONDS:
            return  # Its process may be about to lock it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    finally:
        os.close(descriptor)
