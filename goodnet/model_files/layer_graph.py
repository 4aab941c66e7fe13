"""The layers of a model as its configuration describes them, and how they feed each other."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeGuard

from goodnet.errors import InputError
from goodnet.model_files.config_json import children, require_list, require_object
from goodnet.networks.traits import Traits, traits_of

Call = tuple[str, int]
"""A layer's name and which of its calls is meant."""

Reference = tuple[str, int, int]
"""A tensor: a layer's name, which of its calls, and which of the results of that."""


@dataclass(frozen=True)
class CallGraph:
    """The layers of a model, models among them, and what each call of them passes.

    `items` are the layers as the file has them, in its order. `calls`, in an order in which they
    can run, are in the notation of Keras 2 or 3. `inputs` and `outputs` are the model's.
    """

    items: dict[str, dict[str, Any]]
    calls: dict[Call, Any]
    inputs: list[Reference]
    outputs: list[Reference]


@dataclass(frozen=True)
class LayerDescription:
    """One layer or op of a model.

    `inputs` are the names of the layers that feed it, over all its calls; `config` is what the
    file says about it.
    """

    name: str
    class_name: str
    inputs: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    num_calls: int = 1

    @property
    def traits(self) -> Traits:
        """What layers of its class do with channels and shapes."""
        return traits_of(self.class_name)


@dataclass(frozen=True)
class LayerGraph:
    """Layers in graph order, each behind those that feed it, the last one's name, and the calls."""

    layers: tuple[LayerDescription, ...]
    output: str
    calls: CallGraph


def read_graph(model: dict[str, Any], *, where: str, max_layers: int) -> LayerGraph:
    """Read how the layers of a model, one that `check_stock` has accepted, feed each other.

    Raises:
        InputError: it is damaged, or has other than one input and one output; `where` starts
            the message.
    """
    graph = read_calls(model, where=where, max_layers=max_layers)
    for end, references in (("input", graph.inputs), ("output", graph.outputs)):
        if len(references) != 1:
            raise InputError(f"{where}: has {len(references)} {end}s, expected one")
    nodes: dict[str, list[Any]] = {}
    for (name, _), node in graph.calls.items():
        nodes.setdefault(name, []).append(node)
    layers = tuple(_describe_layer(name, graph.items[name], nodes[name]) for name in nodes)
    return LayerGraph(layers, graph.outputs[0][0], graph)


def read_calls(model: dict[str, Any], *, where: str, max_layers: int) -> CallGraph:
    """Read the calls of a Sequential or Functional model that `check_stock` has accepted.

    Raises:
        InputError: it is damaged; `where` starts the message.
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


def _read_sequential(by_name: dict[str, dict[str, Any]]) -> CallGraph:
    names = list(by_name)
    calls: dict[Call, Any] = {(names[0], 0): []}
    calls |= {(name, 0): [[before, 0, 0]] for before, name in pairwise(names)}
    return CallGraph(by_name, calls, [(names[0], 0, 0)], [(names[-1], 0, 0)])


def _read_functional(
    by_name: dict[str, dict[str, Any]], config: dict[str, Any], where: str
) -> CallGraph:
    calls, sources = {}, {}
    for name, item in by_name.items():
        nodes = require_list(item.get("inbound_nodes"), f"{where}: inbound_nodes of `{name}`")
        # An input is called nowhere in the file, but others are fed by its call 0.
        for index, node in enumerate(nodes or [[]]):
            calls[name, index] = node
            sources[name, index] = [source[:2] for source in iterate_references(node)]
            if nodes and not sources[name, index]:
                # Keras would compute it while it builds the model, however large it may be.
                raise InputError(f"{where}: layer `{name}` is called on constants only")
    for call, references in sources.items():
        for reference in references:
            if reference not in calls:
                raise InputError(f"{where}: layer `{call[0]}` is fed by unknown `{reference[0]}`")
    order = _sort_calls(sources, where)
    ends = {end: _read_ends(end, by_name, calls, config, where) for end in ("input", "output")}
    ordered = {call: calls[call] for call in order}
    return CallGraph(by_name, ordered, ends["input"], ends["output"])


def _read_ends(
    end: str,
    by_name: dict[str, dict[str, Any]],
    calls: dict[Call, Any],
    config: dict[str, Any],
    where: str,
) -> list[Reference]:
    ends = []
    for name, index, tensor in iterate_references([config.get(f"{end}_layers")]):
        if name in by_name and by_name[name].get("class_name") in ("Functional", "Model"):
            index -= 1  # Keras counts the making of such a model as a call, here only.
        if (name, index) not in calls:
            raise InputError(f"{where}: has the unknown {end} `{name}`")
        ends.append((name, index, tensor))
    return ends


def iterate_references(node: Any) -> Iterator[Reference]:
    """Yield what a call refers to, in the notation of Keras 2, `["name", 0, 0]`, or Keras 3.

    In the latter, an object, only what Keras takes for a tensor counts, not lists that look so.
    """
    pending = [node]
    while pending:
        value = pending.pop()
        reference = value if isinstance(node, list) else None
        if isinstance(value, dict) and "class_name" in value:
            reference = read_history(value)
            value = None
        if is_reference(reference):
            yield reference[0], reference[1], reference[2]
        pending.extend(reversed(children(value)))


def read_history(value: dict[str, Any]) -> Any:
    """Return the reference in an object of a call, None where it stands for no tensor."""
    config = value.get("config") if value["class_name"] == "__keras_tensor__" else None
    return config.get("keras_history") if isinstance(config, dict) else None


def is_reference(value: Any) -> TypeGuard[list[Any]]:
    """Tell whether a list names a tensor; what Keras 2 passes besides may stand behind it."""
    return (
        isinstance(value, list)
        and len(value) >= 3
        and isinstance(value[0], str)
        and all(isinstance(number, int) for number in value[1:3])
    )


def _describe_layer(name: str, item: dict[str, Any], nodes: list[Any]) -> LayerDescription:
    sources = [source for node in nodes for source, *_ in iterate_references(node)]
    return LayerDescription(
        name=name,
        class_name=item["class_name"],
        inputs=tuple(dict.fromkeys(sources)),
        config=item["config"],
        num_calls=len(nodes),
    )


def _sort_calls(calls: dict[Call, list[Call]], where: str) -> list[Call]:
    """Return the calls, each after those that feed it, else in the file's order.

    Without recursion, whose depth the file would choose.
    """
    position = {call: number for number, call in enumerate(calls)}
    # Each source once: a call may read one tensor twice, as `add([x, x])` does.
    waiting = {call: len(set(sources)) for call, sources in calls.items()}
    readers: dict[Call, list[Call]] = {call: [] for call in calls}
    for call, sources in calls.items():
        for source in set(sources):
            readers[source].append(call)
    ready = [(position[call], call) for call, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        call = heapq.heappop(ready)[1]
        order.append(call)
        for reader in readers[call]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, (position[reader], reader))
    if len(order) < len(calls):
        stuck = next(call[0] for call, count in waiting.items() if count)
        raise InputError(f"{where}: layer `{stuck}` waits for its own output")
    return order
