"""The linear frontier: where the channels of the pruned layer first mix.

Removing a channel replaces its activation by a constant and touches nothing before the layer. From
there the graph is walked forward through whatever acts on each channel alone. The first layers that
mix channels linearly (Dense, Conv2D) have pre-activations that are sums over channels, so removing
a channel subtracts one term. Any other head input takes the activations themselves, with those of
removed channels replaced. What lies behind is the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.arrays import FloatArray
from goodnet.errors import InputError
from goodnet.networks.depths import Depth, find_depths
from goodnet.networks.graph import (
    Tensors,
    calls,
    compiled,
    computable,
    dependents,
    output_of,
    pre_activation,
    replay,
)
from goodnet.networks.traits import acts_on_each_channel_alone, is_elementwise, operation_traits
from goodnet.pruning.channels import removed_value
from goodnet.pruning.head import build_head
from goodnet.pruning.head_inputs import HeadInput

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Source:
    """An activation that the head reads, and what is left of it.

    Attributes:
        activation: (n, ..., C).
        constant: what stands there when all channels are removed, (n or 1, ..., C).
    """

    activation: FloatArray
    constant: FloatArray


@dataclass(frozen=True)
class SweepStart:
    """What a sweep of a block starts from, when all channels are removed.

    Attributes:
        states: a tensor for each input of the head, (n, features), or (1, features) where it is
            the same for all images.
        sources: by their place in `Frontier.sources`.
    """

    states: list[FloatArray]
    sources: list[Source]


@dataclass(frozen=True, eq=False)
class Frontier:
    """How a model's answers follow from the activations of one of its layers.

    Attributes:
        model: the functional model B.
        layer: the name of the layer whose channels are pruned.
        ranking: the symbolic activation whose mean ranks the channels.
        start: the symbolic activation from which all that follows is computed: `ranking` where
            that suffices, else the pruned layer's output.
        skips: other symbolic tensors needed behind `start`: skip connections from before it.
        head_inputs: through which the channels reach the head.
    """

    model: keras.Model
    layer: str
    ranking: Any
    start: Any
    skips: tuple[Any, ...]
    head_inputs: tuple[HeadInput, ...]

    @property
    def num_channels(self) -> int:
        """Channels of the pruned layer."""
        return int(self.start.shape[-1])

    @cached_property
    def depths(self) -> tuple[Depth, ...]:
        """The depths of B, whose features the first pass keeps too."""
        return find_depths(self.model)

    @cached_property
    def sources(self) -> tuple[Any, ...]:
        """The distinct activations that the head's inputs read."""
        return tuple({id(c.source): c.source for c in self.head_inputs}.values())

    @cached_property
    def start_constant(self) -> FloatArray:
        """What stands at `start` once every channel is removed: (1, ..., C)."""
        # A normalization behind the layer makes another constant for each channel.
        start = output_of(self.model, self.layer)
        removed = removed_value(start._keras_history.operation)
        constant = np.full((1, *start.shape[1:]), removed, np.float32)
        return np.asarray(replay(self.model, {id(start): constant})[id(self.start)], np.float32)

    def states(self, values: Tensors) -> list[Any]:
        """Return the tensors of the head's inputs as it takes them, each (n, features).

        Args:
            values: of the tensors that the head's inputs read, as `replay` gives them.
        """
        import keras

        tensors = [
            values[id(c.tensor)] if c.layer is None else pre_activation(c.layer, values[id(c.read)])
            for c in self.head_inputs
        ]
        return [keras.ops.reshape(x, (-1, int(np.prod(x.shape[1:])))) for x in tensors]

    def prepare(self, start: FloatArray, skips: Sequence[FloatArray]) -> SweepStart:
        """Return what a sweep starts from.

        Args:
            start: (n, ..., C).
            skips: each (n, ...).
        """
        # Most nets, DeepID among them, read `start` itself and nothing else: then the states are
        # the same for every image and block, and TensorFlow has nothing to do.
        if self._without_channels:
            return SweepStart(self._without_channels, [Source(start, self.start_constant)])
        states, activations, constants = self._prepare(start, *skips)
        return SweepStart(
            [np.asarray(state) for state in states],
            [
                Source(np.asarray(activation), np.asarray(constant))
                for activation, constant in zip(activations, constants, strict=True)
            ],
        )

    @cached_property
    def _without_channels(self) -> list[FloatArray]:
        """The head's tensors when all channels are removed; none if more is needed besides."""
        if self.skips or any(source is not self.start for source in self.sources):
            return []
        values = replay(self.model, {id(self.start): self.start_constant})
        return [np.asarray(state) for state in self.states(values)]

    @cached_property
    def _prepare(self) -> Callable[..., tuple[list[Any], list[Any], list[Any]]]:
        import tensorflow as tf

        constant = self.start_constant

        def run(start: Any, *skips: Any) -> tuple[list[Any], list[Any], list[Any]]:
            beside = dict(zip(map(id, self.skips), skips, strict=True))
            full = replay(self.model, {**beside, id(self.start): start})
            removed = replay(self.model, {**beside, id(self.start): tf.constant(constant)})
            states = self.states(removed)
            if skips:
                # A head input that no skip reaches has one row for all images; the sweep takes
                # either one row or all of them for all inputs.
                states = [tf.broadcast_to(x, (tf.shape(start)[0], x.shape[1])) for x in states]
            keys = [id(source) for source in self.sources]
            return states, [full[key] for key in keys], [removed[key] for key in keys]

        return compiled(run, (self.start.shape, *(skip.shape for skip in self.skips)))

    @cached_property
    def head(self) -> Callable[..., FloatArray]:
        """Function of `(*states, *skips)` that gives the scores of the classes: (n, N)."""
        return build_head(self.model, self.head_inputs, self.skips)


