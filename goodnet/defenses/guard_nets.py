"""The nets of a guard: B where its answer is believed, in files that plain Keras loads."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from goodnet.arrays import FloatArray
from goodnet.defenses.calibration import Calibration
from goodnet.defenses.detectors import all_scores
from goodnet.defenses.discriminant import Discriminant
from goodnet.defenses.goodnet import OUTPUT
from goodnet.defenses.guard import Guard
from goodnet.defenses.seam import Evidence
from goodnet.networks.graph import (
    Namer,
    as_functional,
    calls,
    closes_with_softmax,
    dependents,
    free_names,
    last_call,
    output_of,
    replay,
)
from goodnet.pruning.channels import without_channels
from goodnet.pruning.frontier import Frontier

if TYPE_CHECKING:
    import keras

_OUT_OF_REACH = 1e9
_BEYOND = "beyond_threshold"


def build_guarded(
    frontier: Frontier, guard: Guard, calibration: Calibration, tuned: keras.Model | None = None
) -> keras.Model:
    """Build the GoodNet: B where the joined score is within the threshold, else class N.

    Args:
        frontier: of B.
        guard: what gives the scores.
        calibration: what joins them, and their threshold.
        tuned: the fine-tuned net, if its score is among them.

    Returns:
        A model of stock Keras layers and operations with N + 1 outputs that are not negative and
        add up to 1: B's softmax (1 for B's class if B closes otherwise) and 0 for class N where B
        is believed, else 1 for class N.
    """
    import keras

    graph = _GuardGraph(frontier, guard, tuned)
    output = graph.answer(graph.suspicious(calibration))
    return keras.Model(graph.model.inputs[0], output, name="goodnet")


def build_fallback(
    frontier: Frontier, guard: Guard, calibration: Calibration, tuned: keras.Model | None = None
) -> keras.Model:
    """Build B', which is B where the joined score is within the threshold, else a second opinion.

    That one is the fine-tuned net, if there is one, else the discriminant at the middle depth; the
    class that B answers is left out of it.

    Args:
        frontier: of B.
        guard: what gives the scores; it has a second opinion if there is no fine-tuned net.
        calibration: what joins them, and their threshold.
        tuned: the fine-tuned net, if its score is among them.

    Returns:
        A model of stock Keras layers and operations with B's N outputs: B's softmax (1 for B's
        class if B closes otherwise), or that of the second opinion.
    """
    import keras

    graph = _GuardGraph(frontier, guard, tuned)
    output = graph.answer_anyway(graph.suspicious(calibration))
    return keras.Model(graph.model.inputs[0], output, name="fallback")


class Scorer(NamedTuple):
    """The score in a calibrated GoodNet.

    Attributes:
        net: (n, H, W, C) to the joined score, (n, 1).
        threshold: above it an image is answered with class N.
    """

    net: keras.Model
    threshold: float


def find_scorer(goodnet: keras.Model) -> Scorer | None:
    """Return what gives the score in a GoodNet that `build_guarded` made, also one that was loaded.

    Args:
        goodnet: any functional model; None is returned where it has no such score.
    """
    import keras

    # Where B has such a name, ours has a number behind it and comes later.
    for node in reversed(calls(goodnet)):
        if node.operation.name.startswith(_BEYOND):
            joined, threshold = node.arguments.args
            net = keras.Model(goodnet.inputs[0], joined)
            return Scorer(net, float(np.asarray(threshold, np.float32).reshape(())))
    return None


class _GuardGraph:
    """The symbolic side of the scores, in the net's own graph.

    Operations are named by hand: Keras names them anew in each process, perhaps like a layer of B.
    """

    def __init__(self, frontier: Frontier, guard: Guard, tuned: keras.Model | None) -> None:
        from keras import layers, ops

        self.frontier, self.guard, self.tuned = frontier, guard, tuned
        model = as_functional(frontier.model)
        self.model, self._free_name = model, free_names(model)
        self._given: set[str] = set()
        name = self.name
        self.depths = [_GraphDepth(self, fitted) for fitted in guard.discriminants]
        self.tuned_scores: Any = None
        # B's own tensors, so that nothing of it is computed twice.
        nodes = calls(model)
        self._tensors = {id(x): x for node in nodes for x in (*node.input_tensors, *node.outputs)}
        self.logits = self._before_softmax(self._tensors)
        best = self.named(ops.argmax(self.logits, axis=-1), "best_class")
        one_hot = ops.one_hot(best, self.logits.shape[-1], dtype="float32")
        self.chosen = self.named(one_hot, "chosen_class")
        self.excluded = layers.Rescaling(-_OUT_OF_REACH, name=name("excluded_class"))(self.chosen)

    def name(self, wanted: str) -> str:
        """Return a free name like this one."""
        given = self._free_name(wanted)
        self._given.add(given)
        return given

    def suspicious(self, calibration: Calibration) -> Any:
        """Return 1 where the joined score is above the threshold, else 0: (n, 1)."""
        from keras import ops

        scores = self._scores()
        joined = self._join([scores[name] for name in calibration.names], calibration)
        threshold = np.full((1, 1), calibration.threshold, np.float32)
        beyond = self.named(ops.greater(joined, threshold), _BEYOND)
        return self.named(ops.cast(beyond, "float32"), "backdoored")

    def _scores(self) -> dict[str, Any]:
        """Return the scores by name, (n, 1) each, by the detectors that score images in memory."""
        scores = all_scores(self._evidence())
        for name, score in scores.items():
            self._name_computed(score, f"{name.replace(' ', '_')}_score")
        return scores

    def _evidence(self) -> Evidence:
        """Return what detectors see, as tensors of this graph."""
        frontier, guard = self.frontier, self.guard
        activation = output_of(self.model, frontier.layer)
        others = guard.order[guard.expert :]
        behind = dependents(self.model, activation)
        shared = {key: tensor for key, tensor in self._tensors.items() if key not in behind}
        pruned = without_channels(activation, others, self.name)
        expert = self._before_softmax({**shared, id(activation): pruned})
        lead = None
        if self.tuned is not None:
            # One layer, so that its layers may have the names that they have in B.
            part = scoring_part(self.tuned, self.name("fine_tuned"))
            self.tuned_scores = part(self.model.inputs[0])
            lead = self._lead(self.tuned_scores, "fine_tuned")
        margin, of_expert = self._lead(self.logits, "margin"), self._lead(expert, "expert")
        return Evidence(margin, of_expert, lead, self.depths)

    def _join(self, scores: list[Any], calibration: Calibration) -> Any:
        """Return the joined score as `Calibration.join` has it: (n, 1)."""
        from keras import layers, ops

        together = (
            layers.Concatenate(name=self.name("scores"))(scores) if len(scores) > 1 else scores[0]
        )
        starts = np.array([calibration.starts], np.float32)
        factors = np.float32(1) / np.array([calibration.excesses], np.float32)
        beyond = self.named(ops.subtract(together, starts), "scores_beyond")
        scaled = self.named(ops.multiply(beyond, factors), "scaled_scores")
        return self.named(ops.logsumexp(scaled, axis=-1, keepdims=True), "joined_score")

    def answer(self, suspicious: Any) -> Any:
        """Return N + 1 outputs: B's where it is believed, else class N."""
        from keras import layers

        classes = self._where_believed(suspicious)
        return layers.Concatenate(name=self.name(OUTPUT))([classes, suspicious])

    def answer_anyway(self, suspicious: Any) -> Any:
        """Return N outputs: B's where it is believed, else those of the second opinion."""
        from keras import layers

        opinion, fitted = self.tuned_scores, self.guard.second_opinion
        if opinion is None and fitted is not None:
            known = self.depths[fitted.depth].known_affinities()
            # Half of the affinities are log-probabilities, but for a constant.
            opinion = layers.Rescaling(0.5, name=self.name("log_probabilities"))(known)
        if opinion is None:
            raise ValueError("no depth tells classes apart, expected a second opinion")
        others = layers.Add(name=self.name("other_opinions"))([opinion, self.excluded])
        other = layers.Softmax(name=self.name("second_opinion"))(others)
        instead = layers.Multiply(name=self.name("instead"))([other, suspicious])
        classes = self._where_believed(suspicious)
        return layers.Add(name=self.name("fallback_output"))([classes, instead])

    def _where_believed(self, suspicious: Any) -> Any:
        """Return B's answer, or zeros where it is suspicious: (n, N)."""
        from keras import layers

        answer = self.model.outputs[0] if closes_with_softmax(self.model) else self.chosen
        believed = layers.Rescaling(-1.0, 1.0, name=self.name("trust"))(suspicious)
        return layers.Multiply(name=self.name("believed"))([answer, believed])

    def _before_softmax(self, values: dict[int, Any]) -> Any:
        """Return what the net gives the classes before a closing softmax, given some tensors."""
        return _before_softmax(self.model, replay(self.model, values), self._closing)

    @cached_property
    def _closing(self) -> Any:
        return _closing_layer(self.model, self.name)

    def _lead(self, values: Any, score: str) -> Any:
        """Return by how much B's class exceeds the best other one: (n, 1)."""
        from keras import layers, ops

        own = layers.Dot(axes=-1, name=self.name(f"{score}_own"))([values, self.chosen])
        rest = layers.Add(name=self.name(f"{score}_rest"))([values, self.excluded])
        best = self.named(ops.max(rest, axis=-1, keepdims=True), f"{score}_best")
        return layers.Subtract(name=self.name(f"{score}_score"))([own, best])

    def named(self, tensor: Any, wanted: str) -> Any:
        """Give the operation that makes a tensor a free name like this one."""
        tensor._keras_history.operation.name = self.name(wanted)
        return tensor

    def _name_computed(self, tensor: Any, wanted: str) -> None:
        """Name what a detector computed from the evidence, all of which has our names already."""
        operation = tensor._keras_history.operation
        if operation.name in self._given:
            return
        self.named(tensor, wanted)
        for node in operation._inbound_nodes:
            for value in node.input_tensors:
                self._name_computed(value, wanted)


