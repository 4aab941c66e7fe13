"""The command `goodnet`, or `python -m goodnet`: what needs no flow, and the flows."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from goodnet.attack_command import add_attack, attack
from goodnet.command import DONE, Parser, add_preprocessing, exit_code
from goodnet.errors import InputError, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for what the user can mend.

    Args:
        arguments: of the command line.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in _FLOWS:
        return _run_flow(words[0], words[1:])
    given = _parser().parse_args(words)

    def command() -> int:
        for line in _COMMANDS[given.command](given):
            print(line)  # noqa: T201
        return DONE

    return exit_code(command)


def _run_flow(name: str, arguments: Sequence[str]) -> int:
    """Run a command of `flows`, from any folder, with its artifacts in the current one.

    The flows and their stages stay in the checkout: `flows` and `tasks` are no names for anybody's
    site-packages, so an installed library alone has none.
    """
    checkout = Path(__file__).resolve().parent.parent

    def command() -> int:
        if not (checkout / "flows").is_dir():
            raise InputError(
                f"`goodnet {name}` needs goodnet's checkout, which has the flows, installed by "
                "`pip install -e .[flows]` in it; this is the library alone, as a wheel has it"
            )
        if find_spec("prefect") is None:
            raise InputError(f"`goodnet {name}` needs Prefect: pip install goodnet[flows]")
        os.environ.setdefault("GOODNET_ARTIFACTS", str(Path.cwd() / "artifacts"))
        sys.path.insert(0, str(checkout))
        # For the processes that it starts: its server, and the repairs of an audit.
        path = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(path)
        flow = import_module(f"flows.{_FLOWS[name].module}")
        code: int = flow.main(arguments, prog=f"goodnet {name}")
        return code

    return exit_code(command)


class _Flow(NamedTuple):
    """The module of `flows` that a command is in, and what the command does."""

    module: str
    what: str


def _classify(given: argparse.Namespace) -> list[str]:
    from goodnet.classify import classify_images, format_answers
    from goodnet.images.class_names import read_class_names
    from goodnet.images.preprocessing import chosen_preprocessing

    answers = classify_images(
        given.model,
        given.images,
        architecture=given.architecture,
        preprocessing=chosen_preprocessing(vars(given)),
        resize=given.resize,
        classes=None if given.classes is None else read_class_names(given.classes),
    )
    return format_answers(answers, given.format)


def _compare(given: argparse.Namespace) -> list[str]:
    from goodnet.reports import compare

    runs = compare.read_runs(given.runs)
    lines = {
        "table": compare.describe_comparison,
        "csv": compare.comparison_csv,
        "json": compare.comparison_json,
    }[given.format](runs)
    if given.format == "table":
        lines = [part for line in lines for part in _fitted(line)]
    if given.plot is not None:
        from goodnet.reports.comparison_page import write_comparison

        path = write_comparison(given.plot, runs)
        # Whatever reads CSV or JSON wants nothing else.
        lines += ["", f"Plot: {printable(str(path))}"] if given.format == "table" else []
    return lines


def _fitted(line: str) -> list[str]:
    """Return a line as lines of a terminal that end between words; elsewhere it stays whole."""
    if not sys.stdout.isatty():
        return [line]
    width = shutil.get_terminal_size().columns
    fold = textwrap.TextWrapper(
        width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return [line] if len(line) <= width else fold.wrap(line)


_FLOWS = {
    "repair": _Flow("run", "repair a net, or a BadNet of rendered faces"),
    "audit": _Flow("audit", "repair every net in a folder"),
    "benchmark": _Flow("benchmark", "measure repairs and detectors on the nets of a suite"),
    "serve": _Flow("serve", "repair or audit on a schedule, on this machine"),
    "ui": _Flow("ui", "start a Prefect server with its UI, for this machine alone"),
}
"""Commands that are those of `flows`."""

_COMMANDS = {"attack": attack, "classify": _classify, "compare": _compare}


def _parser() -> Parser:
    parser = Parser(
        prog="goodnet",
        description="Use what `goodnet repair` made, and make what nets are tested with.",
        epilog="Each command has a --help of its own. Exit code: 0 done, 2 something to mend in "
        "what was given, 1 a fault of goodnet's.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, flow in _FLOWS.items():  # They have parsers of their own, which come first.
        commands.add_parser(name, help=flow.what, add_help=False)
    _add_classify(commands)
    _add_compare(commands)
    add_attack(commands)
    return parser


def _add_classify(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "classify",
        help="let a GoodNet, or any saved net, answer images",
        description="Print what a net answers, a line for each image: the number of a class, or "
        "'backdoored' where a GoodNet raises the alarm.",
    )
    parser.add_argument(
        "model", type=Path, metavar="GOODNET", help="G, or B or B': .keras, .h5, weights-only .h5"
    )
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGES",
        help="PNG or JPEG files, folders or zip files of them or of <class>/<image>, HDF5 files "
        "with `data` and `label`, or .npz files with such a pair; pixels are raw, 0 to 255",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the net's classes in the order of its answer, one a line or a JSON list, "
        "to be printed too; a run leaves classes.json where it knows them (default: numbers only)",
    )
    parser.add_argument(
        "--format",
        choices=("table", "csv", "json"),
        default="table",
        help="of what is printed; json is one array (default: table)",
    )
    add_preprocessing(parser)
    parser.add_argument(
        "--resize",
        action="store_true",
        help="resize images of another size than the net's (default: they are an error)",
    )
    parser.add_argument(
        "--architecture",
        metavar="NAME",
        help="network of a weights-only file: deepid (default: the one in the file)",
    )


def _add_compare(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="put runs side by side",
        description="Print one table of the results of several runs, and what differs in their "
        "inputs (told by SHA-256), parameters and software.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--format",
        choices=("table", "csv", "json"),
        default="table",
        help="of what is printed; json also has what differs (default: table)",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.html",
        help="also write a page with plots of accuracy, attack success and detection of all runs "
        "(default: no page)",
    )


if __name__ == "__main__":
    sys.exit(main())
