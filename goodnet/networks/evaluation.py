"""Letting one net, B, B' or G, answer images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from goodnet.arrays import FloatArray, IntArray
from goodnet.errors import InputError
from goodnet.images.image_sets import ImageSet
from goodnet.images.preprocessing import AS_STORED, Preprocessing
from goodnet.threads import prefetched

if TYPE_CHECKING:
    import keras

_BATCH = 256


def iterate_answers(
    model: keras.Model, images: ImageSet, *, preprocessing: Preprocessing
) -> Iterator[IntArray]:
    """Yield the classes that a net answers, (n,) for each batch of a set, in order.

    Args and errors are those of `iterate_outputs`.
    """
    # The largest of NaNs would be the first: class 0, which is often the attacker's. So they are
    # errors.
    for outputs in iterate_outputs(model, images, preprocessing=preprocessing):
        yield outputs.argmax(axis=1)


def iterate_outputs(
    model: keras.Model, images: ImageSet, *, preprocessing: Preprocessing
) -> Iterator[FloatArray]:
    """Yield what a net gives for each batch of a set, (n, outputs), in order.

    Args:
        model: (n, H, W, C) to (n, outputs).
        images: the set.
        preprocessing: what is done to its pixels first.

    Raises:
        InputError: an image is bad, or an answer is NaN or infinite.
    """
    import tensorflow as tf

    def run(pixels: tf.Tensor) -> tf.Tensor:
        return model(preprocessing.apply(tf.cast(pixels, tf.float32)), training=False)

    signature = [tf.TensorSpec((None, *images.shape), images.dtype)]
    compiled = tf.function(run, input_signature=signature, autograph=False)
    done = 0
    for pixels in prefetched(images.batches(_BATCH)):
        outputs = np.asarray(compiled(pixels))
        require_finite(outputs, f"{images.path}: the answer", first=done)
        done += len(outputs)
        yield outputs


def accuracy(
    model: keras.Model, images: ImageSet, *, preprocessing: Preprocessing = AS_STORED
) -> float:
    """Return the share of images that a net answers with their label, 0 … 1.

    Over clean images this is the clean accuracy, over poisoned ones under the attacker's label
    the attack success rate.

    Args:
        model: (n, H, W, C) to (n, outputs).
        images: the set, as it is stored, with labels (N,).
        preprocessing: what is done to its pixels first.

    Raises:
        InputError: an image is bad, or an answer is NaN or infinite.
    """
    answers = np.concatenate(list(iterate_answers(model, images, preprocessing=preprocessing)))
    return int(np.count_nonzero(answers == images.labels)) / images.num_images


def require_finite(
    values: FloatArray, what: str, *, first: int, rows: IntArray | None = None
) -> None:
    """Raise `InputError` unless all numbers of a batch are finite.

    Args:
        values: (n, …), what a net makes of n images.
        what: names the set and the values.
        first: number of the batch's first image in the set.
        rows: (n,), where the images stand from there on; else one behind the other.
    """
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))[0])
        bad = bad if rows is None else int(rows[bad])
        raise InputError(
            f"{what} on image {first + bad} is NaN or infinite, expected a number: the net is "
            "damaged, or the preprocessing is not its own"
        )
