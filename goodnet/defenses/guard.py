"""The guard: how suspicious B's answer is, and the GoodNet that holds that to a threshold.

Each score sees another side of an image: how sure B is of its answer, how sure the channels are
that clean images leave quiet, and whether the features at a depth look like the class that B
answers. None of them notices every trigger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.arrays import FloatArray, IntArray
from goodnet.defenses.calibration import Calibration, Folds, share_out
from goodnet.defenses.discriminant import Discriminant, fit_rows, rows_of
from goodnet.defenses.seam import CleanPass
from goodnet.networks.graph import (
    Namer,
    as_functional,
    calls,
    closes_with_softmax,
    dependents,
    free_names,
    output_of,
    replay,
)
from goodnet.pruning.activation_cache import ActivationCache
from goodnet.pruning.channels import without_channels
from goodnet.pruning.frontier import Frontier
from goodnet.pruning.sweep import choose_expert, margins_at, sweep_experts

if TYPE_CHECKING:
    import keras

Scores = dict[str, FloatArray]
"""Of images by name, (n,) each, larger for more suspicious."""

EXPERT_SHARE = 0.2
"""The expert agrees with B on at most this share of clean validation: see docs/methods.md."""
_OUT_OF_REACH = 1e9


@dataclass(frozen=True, eq=False)
class Guard:
    """All that scores of images are computed with, from clean validation alone.

    Attributes:
        order: all channels in prune order.
        expert: the k of the expert E_k whose margin is a score.
        discriminants: of some depths of B.
    """

    order: tuple[int, ...]
    expert: int
    discriminants: tuple[Discriminant, ...]

    def scores(self, cache: ActivationCache, frontier: Frontier, *, num_threads: int = 2) -> Scores:
        """Return the scores of the images of a set, in their order.

        Args:
            cache: of the first pass of B over the set.
            frontier: of B.
            num_threads: blocks swept at a time.
        """
        found = expert_scores(cache, frontier, self.order, self.expert, num_threads=num_threads)
        _, predictions = cache.answers()
        for fitted in self.discriminants:
            found |= discriminant_scores(cache.features(fitted.depth), predictions, fitted)
        return {name: found[name] for name in score_names(self.discriminants)}


def fit_guard(clean: CleanPass, order: Sequence[int]) -> tuple[Guard, Scores]:
    """Fit the scores to clean validation.

    Args:
        clean: B and its pass over clean validation.
        order: all channels in prune order.

    Returns:
        The guard, and the scores of the images that calibrate, none of which was among those that
        its class statistics were fitted to.
    """
    counts, _ = sweep_experts(clean.cache, frontier=clean.frontier, order=order)
    expert = choose_expert(counts, share=EXPERT_SHARE)
    labels, _ = clean.cache.answers()
    folds = share_out(labels)
    held = expert_scores(clean.cache, clean.frontier, order, expert)
    held = {name: values[folds.calibrating] for name, values in held.items()}
    discriminants = []
    for depth in chosen_depths(clean.cache.num_depths):
        fitted, scores = _fit_depth(clean, folds, depth)
        discriminants.append(fitted)
        held |= scores
    joined = {name: held[name] for name in score_names(discriminants)}
    return Guard(tuple(order), expert, tuple(discriminants)), joined


def chosen_depths(num_depths: int) -> list[int]:
    """Return the first, a middle and the last depth: all see the same, and each costs budget."""
    return sorted({0, num_depths // 2, num_depths - 1}) if num_depths else []


def _fit_depth(clean: CleanPass, folds: Folds, depth: int) -> tuple[Discriminant, Scores]:
    """Fit a discriminant, and score the images that calibrate with one that has not seen them."""
    labels, predictions = clean.cache.answers()
    fitted = fit_rows(clean, depth, folds.final)
    pooled = {name: np.zeros(len(labels), np.float32) for name in _score_names(fitted)}
    for part in folds.parts:
        same = part.fit is folds.final
        without = fitted if same else fit_rows(clean, depth, part.fit)
        rows = part.held_out
        features = rows_of(clean.cache, depth, rows)
        for name, values in discriminant_scores(features, predictions[rows], without).items():
            pooled[name][rows] = values
    return fitted, {name: values[folds.calibrating] for name, values in pooled.items()}


def expert_scores(
    cache: ActivationCache,
    frontier: Frontier,
    order: Sequence[int],
    expert: int,
    *,
    num_threads: int = 2,
) -> Scores:
    """Return the margin of B's class in B itself, the control, and in an expert.

    Args:
        cache: of a set.
        frontier: of B.
        order: all channels in prune order.
        expert: how many of them the expert keeps.
        num_threads: blocks worked on at a time.
    """
    steps = [len(order), expert]
    margins = margins_at(
        cache, frontier=frontier, order=order, steps=steps, num_threads=num_threads
    )
    return dict(zip(("margin", "expert"), margins, strict=True))


def discriminant_scores(
    features: Iterator[FloatArray], predictions: IntArray, fitted: Discriminant
) -> Scores:
    """Return the scores that a discriminant gives images.

    Args:
        features: (n, F) of each block.
        predictions: B's answers to the images of all blocks.
        fitted: the discriminant of that depth.
    """
    names, first = _score_names(fitted), 0
    found: list[tuple[FloatArray, ...]] = []
    for block in features:
        found.append(fitted.scores(block, predictions[first : first + len(block)]))
        first += len(block)
    columns = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return dict(zip(names, columns, strict=True))


def _score_names(fitted: Discriminant) -> tuple[str, str]:
    return f"own_{fitted.depth}", f"other_{fitted.depth}"


def score_names(discriminants: Sequence[Discriminant]) -> tuple[str, ...]:
    """Return the names of the scores that are joined, of the discriminants of chosen depths.

    Early, an image is most like the class that it shows; late, a backdoored one is unlike any
    image of the class that B answers. The other two of the scores at three depths find little that
    these do not: see docs/methods.md.
    """
    early, late = discriminants[:2], discriminants[-2:]
    others = [_score_names(fitted)[1] for fitted in early if fitted.tells_classes_apart]
    owns = [_score_names(fitted)[0] for fitted in late]
    return ("margin", "expert", *owns, *others)


def build_guarded(frontier: Frontier, guard: Guard, calibration: Calibration) -> keras.Model:
    """Build the GoodNet: B where the joined score is within the threshold, else class N.

    Args:
        frontier: of B.
        guard: what gives the scores.
        calibration: what joins them, and their threshold.

    Returns:
        A model of stock Keras layers and operations with N + 1 outputs that are not negative and
        add up to 1: B's softmax (1 for B's class if B closes otherwise) and 0 for class N where B
        is believed, else 1 for class N.
    """
    import keras

    model = as_functional(frontier.model)
    graph = _GuardGraph(model, free_names(model))
    scores = graph.scores(frontier, guard)
    joined = graph.join([scores[name] for name in calibration.names], calibration)
    suspicious = graph.above(joined, calibration.threshold)
    return keras.Model(model.inputs[0], graph.answer(suspicious), name="goodnet")


class _GuardGraph:
    """The symbolic side of the scores, in the net's own graph.

    Operations are named by hand: Keras names them anew in each process, perhaps like a layer of B.
    """

    def __init__(self, model: keras.Model, name: Namer) -> None:
        from keras import layers, ops

        self.model, self.name = model, name
        self._last = _last_layer(model)
        self._scores_layer: Any = None
        # B's own tensors, so that nothing of it is computed twice.
        nodes = calls(model)
        self._tensors = {id(x): x for node in nodes for x in (*node.input_tensors, *node.outputs)}
        self.logits = self._before_softmax(self._tensors)
        best = self._named(ops.argmax(self.logits, axis=-1), "best_class")
        one_hot = ops.one_hot(best, self.logits.shape[-1], dtype="float32")
        self.chosen = self._named(one_hot, "chosen_class")
        self.excluded = layers.Rescaling(-_OUT_OF_REACH, name=name("excluded_class"))(self.chosen)

    def scores(self, frontier: Frontier, guard: Guard) -> dict[str, Any]:
        """Return the scores by name, (n, 1) each."""
        activation = output_of(self.model, frontier.layer)
        others = guard.order[guard.expert :]
        behind = dependents(self.model, activation)
        shared = {key: tensor for key, tensor in self._tensors.items() if key not in behind}
        pruned = without_channels(activation, others, self.name)
        expert = self._before_softmax({**shared, id(activation): pruned})
        found = {
            "margin": self._lead(self.logits, "margin"),
            "expert": self._lead(expert, "expert"),
        }
        for fitted in guard.discriminants:
            depth = frontier.depths[fitted.depth]
            features = depth.features(depth.tensor, self.name)
            found |= self._distances(features, fitted, score_names(guard.discriminants))
        return found

    def join(self, scores: list[Any], calibration: Calibration) -> Any:
        """Return the joined score as `Calibration.join` has it: (n, 1)."""
        from keras import layers, ops

        together = (
            layers.Concatenate(name=self.name("scores"))(scores) if len(scores) > 1 else scores[0]
        )
        starts = np.array([calibration.starts], np.float32)
        factors = np.float32(1) / np.array([calibration.excesses], np.float32)
        beyond = self._named(ops.subtract(together, starts), "scores_beyond")
        scaled = self._named(ops.multiply(beyond, factors), "scaled_scores")
        return self._named(ops.logsumexp(scaled, axis=-1, keepdims=True), "joined_score")

    def above(self, joined: Any, threshold: float) -> Any:
        """Return 1 where the joined score is above the threshold, else 0: (n, 1)."""
        from keras import ops

        beyond = self._named(
            ops.greater(joined, np.full((1, 1), threshold, np.float32)), "beyond_threshold"
        )
        return self._named(ops.cast(beyond, "float32"), "backdoored")

    def answer(self, suspicious: Any) -> Any:
        """Return N + 1 outputs."""
        from keras import layers

        answer = self.model.outputs[0] if closes_with_softmax(self.model) else self.chosen
        believed = layers.Rescaling(-1.0, 1.0, name=self.name("trust"))(suspicious)
        classes = layers.Multiply(name=self.name("believed"))([answer, believed])
        return layers.Concatenate(name=self.name("goodnet_output"))([classes, suspicious])

    def _before_softmax(self, values: dict[int, Any]) -> Any:
        """Return what the net gives the classes before a closing softmax, given some tensors."""
        from keras import layers

        values = replay(self.model, values)
        if not closes_with_softmax(self.model):
            return values[id(self.model.outputs[0])]
        before = values[id(self._last.input_tensors[0])]
        layer = self._last.operation
        if not isinstance(layer, layers.Dense):
            return before
        if self._scores_layer is None:
            # The same weights without the softmax, in which large margins are all alike.
            self._scores_layer = layers.Dense(
                layer.units, use_bias=layer.use_bias, name=self.name("scores_of_classes")
            )
            self._scores_layer.build(before.shape)
            self._scores_layer.set_weights(layer.get_weights())
        return self._scores_layer(before)

    def _lead(self, values: Any, score: str) -> Any:
        """Return by how much B's class exceeds the best other one: (n, 1)."""
        from keras import layers, ops

        own = layers.Dot(axes=-1, name=self.name(f"{score}_own"))([values, self.chosen])
        rest = layers.Add(name=self.name(f"{score}_rest"))([values, self.excluded])
        best = self._named(ops.max(rest, axis=-1, keepdims=True), f"{score}_best")
        return layers.Subtract(name=self.name(f"{score}_score"))([own, best])

    def _distances(
        self, features: Any, fitted: Discriminant, wanted: Sequence[str]
    ) -> dict[str, Any]:
        """Return those scores of a discriminant that are wanted, as `Discriminant.scores` does."""
        from keras import layers, ops

        own_name, other_name = _score_names(fitted)
        kernel, bias, means = fitted.kernel, fitted.bias, fitted.means
        whitened = self._dense(features, kernel, bias, f"whitened_{fitted.depth}")
        affinities = self._dense(
            whitened, 2 * means.T, -(means**2).sum(axis=1), f"affinities_{fitted.depth}"
        )
        own = layers.Dot(axes=-1, name=self.name(f"{own_name}_affinity"))([affinities, self.chosen])
        found = {}
        if own_name in wanted:
            squares = self._named(ops.square(whitened), f"{own_name}_squares")
            length = self._named(ops.sum(squares, axis=-1, keepdims=True), f"{own_name}_length")
            squared = layers.Subtract(name=self.name(f"{own_name}_squared"))([length, own])
            positive = layers.ReLU(name=self.name(f"{own_name}_positive"))(squared)
            found[own_name] = self._named(ops.sqrt(positive), f"{own_name}_score")
        if other_name in wanted:
            unseen = np.where(fitted.seen > 0, np.float32(0), np.float32(-_OUT_OF_REACH))[None]
            seen = self._named(ops.add(affinities, unseen), f"{other_name}_seen")
            rest = layers.Add(name=self.name(f"{other_name}_rest"))([seen, self.excluded])
            best = self._named(ops.max(rest, axis=-1, keepdims=True), f"{other_name}_best")
            found[other_name] = layers.Subtract(name=self.name(f"{other_name}_score"))([best, own])
        return found

    def _dense(self, values: Any, kernel: FloatArray, bias: FloatArray, wanted: str) -> Any:
        from keras import layers

        layer = layers.Dense(len(bias), name=self.name(wanted))
        layer.build(values.shape)
        layer.set_weights([kernel, bias])
        return layer(values)

    def _named(self, tensor: Any, wanted: str) -> Any:
        tensor._keras_history.operation.name = self.name(wanted)
        return tensor


def _last_layer(model: keras.Model) -> Any:
    """Return the call that gives the answer."""
    return next(node for node in calls(model) if node.outputs[0] is model.outputs[0])
