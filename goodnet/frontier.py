"""The linear frontier: where the channels of the pruned layer first mix.

Zeroing a channel's kernel and bias replaces its activation by a constant and touches nothing
before the layer. From there the graph is walked forward through whatever acts on each channel
alone. The first layers that mix channels linearly (Dense, Conv2D) have pre-activations that are
sums over channels, so removing a channel subtracts one term. Any other consumer takes the
activations themselves, with those of removed channels replaced. What lies behind is the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.activations import FloatArray
from goodnet.channelwise import MERGES, acts_on_each_channel_alone, is_elementwise
from goodnet.consumers import Consumer
from goodnet.errors import InputError
from goodnet.graph import (
    Tensors,
    calls,
    compiled,
    computable,
    dependents,
    output_of,
    pre_activation,
    replay,
)
from goodnet.heads import build_head

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, eq=False)
class Frontier:
    """How a model's answers follow from the activations of one of its layers.

    Attributes:
        model: the functional model B.
        layer: the name of the pruned layer.
        ranked: the symbolic activation whose mean ranks the channels.
        base: the symbolic activation from which all that follows is computed: `ranked` where
            that suffices, else the pruned layer's output.
        sides: other symbolic tensors needed behind `base`: skip connections from before it.
        consumers: through which the channels reach the head.
    """

    model: keras.Model
    layer: str
    ranked: Any
    base: Any
    sides: tuple[Any, ...]
    consumers: tuple[Consumer, ...]

    @property
    def num_channels(self) -> int:
        """Channels of the pruned layer."""
        return int(self.base.shape[-1])

    @property
    def is_linear(self) -> bool:
        """Whether every channel reaches the head through linear layers alone."""
        return all(consumer.layer is not None for consumer in self.consumers)

    @cached_property
    def sources(self) -> tuple[Any, ...]:
        """The distinct activations that the consumers read."""
        return tuple({id(c.source): c.source for c in self.consumers}.values())

    @cached_property
    def base_constant(self) -> FloatArray:
        """What stands at `base` once every channel is removed: (1, ..., C)."""
        start = output_of(self.model, self.layer)
        activation = self.model.get_layer(self.layer).activation
        constant = activation(np.zeros((1, *start.shape[1:]), np.float32))
        return np.asarray(replay(self.model, {id(start): constant})[id(self.base)], np.float32)

    def states(self, values: Tensors) -> list[Any]:
        """Return the consumers' tensors as the head takes them, each (n, features).

        Args:
            values: of the tensors that the consumers read, as `replay` gives them.
        """
        import keras

        tensors = [
            values[id(c.tensor)] if c.layer is None else pre_activation(c.layer, values[id(c.read)])
            for c in self.consumers
        ]
        return [keras.ops.reshape(x, (-1, int(np.prod(x.shape[1:])))) for x in tensors]

    def prepare(
        self, base: FloatArray, sides: Sequence[FloatArray]
    ) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray]]:
        """Return what a sweep starts from.

        Args:
            base: (n, ..., C).
            sides: each (n, ...).

        Returns:
            A tensor for each consumer when all channels are removed, (n, features), or
            (1, features) where it is the same for all images; and for each source its activation
            and what stands there when all channels are removed, (n or 1, ...).
        """
        if self._without_channels:
            return self._without_channels, [base], [self.base_constant]
        tensors = [np.asarray(tensor) for tensor in self._prepare(base, *sides)]
        num_consumers = len(self.consumers)
        behind = tensors[num_consumers:]
        return tensors[:num_consumers], behind[::2], behind[1::2]

    @cached_property
    def _without_channels(self) -> list[FloatArray]:
        """The consumers' tensors when all channels are removed; none if more is needed besides."""
        if self.sides or any(source is not self.base for source in self.sources):
            return []
        values = replay(self.model, {id(self.base): self.base_constant})
        return [np.asarray(state) for state in self.states(values)]

    @cached_property
    def _prepare(self) -> Callable[..., list[Any]]:
        import tensorflow as tf

        constant = self.base_constant

        def run(base: Any, *sides: Any) -> list[Any]:
            beside = dict(zip(map(id, self.sides), sides, strict=True))
            full = replay(self.model, {**beside, id(self.base): base})
            removed = replay(self.model, {**beside, id(self.base): tf.constant(constant)})
            states = self.states(removed)
            if sides:
                states = [tf.broadcast_to(x, (tf.shape(base)[0], x.shape[1])) for x in states]
            return states + [values[id(s)] for s in self.sources for values in (full, removed)]

        return compiled(run, (self.base.shape, *(side.shape for side in self.sides)))

    @cached_property
    def head(self) -> Callable[..., FloatArray]:
        """Function of `(*states, *sides)` that gives the scores of the classes: (n, N)."""
        return build_head(self.model, self.consumers, self.sides)


