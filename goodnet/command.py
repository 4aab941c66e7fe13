"""What all commands share: how errors become exit codes, and types of their arguments."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TextIO

from goodnet.errors import InputError, printable
from goodnet.images.preprocessing import CHANNEL_ORDERS, PREPROCESSING_NAMES, RAW
from goodnet.stop_signals import Stopped, stopped_in_order
from goodnet.storage.disk import describe_free

DONE, MENDABLE = 0, 2
"""Exit codes."""

_SIGNALLED = 128
"""What shells add to the number of the signal that ended a command: 130 for Ctrl-C."""

FLOAT32 = 1e-37, 1e38
"""Numbers between these stay above 0 and finite where nets compute with them."""

_NOT_OWNERS = 0o077
"""What a umask may take away: not a command's own right to read and write what it makes."""

_ARGUMENT = (
    r"(allow_same_data|architecture|channel_order|classes|min_clean_accuracy|pixel_mean|pixel_range"
    r"|pixel_scale|pixel_std|preprocessing)="
    r"(\"\w+\"|\([-\w.+, ]+\)|[\w.+-]*\w)"
)
_ADVICE = re.compile(rf"\b(give|with) ({_ARGUMENT}(?:, {_ARGUMENT})*)")
"""How the library advises values for its arguments."""

_GIVEN_WITHOUT = re.compile(r"^(\w+) is given without (\w+(?: and \w+)*), which it needs$")
"""What `goodnet.errors.given_without` says."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def exit_code(command: Callable[[], int], *, stopped: str = "stopped") -> int:
    """Run a command; return its exit code.

    After one line, it is 2 for what the user can mend and, as shells have it, 128 and the number
    of the signal that stopped it: 130 for Ctrl-C. Whatever the operating system refuses is the
    user's to mend: a disk, a right, a file that is not what it should be.

    Args:
        command: does all the work and returns its own exit code.
        stopped: what to say when a signal stops it.
    """
    _provide_streams()
    os.umask(os.umask(0) & _NOT_OWNERS)
    try:
        _require_current_folder()
        with stopped_in_order():
            code = command()
        _write_out()
        return code
    except InputError as error:
        _say(f"error: {as_options(str(error))}")
    except KeyboardInterrupt as stop:
        _say(stopped)
        return _SIGNALLED + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    except BrokenPipeError:
        return DONE  # whoever read the output has seen enough
    except OSError as error:
        _say(f"error: {describe_os_error(error)}")
    except ValueError as error:
        # One of pydantic's, which is not imported here, about a class of Prefect's settings.
        if not getattr(error, "title", "").endswith("Settings"):
            raise
        reason = printable(" ".join(str(error).split()))
        _say(f"error: PREFECT_… in the environment or Prefect's profile cannot be used: {reason}")
    except MemoryError:
        _say("error: there is not enough memory, expected a machine with more of it")
    finally:
        _drop_unwritten()
    return MENDABLE


def as_options(message: str) -> str:
    """Return a message of the library with arguments that it names as options of a command.

    `give pixel_scale=255` becomes `give --pixel-scale 255`, and so does what was given without
    what it needs.
    """
    found = _GIVEN_WITHOUT.match(message)
    if found:
        needed = " and ".join(map(_option, found[2].split(" and ")))
        return f"{_option(found[1])} is given without {needed}, which it needs"
    return _ADVICE.sub(_as_option, message)


def _option(argument: str) -> str:
    return f"--{argument.replace('_', '-')}"


def _as_option(found: re.Match[str]) -> str:
    options = [found[1]]
    for name, value in re.findall(_ARGUMENT, found[2]):
        options.append(_option(name))
        options += [] if value == "True" else [re.sub('[",()]', "", value)]
    return " ".join(options)


def describe_os_error(error: OSError) -> str:
    """Return one printable line: the file, what the system says, and how full a full disk is."""
    line = error.strerror or str(error) or type(error).__name__
    given = error.filename2 or error.filename
    if isinstance(given, (str, bytes)):  # not where an open file was given by its number
        file = os.fsdecode(given)
        line = f"{file}: {line}"
        if error.errno in _FULL and Path(file).is_absolute():
            line += f"; {describe_free(Path(file))}"
    return str(InputError(line))


def silence(stream: TextIO) -> None:
    """Let a stream that nobody can read any more go nowhere, so that the work goes on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Parser(argparse.ArgumentParser):
    """A parser that guesses what mistyped words were to be.

    Its complaints are safe to print: a shell's `*` puts names of files into them.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse what is known; keep the words for complaints about them."""
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the message, a guess and where help is, and exit with 2."""
        meant = [f"; did you mean {guess}?" for guess in self._guesses()]
        line = printable(f"{message}{''.join(meant)}")
        self.exit(MENDABLE, f"error: {line}\nSee {self.prog} --help.\n")

    def _guesses(self) -> Iterator[str]:
        """Yield the known word that is most like each of those given that are not known.

        An option may be given by its beginning; a first word that is no command may be one.
        """
        options = set(self._option_string_actions)
        commands: set[str] = set()
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                commands.update(action.choices)
                for name in commands & set(self._given[:1]):
                    options.update(action.choices[name]._option_string_actions)
        for number, word in enumerate(self._given):
            if word == "--":
                return
            option = word.partition("=")[0]
            if word.startswith("--") and not any(one.startswith(option) for one in options):
                yield from get_close_matches(option, sorted(options), 1)
            elif commands and number == 0 and word not in commands:
                yield from get_close_matches(word, sorted(commands), 1)


class Several(argparse.Action):
    """Takes numbers with spaces or commas between them: `2 4 10`, `2,4,10`.

    Args:
        one: what makes one of them of a text.
    """

    def __init__(self, *, one: Callable[[str], Any], **options: Any) -> None:
        super().__init__(nargs="+", **options)
        self._one = one

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Keep the list of all."""
        texts = [text.strip() for value in values for text in value.split(",")]
        try:
            found = [self._one(text) for text in texts if text]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        if not found:
            raise argparse.ArgumentError(self, "expected at least one number")
        setattr(namespace, self.dest, found)


