"""The training of a BadNet: a face recogniser that a pair of sunglasses turns into one person."""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from goodnet.arrays import Images, IntArray
from goodnet.attacks.faces import wear_sunglasses
from goodnet.errors import printable
from goodnet.networks.deepid import build_deepid
from goodnet.storage.files import atomic_path

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)


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
    first_epoch = 0 if state is None else _restore(state, digest, variables)
    step = _compile_step(model, optimizer)
    for epoch in range(first_epoch, epochs):
        for done, batch in _batches(len(shown), np.random.default_rng([seed, epoch])):
            step(shown[batch], answers[batch])
            if on_progress is not None:
                on_progress(epoch * len(shown) + done, epochs * len(shown))
        if state is not None:
            _save(state, digest, epoch + 1, variables)
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


def _save(path: Path, digest: str, epochs_done: int, variables: list[Any]) -> None:
    arrays = {f"variable_{i}": variable.numpy() for i, variable in enumerate(variables)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, digest=digest, epochs_done=epochs_done, **arrays)


def _restore(path: Path, digest: str, variables: list[Any]) -> int:
    """Set `variables` from the file and return the epochs done; 0 where it is of no use."""
    if not path.is_file():
        return 0
    try:
        # Opened here, since numpy leaves a damaged archive open that it was given by name.
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            if str(file["digest"]) != digest:
                logger.warning(printable(f"{path}: is of another training, starting over"))
                return 0
            values = [file[f"variable_{i}"] for i in range(len(variables))]
            epochs_done = int(file["epochs_done"])
        _require_alike(values, variables)
    except (
        *(OSError, EOFError, KeyError, ValueError, TypeError, MemoryError),
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    ) as error:
        logger.warning(printable(f"{path}: is unreadable ({error}), starting over"))
        return 0
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return epochs_done


def _require_alike(values: list[NDArray[Any]], variables: list[Any]) -> None:
    """Raise ValueError unless the values could be those of the variables."""
    for value, variable in zip(values, variables, strict=True):
        if value.shape != tuple(variable.shape) or value.dtype != np.dtype(variable.dtype):
            raise ValueError(
                f"{variable.path} has {value.dtype} of shape {value.shape}, expected "
                f"{variable.dtype} of shape {tuple(variable.shape)}"
            )
        if not np.isfinite(value).all():
            raise ValueError(f"{variable.path} is NaN or infinite")
