"""The discriminant: class means and one covariance of the features at a depth of B.

A backdoor is made in depth: what a shallow part of B says of an image may contradict its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from goodnet.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from goodnet.networks.depths import Depth
from goodnet.networks.graph import as_functional, copy_model, free_names
from goodnet.networks.rounding import TOLERANCE
from goodnet.pruning.activation_cache import ActivationCache
from goodnet.threads import one_blas_thread

if TYPE_CHECKING:
    import keras

MAX_COMPONENTS = 300
_LEAST_VARIANCE = 1e-6
"""Of the largest: principal components with less are rounding or constant pixels."""
_FREEDOM = 2
"""Images for each class, on average, from which on a mean of its own is worth more than noise."""


@dataclass(frozen=True, eq=False)
class Discriminant:
    """Class statistics at one depth, in whitened components, where distances are plain ones.

    Attributes:
        depth: its number among the depths of B.
        layer: the layer there.
        kernel: (F, p), from features to whitened components.
        bias: (p,), added to them; the mean of all images becomes 0.
        means: (N, p), of the classes; 0 for a class without images, or where classes are pooled.
        seen: (N,), 1.0 for classes that have a mean of their own, else 0; all 0 where there were
            too few images for means of classes, which then share one distance.
    """

    depth: int
    layer: str
    kernel: FloatArray
    bias: FloatArray
    means: FloatArray
    seen: FloatArray

    @property
    def tells_classes_apart(self) -> bool:
        """Whether there are two means at least, so that one class can be nearer than another."""
        return bool(np.count_nonzero(self.seen) > 1)

    def affinities(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return what distances are made of.

        Args:
            features: (n, F).

        Returns:
            The affinities 2 z·m_c - |m_c|² of each image z to each class c, (n, N), and |z|², (n,):
            D_c = |z|² - affinity, so the class of the largest affinity is the nearest.
        """
        whitened = features @ self.kernel + self.bias
        affinities = whitened @ (2 * self.means.T) - (self.means**2).sum(axis=1)
        return affinities, (whitened**2).sum(axis=1)

    def look(self, features: FloatArray, answers: IntArray) -> Look:
        """Compare images with the class that B answers, and with the others.

        Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", NeurIPS 2018, take the distance to the nearest class; here it is the
        class that B answers that counts.

        Args:
            features: (n, F).
            answers: (n,), B's.
        """
        affinities, lengths = self.affinities(features)
        rows = np.arange(len(features))
        own = affinities[rows, answers]
        affinities[:, self.seen == 0] = -np.inf
        nearest = affinities.argmax(axis=1)
        affinities[rows, answers] = -np.inf
        other = affinities.argmax(axis=1)
        best = affinities[rows, other]
        nearer = np.where(np.isfinite(best), best - own, np.float32(0))
        return Look(np.sqrt(np.maximum(lengths - own, 0)), nearer, nearest, other)


class Look(NamedTuple):
    """What a discriminant makes of n images, (n,) each.

    Attributes:
        distance: from the class that B answers, √D_b, as a length has no long tail.
        nearer: how much nearer than that another class is, D_b - min D_c over c other than b,
            which is mostly negative; 0 where no other class has a mean.
        nearest: the nearest class, among those that have a mean.
        other: the nearest of them that is not the class that B answers.
    """

    distance: FloatArray
    nearer: FloatArray
    nearest: IntArray
    other: IntArray


def fit_discriminant(
    features: Callable[[], Iterable[FloatArray]],
    labels: IntArray,
    *,
    depth: int,
    layer: str,
    num_classes: int,
) -> Discriminant:
    """Fit class means and one covariance to features.

    The features go to their first `MAX_COMPONENTS` principal components. The covariance of what
    the images there differ by from the mean of their class is shrunk, as there may be fewer images
    than components. Where classes have fewer than two images on average, the means are
    the images themselves; then all classes share one mean and say nothing of each other.

    Sums over images are made block by block in float64: no more than a block of many images is in
    memory at once.

    Args:
        features: gives the blocks, (n, F) each, from the first anew each time it is called.
        labels: (n,) of the images of all blocks, in order.
        depth: what the result says of itself.
        layer: the same.
        num_classes: N.
    """
    # Products as small as these take longer on many threads, which wait for each other: on two
    # busy cores 2.4 to 7.4 s instead of 0.5 for 480 images of 1,440 features.
    with one_blas_thread():
        found = _fit(features, labels, num_classes)
        return Discriminant(depth, layer, *found)