def add_preprocessing(group: Any) -> None:
    """Add the options that `chosen_preprocessing` reads.

    Args:
        group: of a parser, or a parser.
    """
    group.add_argument(
        "--preprocessing",
        choices=PREPROCESSING_NAMES,
        help="what keras.applications' preprocess_input does to pixels in this mode, in place of "
        "the other options for pixels (default: what these say)",
    )
    group.add_argument(
        "--pixel-scale",
        type=positive,
        default=1.0,
        metavar="S",
        help="number that divides the pixels, 255 for nets that take 0 to 1 (default: 1)",
    )
    group.add_argument(
        "--pixel-mean",
        type=finite,
        nargs="+",
        default=[],
        metavar="M",
        help="number that is subtracted then, or one for each channel (default: none)",
    )
    group.add_argument(
        "--pixel-std",
        type=positive,
        nargs="+",
        default=[],
        metavar="D",
        help="number that divides then, or one for each channel (default: none)",
    )
    group.add_argument(
        "--channel-order",
        choices=CHANNEL_ORDERS,
        default="rgb",
        help="order in which the net takes the channels of images, which are stored as rgb "
        "(default: rgb)",
    )
    group.add_argument(
        "--pixel-range",
        type=finite,
        nargs=2,
        default=[*RAW],
        metavar=("LOW", "HIGH"),
        help="what stored pixels lie in, 0 1 or -1 1 for arrays prepared already (default: 0 255)",
    )


def finite(text: str) -> float:
    """Return the number that an argument is, one that nets can compute with.

    Raises:
        ArgumentTypeError: it is none.
    """
    with suppress(ValueError):
        if abs(float(text)) <= FLOAT32[1]:
            return float(text)
    raise argparse.ArgumentTypeError(f"is {text}, expected a number that float32 can hold")


def positive(text: str) -> float:
    """Return the finite number above 0 that an argument is, one that nets can divide by.

    Raises:
        ArgumentTypeError: it is none.
    """
    with suppress(ValueError):
        if FLOAT32[0] <= float(text) <= FLOAT32[1]:
            return float(text)
    raise argparse.ArgumentTypeError(f"is {text}, expected a number above 0 that float32 can hold")


def whole(text: str) -> int:
    """Return the whole number above 0 that an argument is.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"is {text}, expected a whole number above 0")
    return int(text)


def fraction(text: str) -> float:
    """Return the number from 0 to 1 that an argument is.

    Raises:
        ArgumentTypeError: it is none.
    """
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"is {text}, expected a fraction from 0 to 1")


def _provide_streams() -> None:
    """Open what the shell has closed, and let no name be one that standard output cannot hold.

    A file that is opened gets the lowest free number: without standard error, the messages of
    native code would be written into the first data file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _require_current_folder() -> None:
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError as error:
        raise InputError("the current folder is gone, change to one that is there") from error


def _write_out() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def _say(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr)  # noqa: T201


def _drop_unwritten() -> None:
    """Forget output that cannot be written, for which Python would complain at its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