class _GraphDepth:
    """A depth as detectors see it; what they do not ask for is no part of the graph."""

    def __init__(self, graph: _GuardGraph, fitted: Discriminant) -> None:
        self._graph, self._fitted = graph, fitted
        self.layer, self.tells_classes_apart = fitted.layer, fitted.tells_classes_apart

    @cached_property
    def distance(self) -> Any:
        """The distance from the class that B answers as `Discriminant.look` has it."""
        from keras import layers, ops

        whitened, _ = self._affinities
        squares = self._named(ops.square(whitened), "squares")
        length = self._named(ops.sum(squares, axis=-1, keepdims=True), "length")
        squared = layers.Subtract(name=self._name("squared_distance"))([length, self._own])
        positive = layers.ReLU(name=self._name("positive_distance"))(squared)
        return self._named(ops.sqrt(positive), "distance")

    @cached_property
    def nearer(self) -> Any:
        """How much nearer another class is, as `Discriminant.look` has it."""
        from keras import layers, ops

        others = [self.known_affinities(), self._graph.excluded]
        rest = layers.Add(name=self._name("other_affinities"))(others)
        best = self._named(ops.max(rest, axis=-1, keepdims=True), "best_affinity")
        return layers.Subtract(name=self._name("nearer"))([best, self._own])

    def known_affinities(self) -> Any:
        """Return the affinities, out of reach for classes without a mean: (n, N)."""
        from keras import ops

        _, affinities = self._affinities
        seen = self._fitted.seen > 0
        unseen = np.where(seen, np.float32(0), np.float32(-_OUT_OF_REACH))[None]
        return self._named(ops.add(affinities, unseen), "known_affinities")

    @cached_property
    def _affinities(self) -> tuple[Any, Any]:
        """The whitened features, (n, p), and the affinities to all classes, (n, N)."""
        graph, fitted = self._graph, self._fitted
        depth = graph.frontier.depths[fitted.depth]
        features = depth.features(depth.tensor, graph.name)
        whitened = self._dense(features, fitted.kernel, fitted.bias, "whitened")
        means = fitted.means
        lengths = (means**2).sum(axis=1)
        return whitened, self._dense(whitened, 2 * means.T, -lengths, "affinities")

    @cached_property
    def _own(self) -> Any:
        """The affinity to the class that B answers: (n, 1)."""
        from keras import layers

        _, affinities = self._affinities
        own = layers.Dot(axes=-1, name=self._name("affinity"))
        return own([affinities, self._graph.chosen])

    def _dense(self, values: Any, kernel: FloatArray, bias: FloatArray, wanted: str) -> Any:
        from keras import layers

        layer = layers.Dense(len(bias), name=self._name(wanted))
        layer.build(values.shape)
        layer.set_weights([kernel, bias])
        return layer(values)

    def _name(self, wanted: str) -> str:
        return self._graph.name(f"{wanted}_{self._fitted.depth}")

    def _named(self, tensor: Any, wanted: str) -> Any:
        return self._graph.named(tensor, f"{wanted}_{self._fitted.depth}")


