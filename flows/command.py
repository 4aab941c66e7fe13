"""What the commands share: their options, and how errors become exit codes."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.settings import DEFAULT_ARTIFACTS
from goodnet.errors import InputError, printable
from goodnet.model_limits import DEFAULT_LIMITS

_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def exit_code(command: Callable[[], int]) -> int:
    """Run a command; return its exit code.

    After one line, it is 2 for what the user can mend and, as shells have it, 128 and the number
    of the signal that stopped it: 130 for Ctrl-C.
    """
    try:
        with _stopped_in_order():
            return command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
    except KeyboardInterrupt as stop:
        print("stopped; the same command goes on from the last stage", file=sys.stderr)  # noqa: T201
        return 128 + (stop.number if isinstance(stop, _Stopped) else signal.SIGINT)
    except ValueError as error:
        if getattr(error, "title", None) != "Settings":  # pydantic's, which is not imported here
            raise
        reason = " ".join(str(error).split())
        where = "PREFECT_… in the environment or Prefect's profile"
        print(f"error: {where} cannot be used: {printable(reason)}", file=sys.stderr)  # noqa: T201
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {printable(where)}{os.strerror(error.errno)}", file=sys.stderr)  # noqa: T201
    return 2


class _Stopped(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a terminal that closes, unwind the command and end its server.

    Prefect and uvicorn, which handle SIGTERM for a while, hand it on to this handler afterwards;
    SIGHUP goes their way too. One that is ignored, as after `nohup`, stays so.
    """
    number = signal.SIGTERM

    def stop(*_: object) -> None:
        raise _Stopped(number)

    def hang_up(*_: object) -> None:
        nonlocal number
        number = signal.SIGHUP
        signal.raise_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python has signals in the main thread alone.
        return
    handlers: dict[signal.Signals, Any] = {signal.SIGTERM: stop, signal.SIGHUP: hang_up}
    before = {one: signal.getsignal(one) for one in handlers}
    for one, handler in handlers.items():
        if before[one] != signal.SIG_IGN:
            signal.signal(one, handler)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def add_sets(group: Any, *, required: bool = False) -> None:
    """Add the options that name image sets and the network of a weights-only file.

    Args:
        group: of the parser.
        required: whether the clean sets have to be given always, or only with a model.
    """
    needed = "required" if required else "required with --model"
    group.add_argument(
        "--clean-valid",
        type=Path,
        required=required,
        metavar="SET",
        help=f"clean images, all that the repair itself sees ({needed})",
    )
    group.add_argument(
        "--clean-test",
        type=Path,
        required=required,
        metavar="SET",
        help=f"other clean images, for evaluation only ({needed})",
    )
    group.add_argument(
        "--poisoned-test",
        type=Path,
        metavar="SET",
        help="images with the trigger under the attacker's label, for evaluation only (default: "
        "none, the attack is not measured)",
    )
    group.add_argument(
        "--poisoned-valid", type=Path, metavar="SET", help="more of them (default: none)"
    )
    group.add_argument(
        "--architecture",
        metavar="NAME",
        help="network of a weights-only file: deepid (default: the one in the file)",
    )


def add_method(group: Any) -> None:
    """Add the options that say how a net is repaired."""
    group.add_argument(
        "--layer",
        metavar="L",
        help="name of the convolution to prune (default: the last one that every path goes "
        "through)",
    )
    group.add_argument(
        "--rank-at",
        metavar="L",
        help="name of the layer whose mean activation ranks the channels (default: the pooling "
        "behind that convolution)",
    )
    group.add_argument(
        "--drops",
        type=_drop,
        nargs="+",
        default=[2.0, 4.0, 10.0],
        metavar="X",
        help="drops of clean validation accuracy to stop at, in percentage points "
        "(default: 2 4 10)",
    )
    group.add_argument(
        "--pixel-scale",
        type=_positive,
        default=1.0,
        metavar="S",
        help="number that divides the pixels, 255 for nets that take 0 to 1 (default: 1)",
    )
    group.add_argument(
        "--allow-same-data",
        action="store_true",
        help="take the same images for validation and for evaluation (default: an error)",
    )
    group.add_argument(
        "--verify",
        choices=("sample", "full"),
        default="sample",
        help="check the saved nets on a sample of every set or on all images (default: sample)",
    )
    group.add_argument(
        "--max-model-bytes",
        type=_whole,
        default=DEFAULT_LIMITS.max_file_bytes,
        metavar="N",
        help="largest file of a model that is opened, in bytes (default: %(default)s)",
    )
    group.add_argument(
        "--max-parameters",
        type=_whole,
        default=DEFAULT_LIMITS.max_parameters,
        metavar="N",
        help="most parameters of a model that is loaded (default: %(default)s)",
    )
    group.add_argument(
        "--refresh",
        action="store_true",
        help="compute everything again (default: what was computed before is taken from the cache)",
    )


def add_place(group: Any) -> None:
    """Add the options that say where files go and how much is printed."""
    group.add_argument(
        "--artifacts",
        type=Path,
        default=DEFAULT_ARTIFACTS,
        metavar="DIR",
        help="folder for runs and cache (default: artifacts/ of this project)",
    )
    group.add_argument(
        "--quiet",
        action="store_true",
        help="print nothing but errors (default: progress and results)",
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {text}, expected a number above 0")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"is {text}, expected a whole number above 0")
    return int(text)


def _drop(text: str) -> float:
    value = _positive(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"is {text}, expected at most 100 points")
    return value
