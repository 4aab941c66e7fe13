"""Putting the layers of models in a model into the model itself: one flat graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from goodnet.errors import InputError
from goodnet.model_files.keras_2 import MODELS
from goodnet.model_files.layer_graph import (
    Call,
    CallGraph,
    Reference,
    is_reference,
    iterate_references,
    read_calls,
    read_history,
)

SEPARATOR = "."
"""Between the name of a model and that of a layer in it. Keras refuses names with a `/`; of what
TensorFlow takes in its scopes, a point reads best, in a shell too."""

LayerPath = tuple[str, ...]
"""The names of the models that a layer stands in, from the outside, and its own."""

_OUTSIDE: Reference = ("", 0, 0)
"""What feeds a Sequential model that has no input layer; no layer has an empty name."""

_MAX_VALUES = 1_000_000
"""In what all calls of the flat graph pass. A model that is called often repeats the constants that
its layers are called with; a thousandth is usual."""


@dataclass(frozen=True)
class InlinedModel:
    """The configuration of a model without models in it.

    `paths` tells where each of its layers stands in the model that it was made of; it is empty if
    that had no models in it and is left as it is.
    """

    config: dict[str, Any]
    paths: dict[str, LayerPath]


def inline_models(model: dict[str, Any], *, where: str, max_layers: int) -> InlinedModel:
    """Put the layers of the models in a model, and of the models in those, into the model itself.

    The layer `conv` of a model `base` becomes `base.conv`, with `_` behind it where there is
    another layer of that name. A model that is called twice is shared: each of its layers is
    called twice. Its input layer disappears, or becomes a cast where it takes whole numbers and
    gets real ones, or the other way round.

    Args:
        model: a configuration that `read_graph` has accepted.
        where: starts the message of an error.
        max_layers: that each model in it may have.

    Raises:
        InputError: a model in it is damaged, or so much is called that it would fill the memory.
    """
    if not any(map(_is_model, model["config"]["layers"])):
        return InlinedModel(model, {})
    return _Inliner(where, max_layers).inline(model)


class _Inliner:
    """Goes through the calls of a model as Keras does and writes them down as those of one graph.

    Attributes:
        layers: of the flat graph by name.
        paths: where they stand in the model.
        names: in the flat graph, by path.
        taken: names that no further layer may have.
        dtypes: of tensors whose type is known; others hold real numbers.
        graphs: the models that were read, by path.
        num_values: that the calls so far pass.
    """

    def __init__(self, where: str, max_layers: int) -> None:
        self.where, self.max_layers = where, max_layers
        self.layers: dict[str, dict[str, Any]] = {}
        self.paths: dict[str, LayerPath] = {}
        self.names: dict[LayerPath, str] = {}
        self.taken: set[str] = set()
        self.dtypes: dict[Reference, str] = {}
        self.graphs: dict[LayerPath, CallGraph] = {}
        self.num_values = 0

    def inline(self, model: dict[str, Any]) -> InlinedModel:
        graph = self._read(model, ())
        # The outermost layers keep their names.
        self.taken.update(name for name, item in graph.items.items() if not _is_model(item))
        (name, _, _), *_ = graph.inputs
        begin = (self._place((name,), graph.items[name]), 0, 0)
        self.dtypes[begin] = _input_dtype(graph.items[name])
        (end,) = self._run(graph, (), [begin])
        config = {
            "name": model["config"].get("name"),
            "layers": list(self.layers.values()),
            "input_layers": list(begin),
            "output_layers": list(end),
        }
        return InlinedModel({"class_name": "Functional", "config": config}, self.paths)

    def _read(self, model: dict[str, Any], path: LayerPath) -> CallGraph:
        if path in self.graphs:
            return self.graphs[path]
        where = f"{self.where}: layer `{_join(path)}`" if path else self.where
        graph = read_calls(model, where=where, max_layers=self.max_layers)
        for name, _, _ in graph.inputs:
            if graph.items[name]["class_name"] == "InputLayer":
                continue
            if model["class_name"] != "Sequential" or not path:
                raise InputError(f"{where}: begins with layer `{name}`, expected an input layer")
            calls = graph.calls | {(name, 0): [[*_OUTSIDE, {}]]}
            graph = replace(graph, calls=calls, inputs=[_OUTSIDE])
        return self.graphs.setdefault(path, graph)

    def _run(self, graph: CallGraph, path: LayerPath, feeds: list[Reference]) -> list[Reference]:
        """Write down the calls of a model that gets some tensors, and return what it gives."""
        found: dict[Call, Call | list[Reference]] = {}

        def resolve(reference: Reference) -> Reference:
            name, index, tensor = reference
            place = found[name, index]
            if isinstance(place, tuple):
                return (*place, tensor)
            if not 0 <= tensor < len(place):
                raise InputError(f"{self.where}: model `{name}` has no output {tensor}")
            return place[tensor]

        for (name, index, _), feed in zip(graph.inputs, feeds, strict=True):
            item = graph.items.get(name, {})
            found[name, index] = [self._enter(feed, item, (*path, name)) if path else feed]
        for call, node in graph.calls.items():
            item, inside = graph.items[call[0]], (*path, call[0])
            if call in found:
                continue
            if _is_model(item):
                given = [resolve(reference) for reference in iterate_references(node)]
                found[call] = self._call_model(item, inside, given)
            else:
                found[call] = self._call(self._place(inside, item), node, resolve)
        return [resolve(output) for output in graph.outputs]

    def _call_model(
        self, item: dict[str, Any], path: LayerPath, given: list[Reference]
    ) -> list[Reference]:
        graph = self._read(item, path)
        if len(given) != len(graph.inputs):
            raise InputError(
                f"{self.where}: layer `{_join(path)}` is a model that gets {len(given)} "
                f"tensors, expected {len(graph.inputs)}"
            )
        return self._run(graph, path, given)

    def _call(self, name: str, node: Any, resolve: Callable[[Reference], Reference]) -> Call:
        nodes = self.layers[name]["inbound_nodes"]
        if node:
            nodes.append(self._redirect(node, resolve))
        return name, max(len(nodes) - 1, 0)

    def _enter(self, feed: Reference, item: dict[str, Any], path: LayerPath) -> Reference:
        """Return a tensor as a model takes it, which casts what it gets to its input's type."""
        wanted, given = _input_dtype(item), self.dtypes.get(feed, "float32")
        if wanted == given or (_is_real(wanted) and _is_real(given)):
            return feed
        cast = {
            "module": "keras.src.ops.core",
            "class_name": "Cast",
            "config": {"dtype": wanted},
            "registered_name": "Cast",
        }
        # Keras replaces shape and type by those of the tensor that the history names.
        history = {"shape": [], "dtype": "float32", "keras_history": list(feed)}
        tensor = {"class_name": "__keras_tensor__", "config": history}
        place = self._place(path, cast)
        node = {"args": [tensor], "kwargs": {}}
        result = (*self._call(place, node, lambda reference: reference), 0)
        self.dtypes[result] = wanted
        return result

    def _place(self, path: LayerPath, item: dict[str, Any]) -> str:
        """Return the name of a layer in the flat graph, where it is put on its first call."""
        if path in self.names:
            return self.names[path]
        name = _join(path)
        while len(path) > 1 and name in self.taken:
            name += "_"
        self.taken.add(name)
        self.names[path], self.paths[name] = name, path
        config = item["config"] | {"name": name}
        self.layers[name] = item | {"name": name, "config": config, "inbound_nodes": []}
        # By it Keras shares a layer between models in a model, whose weights it then cannot load.
        self.layers[name].pop("shared_object_id", None)
        return name

    def _redirect(self, node: Any, resolve: Callable[[Reference], Reference]) -> Any:
        """Return what a call passes, with the tensors as the flat graph names them."""

        def change(value: Any) -> Any:
            if isinstance(value, dict) and "class_name" in value:
                reference = read_history(value)
                if not is_reference(reference):
                    return value
                history = list(resolve((reference[0], reference[1], reference[2])))
                return value | {"config": value["config"] | {"keras_history": history}}
            if not isinstance(value, dict | list):
                return value
            self._count(len(value))
            if isinstance(value, dict):
                return {key: change(item) for key, item in value.items()}
            if isinstance(node, list) and is_reference(value):
                return [*resolve((value[0], value[1], value[2])), *map(change, value[3:])]
            return [change(item) for item in value]

        return change(node)

    def _count(self, num_values: int) -> None:
        self.num_values += num_values
        if self.num_values > _MAX_VALUES:
            raise InputError(
                f"{self.where}: calls models with more than {_MAX_VALUES:,} values in all, "
                "expected fewer"
            )


def _join(path: LayerPath) -> str:
    # Without what stands for the input of a model that has no input layer.
    return SEPARATOR.join(filter(None, path))


def _is_model(item: Any) -> bool:
    return isinstance(item, dict) and item.get("class_name") in MODELS


def _input_dtype(item: dict[str, Any]) -> str:
    """Return the type of an input layer's tensor; float32 where it is not said."""
    dtype = item.get("config", {}).get("dtype")
    if isinstance(dtype, dict):  # a policy, whose class and name are checked
        dtype = dtype["config"]["name"]
    return dtype if isinstance(dtype, str) else "float32"


def _is_real(dtype: str) -> bool:
    return "float" in dtype
