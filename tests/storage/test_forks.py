import os
import subprocess
import sys
import threading
import time

import pytest

from goodnet.storage.forks import CAN_FORK, succeeds

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="forks need Linux")

LIMITS = {"max_seconds": 1, "max_bytes": 2**26, "patience_seconds": 30}


def fail():
    raise ValueError


def compute_for_ever():
    while True:
        pass


def hold_much():
    assert len(bytes(2**27)) == 2**27


@pytest.mark.parametrize("do", [fail, os.abort, compute_for_ever, hold_much])
def test_what_fails_crashes_or_takes_too_much_does_not_succeed(do, capfd):
    assert not succeeds(do, **LIMITS)
    assert capfd.readouterr() == ("", "")


def test_what_succeeds_changes_nothing_here():
    seen = []
    assert succeeds(lambda: seen.append(bytes(2**25)), **LIMITS)
    assert seen == []


def test_what_sleeps_is_waited_for_so_long():
    started = time.monotonic()
    assert not succeeds(lambda: time.sleep(60), **LIMITS | {"patience_seconds": 0.2})
    assert time.monotonic() - started < 30


STOPPED_AT_THE_FORK = """
import os, signal
from goodnet.storage.forks import succeeds

os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
try:
    succeeds(lambda: None, max_seconds=1, max_bytes=2**26, patience_seconds=30)
except KeyboardInterrupt:
    print("stopped")
"""


def test_a_signal_in_what_python_does_at_a_fork_is_not_dropped():
    """It is called by Python's core, which prints what it raises: the lock of logging stayed."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_AT_THE_FORK], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("stopped\n", "")


@pytest.mark.slow
def test_other_threads_may_go_on_meanwhile():
    done = threading.Event()

    def compute():
        while not done.is_set():
            sum(range(100))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        assert all(succeeds(lambda: None, **LIMITS) for _ in range(20))
    finally:
        done.set()
        thread.join()
