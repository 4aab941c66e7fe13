"""Measuring a foreign model in a process that may take only so much time and memory.

A configuration that passes all checks may still crash, hang or inflate what builds it. The process
is a fork of this one, which has TensorFlow imported already, because that takes five seconds. Fork
and measures take 0.15 s for DeepID and 0.9 s for MobileNetV3Large, which takes 0.7 s to build; in
return nothing need be run to count the answers. What the process says is believed only as far as it
goes: its measures are compared with the limits, and a model that it does not survive is refused.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from goodnet.errors import InputError
from goodnet.model_files.limits import ModelLimits
from goodnet.model_files.model_needs import Needs, measure_needs
from goodnet.storage.forks import CAN_FORK, fork

_PATIENCE = 5
"""How much longer than its own seconds the process may take on a busy machine."""

_IDLE_SECONDS = 5
"""How long the process may go without computing; one that waits for a lock does so for ever."""

_LOOK_SECONDS = 0.1

_MAX_REASON = 300


def measure(config: dict[str, Any], limits: ModelLimits) -> Needs:
    """Return what a model takes, measured in a process of its own where the system can fork.

    Raises:
        InputError: Keras cannot build it, or not within the limits of time and memory.
    """
    answer = _ask_fork(config, limits) if CAN_FORK else _ask_thread(config)
    if "error" in answer:
        raise InputError(f"Keras cannot build the model ({answer['error']})")
    needs = answer["needs"]
    return Needs(**needs | {"answers": tuple(needs["answers"])})


def shorten(error: Exception) -> str:
    """Return the innermost reason of an error; Keras puts configurations and arguments around it.

    It also prints some of it in bold letters.
    """
    reason = str(error).rpartition("Exception encountered: ")[2].partition("Arguments received")[0]
    plain = re.sub(r"\x1b\[\d*m", "", reason)
    return " ".join(plain.split())[:_MAX_REASON] or type(error).__name__


def _answer(config: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"needs": asdict(measure_needs(config))}
    except Exception as error:
        return {"error": shorten(error)}


def _ask_thread(config: dict[str, Any]) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(_answer(config)))
    thread.start()
    thread.join()
    return answers[0]


def _ask_fork(config: dict[str, Any], limits: ModelLimits) -> dict[str, Any]:
    reading, writing = os.pipe()

    def say() -> None:
        with os.fdopen(writing, "w", encoding="utf-8") as out:
            json.dump(_answer(config), out)

    child = fork(say, max_seconds=limits.max_building_seconds, max_bytes=limits.max_building_bytes)
    os.close(writing)
    try:
        text = _read_all(reading, child, limits.max_building_seconds * _PATIENCE)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        _, _, usage = os.wait4(child, 0)
    if text is None and usage.ru_utime + usage.ru_stime < limits.max_building_seconds / 2:
        # It was idle: another thread of ours held a lock when it was forked.
        return _ask_thread(config)
    if not text:
        raise InputError(
            f"Keras cannot build the model in {limits.max_building_seconds} s and "
            f"{limits.max_building_bytes:,} bytes of memory, expected one that it can"
        )
    answer: dict[str, Any] = json.loads(text)
    return answer


def _read_all(pipe: int, child: int, seconds: float) -> bytes | None:
    """Return what comes out of a pipe until it is closed.

    None if that takes longer, or if the child at its other end sleeps and has stopped to compute.
    """
    parts: list[bytes] = []
    now = began = active = time.monotonic()
    computed = _computed(child)
    while now - began < seconds and now - active < _IDLE_SECONDS:
        if select.select([pipe], [], [], _LOOK_SECONDS)[0]:
            part = os.read(pipe, 2**16)
            if not part:
                return b"".join(parts)
            parts.append(part)
        now = time.monotonic()
        before, computed = computed, _computed(child)
        if computed != before or computed is None:
            active = now
    return None


def _computed(child: int) -> int | None:
    """Return how long a sleeping process has computed, in ticks; None if it is not asleep."""
    state, *fields = Path(f"/proc/{child}/stat").read_text("utf-8").rpartition(")")[2].split()
    return int(fields[10]) + int(fields[11]) if state == "S" else None
