"""The command `python -m flows.run`: repair one net."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.checks import check_repair, given_sets
from flows.command import RESUMABLE, add_dask, add_method, add_place, add_sets
from flows.page import Page, StageLines
from flows.server_child import ServerChild, begun_server
from flows.settings import chosen_heartbeats
from goodnet.attacks.default_case import DefaultCase
from goodnet.choices import Choices
from goodnet.command import DONE, Parser, exit_code
from goodnet.heavy_imports import importing
from goodnet.pruning.stop_rule import describe_budget, describe_channels
from goodnet.reports.vega import start_bundling
from goodnet.storage.run_folder import new_run_folder, reserve_run_folder

if TYPE_CHECKING:
    from tasks.records import PublishedRun

_DESCRIPTION = """\
Repair a backdoored image classifier B with nothing but clean validation
images: prune the channels that they leave quiet, save the pruned net B' each
time a budget of clean accuracy is spent, and join B and B' into a GoodNet G,
which answers one class more, "backdoored", wherever the two disagree.
"""

_EPILOG = """\
An image set is an HDF5 file with `data` (N, C, H, W) or (N, H, W, C) and
`label` (N,), an .npz file with one such pair of arrays, or a folder or zip
file with images <class>/<image>.png or .jpg, where a class is a number or a
name. Pixels are raw, 0 to 255.

The run ends with a table and leaves its files, report.html among them, in
<DIR>/runs/<NAME>/.

Examples:
  %(prog)s
  %(prog)s --model bd_net.h5 --clean-valid valid.h5 \\
      --clean-test test.h5 --poisoned-test bd_test.h5 --drops 2 4 10

Exit code: 0 done, 2 something to mend in what was given, 1 goodnet's fault.
"""


def main(
    arguments: Sequence[str] | None = None,
    *,
    prog: str = "python -m flows.run",
    default_case: DefaultCase | None = None,
) -> int:
    """Run the command; return 0, 2 for what the user can mend, 1 for a fault of goodnet's.

    Args:
        arguments: of the command line.
        prog: the name that it was called by.
        default_case: another size of the embedded default.
    """
    parameters = vars(_parser(prog).parse_args(arguments))
    quiet = parameters.pop("quiet")
    if default_case is not None:
        parameters["default_case"] = default_case

    def command() -> int:
        _check(parameters)
        start_bundling()
        shown = StageLines.begin(_plan(parameters), quiet=quiet)
        with begun_server(parameters["artifacts"].resolve()) as begun:
            _repair(parameters, shown, begun)
        return DONE

    return exit_code(command, stopped=RESUMABLE)


def _check(parameters: dict[str, Any]) -> None:
    """Find what can be found wrong before anything slow is imported; reserve the run's name."""
    new_run_folder(parameters["artifacts"], parameters["run_name"])
    check_repair(parameters)
    reserve_run_folder(parameters["artifacts"], parameters["run_name"])


def _plan(parameters: dict[str, Any]) -> str:
    net = parameters["model"] or "a BadNet trained on rendered faces"
    asked = f"{describe_budget(*parameters['drops'])} of clean accuracy"
    if parameters["channels"]:
        asked += f" and at {describe_channels(*parameters['channels'])}"
    return f"Repairing {net}: checkpoints at {asked}"


def _repair(
    parameters: dict[str, Any], shown: StageLines | None, begun: ServerChild | None
) -> None:
    with importing():
        from flows.console import print_run
        from flows.paths import sendable_parameters
        from flows.server import connected
        from tasks.progress import listening

    def meanwhile() -> None:
        if shown is not None:
            shown.say("starting a temporary Prefect server")
        with importing():
            import flows.repair  # noqa: F401
            from tasks.loading import load_inputs
        if parameters["model"] is not None:  # of the embedded default nothing is there yet
            # What is digested and loaded is remembered, so that the stages find it done.
            load_inputs.fn(
                parameters["model"],
                given_sets(parameters),
                Choices.of(parameters),
                refresh=False,
                artifacts=parameters["artifacts"].resolve(),
            )

    with listening(shown), connected(meanwhile, begun=begun), chosen_heartbeats():
        # Imported while the server started, if one had to: a third of what is imported in all.
        with importing():
            from flows.repair import repair
        # Called so, Prefect hands on what the flow's last state holds.
        run = cast("PublishedRun", repair(**sendable_parameters(parameters)))
    if shown is not None:
        print_run(Page(), run.folder, run.verdict)


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = parser.add_argument_group(
        "what to repair", "A net with its clean images, or nothing for a BadNet of rendered faces."
    )
    files.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="net B: .keras, .h5 or weights-only .h5 (default: one trained on rendered faces)",
    )
    add_sets(files)
    add_method(parser.add_argument_group("how"))
    where = parser.add_argument_group("where")
    add_dask(where)
    add_place(where)
    where.add_argument(
        "--run-name", metavar="NAME", help="name of the run's folder (default: the time)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
