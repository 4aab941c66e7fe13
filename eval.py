"""The lab's evaluation script: `python eval.py CLEAN.h5 POISONED.h5 MODEL`.

Prints the clean classification accuracy and the attack success rate of B, B' or G, in percent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from goodnet.classify import is_goodnet
from goodnet.command import DONE, Parser, add_preprocessing, exit_code
from goodnet.images.class_names import read_class_names
from goodnet.images.image_sets import open_sets
from goodnet.images.preprocessing import chosen_preprocessing
from goodnet.model_files.describe import describe_model
from goodnet.model_files.load import load_model
from goodnet.networks.evaluation import accuracy


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return 0, or 2 for what the user can mend.

    Args:
        arguments: of the command line.
    """
    parser = Parser(prog="eval.py", description=__doc__)
    parser.add_argument("clean", type=Path, help="clean images with their labels")
    parser.add_argument("poisoned", type=Path, help="poisoned images with the attacker's label")
    parser.add_argument("model", type=Path, help="B, B' or G: .keras, .h5 or weights-only .h5")
    parser.add_argument(
        "--classes", type=Path, help="names of the net's classes (default: of CLEAN's folders)"
    )
    parser.add_argument("--architecture", help="network of a weights-only file: deepid")
    add_preprocessing(parser)
    given = parser.parse_args(arguments)

    def command() -> int:
        clean, poisoned = _evaluate(given)
        print("Clean Classification accuracy:", clean)  # noqa: T201
        print("Attack Success Rate:", poisoned)  # noqa: T201
        return DONE

    return exit_code(command)


def _evaluate(given: argparse.Namespace) -> tuple[float, float]:
    """Return both rates in percent."""
    description = describe_model(given.model, architecture=given.architecture)
    classes = None if given.classes is None else read_class_names(given.classes)
    paths = {"clean": given.clean, "poisoned": given.poisoned}
    preprocessing = chosen_preprocessing(vars(given))
    preprocessing.require_channels(description.input_shape[2])
    sets = open_sets(
        paths,
        shape=description.input_shape,
        classes=classes,
        pixel_range=preprocessing.pixel_range,
    )
    model = load_model(given.model, architecture=given.architecture)
    classes = classes or sets["clean"].classes
    if classes is not None:
        classes.require_number(model.output_shape[-1] - is_goodnet(model))
    clean, poisoned = (
        accuracy(model, images, preprocessing=preprocessing) for images in sets.values()
    )
    return 100 * clean, 100 * poisoned


if __name__ == "__main__":
    sys.exit(main())
