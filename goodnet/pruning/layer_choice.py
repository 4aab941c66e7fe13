"""Which convolution is pruned, and the output of which layer ranks its channels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from goodnet.errors import InputError
from goodnet.model_files.describe import ModelDescription
from goodnet.model_files.layer_graph import LayerDescription
from goodnet.networks.traits import CONVOLUTIONS, POOLINGS, acts_on_each_channel_alone

_MIXING = (
    "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Dense", "EinsumDense",
    "GroupQueryAttention", "MultiHeadAttention", "SeparableConv1D", "SeparableConv2D",
)  # fmt: skip
"""What computes new features of all channels."""

_RANKING = ("Activation", "BatchNormalization", "ELU", "LeakyReLU", "PReLU", "ReLU")
"""What ranks channels by default where no pooling follows the convolution."""


def choose_layers(
    description: ModelDescription, *, layer: str | None, rank_at: str | None
) -> tuple[str, str]:
    """Choose the convolution to prune and the layer whose output ranks its channels.

    Args:
        description: the model.
        layer: the convolution; by default the last hidden one that every path from input to output
            goes through, or the last hidden one where there is none such. One whose channels are
            the classes themselves is not hidden.
        rank_at: where the channels are ranked: the convolution or a layer behind it that keeps its
            channels apart; by default the pooling behind it, else the last activation or batch
            normalization before anything mixes the channels, else the convolution.

    Raises:
        InputError: there is no such layer, or it cannot serve.
    """
    by_name = {item.name: item for item in description.layers}
    chosen = by_name[_choose_convolution(description, layer)]
    behind = list(_iterate_channelwise(description, chosen))
    if rank_at is None:
        return chosen.name, _default_rank_at(chosen, behind)
    names = [item.name for item in (chosen, *behind)]
    if rank_at not in names:
        raise InputError(
            f"{description.path}: cannot rank `{chosen.name}` at `{rank_at}`, expected one of: "
            f"{', '.join(names)}"
        )
    return chosen.name, rank_at


def _choose_convolution(description: ModelDescription, layer: str | None) -> str:
    path = description.path
    by_name = {item.name: item for item in description.layers}
    convolutions = [
        item.name
        for item in description.layers
        if item.class_name in CONVOLUTIONS and item.num_calls == 1
    ]
    if layer is not None and layer not in by_name:
        raise InputError(f"{path}: has no layer `{layer}`, it has: {', '.join(by_name)}")
    if not convolutions:
        raise InputError(f"{path}: has no 2-D convolution that is called once")
    if layer is None:
        bottlenecks, read = set(_iterate_bottlenecks(description)), _find_read_on(description)
        hidden = [name for name in convolutions if name in read] or convolutions
        through = [name for name in hidden if name in bottlenecks]
        return (through or hidden)[-1]
    if layer not in convolutions:
        raise InputError(
            f"{path}: layer `{layer}` is a {by_name[layer].class_name}, expected a convolution "
            f"that is called once: {', '.join(convolutions)}"
        )
    return layer


def _find_read_on(description: ModelDescription) -> set[str]:
    """Return the layers that a layer with weights of its own for each channel still reads.

    Behind the others, as behind the last convolution of MobileNet or SqueezeNet, the channels are
    the classes: to prune one is to forget a class.
    """
    read: set[str] = set()
    for item in reversed(description.layers):
        if item.name in read or item.class_name in _MIXING:
            read.update(item.inputs)
    return read


def _iterate_bottlenecks(description: ModelDescription) -> Iterator[str]:
    """Yield the layers that every path from the input to the output goes through.

    In graph order a layer is one exactly if no connection that matters leads past it.
    """
    # From the output backwards: layers that feed nothing needed do not count as a way around.
    needed = {description.output}
    last_use: dict[str, int] = {}
    numbered = list(enumerate(description.layers))
    for number, item in reversed(numbered):
        if item.name in needed:
            needed.update(item.inputs)
            for source in item.inputs:
                last_use.setdefault(source, number)
    used = [(number, item) for number, item in numbered if item.name in needed]
    farthest = max((number for number, item in used if not item.inputs), default=0)
    for number, item in used:
        if farthest <= number:
            yield item.name
        farthest = max(farthest, last_use.get(item.name, 0))


def _iterate_channelwise(
    description: ModelDescription, start: LayerDescription
) -> Iterator[LayerDescription]:
    """Yield, in graph order, the layers behind `start` that keep its channels apart."""
    apart = {start.name}
    for item in description.layers:
        is_behind = len(item.inputs) == item.num_calls == 1 and item.inputs[0] in apart
        if is_behind and acts_on_each_channel_alone(item.class_name, item.config):
            apart.add(item.name)
            yield item


def _default_rank_at(chosen: LayerDescription, behind: list[LayerDescription]) -> str:
    # The lab ranks behind pooling, which gives another order than before it. Pooling behind the
    # next convolution, even one that keeps channels apart, ranks that one's features.
    near = list(takewhile(lambda item: item.class_name not in CONVOLUTIONS, behind))
    for item in near:
        if item.class_name in POOLINGS:
            return item.name
    return next((item.name for item in reversed(near) if item.class_name in _RANKING), chosen.name)