def find_frontier(model: keras.Model, *, layer: str, rank_at: str) -> Frontier:
    """Find how the channels of `layer` reach the answer of `model`.

    Args:
        model: a functional model with one input and one output.
        layer: the convolution to prune.
        rank_at: the layer whose mean activation ranks the channels, `layer` or one behind it.

    Raises:
        InputError: if channels mix in the layer's activation or between the two layers, or a
            layer is called more than once.
    """
    start, ranked = output_of(model, layer), output_of(model, rank_at)
    activation = model.get_layer(layer).get_config()["activation"]
    if not is_elementwise(activation):
        raise InputError(f"layer {layer} has the activation {activation}, which mixes channels")
    alone, consumers = _walk(model, start)
    if id(ranked) not in alone or ranked.shape[-1] != start.shape[-1]:
        raise InputError(f"channels of {layer} mix before {rank_at}, which cannot rank them")
    base = ranked if _suffices(model, start, ranked, consumers) else start
    return Frontier(model, layer, ranked, base, _sides(model, base), consumers)


def _walk(model: keras.Model, start: Any) -> tuple[dict[int, Any], tuple[Consumer, ...]]:
    """Return the tensors that keep the channels apart, with their sources, and the consumers."""
    alone, num_channels = {id(start): start}, start.shape[-1]
    mixed: set[int] = set()
    consumers: dict[int, Consumer] = {}
    for node in calls(model):
        reads = [x for x in node.input_tensors if id(x) in alone]
        mixes = any(id(x) in mixed for x in node.input_tensors)
        if not reads and not mixes:
            continue
        output = node.outputs[0]
        if not mixes and _keeps_channels_apart(node):
            alone[id(output)] = output
        elif not mixes and type(node.operation).__name__ == "Flatten":
            alone[id(output)] = alone[id(reads[0])]
        else:
            mixed.update(id(x) for x in node.outputs)
            if not mixes and _is_linear(node):
                source = alone[id(reads[0])]
                found = [Consumer(output, source, reads[0], num_channels, node.operation)]
            else:
                found = [Consumer(x, x, x, num_channels) for x in reads]
            consumers.update({id(c.tensor): c for c in found})
    answer = model.outputs[0]
    if id(answer) in alone:
        consumers[id(answer)] = Consumer(answer, answer, answer, num_channels)
    return alone, tuple(consumers.values())


def _keeps_channels_apart(node: Any) -> bool:
    name = type(node.operation).__name__
    if name in MERGES:  # or an operation of that name, which may broadcast or reduce
        return len({tuple(x.shape) for x in (*node.input_tensors, *node.outputs)}) == 1
    if len(node.input_tensors) != 1 or not hasattr(node.operation, "get_config"):
        return False
    return acts_on_each_channel_alone(name, node.operation.get_config())


def _is_linear(node: Any) -> bool:
    name = type(node.operation).__name__
    return name == "Dense" or (name == "Conv2D" and node.operation.groups == 1)


def _suffices(model: keras.Model, start: Any, ranked: Any, consumers: tuple[Consumer, ...]) -> bool:
    """Return whether `ranked` follows from `start` alone, and every consumer from `ranked`."""
    if id(ranked) not in computable(model, start):
        return False
    around = dependents(model, start, except_through=ranked)
    return not any(id(consumer.source) in around for consumer in consumers)


def _sides(model: keras.Model, base: Any) -> tuple[Any, ...]:
    """Return the tensors that do not follow from `base` but are read together with it."""
    behind = dependents(model, base)
    reads = [
        x
        for node in calls(model)
        if any(id(x) in behind for x in node.input_tensors)
        for x in node.input_tensors
        if id(x) not in behind
    ]
    return tuple({id(x): x for x in reads}.values())
