"""Whose channels are pruned, and the output of which layer ranks them."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from itertools import takewhile

from goodnet.errors import InputError
from goodnet.model_files.describe import ModelDescription
from goodnet.model_files.layer_graph import LayerDescription
from goodnet.networks.traits import acts_on_each_channel_alone

_MOST_NAMED = 12
"""Layers that a message names, the last of those that there are: nets have hundreds."""

_MOST_CLOSEST, _MOST_LETTERS = 3, 100


def choose_layers(
    description: ModelDescription, *, layer: str | None, rank_at: str | None
) -> tuple[str, str]:
    """Choose the layer whose channels are pruned and the layer whose output ranks them.

    Pruned are the channels of a tensor of spatial features, whatever made it. By default it is the
    last one through which all paths from the input to the output go, in a plain net that of the
    last hidden convolution, in a residual net the sum at the end of the last block. Where there is
    none, it is that of the last hidden convolution. One whose channels are the classes themselves
    is not hidden.

    Args:
        description: the model.
        layer: the layer, or None for the default.
        rank_at: where the channels are ranked: that layer or one behind it that keeps its channels
            apart; by default the pooling behind it, else the last activation or batch
            normalization before anything mixes the channels, else the layer itself.

    Raises:
        InputError: there is no such layer, or it cannot serve.
    """
    by_name = {item.name: item for item in description.layers}
    spatial = _find_spatial(description)
    if layer is None:
        layer = _default_layer(description, spatial)
    elif layer not in by_name:
        raise InputError(
            f"{description.path}: has no layer `{layer}`, {_name_closest(layer, list(by_name))}"
            f"the last of its {_name_last(list(by_name))}; goodnet.load_model(path).summary() "
            "names all"
        )
    elif layer not in spatial:
        raise InputError(
            f"{description.path}: layer `{layer}` is a {by_name[layer].class_name}, expected one "
            "that gives spatial features and is called once, as the last of "
            f"{_name_last(spatial)}"
        )
    chosen = by_name[layer]
    behind = list(_iterate_channelwise(description, chosen))
    if rank_at is None:
        return layer, _default_rank_at(chosen, behind)
    names = [item.name for item in (chosen, *behind)]
    if rank_at not in names:
        raise InputError(
            f"{description.path}: cannot rank `{layer}` at `{rank_at}`, expected one of: "
            f"{', '.join(names)}"
        )
    return layer, rank_at


def _name_last(names: list[str]) -> str:
    return f"{len(names)} are: {', '.join(names[-_MOST_NAMED:])}"


def _name_closest(wanted: str, names: list[str]) -> str:
    # Nobody means what has a thousand letters, which would take difflib minutes.
    found = get_close_matches(wanted[:_MOST_LETTERS], names, n=_MOST_CLOSEST)
    return f"closest are: {', '.join(found)}; " if found else ""


def _find_spatial(description: ModelDescription) -> list[str]:
    """Return the layers, called once, that give spatial features: rows, columns and channels.

    The channels of the image itself are no features: before the first layer with weights that
    mixes them there is nothing to prune.
    """
    found, behind = [], set[str]()
    for item in description.layers:
        if item.traits.mixes or item.traits.prunable or not behind.isdisjoint(item.inputs):
            behind.add(item.name)
            shape = description.shapes.get(item.name)
            # The shape of a convolution's output needs no knowledge of what it reads.
            known = item.traits.prunable or (shape is not None and len(shape) == 3)
            if known and item.num_calls == 1:
                found.append(item.name)
    return found


def _default_layer(description: ModelDescription, spatial: list[str]) -> str:
    by_name = {item.name: item for item in description.layers}
    read = _find_read_on(description)
    hidden = [name for name in spatial if name in read]
    bottlenecks = set(_iterate_bottlenecks(description))
    through = [name for name in hidden if name in bottlenecks]
    if through:
        last = by_name[through[-1]]
        convolutions = [name for name in through if by_name[name].traits.prunable]
        # Of a convolution nothing has to be masked: zeros in its weights do the same. If another
        # one before it reached as far, it would go through the last.
        if convolutions:
            nearest = by_name[convolutions[-1]]
            if last in (nearest, *_iterate_channelwise(description, nearest)):
                return nearest.name
        return _maker(last, by_name, set(spatial)).name
    convolutions = [name for name in spatial if by_name[name].traits.prunable]
    if not convolutions:
        raise InputError(
            f"{description.path}: has no layer that gives spatial features, expected a 2-D "
            "convolution"
        )
    # Where the channels of all are classes, as in a net of one convolution, none is better.
    return ([name for name in convolutions if name in read] or convolutions)[-1]


def _maker(
    last: LayerDescription, by_name: dict[str, LayerDescription], spatial: set[str]
) -> LayerDescription:
    """Return the layer whose output is masked: before pooling, behind activation if there is one.

    There a channel that clean images leave quiet is zero, and to prune it changes nothing.
    """
    # The last tensor on all paths may be what pooling or dropout made of the one looked for.
    chain = [last]
    while _is_channelwise(chain[-1]) and chain[-1].inputs[0] in spatial:
        chain.append(by_name[chain[-1].inputs[0]])
    before = list(takewhile(lambda item: not item.traits.pools, reversed(chain)))
    ranking = [item for item in before if item.traits.ranks]
    # Nothing is before pooling that reads what cannot be pruned, as a layer that is called twice.
    return (ranking or before or chain)[-1]


def _find_read_on(description: ModelDescription) -> set[str]:
    """Return the layers that a layer with weights of its own for each channel still reads.

    Behind the others, as behind the last convolution of MobileNet or SqueezeNet, the channels are
    the classes: to prune one is to forget a class.
    """
    read: set[str] = set()
    for item in reversed(description.layers):
        if item.name in read or item.traits.mixes:
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
        keeps = _is_channelwise(item) or item.traits.merges
        if keeps and item.num_calls == 1 and item.inputs and apart.issuperset(item.inputs):
            apart.add(item.name)
            yield item


def _is_channelwise(item: LayerDescription) -> bool:
    alone = acts_on_each_channel_alone(item.class_name, item.config)
    return alone and len(item.inputs) == item.num_calls == 1


def _default_rank_at(chosen: LayerDescription, behind: list[LayerDescription]) -> str:
    # The lab ranks behind pooling, which gives another order than before it. Pooling behind the
    # next convolution, even one that keeps channels apart, ranks that one's features.
    near = list(takewhile(lambda item: not item.traits.prunable, behind))
    for item in near:
        if item.traits.pools:
            return item.name
    ranking = [item for item in near if item.traits.ranks]
    return (ranking or [chosen])[-1].name
