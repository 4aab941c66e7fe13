"""Does the saved, calibrated GoodNet flag what the scores in memory say?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from goodnet.defenses.calibration import Calibration
from goodnet.defenses.guard import Scores
from goodnet.images.image_sets import ImageSet
from goodnet.networks.evaluation import require_finite
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


def check_guarded(
    net: keras.Model,
    *,
    cache: ActivationCache,
    images: ImageSet,
    scores: Scores,
    calibration: Calibration,
    full: bool,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> str | None:
    """Let the saved net, run by plain Keras, answer images; compare them one by one.

    Args:
        net: the calibrated GoodNet as loaded from its file.
        cache: of the first pass of B over the set.
        images: the set itself.
        scores: of its images by name, (n,) each.
        calibration: what joins them, and their threshold.
        full: all images, or a sample from the middle of the set.
        on_progress: called with the numbers of images done and in all.

    Returns:
        A sentence on the images that rounding decides, if there are any.

    Raises:
        RuntimeError: the net answers more images otherwise than rounding explains.
        InputError: an answer is NaN or infinite.
    """
    joined, (_, predictions) = calibration.join(scores), cache.answers()
    middle = max(0, (images.num_images - SAMPLE_IMAGES) // 2)
    start, stop = (0, images.num_images) if full else (middle, middle + SAMPLE_IMAGES)
    first, num_turned, num_wrong = start, 0, 0
    for batch in images.batches(SAMPLE_IMAGES, start=start, stop=stop):
        rows = slice(first, first + len(batch))
        pixels = cache.provenance.preprocessing.apply(batch.astype(np.float32))
        outputs = np.asarray(net(pixels, training=False))
        require_finite(outputs, f"{images.path}: the answer of the calibrated net", first=first)
        flagged = joined[rows] > np.float32(calibration.threshold)
        expected = np.where(flagged, outputs.shape[1] - 1, predictions[rows])
        differs = outputs.argmax(axis=1) != expected
        near = np.abs(joined[rows] - calibration.threshold) <= _NEAR
        num_turned += int(np.count_nonzero(differs))
        num_wrong += int(np.count_nonzero(differs & ~near))
        first += len(batch)
        on_progress(first, stop)
    checked = first - start
    if num_wrong > max(1, _EXPLAINED * checked):
        raise RuntimeError(
            f"the calibrated net disagrees with its scores on {num_wrong} of {checked} images of "
            f"{images.path}"
        )
    if not num_turned:
        return None
    return (
        f"The calibrated net answers {num_turned} of {checked} images of {images.path.name} that "
        "were checked otherwise than its scores in memory say: rounding decides those."
    )
