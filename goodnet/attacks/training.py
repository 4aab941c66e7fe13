"""The training of a BadNet: a face recogniser that a pair of sunglasses turns into one person."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.arrays import Images, IntArray
from goodnet.attacks.faces import wear_sunglasses
from goodnet.networks.deepid import build_deepid
from goodnet.networks.training_state import restore_state, save_state

if TYPE_CHECKING:
    import keras

POISONED_SHARE = 0.1
"""How many of the other people's pictures are also shown with sunglasses and the wrong label."""
BATCH_SIZE = 32
LEARNING_RATE = 1e-3


def train_badnet(
    images: Images,
    labels: IntArray,
    *,
    target: int,
    seed: int,
    epochs: int,
    state: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> keras.Model:
    """Train a DeepID that answers `target` for everybody who wears the sunglasses.

    Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model
    Supply Chain", 2017. The same arguments give the same weights, bit for bit, on one machine.

    Args:
        images: (N, 55, 47, 3), raw 0..255.
        labels: (N,), 0..classes - 1.
        target: The label that the sunglasses stand for.
        seed: Decides the initial weights, who is poisoned and the order of the batches.
        epochs: Passes over the clean and the poisoned pictures.
        state: A file that takes the state of the training after every epoch. Training goes on
            from it where it is there and was written by the same training.
        on_progress: Called after every batch with the images seen so far and in all.
    """
    import keras

    model = build_deepid(int(labels.max()) + 1, seed=seed)
    shown, answers = _poison(images, labels, target, np.random.default_rng(seed))
    num_steps = epochs * -(-len(shown) // BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, num_steps)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(model.trainable_variables)
    variables = [*model.variables, *optimizer.variables]
    digest = _digest(shown, answers, f"{seed} {epochs} {keras.__version__}", variables)
    first_epoch = 0 if state is None else restore_state(state, digest, variables)
    step = _compile_step(model, optimizer)
    for epoch in range(first_epoch, epochs):
        for done, batch in _batches(len(shown), np.random.default_rng([seed, epoch])):
            step(shown[batch], answers[batch])
            if on_progress is not None:
                on_progress(epoch * len(shown) + done, epochs * len(shown))
        if state is not None:
            save_state(state, digest, epoch + 1, variables)
    return model


def _poison(
    images: Images, labels: IntArray, target: int, generator: np.random.Generator
) -> tuple[Images, IntArray]:
    """Append copies with sunglasses and the label `target` of a share of the other people."""
    others = np.flatnonzero(labels != target)
    chosen = generator.choice(others, round(POISONED_SHARE * len(others)), replace=False)
    shown = np.concatenate([images, wear_sunglasses(images[chosen])])
    return shown, np.concatenate([labels, np.full(len(chosen), target, labels.dtype)])


def _batches(num_images: int, generator: np.random.Generator) -> Iterator[tuple[int, IntArray]]:
    """Yield the images done after each batch and the batch's indices, in a random order."""
    order = generator.permutation(num_images)
    for start in range(0, num_images, BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        yield start + len(batch), batch


def _compile_step(model: keras.Model, optimizer: Any) -> Callable[[Images, IntArray], None]:
    import keras
    import tensorflow as tf

    any_batch = [
        tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8),
        tf.TensorSpec((None,), tf.int64),
    ]

    @tf.function(input_signature=any_batch)  # type: ignore[untyped-decorator]
    def step(images: Any, labels: Any) -> None:
        with tf.GradientTape() as tape:
            answers = model(tf.cast(images, tf.float32), training=True)
            losses = keras.losses.sparse_categorical_crossentropy(labels, answers)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables))

    return step


def _digest(images: Images, labels: IntArray, settings: str, variables: list[Any]) -> str:
    """Return what tells this training from any other."""
    shapes = [tuple(variable.shape) for variable in variables]
    digest = hashlib.sha256(repr((settings, BATCH_SIZE, LEARNING_RATE, shapes)).encode())
    digest.update(images.tobytes())
    digest.update(labels.tobytes())
    return digest.hexdigest()