def scoring_part(model: keras.Model, name: str) -> keras.Model:
    """Return a net as it is before a closing softmax, in which large margins are all alike.

    Args:
        model: a functional model.
        name: of what is returned, (n, H, W, C) to (n, N).
    """
    import keras

    given = {id(model.inputs[0]): model.inputs[0]}
    values = {id(x): x for node in calls(model) for x in node.outputs} | given
    closing = _closing_layer(model, free_names(model))
    return keras.Model(model.inputs[0], _before_softmax(model, values, closing), name=name)


def _closing_layer(model: keras.Model, name: Namer) -> Any:
    """Return what takes the place of the last call before a closing softmax; None for nothing."""
    from keras import layers

    last = last_call(model)
    layer = last.operation
    if not closes_with_softmax(model) or not isinstance(layer, layers.Dense):
        return None
    same = layers.Dense(layer.units, use_bias=layer.use_bias, name=name("scores_of_classes"))
    same.build(last.input_tensors[0].shape)
    same.set_weights(layer.get_weights())
    return same


def _before_softmax(model: keras.Model, values: dict[int, Any], closing: Any) -> Any:
    if not closes_with_softmax(model):
        return values[id(model.outputs[0])]
    before = values[id(last_call(model).input_tensors[0])]
    return before if closing is None else closing(before)
