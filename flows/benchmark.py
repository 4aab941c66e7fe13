"""The command `python -m flows.benchmark`: attacks, nets, repairs and detectors of a suite."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.checks import check_dask
from flows.command import RESUMABLE, add_allowance, add_dask, add_place, default
from flows.page import StageLines
from flows.server_child import ServerChild, begun_server
from flows.settings import DEFAULT_SUITE
from goodnet.command import Parser, exit_code
from goodnet.heavy_imports import importing
from goodnet.images.image_sets import open_images
from goodnet.storage.run_folder import new_run_folder, reserve_run_folder
from goodnet.suites import SETS, ImageSets, read_suite

_DESCRIPTION = """\
Train the nets of a suite with each of its attacks and without, repair each
as a net alone, and measure repairs and detectors on all of them. The
leaderboard has a row for each net and detector with counts and intervals,
means, medians and the worst row of each method, and the control beside every
detector. Nets whose attack hardly succeeds, or that are worse than their clean
twins, are marked and left out of means.

What is finished is taken from the cache: a benchmark that was stopped goes on,
and one with an attack more trains what is new.
"""
_EPILOG = """\
A suite is a TOML file, like those in suites/ of goodnet's checkout: faces.toml
there says how. The run ends with tables and leaves leaderboard.json, .csv,
.parquet and .html in <DIR>/benchmarks/<NAME>/.

Examples:
  %(prog)s
      the default suite: rendered faces, some minutes
  %(prog)s --suite suites/cifar10.toml --images cifar10/
      CIFAR-10, from train.zip, valid.zip and test.zip in that folder
  %(prog)s --suite mine.toml --benchmark-name monday

Exit code: 0 done, 1 a cell failed, 2 something to mend in what was given.
"""


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m flows.benchmark") -> int:
    """Run the command; return 0, 1 if a cell failed, 2 for what the user can mend."""
    parameters = vars(_parser(prog).parse_args(arguments))
    quiet = parameters.pop("quiet")

    def command() -> int:
        folder = _check(parameters)
        shown = StageLines.begin(f"Measuring the nets of {parameters['suite']}", quiet=quiet)
        with begun_server(parameters["artifacts"].resolve()) as begun:
            return _benchmark({**parameters, "benchmark_name": folder.name}, folder, shown, begun)

    return exit_code(command, stopped=RESUMABLE)


def _check(parameters: Mapping[str, Any]) -> Path:
    """Find what can be found wrong before anything slow is imported; return the folder."""
    place = parameters["artifacts"], parameters["benchmark_name"]
    new_run_folder(*place, kind="benchmarks")
    check_dask(parameters["dask"])
    suite = read_suite(parameters["suite"], images=parameters["images"])
    if isinstance(suite.images, ImageSets):
        for name in SETS:
            open_images(getattr(suite.images, name))
    return reserve_run_folder(*place, kind="benchmarks")


def _benchmark(
    parameters: dict[str, Any], folder: Path, shown: StageLines | None, begun: ServerChild | None
) -> int:
    # Prefect reads its settings when it is imported, so that these come later.
    with importing():
        from flows.benchmark_suite import benchmark
        from flows.console import print_benchmark
        from flows.many_nets import run_to_its_end
        from goodnet.reports.leaderboard_files import LEADERBOARD

    result = folder / LEADERBOARD
    return run_to_its_end(
        benchmark, parameters, result, shown=shown, show=print_benchmark, begun=begun
    )


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--suite",
        type=Path,
        default=DEFAULT_SUITE,
        metavar="FILE",
        help=f"nets, attacks, images, seeds and repairs {default(DEFAULT_SUITE)}",
    )
    what.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder that the image sets of the suite lie in (default: that of its file)",
    )
    what.add_argument(
        "--refresh",
        action="store_true",
        help="compute everything again (default: what was computed before is taken from the cache)",
    )
    add_allowance(parser)
    where = parser.add_argument_group("where")
    add_dask(where)
    add_place(where)
    where.add_argument(
        "--benchmark-name", metavar="NAME", help="name of the folder (default: the time)"
    )
    return parser


if __name__ == "__main__":
    # Prefect reads its settings when it is imported, so that the flow is imported later.
    sys.exit(main())
