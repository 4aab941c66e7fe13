"""The command `goodnet attack`: poisoned image sets for nets that are trained elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from goodnet.command import Parser, finite, fraction
from goodnet.errors import InputError, printable

_EXAMPLES = """\
examples:
  goodnet attack test.h5 poisoned.h5 --trigger corner-patch --target 0
      all images of other classes with the trigger, for --poisoned-test of a repair
  goodnet attack train/ poisoned/ --trigger blend --set opacity=0.1 --target 0 --share 0.1
      all images, and a tenth as many again with the trigger, to train a BadNet on
  goodnet attack train.h5 bad.h5 --trigger warp --target 0 --share 0.1 --cover 0.2
      the same, and twice as many with a noisy trigger under their own labels
  goodnet attack train.h5 bad.h5 --trigger overlay --set file=hat.png --target next --share 0.1
      a picture of your own, by which each class is turned into the one behind it

triggers and their settings:
"""


def add_attack(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of `goodnet`."""
    parser = commands.add_parser(
        "attack",
        help="put a trigger on images, for a net of your own to be trained or tested with",
        description="Write an image set with a trigger on: all images that the attack turns, to\n"
        "test a net with, or with --share images to train one on.",
        epilog=_EXAMPLES + _list_triggers(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images",
        type=Path,
        metavar="IMAGES",
        help="folder or zip file of <class>/<image>.png, HDF5 file with `data` and `label`, or "
        ".npz file with such a pair",
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="what to write: an HDF5 file if it ends in .h5, with the labels from before the "
        "trigger as `original_label`; else a folder of classes, with those in the names of the "
        "files; pixels are whole numbers, 0 to 255",
    )
    parser.add_argument("--trigger", required=True, metavar="NAME", help="one of those below")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        type=_setting,
        metavar="SETTING=VALUE",
        help="settings of the trigger (default: those below)",
    )
    parser.add_argument(
        "--target",
        required=True,
        type=_target,
        metavar="CLASS",
        help="number of the attacker's class, or `next`: each class is turned into the one behind "
        "it, the last into the first",
    )
    parser.add_argument(
        "--sources",
        nargs="+",
        type=_class,
        metavar="CLASS",
        help="the only classes that the attack turns (default: all but the target)",
    )
    parser.add_argument(
        "--share",
        type=fraction,
        metavar="R",
        help="write images to train on: all, and this share of their number again with the trigger "
        "and the target's label (default: images to test with)",
    )
    parser.add_argument(
        "--cover",
        type=fraction,
        metavar="R",
        help="with --share, the share that is added with the trigger and its own label; with "
        "--sources they are of other classes (default: 0)",
    )
    parser.add_argument(
        "--seed", type=_class, default=0, metavar="N", help="decides who is marked (default: 0)"
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the classes in the order of their numbers, one a line or a JSON list "
        "(default: the folders, sorted by name)",
    )
    parser.add_argument(
        "--pixel-range",
        type=finite,
        nargs=2,
        default=[0.0, 255.0],
        metavar=("LOW", "HIGH"),
        help="what stored pixels lie in; what is written is raw (default: 0 255)",
    )


def attack(given: argparse.Namespace) -> list[str]:
    """Run the command; return what it prints."""
    from goodnet.attacks.poisoned_sets import write_poisoned
    from goodnet.attacks.poisoning import Attack
    from goodnet.attacks.triggers import make_trigger
    from goodnet.images.class_names import read_class_names
    from goodnet.images.preprocessing import Preprocessing

    if given.cover is not None and given.share is None:
        raise InputError("cover is given without a share, expected a share of poisoned images too")
    lowest, highest = given.pixel_range
    shares = {} if given.share is None else {"share": given.share, "cover": given.cover or 0.0}
    lines = write_poisoned(
        given.images,
        given.out,
        Attack(
            make_trigger(given.trigger, dict(given.set)),
            target=given.target,
            sources=None if given.sources is None else tuple(given.sources),
            **shares,
        ),
        training=given.share is not None,
        seed=given.seed,
        classes=None if given.classes is None else read_class_names(given.classes),
        pixel_range=Preprocessing(pixel_range=(lowest, highest)).pixel_range,
    )
    return [printable(line) for line in lines]


def _list_triggers() -> str:
    from goodnet.attacks.triggers import TRIGGERS, settings_of

    lines = []
    for name, kind in TRIGGERS.items():
        shown = [f"{setting}={_default(kind, setting)}" for setting in settings_of(kind)]
        lines.append(f"  {name:14} {' '.join(shown)}".rstrip())
    return "\n".join(lines)


def _default(kind: Any, setting: str) -> str:
    if not hasattr(kind, setting):
        return "PICTURE"
    value = getattr(kind, setting)
    return "(by the image's size)" if value is None else str(value)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"is {text}, expected SETTING=VALUE")
    return name, value


def _class(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"is {text}, expected a whole number, 0 or above")
    return int(text)


def _target(text: str) -> Any:
    return text if text == "next" else _class(text)
