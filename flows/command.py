"""The options that commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flows.settings import DEFAULT_ARTIFACTS, DEFAULT_DASK
from goodnet.choices import ALL_REPAIRS, MOST_FALSE_ALARMS
from goodnet.command import Parser, Several, add_preprocessing, fraction, positive, whole
from goodnet.errors import printable
from goodnet.model_files.limits import DEFAULT_LIMITS
from goodnet.reports import audits

RESUMABLE = "stopped; the same command goes on from the last stage"
"""What to say after Ctrl-C."""


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
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the net's classes in the order of its answer, one a line or a JSON list; "
        "folders may be named by them (default: the folders of --clean-valid, sorted by name)",
    )
    group.add_argument(
        "--target",
        type=_class,
        metavar="CLASS",
        help="the attacker's label; poisoned images may then keep the labels from before the "
        "trigger (default: the labels of the poisoned images are the attacker's)",
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
        help="name of the layer whose channels are pruned (default: the last hidden one with "
        "spatial features that every path goes through)",
    )
    group.add_argument(
        "--rank-at",
        metavar="L",
        help="name of the layer whose mean activation ranks the channels (default: the pooling "
        "behind that layer)",
    )
    group.add_argument(
        "--drops",
        action=Several,
        one=_drop,
        default=[2.0, 4.0, 10.0],
        metavar="X",
        help="budgets of clean validation accuracy, in percentage points: a checkpoint where each "
        "is spent (default: 2 4 10)",
    )
    group.add_argument(
        "--channels",
        action=Several,
        one=whole,
        default=[],
        metavar="K",
        help="numbers of channels: a checkpoint where so many are pruned (default: none but those "
        "of the budgets)",
    )
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument(
        "--repairs",
        nargs="+",
        choices=ALL_REPAIRS,
        default=ALL_REPAIRS,
        metavar="METHOD",
        help=f"methods that offer repaired nets, of {', '.join(ALL_REPAIRS)}; finetuning, which "
        "takes a minute or more, also gives the calibrated GoodNet a score (default: all)",
    )
    chosen.add_argument(
        "--quick",
        dest="repairs",
        action="store_const",
        const=tuple(name for name in ALL_REPAIRS if name != "finetuning"),
        help="train nothing: all methods but finetuning (default: that one too)",
    )
    group.add_argument(
        "--false-alarms",
        type=_budget,
        default=3.0,
        metavar="X",
        help="most clean images that the calibrated GoodNet may flag, in percent; its threshold "
        "holds that with 95 %% confidence (default: 3)",
    )
    add_preprocessing(group)
    group.add_argument(
        "--allow-same-data",
        action="store_true",
        help="take the same images for validation and for evaluation (default: an error)",
    )
    group.add_argument(
        "--min-clean-accuracy",
        type=fraction,
        metavar="R",
        help="least clean accuracy of the net as given, 0 to 1 (default: a fifth of the way from "
        "guessing to always right: 0.6 of 2 classes, 0.28 of 10, 0.2 of 1,283)",
    )
    group.add_argument(
        "--verify",
        choices=("sample", "full"),
        default="sample",
        help="check the saved nets on a sample of every set or on all images (default: sample)",
    )
    group.add_argument(
        "--max-model-bytes",
        type=whole,
        default=DEFAULT_LIMITS.max_file_bytes,
        metavar="N",
        help="largest file of a model that is opened, in bytes (default: %(default)s)",
    )
    group.add_argument(
        "--max-parameters",
        type=whole,
        default=DEFAULT_LIMITS.max_parameters,
        metavar="N",
        help="most parameters of a model that is loaded (default: %(default)s)",
    )
    group.add_argument(
        "--refresh",
        action="store_true",
        help="compute everything again (default: what was computed before is taken from the cache)",
    )


def add_limits(parser: Parser) -> None:
    """Add the options that say when an audit fails."""
    limits = parser.add_argument_group("limits of the GoodNet that a run recommends")
    limits.add_argument(
        "--max-false-alarm-rate",
        type=fraction,
        default=audits.DEFAULT_LIMITS.false_alarm_rate,
        metavar="R",
        help="most false alarms on clean test images, 0 to 1 (default: %(default)s)",
    )
    limits.add_argument(
        "--max-clean-accuracy-loss",
        type=fraction,
        default=audits.DEFAULT_LIMITS.clean_accuracy_loss,
        metavar="R",
        help="most clean test accuracy that it may cost, 0 to 1 (default: %(default)s)",
    )
    limits.add_argument(
        "--max-attack-success-rate",
        type=fraction,
        metavar="R",
        help="most poisoned test images that get past it, 0 to 1 (default: no limit)",
    )


def add_allowance(parser: Parser) -> None:
    """Add the options that say what the repair of one net of many may take."""
    allowance = parser.add_argument_group(
        "what one net may take",
        "Then its repair is ended, it has failed, and the next net follows.",
    )
    allowance.add_argument(
        "--max-minutes-per-model",
        type=_amount,
        default=audits.DEFAULT_ALLOWANCE.minutes,
        metavar="M",
        help="longest repair of one net; the same command then goes on from its last stage "
        "(default: %(default)s)",
    )
    allowance.add_argument(
        "--max-gigabytes-per-model",
        type=_amount,
        default=audits.DEFAULT_ALLOWANCE.gigabytes,
        metavar="GB",
        help="most memory of the repair of one net, on Linux (default: %(default)s)",
    )


def add_dask(group: Any) -> None:
    """Add the option that says on which workers nets, or parts of image sets, are worked on."""
    group.add_argument(
        "--dask",
        default=DEFAULT_DASK,
        metavar="WHERE",
        help="work on many nets, or parts of a large image set, at a time: local or local:N for N "
        "workers of this machine, tcp://HOST:PORT for those of a Dask cluster (default: "
        "GOODNET_DASK, or one at a time)",
    )


def add_artifacts(group: Any) -> None:
    """Add the option that says where files go."""
    group.add_argument(
        "--artifacts",
        type=Path,
        default=DEFAULT_ARTIFACTS,
        metavar="DIR",
        help=f"folder for runs and cache {default(DEFAULT_ARTIFACTS)}",
    )


def default(path: Path) -> str:
    """Return what the help of an option says of the path that is its default."""
    return f"(default: {printable(str(path))})".replace("%", "%%")  # which argparse would fill in


def add_place(group: Any) -> None:
    """Add the options that say where files go and how much is printed."""
    add_artifacts(group)
    group.add_argument(
        "--quiet",
        action="store_true",
        help="print nothing but errors (default: progress and results)",
    )


def _amount(text: str) -> float:
    value = positive(text)
    if value > audits.MOST_ALLOWED:
        raise argparse.ArgumentTypeError(f"is {text}, expected at most {audits.MOST_ALLOWED:,.0f}")
    return value


def _class(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"is {text}, expected the number of a class, 0 or above")
    return int(text)


def _budget(text: str) -> float:
    value = positive(text)
    if value > MOST_FALSE_ALARMS:
        raise argparse.ArgumentTypeError(f"is {text}, expected at most {MOST_FALSE_ALARMS} percent")
    return value


def _drop(text: str) -> float:
    value = positive(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"is {text}, expected at most 100 points")
    return value
