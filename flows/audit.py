"""The command `python -m flows.audit`: repair every net in a folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.checks import check_audit
from flows.command import (
    RESUMABLE,
    add_allowance,
    add_dask,
    add_limits,
    add_method,
    add_place,
    add_sets,
)
from flows.page import StageLines
from flows.server_child import ServerChild, begun_server
from goodnet.command import Parser, exit_code
from goodnet.heavy_imports import importing
from goodnet.storage.run_folder import new_run_folder, reserve_run_folder


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m flows.audit") -> int:
    """Run the command; return 0, 1 if a net failed or is over a limit, 2 for what can be mended."""
    parameters = vars(_parser(prog).parse_args(arguments))
    quiet = parameters.pop("quiet")

    def command() -> int:
        folder = _check(parameters)
        shown = StageLines.begin(f"Auditing the models in {parameters['models']}", quiet=quiet)
        with begun_server(parameters["artifacts"].resolve()) as begun:
            return _audit({**parameters, "audit_name": folder.name}, folder, shown, begun)

    return exit_code(command, stopped=RESUMABLE)


def _check(parameters: Mapping[str, Any]) -> Path:
    """Find what can be found wrong before anything slow is imported; return the audit's folder."""
    place = parameters["artifacts"], parameters["audit_name"]
    new_run_folder(*place, kind="audits")
    check_audit(parameters)
    return reserve_run_folder(*place, kind="audits")


def _audit(
    parameters: dict[str, Any], folder: Path, shown: StageLines | None, begun: ServerChild | None
) -> int:
    # Prefect reads its settings when it is imported, so that these come later.
    with importing():
        from flows.audit_models import audit
        from flows.console import print_audit
        from flows.many_nets import run_to_its_end
        from goodnet.reports.audit_files import AUDIT

    result = folder / AUDIT
    return run_to_its_end(audit, parameters, result, shown=shown, show=print_audit, begun=begun)


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        description="Repair every net in a folder against the same images. A net that fails does "
        "not end the audit, and one that was repaired before with the same images and options "
        "is not repaired again.",
        epilog="Exit code: 0 done, 1 a net failed or its GoodNet is over a limit, 2 something to "
        "mend in what was given.",
    )
    files = parser.add_argument_group("what to repair")
    files.add_argument(
        "--models",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with .keras, .h5 or .hdf5 files (required)",
    )
    add_sets(files, required=True)
    add_limits(parser)
    add_method(parser.add_argument_group("how"))
    add_allowance(parser)
    where = parser.add_argument_group("where")
    add_dask(where)
    add_place(where)
    where.add_argument(
        "--audit-name", metavar="NAME", help="name of the audit's folder (default: the time)"
    )
    return parser


if __name__ == "__main__":
    # Prefect reads its settings when it is imported, so that the flow is imported later.
    sys.exit(main())
