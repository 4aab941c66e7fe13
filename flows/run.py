"""The command `python -m flows.run`: repair one net."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.settings import DEFAULT_ARTIFACTS, configure
from goodnet.default_case import DefaultCase
from goodnet.errors import InputError, printable
from goodnet.inputs import SetName, check_inputs, require_complete
from goodnet.runs import new_run_folder


def main(arguments: Sequence[str] | None = None, *, default_case: DefaultCase | None = None) -> int:
    """Run the command; return 0, 2 for what the user can mend, 1 for a fault of goodnet's.

    Args:
        arguments: of the command line.
        default_case: another size of the embedded default.
    """
    parameters = vars(_parser().parse_args(arguments))
    quiet = parameters.pop("quiet")
    if default_case is not None:
        parameters["default_case"] = default_case
    try:
        _check(parameters)
        configure(parameters["artifacts"].resolve())
        _repair(parameters, quiet=quiet)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {printable(where)}{error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _check(parameters: dict[str, Any]) -> None:
    """Find what can be found wrong before anything slow is imported."""
    new_run_folder(parameters["artifacts"], parameters["run_name"])
    names: tuple[SetName, ...] = ("clean_valid", "clean_test", "poisoned_test", "poisoned_valid")
    sets: dict[SetName, Path | None] = {name: parameters[name] for name in names}
    require_complete(parameters["model"], sets)
    if parameters["model"] is not None:
        options = {
            name: parameters[name]
            for name in ("architecture", "layer", "rank_at", "allow_same_data")
        }
        check_inputs(parameters["model"], sets, **options)


def _repair(parameters: dict[str, Any], *, quiet: bool) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from rich.console import Console

    from flows.console import Progressing, print_run
    from flows.repair import repair
    from flows.server import find_server
    from tasks import progress

    if not quiet:
        progress.listeners.append(Progressing(Console(stderr=True)))
    with find_server() as url, temporary_settings({PREFECT_API_URL: url}):
        run = repair(**parameters)
    if not quiet:
        print_run(Console(), run.folder, run.verdict)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.run",
        description="Repair a backdoored image classifier with nothing but clean validation "
        "images: prune the channels that they leave quiet, save the pruned net B' each time a "
        "budget of clean accuracy is spent, and join B and B' into a GoodNet G that answers "
        "one class more, 'backdoored', wherever the two disagree. Without a model, everything "
        "runs on rendered faces and a BadNet trained on them.",
        epilog="Image sets are HDF5 files with `data` (N, C, H, W) or (N, H, W, C) and `label` "
        "(N,), or folders <label>/<image>.png|jpg; pixels are raw, 0 to 255. Exit code: 0 "
        "done, 2 something to mend in what was given, 1 a fault of goodnet's.",
    )
    files = parser.add_argument_group("what to repair")
    files.add_argument("--model", type=Path, metavar="FILE", help=".keras, .h5 or weights-only .h5")
    files.add_argument(
        "--clean-valid", type=Path, metavar="SET", help="all images that the repair itself sees"
    )
    files.add_argument("--clean-test", type=Path, metavar="SET", help="for evaluation only")
    files.add_argument(
        "--poisoned-test",
        type=Path,
        metavar="SET",
        help="images with the trigger under the attacker's label, for evaluation only; optional",
    )
    files.add_argument("--poisoned-valid", type=Path, metavar="SET", help="more of them; optional")
    files.add_argument(
        "--architecture", metavar="NAME", help="network of a weights-only file: deepid"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--layer",
        metavar="L",
        help="convolution to prune (default: the last one that every path goes through)",
    )
    how.add_argument(
        "--rank-at",
        metavar="L",
        help="layer whose mean activation ranks the channels (default: the pooling behind it)",
    )
    how.add_argument(
        "--drops",
        type=_drop,
        nargs="+",
        default=[2.0, 4.0, 10.0],
        metavar="X",
        help="drops of clean validation accuracy to stop at, in percentage points "
        "(default: 2 4 10)",
    )
    how.add_argument(
        "--pixel-scale",
        type=_positive,
        default=1.0,
        metavar="S",
        help="divides the pixels, 255 for nets that take 0 to 1 (default: 1)",
    )
    how.add_argument(
        "--allow-same-data",
        action="store_true",
        help="take the same images for validation and for evaluation",
    )
    how.add_argument(
        "--verify",
        choices=("sample", "full"),
        default="sample",
        help="check the saved nets on a sample of every set or on all images (default: sample)",
    )
    how.add_argument("--refresh", action="store_true", help="compute again what is cached")
    where = parser.add_argument_group("where")
    where.add_argument(
        "--artifacts",
        type=Path,
        default=DEFAULT_ARTIFACTS,
        metavar="DIR",
        help="folder for runs and cache (default: artifacts/ of this project)",
    )
    where.add_argument(
        "--run-name", metavar="NAME", help="name of the run's folder (default: the time)"
    )
    where.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {text}, expected a number above 0")
    return value


def _drop(text: str) -> float:
    value = _positive(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"is {text}, expected at most 100 points")
    return value


if __name__ == "__main__":
    sys.exit(main())
