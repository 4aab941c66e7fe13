"""Depths: the tensors of a net through which all paths go, and what is looked at of them.

Between two layers that mix channels there is one depth, behind activation and pooling. What a net
has made of an image up to there is averaged over parts of the image, so that few numbers remain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.networks.graph import Namer, calls, dependents
from goodnet.networks.traits import acts_on_each_channel_alone, operation_traits

if TYPE_CHECKING:
    import keras

MAX_DEPTHS = 6
MAX_FEATURES = 1600
"""Of one depth: second moments of so many numbers are 20 MB, and made in a second or two."""


@dataclass(frozen=True, eq=False)
class Depth:
    """A tensor through which all paths from the image to the answer go.

    Attributes:
        layer: the layer or operation that makes it.
        tensor: the symbolic tensor, (n, ...), with the channels last.
    """

    layer: str
    tensor: Any

    def features(self, value: Any, name: Namer) -> Any:
        """Return the features of images at this depth, by stock Keras layers: (n, F).

        Averages over parts of the image (or of the tokens), as small as `MAX_FEATURES` allows;
        where there are more channels than that, also over neighbouring ones.

        Args:
            value: what stands at `tensor`, symbolic or not.
            name: makes names for the layers.
        """
        from keras import layers

        *space, channels = self.tensor.shape[1:]
        size = _part_size(space, channels)
        if size > 1:
            kind = layers.AveragePooling2D if len(space) == 2 else layers.AveragePooling1D
            # The format is said here, or the `keras.json` of whoever loads the net would decide.
            value = kind(
                size, padding="same", data_format="channels_last", name=name("features_averaged")
            )(value)
        if space:
            value = layers.Reshape((int(np.prod(value.shape[1:])),), name=name("features_flat"))(
                value
            )
        neighbours = -(-value.shape[1] // MAX_FEATURES)
        if neighbours > 1:
            value = layers.Reshape((value.shape[1], 1), name=name("features_row"))(value)
            value = layers.AveragePooling1D(
                neighbours,
                padding="same",
                data_format="channels_last",
                name=name("features_neighbours"),
            )(value)
            value = layers.Reshape((value.shape[1],), name=name("features_few"))(value)
        return value

    @property
    def num_features(self) -> int:
        """How many numbers `features` gives."""
        *space, channels = self.tensor.shape[1:]
        size = _part_size(space, channels)
        many = int(np.prod([-(-length // size) for length in space], dtype=int)) * channels
        return -(-many // -(-many // MAX_FEATURES))


def find_depths(model: keras.Model) -> tuple[Depth, ...]:
    """Return at most `MAX_DEPTHS` depths of a functional model, from the image to the answer.

    None lies before the first layer that mixes channels, whose features are pixels, and none
    behind the last one, whose features are the answer. Of more, those that are evenly apart, the
    first and the last among them.
    """
    stretches = list(_iterate_stretches(model))[1:-1]
    depths = [_deepest(stretch) for stretch in stretches]
    known = [depth for depth in depths if depth is not None]
    if len(known) > MAX_DEPTHS:
        places = np.linspace(0, len(known) - 1, MAX_DEPTHS).round().astype(int)
        known = [known[place] for place in places]
    return tuple(known)


def _iterate_stretches(model: keras.Model) -> Iterator[list[Any]]:
    """Yield runs of bottlenecks between which nothing mixes channels: calls, by their outputs.

    The first begins with the image, an empty run; the last ends with the answer.
    """
    stretch: list[Any] = []
    before = model.inputs[0]
    for node in _bottlenecks(model):
        alone = [id(x) for x in node.input_tensors] == [id(before)] and _mixes_nothing(node)
        if not alone:
            yield stretch
            stretch = []
        stretch.append(node)
        before = node.outputs[0]
    yield stretch


def _bottlenecks(model: keras.Model) -> Iterator[Any]:
    """Yield the calls whose output every path from the image to the answer goes through.

    In an order in which the calls can run, an output is one if nothing made before it, the image
    included, is read behind it.
    """
    answer, image = id(model.outputs[0]), model.inputs[0]
    behind = dependents(model, image)
    # What does not lead to the answer is no way around.
    needed, useful = {answer}, list[Any]()
    for node in reversed(calls(model)):
        if any(id(x) in needed for x in node.outputs):
            needed.update(id(x) for x in node.input_tensors)
            useful.append(node)
    useful.reverse()
    last_use = {id(x): number for number, node in enumerate(useful) for x in node.input_tensors}
    farthest = last_use.get(id(image), -1)
    for number, node in enumerate(useful):
        output = node.outputs[0]
        if len(node.outputs) == 1 and farthest <= number and id(output) in behind:
            yield node
        farthest = max(farthest, *(last_use.get(id(x), -1) for x in node.outputs))


def _mixes_nothing(node: Any) -> bool:
    name, traits = type(node.operation).__name__, operation_traits(node.operation)
    # Behind what prepares or augments images there are still pixels, and an activation belongs to
    # the depth that it closes, whatever it does with channels.
    if traits.copies or traits.prepares or traits.augments or name in ("Activation", "Softmax"):
        return True
    if traits.prunable or not hasattr(node.operation, "get_config"):
        return False
    return acts_on_each_channel_alone(name, node.operation.get_config())


def _deepest(stretch: list[Any]) -> Depth | None:
    """Return the last tensor of a stretch that is more than another shape of the one before."""
    for node in reversed(stretch):
        traits = operation_traits(node.operation)
        if traits.copies or traits.drops:
            continue
        tensor = node.outputs[0]
        sizes = tensor.shape[1:]
        # Of what has no fixed size, or one more axis than an image, no grid can be made.
        if 1 <= len(sizes) <= 3 and None not in sizes and "float" in str(tensor.dtype):
            return Depth(node.operation.name, tensor)
    return None


def _part_size(space: list[int], channels: int) -> int:
    """Return the smallest side of parts of which at most `MAX_FEATURES` numbers remain."""
    size = 1
    while size < max(space, default=1):
        if np.prod([-(-length // size) for length in space], dtype=int) * channels <= MAX_FEATURES:
            break
        size += 1
    return size
