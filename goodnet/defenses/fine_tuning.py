"""Fine-tuning as a repair: B trained on a little, on clean validation with its true labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from goodnet.arrays import FloatArray, IntArray
from goodnet.defenses.seam import Candidate, CleanPass
from goodnet.networks.graph import closes_with_softmax, copy_model

if TYPE_CHECKING:
    import keras

EPOCHS = 5
BATCH_SIZE = 64
LEARNING_RATE = 1e-4
"""Small: at B's own rate a few hundred images would undo more than the backdoor."""

_SEED = 0


def fine_tune(clean: CleanPass) -> Iterator[Candidate]:
    """Yield B after each epoch of training on clean validation, without augmentation.

    The plainest repair there is, and the yardstick of all others: Wu et al., "BackdoorBench: A
    Comprehensive Benchmark of Backdoor Learning", NeurIPS 2022, find that it leaves most attacks
    as they are. Batch normalization and dropout stay in inference mode, as their statistics of a
    few hundred images would be worse than B's own. The same images give the same nets.

    All of clean validation is in memory at once, as float32, and so is one set of weights for
    each candidate that is kept.
    """
    import keras

    stored = np.concatenate(list(clean.images.batches(512)))
    pixels = clean.cache.provenance.preprocessing.apply(stored.astype(np.float32))
    del stored
    labels = clean.images.labels
    model = copy_model(clean.frontier.model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not closes_with_softmax(model))
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    for epoch in range(1, EPOCHS + 1):
        _train(model, optimizer, loss, pixels, labels, seed=epoch)
        tuned = copy_model(model)
        answers = np.asarray(tuned.predict(pixels, verbose=0)).argmax(axis=1)
        yield Candidate(
            method="finetuning",
            setting=epoch,
            details={"epochs": epoch, "learning_rate": LEARNING_RATE},
            clean_accuracy=int(np.count_nonzero(answers == labels)) / len(labels),
            build=lambda tuned=tuned: tuned,  # type: ignore[misc]
        )


def _train(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: keras.losses.Loss,
    pixels: FloatArray,
    labels: IntArray,
    *,
    seed: int,
) -> None:
    """Go through the images once, in an order that the seed decides."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: tf.Tensor, answers: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            error = loss(answers, model(batch, training=False))
        optimizer.apply(tape.gradient(error, model.trainable_variables))

    order = np.random.default_rng([_SEED, seed]).permutation(len(pixels))
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        step(tf.constant(pixels[chosen]), tf.constant(labels[chosen]))
