"""Telling a process from a later one that got its id."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path


def end_with_parent() -> None:
    """Let this process end when the one that started it has ended, however that came about.

    Nothing is ever written to its standard input, a pipe, whose other end the kernel closes with
    that process. Call it before the imports, which take seconds in which the parent may be killed.
    """

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def name_process(pid: int | None = None) -> str:
    """Return a name of a process, by default this one, that no later one of this machine gets."""
    pid = os.getpid() if pid is None else pid
    return f"{pid}-{_start(pid)}-{_namespace()}"


def is_gone(name: str) -> bool:
    """Return whether the process of this machine that had this name has ended.

    One in another PID namespace, that of a container, cannot be seen and is not called gone.
    """
    pid, start, namespace = name.split("-")
    return namespace == _namespace() and _start(int(pid)) != start


def _start(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; None if there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return "0"  # No /proc on this system: the id alone has to do.
    return None if state == "Z" else fields[18]


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"
