"""The layers of a model as its configuration describes them, and how they feed each other."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from goodnet.errors import InputError
from goodnet.model_files.config_json import children, require_list, require_object

_Call = tuple[str, int]
"""A layer's name and which of its calls is meant."""


@dataclass(frozen=True)
class LayerDescription:
    """One layer or op of a model's outermost graph.

    `inputs` are the names of the layers that feed it, over all its calls; `config` is what the
    file says about it; `module` is None in the older formats.
    """

    name: str
    class_name: str
    inputs: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    module: str | None = field(default=None, compare=False)
    num_calls: int = 1


@dataclass(frozen=True)
class LayerGraph:
    """Layers in graph order, each behind those that feed it, and the names of both ends."""

    layers: tuple[LayerDescription, ...]
    input: str
    output: str


def read_graph(model: dict[str, Any], *, where: str, max_layers: int) -> LayerGraph:
    """Read a Sequential or Functional model's configuration that `check_stock` has accepted.

    Raises:
        InputError: it is damaged, or has other than one input and one output; `where` starts
            the message.
    """
    config = require_object(model.get("config"), f"{where}: the model's config")
    items = require_list(config.get("layers"), f"{where}: the model's layers")
    if not 0 < len(items) <= max_layers:
        raise InputError(f"{where}: has {len(items):,} layers, expected 1 to {max_layers:,}")
    layers = [require_object(item, f"{where}: a layer") for item in items]
    names = [_read_name(item, where) for item in layers]
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise InputError(f"{where}: has two layers named `{doubled[0]}`")
    by_name = dict(zip(names, layers, strict=True))
    if model["class_name"] == "Sequential":
        return _read_sequential(by_name)
    return _read_functional(by_name, config, where)


def count_build_steps(model: dict[str, Any]) -> int:
    """Count the layers that Keras goes through while it builds a model that `check_stock` accepted.

    It goes through a model in the model with each call of that, and it builds a Sequential model
    anew with each of its layers: a thousand of them take it minutes.
    """
    config = model.get("config")
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(layers, list):
        return 0
    num_steps = 0
    for layer in layers:
        if isinstance(layer, dict):
            nodes = layer.get("inbound_nodes")
            num_calls = max(len(nodes), 1) if isinstance(nodes, list) else 1
            num_steps += num_calls * (1 + count_build_steps(layer))
    return num_steps * len(layers) if model.get("class_name") == "Sequential" else num_steps


def _read_name(item: dict[str, Any], where: str) -> str:
    config = require_object(item.get("config"), f"{where}: a layer's config")
    name = config.get("name")
    if not isinstance(name, str) or not name or item.get("name", name) != name:
        raise InputError(f"{where}: a {item.get('class_name')} layer has no single name")
    if not name.isprintable():
        raise InputError(f"{where}: layer `{name}` has a name that cannot be printed")
    if "class_name" not in item:
        raise InputError(f"{where}: layer `{name}` has no class_name")
    return name


def _read_sequential(by_name: dict[str, dict[str, Any]]) -> LayerGraph:
    names = list(by_name)
    layers = tuple(
        _describe_layer(name, by_name[name], inputs)
        for name, inputs in zip(names, [(), *((name,) for name in names)], strict=False)
    )
    return LayerGraph(layers, names[0], names[-1])


def _read_functional(
    by_name: dict[str, dict[str, Any]], config: dict[str, Any], where: str
) -> LayerGraph:
    calls = {}
    for name, item in by_name.items():
        nodes = require_list(item.get("inbound_nodes"), f"{where}: inbound_nodes of `{name}`")
        for index, node in enumerate(nodes or [[]]):
            calls[name, index] = list(_iterate_references(node))
            if nodes and not calls[name, index]:
                # Keras would compute it while it builds the model, however large it may be.
                raise InputError(f"{where}: layer `{name}` is called on constants only")
    for call, references in calls.items():
        for reference in references:
            if reference not in calls:
                raise InputError(f"{where}: layer `{call[0]}` is fed by unknown `{reference[0]}`")
    layers = tuple(_join_calls(name, by_name[name], calls) for name in _sort_layers(calls, where))
    ends = {}
    for end in ("input", "output"):
        references = list(_iterate_references([config.get(f"{end}_layers")]))
        if len(references) != 1:
            raise InputError(f"{where}: has {len(references)} {end}s, expected one")
        name, index = references[0]
        if name in by_name and by_name[name].get("class_name") in ("Functional", "Model"):
            index -= 1  # Keras counts the making of such a model as a call, here only.
        if (name, index) not in calls:
            raise InputError(f"{where}: has the unknown {end} `{name}`")
        ends[end] = name
    return LayerGraph(layers, **ends)


def _iterate_references(node: Any) -> Iterator[_Call]:
    """Yield what a call refers to, in the notation of Keras 2, `["name", 0, 0]`, or Keras 3.

    In the latter, an object, only what Keras takes for a tensor counts, not lists that look so.
    """
    pending = [node]
    while pending:
        value = pending.pop()
        reference = value if isinstance(node, list) else None
        if isinstance(value, dict) and "class_name" in value:
            config = value.get("config") if value["class_name"] == "__keras_tensor__" else None
            reference = config.get("keras_history") if isinstance(config, dict) else None
            value = None
        if isinstance(reference, list) and len(reference) >= 3:
            name, index = reference[:2]
            if isinstance(name, str) and isinstance(index, int):
                yield name, index
        pending.extend(reversed(children(value)))


def _join_calls(
    name: str, item: dict[str, Any], calls: dict[_Call, list[_Call]]
) -> LayerDescription:
    num_calls = max(len(item["inbound_nodes"]), 1)
    inputs = [source for index in range(num_calls) for source, _ in calls[name, index]]
    return _describe_layer(name, item, tuple(dict.fromkeys(inputs)), num_calls=num_calls)


def _describe_layer(
    name: str, item: dict[str, Any], inputs: tuple[str, ...], *, num_calls: int = 1
) -> LayerDescription:
    return LayerDescription(
        name=name,
        class_name=item["class_name"],
        inputs=inputs,
        config=item["config"],
        module=item.get("module"),
        num_calls=num_calls,
    )


def _sort_layers(calls: dict[_Call, list[_Call]], where: str) -> list[str]:
    """Return the layers by their first call: each after its inputs, else in the file's order."""
    position = {call: number for number, call in enumerate(calls)}
    waiting = {call: len(set(sources)) for call, sources in calls.items()}
    consumers: dict[_Call, list[_Call]] = {call: [] for call in calls}
    for call, sources in calls.items():
        for source in set(sources):
            consumers[source].append(call)
    ready = [(position[call], call) for call, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        call = heapq.heappop(ready)[1]
        order.append(call)
        for consumer in consumers[call]:
            waiting[consumer] -= 1
            if waiting[consumer] == 0:
                heapq.heappush(ready, (position[consumer], consumer))
    if len(order) < len(calls):
        stuck = next(call[0] for call, count in waiting.items() if count)
        raise InputError(f"{where}: layer `{stuck}` waits for its own output")
    return list(dict.fromkeys(name for name, _ in order))