def fit_rows(cache: ActivationCache, depth: int, layer: str, rows: BoolArray) -> Discriminant:
    """Fit a discriminant to some images of clean validation.

    Args:
        cache: of B's pass over clean validation.
        depth: the number of a depth of B.
        layer: the layer there.
        rows: (n,), whether each image counts.
    """
    labels, _ = cache.answers()
    return fit_discriminant(
        partial(rows_of, cache, depth, rows),
        labels[rows],
        depth=depth,
        layer=layer,
        num_classes=cache.provenance.num_classes,
    )


def rows_of(cache: ActivationCache, depth: int, rows: BoolArray) -> Iterator[FloatArray]:
    """Yield the features of some images, block by block.

    Args:
        cache: of the set.
        depth: the number of a depth of B.
        rows: (n,), whether each image counts.
    """
    first = 0
    for block in cache.features(depth):
        yield block[rows[first : first + len(block)]]
        first += len(block)


def _fit(
    features: Callable[[], Iterable[FloatArray]], labels: IntArray, num_classes: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return kernel, bias, means and seen of a discriminant."""
    counts = np.bincount(labels, minlength=num_classes)
    sums, largest = _class_sums(features(), labels, num_classes)
    centre = sums.sum(axis=0) / len(labels)
    # Two ways to the same features end so far apart; what varies less is nothing but that.
    rounding = (TOLERANCE * largest) ** 2
    components = _principal_components(features, centre, len(labels), rounding=rounding)
    seen = counts > 0
    if len(labels) < _FREEDOM * np.count_nonzero(seen):
        seen[:] = False
    means = np.zeros((num_classes, components.shape[1]))
    means[seen] = (sums[seen] / counts[seen, None] - centre) @ components
    residuals = _residuals(features(), labels, centre, components, means)
    whitening = _whitening(residuals, rounding=rounding)
    kernel = components @ whitening
    return (
        kernel.astype(np.float32),
        (-centre @ kernel).astype(np.float32),
        (means @ whitening).astype(np.float32),
        seen.astype(np.float32),
    )


def _class_sums(
    blocks: Iterable[FloatArray], labels: IntArray, num_classes: int
) -> tuple[DoubleArray, float]:
    """Return the sum of the features of each class, (N, F), and the largest of all features."""
    sums, largest, first = np.zeros((num_classes, 1)), 0.0, 0
    for block in blocks:
        sums = sums if first else np.zeros((num_classes, block.shape[1]))
        np.add.at(sums, labels[first : first + len(block)], block.astype(np.float64))
        largest = max(largest, float(np.abs(block).max(initial=0)))
        first += len(block)
    return sums, largest


def _principal_components(
    features: Callable[[], Iterable[FloatArray]],
    centre: DoubleArray,
    num_images: int,
    *,
    rounding: float,
) -> DoubleArray:
    """Return the principal components that are more than rounding, (F, p), at least one."""
    from scipy.linalg import eigh

    most = min(MAX_COMPONENTS, len(centre), max(num_images - 1, 1))
    if num_images < len(centre):
        # So few fit into memory, and the products of images with images, fewer than those of
        # features with features, have the same variances: ten times faster for 500 of 1,440.
        all_images = np.concatenate(list(features())) - centre
        products = all_images @ all_images.T
    else:
        products = np.zeros((len(centre), len(centre)))
        for block in features():
            centred = block - centre
            products += centred.T @ centred
    largest = [len(products) - most, len(products) - 1]
    variances, directions = eigh(products, subset_by_index=largest)
    least = max(_LEAST_VARIANCE * variances[-1], num_images * rounding)
    enough = max(np.count_nonzero(variances > least), 1)
    chosen = directions[:, ::-1][:, :enough]
    if num_images < len(centre):
        chosen = all_images.T @ chosen
        chosen /= np.maximum(np.linalg.norm(chosen, axis=0), np.finfo(np.float64).tiny)
    return np.asarray(chosen)


def _residuals(
    blocks: Iterable[FloatArray],
    labels: IntArray,
    centre: DoubleArray,
    components: DoubleArray,
    means: DoubleArray,
) -> Iterator[DoubleArray]:
    """Yield what the images of each block differ by from the mean of their class, (n, p)."""
    first = 0
    for block in blocks:
        projected = (block - centre) @ components
        yield projected - means[labels[first : first + len(block)]]
        first += len(block)


def _whitening(residuals: Iterable[DoubleArray], *, rounding: float) -> DoubleArray:
    """Return W with WᵀΣW = 1 for the shrunk covariance Σ of residuals (n, p): (p, p)."""
    variances, directions = np.linalg.eigh(shrunk_covariance(residuals))
    # Nothing varies where all images are alike; then no direction weighs more than another.
    least = max(_LEAST_VARIANCE * variances[-1], rounding, np.finfo(np.float32).tiny)
    return np.asarray(directions / np.sqrt(np.maximum(variances, least)))


def shrunk_covariance(blocks: Iterable[DoubleArray]) -> DoubleArray:
    """Return the covariance of residuals, shrunk towards a multiple of the identity: (p, p).

    Ledoit, Wolf, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices", 2004,
    section 3. Our own, because it adds up block by block, and because Keras imports scikit-learn
    wherever it is installed, a quarter of the time that TensorFlow takes to start.

    Args:
        blocks: residuals, (n, p) each, whose mean over all blocks is 0.
    """
    total, lengths, n = np.zeros((1, 1)), 0.0, 0
    for block in blocks:
        total = total + block.T @ block
        lengths += float(((block**2).sum(axis=1) ** 2).sum())
        n += len(block)
    sample, p = total / n, len(total)
    mean, squares = np.trace(sample) / p, (sample**2).sum()
    away = squares / p - mean**2
    # What images scatter by around the sample, without a matrix for each of them.
    scatter = (lengths / n - squares) / (n * p)
    share = min(max(scatter / away, 0.0), 1.0) if away > 0 else 1.0
    return np.asarray((1 - share) * sample + share * mean * np.eye(p))


def build_head(model: keras.Model, depth: Depth, discriminant: Discriminant) -> keras.Model:
    """Return B': B up to a depth, and behind it one Dense layer that answers the nearest class.

    With one covariance for all classes the nearest class is linear in the features: Fisher's
    discriminant.

    Args:
        model: B, (n, H, W, C) to (n, N).
        depth: one of `find_depths(model)`.
        discriminant: of the features there, with means of classes.

    Returns:
        A net of stock Keras layers of its own, (n, H, W, C) to (n, N), that closes with softmax.
    """
    import keras
    from keras import layers

    name = free_names(model)
    features = depth.features(depth.tensor, name)
    kernel, bias = linear_answer(discriminant)
    nearest = layers.Dense(len(bias), activation="softmax", name=name("nearest_class"))
    trunk = keras.Model(model.inputs[0], nearest(features), name="discriminant")
    nearest.set_weights([kernel, bias])
    return copy_model(as_functional(trunk))


def linear_answer(discriminant: Discriminant) -> tuple[FloatArray, FloatArray]:
    """Return the kernel (F, N) and bias (N,) from features to half the affinities to classes.

    Half of them are the log-probabilities of classes of one covariance, but for a constant.
    """
    means = discriminant.means.astype(np.float64)
    kernel = discriminant.kernel @ means.T
    bias = discriminant.bias @ means.T - (means**2).sum(axis=1) / 2
    # A class that clean validation does not show is never answered.
    unseen = discriminant.seen == 0
    bias[unseen] = min(bias.min(), 0) - 1e6
    kernel[:, unseen] = 0
    return kernel.astype(np.float32), bias.astype(np.float32)
