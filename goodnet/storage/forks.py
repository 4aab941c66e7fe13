"""Forks of this process that do one thing within limits of time and memory, and end."""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import select
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from goodnet.stop_signals import signals_held

CAN_FORK = sys.platform == "linux"
"""Elsewhere a process with threads cannot safely be forked, nor its memory be limited."""


def fork(do: Callable[[], object], *, max_seconds: int, max_bytes: int) -> int:
    """Start a fork that does one thing, and return its id; whoever calls has to wait for it.

    A fork has imported all that this process has, which takes a new one a tenth of a second for
    h5py and seconds for TensorFlow.

    Args:
        do: what it does; the fork ends with code 0 when this returns, else with another.
        max_seconds: of computing; then it is killed.
        max_bytes: of memory more than this process holds.
    """
    with signals_held():  # What a signal raised in Python's own callbacks would leave locks taken.
        with warnings.catch_warnings():
            # Python warns of a fork among threads. What is done in it needs none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            _run(do, max_seconds, max_bytes)
    return child


def _run(do: Callable[[], object], max_seconds: int, max_bytes: int) -> None:
    """Do it in this process, which is the fork, and end."""
    code = 1
    try:
        gc.disable()  # Objects of the parent would close its files and remove its folders.
        faulthandler.disable()  # That it crashes is one of the answers.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        _limit(max_seconds, max_bytes)
        do()
        code = 0
    finally:
        os._exit(code)


def succeeds(
    do: Callable[[], object], *, max_seconds: int, max_bytes: int, patience_seconds: int
) -> bool:
    """Return whether a fork does something without an error, a crash or too much of anything.

    Args:
        do: as for `fork`.
        max_seconds: of computing.
        max_bytes: of memory more than this process holds.
        patience_seconds: how long the fork may take on a busy machine; then it has failed.
    """
    reading, writing = os.pipe()

    def say() -> None:
        do()
        os.write(writing, b"done")

    child = fork(say, max_seconds=max_seconds, max_bytes=max_bytes)
    os.close(writing)
    try:
        # The pipe is closed when the fork ends, whatever it dies of.
        ended, _, _ = select.select([reading], [], [], patience_seconds)
        return bool(ended) and os.read(reading, 4) == b"done"
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _limit(max_seconds: int, max_bytes: int) -> None:
    held_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    memory = held_bytes + max_bytes
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (max_seconds, max_seconds))
