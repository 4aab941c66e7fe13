"""The command `python -m flows.audit`: repair every net in a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.command import RESUMABLE, add_method, add_place, add_sets
from flows.page import Page, StageLines
from flows.settings import configure
from goodnet.attacks.targets import require_target
from goodnet.command import DONE, Parser, as_options, exit_code, fraction, positive
from goodnet.errors import printable
from goodnet.images.class_names import read_class_names
from goodnet.images.image_sets import open_sets
from goodnet.images.preprocessing import chosen_preprocessing
from goodnet.reports.audits import DEFAULT_ALLOWANCE, MOST_ALLOWED, find_models, require_measurable
from goodnet.storage.run_folder import new_run_folder, reserve_run_folder

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 if a net failed or is over a limit, 2 for what can be mended."""
    parameters = vars(_parser().parse_args(arguments))
    quiet = parameters.pop("quiet")

    def command() -> int:
        folder = _check(parameters)
        shown = None if quiet else StageLines(Page(stderr=True))
        if shown is not None:
            Page(stderr=True).tell(f"Auditing the models in {parameters['models']}")
            shown.say("starting Prefect")
        configure(parameters["artifacts"].resolve())
        return _audit({**parameters, "audit_name": folder.name}, folder, shown)

    return exit_code(command, stopped=RESUMABLE)


def _check(parameters: Mapping[str, Any]) -> Path:
    """Find what can be found wrong before anything slow is imported; return the audit's folder."""
    place = parameters["artifacts"], parameters["audit_name"]
    new_run_folder(*place, kind="audits")
    find_models(parameters["models"])
    poisoned = parameters["poisoned_test"]
    require_measurable(parameters["max_attack_success_rate"], poisoned)
    require_target(parameters["target"], num_classes=None, poisoned=poisoned is not None)
    names = ("clean_valid", "clean_test", "poisoned_test", "poisoned_valid")
    sets = {name: parameters[name] for name in names if parameters[name] is not None}
    classes = parameters["classes"]
    chosen_preprocessing(parameters)
    open_sets(sets, classes=None if classes is None else read_class_names(classes))
    return reserve_run_folder(*place, kind="audits")


def _audit(parameters: dict[str, Any], folder: Path, shown: StageLines | None) -> int:
    from flows.audit_models import audit
    from flows.console import print_audit
    from flows.paths import sendable_parameters
    from flows.server import connected
    from tasks import progress

    def meanwhile() -> None:
        if shown is not None:
            shown.say("starting a temporary Prefect server")

    if shown is not None:
        progress.listeners.append(shown)
    with connected(meanwhile):
        state: State[Any] = audit(**sendable_parameters(parameters), return_state=True)
    error = state.result(raise_on_failure=False) if state.is_failed() else None
    if not (folder / "audit.json").is_file() and isinstance(error, Exception):
        raise error
    if shown is not None:
        print_audit(Page(), folder)
    if state.is_completed():
        return DONE
    print(f"error: {as_options(printable(str(state.message)))}", file=sys.stderr)  # noqa: T201
    return 1


def _parser() -> Parser:
    parser = Parser(
        prog="python -m flows.audit",
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
    limits = parser.add_argument_group("limits of the GoodNet that the verdict speaks of")
    limits.add_argument(
        "--max-false-alarm-rate",
        type=fraction,
        metavar="R",
        help="most false alarms on clean test images, 0 to 1 (default: no limit)",
    )
    limits.add_argument(
        "--max-attack-success-rate",
        type=fraction,
        metavar="R",
        help="most poisoned test images that get past it, 0 to 1 (default: no limit)",
    )
    add_method(parser.add_argument_group("how"))
    allowance = parser.add_argument_group(
        "what one net may take", "Then its repair is ended, it has failed, and the audit goes on."
    )
    allowance.add_argument(
        "--max-minutes-per-model",
        type=_amount,
        default=DEFAULT_ALLOWANCE.minutes,
        metavar="M",
        help="longest repair of one net; the next audit goes on from its last stage "
        "(default: %(default)s)",
    )
    allowance.add_argument(
        "--max-gigabytes-per-model",
        type=_amount,
        default=DEFAULT_ALLOWANCE.gigabytes,
        metavar="GB",
        help="most memory of the repair of one net, on Linux (default: %(default)s)",
    )
    where = parser.add_argument_group("where")
    add_place(where)
    where.add_argument(
        "--audit-name", metavar="NAME", help="name of the audit's folder (default: the time)"
    )
    return parser


def _amount(text: str) -> float:
    value = positive(text)
    if value > MOST_ALLOWED:
        raise argparse.ArgumentTypeError(f"is {text}, expected at most {MOST_ALLOWED:,.0f}")
    return value


if __name__ == "__main__":
    # Prefect reads its settings when it is imported, so that the flow is imported later.
    sys.exit(main())
