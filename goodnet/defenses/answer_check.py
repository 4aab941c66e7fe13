"""Do the saved nets answer what was computed in memory?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from goodnet.arrays import BoolArray, IntArray
from goodnet.defenses.calibration import Calibration
from goodnet.defenses.guard import Seen
from goodnet.defenses.repairs import FALLBACK
from goodnet.images.image_sets import ImageSet
from goodnet.images.preprocessing import Preprocessing
from goodnet.networks.evaluation import require_finite
from goodnet.progress import Progress, silent
from goodnet.pruning.activation_cache import ActivationCache

if TYPE_CHECKING:
    import keras

SAMPLE_IMAGES = 256

_NEAR = 0.02
"""How near the threshold rounding may turn an image, in units of the excess of a score's tail."""

_EXPLAINED = 0.02
"""The share of other images that may be turned: ties of B, and scores known to few digits.

A score that the net computes wrongly turns a third of the images or more.
"""


class Expected(NamedTuple):
    """What a saved net should answer to the images of a set.

    Attributes:
        what: names the net.
        answers: (n,) classes.
        near: (n,), which images rounding may decide.
    """

    what: str
    answers: IntArray
    near: BoolArray


def expected_answers(
    cache: ActivationCache,
    seen: Seen,
    calibration: Calibration,
    repaired: Iterable[tuple[str, IntArray]],
) -> list[Expected]:
    """Return what the calibrated GoodNet should answer to a set, and then each repaired net.

    Args:
        cache: of the first pass of B over the set.
        seen: what the guard made of it.
        calibration: of the joined score.
        repaired: the method of each repaired net, and what it answers, (n,).
    """
    beyond = calibration.join(seen.scores) - np.float32(calibration.threshold)
    _, predictions = cache.answers()
    flagged = np.where(beyond > 0, cache.provenance.num_classes, predictions)
    near = np.abs(beyond) <= _NEAR
    nets = [Expected("the calibrated GoodNet", flagged, near)]
    for method, answers in repaired:
        # Only what has the threshold in it is decided there.
        nets.append(Expected(f"B' by {method}", answers, near & (method == FALLBACK)))
    return nets


def check_answers(
    net: keras.Model,
    expected: Expected,
    *,
    images: ImageSet,
    preprocessing: Preprocessing,
    full: bool,
    on_progress: Progress = silent,
) -> str | None:
    """Let a saved net, run by plain Keras, answer images; compare them one by one.

    Args:
        net: as loaded from its file.
        expected: what it should answer.
        images: the n images.
        preprocessing: what is done to their pixels first.
        full: all images, or a sample from the middle of the set.
        on_progress: called with the numbers of images done and in all.

    Returns:
        A sentence on the images that rounding decides, if there are any.

    Raises:
        RuntimeError: the net answers more images otherwise than rounding explains.
        InputError: an answer is NaN or infinite.
    """
    what = expected.what
    middle = max(0, (images.num_images - SAMPLE_IMAGES) // 2)
    start, stop = (0, images.num_images) if full else (middle, middle + SAMPLE_IMAGES)
    first, num_turned, num_wrong = start, 0, 0
    for batch in images.batches(SAMPLE_IMAGES, start=start, stop=stop):
        rows = slice(first, first + len(batch))
        outputs = np.asarray(net(preprocessing.apply(batch.astype(np.float32)), training=False))
        require_finite(outputs, f"{images.path}: the answer of {what}", first=first)
        differs = outputs.argmax(axis=1) != expected.answers[rows]
        num_turned += int(np.count_nonzero(differs))
        num_wrong += int(np.count_nonzero(differs & ~expected.near[rows]))
        first += len(batch)
        on_progress(first, stop)
    checked = first - start
    if num_wrong > max(1, _EXPLAINED * checked):
        raise RuntimeError(
            f"{what} disagrees with what was computed on {num_wrong} of {checked} images of "
            f"{images.path}"
        )
    if not num_turned:
        return None
    return (
        f"Of {images.path.name}, {what} answers {num_turned} of {checked} images that were checked "
        "otherwise than was computed in memory: rounding decides those."
    )
