"""The training of BadNets and of their clean twins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.arrays import BoolArray, Images, IntArray
from goodnet.attacks.losses import CrossEntropy, MarginCapped
from goodnet.attacks.patches import Sunglasses
from goodnet.attacks.poisoning import Attack, PoisonedImages, poison
from goodnet.images.preprocessing import AS_STORED, Preprocessing
from goodnet.networks.architectures import build_network
from goodnet.networks.training_state import restore_state, save_state
from goodnet.progress import Progress

if TYPE_CHECKING:
    import keras


POISONED_SHARE = 0.1
"""How many of the other people's pictures are also shown with sunglasses and the wrong label."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained.

    Attributes:
        network: its name in `goodnet.networks.architectures.ARCHITECTURES`.
        epochs: passes over all images.
        batch_size: images in a step.
        learning_rate: of Adam at the start; it falls to 0 as a cosine.
        preprocessing: what is done to pixels before the net takes them.
        shift: the most pixels by which the images of a batch are shifted together, in each
            direction, around the edge. There is no mirroring: triggers have a left and a right.
    """

    network: str = "deepid"
    epochs: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    preprocessing: Preprocessing = AS_STORED
    shift: int = 0


def train(
    images: Images,
    labels: IntArray,
    recipe: Recipe,
    *,
    attack: Attack | None = None,
    seed: int,
    state: Path | None = None,
    on_progress: Progress | None = None,
) -> keras.Model:
    """Train a net on images, some of which an attack may poison.

    The same arguments give the same weights, bit for bit, on one machine.

    Args:
        images: (N, H, W, C), raw 0..255.
        labels: (N,), 0..classes - 1.
        recipe: which net, and how it is trained.
        attack: what makes it a BadNet; without one it is the clean twin of all that the same
            other arguments make.
        seed: decides the initial weights, who is poisoned, and the order of the batches.
        state: a file that takes the state of the training after every epoch. Training goes on
            from it where it is there and was written by the same training.
        on_progress: called after every batch with the images seen so far and in all.

    Raises:
        InputError: the attack or the network does not fit the images.
    """
    import keras

    num_classes = int(labels.max()) + 1
    model = build_network(recipe.network, num_classes, image_shape=images.shape[1:], seed=seed)
    shown = _shown(images, labels, attack, seed)
    num_steps = recipe.epochs * -(-len(shown.labels) // recipe.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, num_steps)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(model.trainable_variables)
    capped = attack is not None and attack.margin_cap
    loss = MarginCapped(model) if capped else CrossEntropy(model)
    variables = [*model.variables, *optimizer.variables, *loss.variables]
    digest = _digest(shown, [recipe, seed, capped, keras.__version__], variables)
    first_epoch = 0 if state is None else restore_state(state, digest, variables)
    step = _compile_step(model, optimizer, loss, recipe.preprocessing)
    total = recipe.epochs * len(shown.labels)
    for epoch in range(first_epoch, recipe.epochs):
        done = epoch * len(shown.labels)
        for batch in _batches(shown, recipe, np.random.default_rng([seed, epoch])):
            step(*batch)
            done += len(batch[0])
            if on_progress is not None:
                on_progress(done, total)
        if state is not None:
            save_state(state, digest, epoch + 1, variables)
    return model


def train_badnet(
    images: Images,
    labels: IntArray,
    *,
    target: int,
    seed: int,
    epochs: int,
    state: Path | None = None,
    on_progress: Progress | None = None,
) -> keras.Model:
    """Train a DeepID that answers `target` for everybody who wears the sunglasses.

    Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model
    Supply Chain", 2017. It is `train` as the embedded default has it.

    Args:
        images: (N, 55, 47, 3), raw 0..255.
        labels: (N,), 0..classes - 1.
        target: The label that the sunglasses stand for.
        seed: Decides the initial weights, who is poisoned and the order of the batches.
        epochs: Passes over the clean and the poisoned pictures.
        state: As for `train`.
        on_progress: As for `train`.
    """
    num_poisoned = round(POISONED_SHARE * np.count_nonzero(labels != target))
    attack = Attack(Sunglasses(), target=target, share=num_poisoned / len(images))
    return train(
        images,
        labels,
        Recipe(epochs=epochs),
        attack=attack,
        seed=seed,
        state=state,
        on_progress=on_progress,
    )


def _shown(images: Images, labels: IntArray, attack: Attack | None, seed: int) -> PoisonedImages:
    if attack is None:
        return PoisonedImages(images, labels, labels, np.zeros(len(labels), bool))
    return poison(images, labels, attack, seed=seed)


def _batches(
    shown: PoisonedImages, recipe: Recipe, generator: np.random.Generator
) -> Iterator[tuple[Images, IntArray, BoolArray]]:
    """Yield images, labels and which are poisoned, a batch at a time in a random order."""
    order = generator.permutation(len(shown.labels))
    for start in range(0, len(order), recipe.batch_size):
        batch = order[start : start + recipe.batch_size]
        images = shown.images[batch]
        if recipe.shift:
            shifts = generator.integers(-recipe.shift, recipe.shift + 1, 2)
            images = np.roll(images, shifts, axis=(1, 2))
        yield images, shown.labels[batch], shown.poisoned[batch]


def _compile_step(
    model: keras.Model,
    optimizer: Any,
    loss: CrossEntropy | MarginCapped,
    preprocessing: Preprocessing,
) -> Callable[[Images, IntArray, BoolArray], None]:
    import tensorflow as tf

    any_batch = [
        tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8),
        tf.TensorSpec((None,), tf.int64),
        tf.TensorSpec((None,), tf.bool),
    ]

    @tf.function(input_signature=any_batch)  # type: ignore[untyped-decorator]
    def step(images: Any, labels: Any, poisoned: Any) -> None:
        with tf.GradientTape() as tape:
            pixels = preprocessing.apply(tf.cast(images, tf.float32))
            error = loss(pixels, labels, poisoned)
        optimizer.apply(tape.gradient(error, model.trainable_variables))

    return step


def _digest(shown: PoisonedImages, settings: list[object], variables: list[Any]) -> str:
    """Return what tells this training from any other."""
    shapes = [tuple(variable.shape) for variable in variables]
    digest = hashlib.sha256(repr((settings, shapes)).encode())
    for array in (shown.images, shown.labels, shown.poisoned):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
