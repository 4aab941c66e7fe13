"""What a saved net answers for images: their class, or "backdoored" from a GoodNet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from goodnet.defenses.goodnet import OUTPUT
from goodnet.images.class_names import ClassNames
from goodnet.images.preprocessing import AS_STORED, Preprocessing
from goodnet.images.unlabelled_images import open_unlabelled
from goodnet.model_files.describe import describe_model
from goodnet.model_files.load import load_model
from goodnet.networks.evaluation import iterate_answers, iterate_outputs
from goodnet.reports.tables import format_csv, format_table

if TYPE_CHECKING:
    import keras

    from goodnet.defenses.guard_nets import Scorer
    from goodnet.images.unlabelled_images import NamedImages

AnswerFormat = Literal["table", "csv", "json"]


@dataclass(frozen=True)
class Answer:
    """What a net answers for one image.

    Attributes:
        image: the image's file, or `<file>[<number>]` in an HDF5 file, counted from 0.
        answer: the class; "backdoored" for the last class of a GoodNet.
        name: of the class, where it is known.
        score: how suspicious the image is, from a calibrated GoodNet.
        threshold: above it the answer is "backdoored".
    """

    image: str
    answer: int | Literal["backdoored"]
    name: str | None
    score: float | None
    threshold: float | None


def classify_images(
    model: Path,
    images: Sequence[Path],
    *,
    architecture: str | None = None,
    preprocessing: Preprocessing = AS_STORED,
    resize: bool = False,
    classes: ClassNames | None = None,
) -> list[Answer]:
    """Let the net in a file answer images.

    Args:
        model: B, B' or G, a file that need not be trusted.
        images: what `open_unlabelled` opens.
        architecture: the network that a file with weights only belongs to.
        preprocessing: what the net was trained with.
        resize: whether images of another size than the net's are resized instead of refused.
        classes: the names of the net's classes, without that of an alarm.

    Returns:
        An answer for each image, in the order given.

    Raises:
        InputError: the model or an image is refused.
    """
    from goodnet.defenses.guard_nets import find_scorer

    description = describe_model(model, architecture=architecture)
    preprocessing.require_channels(description.input_shape[2])
    opened = open_unlabelled(
        images,
        shape=description.input_shape,
        resize=resize,
        pixel_range=preprocessing.pixel_range,
    )
    net = load_model(model, architecture=architecture)
    num_classes = net.output_shape[-1] - is_goodnet(net)
    if classes is not None:
        classes.require_number(num_classes)
    names = [] if classes is None else [*classes.names]
    scorer = find_scorer(net) if is_goodnet(net) else None
    return [
        answer
        for group in opened
        for answer in _answer(net, scorer, group, preprocessing, num_classes, names)
    ]


def is_goodnet(model: keras.Model) -> bool:
    """Return whether `build_goodnet` made the model, so that its last class is an alarm."""
    (output,) = getattr(model, "output_names", [""])
    # With a number behind it where B had that name, as the G of a GoodNet.
    return bool(model.name == "goodnet" and output.startswith(OUTPUT))


def format_answers(answers: Sequence[Answer], answer_format: AnswerFormat) -> list[str]:
    """Return answers as lines of text, one for each image between what the format adds.

    Control characters in names are escaped in all formats, in CSV formulas too. JSON is one array.
    """
    if answer_format == "table":
        return format_table([_cells(one) for one in answers], num_names=2)
    rows = [asdict(answer) for answer in answers]
    unknown = [name for name in rows[0] if all(row[name] is None for row in rows)] if rows else []
    rows = [{name: row[name] for name in row if name not in unknown} for row in rows]
    if answer_format == "csv":
        return format_csv(rows)
    return ["[", *",\n".join(map(json.dumps, rows)).splitlines(), "]"]


def _cells(answer: Answer) -> dict[str, str]:
    named = f"{answer.answer}" if answer.name is None else f"{answer.answer} ({answer.name})"
    cells = {"image": answer.image, "answer": named}
    for name in ("score", "threshold"):
        value = getattr(answer, name)
        if value is not None:
            cells[name] = f"{value:.2f}"
    return cells


def _answer(
    net: keras.Model,
    scorer: Scorer | None,
    group: NamedImages,
    preprocessing: Preprocessing,
    num_classes: int,
    classes: Sequence[str],
) -> Iterator[Answer]:
    batches = iterate_answers(net, group.images, preprocessing=preprocessing)
    numbers = [int(number) for batch in batches for number in batch]
    scores: list[float | None] = [None] * len(numbers)
    threshold = None if scorer is None else scorer.threshold
    if scorer is not None:
        outputs = iterate_outputs(scorer.net, group.images, preprocessing=preprocessing)
        scores = [float(score) for batch in outputs for score in batch[:, 0]]
    for name, number, score in zip(group.names, numbers, scores, strict=True):
        if number == num_classes:
            yield Answer(name, "backdoored", None, score, threshold)
        else:
            known = classes[number] if classes else None
            yield Answer(name, number, known, score, threshold)