def find_frontier(model: keras.Model, *, layer: str, rank_at: str) -> Frontier:
    """Find how the channels of `layer` reach the answer of `model`.

    Args:
        model: a functional model with one input and one output.
        layer: whose channels are pruned.
        rank_at: the layer whose mean activation ranks the channels, `layer` or one behind it.

    Raises:
        InputError: if channels mix in the layer's activation or between the two layers, or a
            layer is called more than once.
    """
    pruned, ranking = output_of(model, layer), output_of(model, rank_at)
    operation = pruned._keras_history.operation
    activation = (
        operation.get_config().get("activation") if operation_traits(operation).prunable else None
    )
    if not is_elementwise(activation):
        raise InputError(f"layer {layer} has the activation {activation}, which mixes channels")
    alone, head_inputs = _walk(model, pruned)
    if id(ranking) not in alone or ranking.shape[-1] != pruned.shape[-1]:
        raise InputError(f"channels of {layer} mix before {rank_at}, which cannot rank them")
    # The ranking activation is cached in any case, and mostly smaller, as it is pooled.
    start = ranking if _suffices(model, pruned, ranking, head_inputs) else pruned
    return Frontier(model, layer, ranking, start, _skips(model, start), head_inputs)


def _walk(model: keras.Model, pruned: Any) -> tuple[dict[int, Any], tuple[HeadInput, ...]]:
    """Return the tensors that keep channels apart, with their sources, and the head's inputs."""
    alone, num_channels = {id(pruned): pruned}, pruned.shape[-1]
    mixed: set[int] = set()
    head_inputs: dict[int, HeadInput] = {}
    for node in calls(model):
        reads = [x for x in node.input_tensors if id(x) in alone]
        mixes = any(id(x) in mixed for x in node.input_tensors)
        if not reads and not mixes:
            continue
        output = node.outputs[0]
        if not mixes and _keeps_channels_apart(node):
            alone[id(output)] = output
        elif not mixes and operation_traits(node.operation).gives == "flat":
            # Channels stay apart but lose their axis; what reads this finds them in its source.
            alone[id(output)] = alone[id(reads[0])]
        else:
            # Here channels mix. Behind this point nothing is a sum over channels any more, so a
            # linear layer counts only if all that it reads is still apart.
            mixed.update(id(x) for x in node.outputs)
            if not mixes and _is_linear(node):
                source = alone[id(reads[0])]
                found = [HeadInput(output, source, reads[0], num_channels, node.operation)]
            else:
                found = [HeadInput(x, x, x, num_channels) for x in reads]
            head_inputs.update({id(c.tensor): c for c in found})
    answer = model.outputs[0]
    if id(answer) in alone:
        # Nothing mixes the channels: they are the classes, and the head is empty.
        head_inputs[id(answer)] = HeadInput(answer, answer, answer, num_channels)
    return alone, tuple(head_inputs.values())


def _keeps_channels_apart(node: Any) -> bool:
    if operation_traits(
        node.operation
    ).merges:  # or an operation of that name, which may broadcast or reduce
        return len({tuple(x.shape) for x in (*node.input_tensors, *node.outputs)}) == 1
    if len(node.input_tensors) != 1 or not hasattr(node.operation, "get_config"):
        return False
    name = type(node.operation).__name__
    return acts_on_each_channel_alone(name, node.operation.get_config())


def _is_linear(node: Any) -> bool:
    # A convolution in groups reads only some channels for each feature, which the cutting of its
    # kernel by channels does not know; it is evaluated as a whole.
    name = type(node.operation).__name__
    return name == "Dense" or (name == "Conv2D" and node.operation.groups == 1)


def _suffices(
    model: keras.Model, pruned: Any, ranking: Any, head_inputs: tuple[HeadInput, ...]
) -> bool:
    """Return whether `ranking` follows from `pruned` alone, and every input of the head from it."""
    # A skip connection may join the channels before they are ranked.
    if id(ranking) not in computable(model, pruned):
        return False
    # A branch that leaves before `ranking`, which is pooled, cannot be computed from it.
    around = dependents(model, pruned, except_through=ranking)
    return not any(id(head_input.source) in around for head_input in head_inputs)


def _skips(model: keras.Model, start: Any) -> tuple[Any, ...]:
    """Return the tensors that do not follow from `start` but are read together with it."""
    behind = dependents(model, start)
    reads = [
        x
        for node in calls(model)
        if any(id(x) in behind for x in node.input_tensors)
        for x in node.input_tensors
        if id(x) not in behind
    ]
    return tuple({id(x): x for x in reads}.values())
