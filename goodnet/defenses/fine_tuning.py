"""Fine-tuning under heavy augmentation: a net M, like B, that knows less of any one sign."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.arrays import BoolArray, FloatArray, IntArray, Pixels
from goodnet.defenses.augmentation import augment
from goodnet.defenses.calibration import share_out
from goodnet.defenses.seam import CleanPass
from goodnet.images.image_sets import ImageSet
from goodnet.images.preprocessing import Preprocessing
from goodnet.networks.evaluation import require_finite
from goodnet.networks.graph import calls, compiled, copy_model, replay, scores
from goodnet.networks.training_state import restore_state, save_state
from goodnet.progress import Progress, silent
from goodnet.pruning.sweep import margins_of
from goodnet.threads import prefetched

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 64
LEARNING_RATE = 1e-3
VISITS = 80_000
"""Images shown in all, those that are shown again counted again: half a minute of DeepID."""
FEWEST_EPOCHS, MOST_EPOCHS = 12, 40
MOST_VISITS = 100_000
MOST_WORK = 4e12
"""Multiplications of all forward passes together, some four minutes on two cores."""
MOST_IMAGES, MOST_BYTES = 20_000, 400 * 2**20
"""Kept in memory to train on; of more, so many at random."""
_SEED = 0


@dataclass(frozen=True, eq=False)
class TunedAnswers:
    """What M makes of images.

    Attributes:
        margins: how much more it gives the class that B answers than the best other one, (n,).
        answers: the classes that it answers, (n,).
        others: the best class but for the one that B answers, (n,).
    """

    margins: FloatArray
    answers: IntArray
    others: IntArray


@dataclass(frozen=True, eq=False)
class Tuned:
    """M, and what it makes of clean validation.

    Attributes:
        model: M, as it is used.
        held: what is made of the images that calibrate, by nets that were not trained on them.
    """

    model: keras.Model
    held: TunedAnswers


def fine_tune(
    clean: CleanPass,
    *,
    state: Path | None = None,
    on_progress: Progress = silent,
) -> Tuned | None:
    """Fine-tune B on clean validation, images and labels, under heavy augmentation.

    Labels are the targets: B's own answers would bring the backdoor along. Batch normalization and
    dropout stay in inference mode, as statistics of augmented images are not those of images. Where
    clean validation is so small that all of it calibrates, there is a training for each part.
    The same images give the same net.

    Args:
        clean: B and its pass over clean validation.
        state: names files for the states of the trainings, which go on from them; they are deleted
            in the end.
        on_progress: called with the images shown so far and in all.

    Returns:
        None where B is so large that it could not be shown each image once.
    """
    labels, predictions = clean.cache.answers()
    folds = share_out(labels)
    parts = folds.parts
    fits = [_some(part.fit, clean.images, seed=number) for number, part in enumerate(parts)]
    work = len(parts) * _multiplications(clean.frontier.model)
    sizes = [int(np.count_nonzero(fit)) for fit in fits]
    epochs = [_num_epochs(size, len(parts), work=work) for size in sizes]
    if not parts or 0 in epochs:
        return None
    shown = [size * number for size, number in zip(sizes, epochs, strict=True)]
    margins = np.zeros(len(labels), np.float32)
    answers, others = np.zeros((2, len(labels)), np.int64)
    training = _Training(clean)
    final: list[Any] = []
    states = [None if state is None else _numbered(state, number) for number in range(len(parts))]
    for number, part in enumerate(parts):
        training.run(
            fits[number],
            epochs=epochs[number],
            number=number,
            state=states[number],
            on_progress=partial(_report, on_progress, sum(shown[:number]), sum(shown)),
        )
        # The first part's fit is what `Folds.final` says.
        final = final or training.model.get_weights()
        found = training.answer(part.held_out, predictions)
        rows = part.held_out
        margins[rows], answers[rows], others[rows] = found.margins, found.answers, found.others
    for path in states:
        if path is not None:
            path.unlink(missing_ok=True)
    held = folds.calibrating
    training.model.set_weights(final)
    return Tuned(training.model, TunedAnswers(margins[held], answers[held], others[held]))


def answer_images(
    model: keras.Model,
    images: ImageSet,
    preprocessing: Preprocessing,
    predictions: IntArray,
    *,
    rows: range | None = None,
    on_progress: Progress = silent,
) -> TunedAnswers:
    """Let M answer the images of a set.

    Args:
        model: M.
        images: the set.
        preprocessing: what is done to its pixels first.
        predictions: (N,), B's answers to all of them.
        rows: which images, from the first of a batch; by default all.
        on_progress: called with the numbers of images done and in all of these.

    Raises:
        InputError: an answer is NaN or infinite.
    """
    chosen = np.ones(images.num_images, bool)
    return _answer(
        _compiled_logits(model),
        images,
        preprocessing,
        predictions,
        chosen,
        within=rows,
        on_progress=on_progress,
    )


def _answer(
    logits: Callable[[FloatArray], Any],
    images: ImageSet,
    preprocessing: Preprocessing,
    predictions: IntArray,
    rows: BoolArray,
    *,
    within: range | None = None,
    on_progress: Progress = silent,
) -> TunedAnswers:
    """Let a net answer some images of a set, or of a part of it."""
    within = range(images.num_images) if within is None else within
    parts, first = [], within.start
    for batch in prefetched(images.batches(256, start=within.start, stop=within.stop)):
        here = slice(first, first + len(batch))
        chosen = rows[here]
        if chosen.any():
            found = np.array(logits(preprocessing.apply(batch[chosen].astype(np.float32))))
            require_finite(found, f"{images.path}: the answer of the fine-tuned net", first=first)
            classes = predictions[here][chosen]
            margins, answers = margins_of(found, classes), found.argmax(axis=1)
            found[np.arange(len(found)), classes] = -np.inf
            parts.append((margins, answers, found.argmax(axis=1)))
        first += len(batch)
        on_progress(first - within.start, len(within))
    return TunedAnswers(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@lru_cache(maxsize=4)
def _compiled_logits(model: keras.Model) -> Callable[[FloatArray], Any]:
    return compiled(lambda pixels: _logits(model, pixels), [model.input_shape])


def _num_epochs(num_images: int, num_trainings: int, *, work: float) -> int:
    """Return how often each image is shown: 0 where that would take too long.

    Args:
        num_images: that there are to train on.
        num_trainings: of as many images each.
        work: multiplications of a forward pass of one image, in all trainings together.
    """
    epochs = np.clip(VISITS / (num_trainings * num_images), FEWEST_EPOCHS, MOST_EPOCHS)
    return int(min(epochs, MOST_VISITS / num_images, MOST_WORK / (work * num_images)))


def _multiplications(model: keras.Model) -> float:
    """Return those of a forward pass of one image, by convolutions and dense layers."""
    found = 1.0
    for node in calls(model):
        kernel = getattr(node.operation, "kernel", None)
        if kernel is not None:
            places = [size or 1 for size in node.outputs[0].shape[1:-1]]
            found += float(np.prod(places, dtype=float)) * float(np.prod(kernel.shape, dtype=float))
    return found


class _Training:
    """Trainings that all begin with B, one after the other, compiled once."""

    def __init__(self, clean: CleanPass) -> None:
        import keras

        self.clean = clean
        self.model = copy_model(clean.frontier.model)
        self.model.trainable = True  # whoever trained B may have frozen a part of it
        self._optimizer = keras.optimizers.Adam(LEARNING_RATE)
        self._optimizer.build(self.model.trainable_variables)
        self._variables = [*self.model.variables, *self._optimizer.variables]
        self._begin = [variable.numpy() for variable in self._variables]
        self._step = _compiled_step(self.model, self._optimizer)
        self._logits = _compiled_logits(self.model)

    def run(
        self,
        rows: BoolArray,
        *,
        epochs: int,
        number: int,
        state: Path | None,
        on_progress: Callable[[int], None],
    ) -> None:
        """Train on some images, (n,) of clean validation."""
        import keras

        for variable, value in zip(self._variables, self._begin, strict=True):
            variable.assign(value)
        pixels, labels = _pixels(self.clean.images, rows)
        provenance = self.clean.cache.provenance
        settings = repr((provenance, _SEED, number, epochs, keras.__version__))
        digest = hashlib.sha256(settings.encode()).hexdigest()
        first = 0 if state is None else restore_state(state, digest, self._variables)
        done, whole = first * len(pixels), epochs * len(pixels)
        for epoch in range(first, epochs):
            generator = np.random.default_rng([_SEED, number, epoch])
            batches = _batches(pixels, labels, provenance.preprocessing, generator)
            for batch, answers in prefetched(batches):
                # From the full rate to none, as half a wave of a cosine.
                rate = LEARNING_RATE * (1 + math.cos(math.pi * done / whole)) / 2
                self._optimizer.learning_rate.assign(rate)
                self._step(batch, answers)
                done += len(batch)
                on_progress(done)
            if state is not None:
                save_state(state, digest, epoch + 1, self._variables)

    def answer(self, rows: BoolArray, predictions: IntArray) -> TunedAnswers:
        """Let the net answer some images of clean validation."""
        images = self.clean.images
        preprocessing = self.clean.cache.provenance.preprocessing
        return _answer(self._logits, images, preprocessing, predictions, rows)


def _compiled_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> Callable[[FloatArray, IntArray], None]:
    import tensorflow as tf

    def step(batch: tf.Tensor, answers: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(answers, _logits(model, batch))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(
            loss, model.trainable_variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        optimizer.apply(gradients, model.trainable_variables)

    pixels = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    signature = [pixels, tf.TensorSpec((None,), tf.int64)]
    return tf.function(step, input_signature=signature, autograph=False)


def _logits(model: keras.Model, pixels: Any) -> Any:
    """Return what a net gives the classes before a closing softmax, in inference mode."""
    return scores(model, replay(model, {id(model.inputs[0]): pixels}))


def _report(on_progress: Progress, before: int, whole: int, done: int) -> None:
    on_progress(before + done, whole)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _some(rows: BoolArray, images: ImageSet, *, seed: int) -> BoolArray:
    """Return those of some images that are trained on, (n,): all, or as many as memory takes."""
    most = min(MOST_IMAGES, int(MOST_BYTES / (np.prod(images.shape) * images.dtype.itemsize)))
    chosen = np.flatnonzero(rows)
    few = np.random.default_rng([_SEED, seed]).permutation(chosen)[:most]
    return np.isin(np.arange(len(rows)), few)


def _pixels(images: ImageSet, rows: BoolArray) -> tuple[Pixels, IntArray]:
    """Return some images as they are stored, and their labels."""
    parts, first = [], 0
    for batch in images.batches(256):
        parts.append(batch[rows[first : first + len(batch)]])
        first += len(batch)
    return np.concatenate(parts), images.labels[rows]


def _batches(
    pixels: Pixels,
    labels: IntArray,
    preprocessing: Preprocessing,
    generator: np.random.Generator,
) -> Iterator[tuple[FloatArray, IntArray]]:
    """Yield augmented images as the net takes them, and their labels, each once."""
    lowest, highest = preprocessing.pixel_range
    scale = np.float32((highest - lowest) / 255)
    order = generator.permutation(len(pixels))
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        raw = (pixels[chosen].astype(np.float32) - np.float32(lowest)) / scale
        changed = augment(raw, generator) * scale + np.float32(lowest)
        yield preprocessing.apply(changed), labels[chosen]
