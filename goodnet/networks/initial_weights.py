"""Initial weights, and whatever else layers draw, that a seed alone decides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

_MOST = 10**9


def layer_seeds(seed: int | None) -> Iterator[int | None]:
    """Yield a seed for one layer after another.

    They are those that layers take by default after `keras.utils.set_random_seed(seed)`, but not
    drawn from Python's global `random`: any thread of the process may draw from that in between,
    as those of Prefect do, and the net would be another one.

    Args:
        seed: decides all of them; None leaves each to Keras. A net whose weights come from a file
            is so the same each time that it is saved: a seed would stand in its configuration.
    """
    if seed is None:
        yield from repeat(None)
    seeds = random.Random(seed)
    while True:
        yield seeds.randint(1, _MOST)


class SeededLayers:
    """Layers with what they draw taken from one seed, in the order in which they are made."""

    def __init__(self, seed: int | None) -> None:
        self._seeds = layer_seeds(seed)

    def _initializer(self) -> keras.Initializer:
        import keras

        return keras.initializers.GlorotUniform(seed=next(self._seeds))

    def convolve(self, x: Any, width: int, size: int, name: str, **options: Any) -> Any:
        """Apply a Conv2D."""
        from keras import layers

        initializer = self._initializer()
        return layers.Conv2D(width, size, kernel_initializer=initializer, name=name, **options)(x)

    def convolve_depthwise(self, x: Any, size: int, name: str, **options: Any) -> Any:
        """Apply a DepthwiseConv2D that pads."""
        from keras import layers

        return layers.DepthwiseConv2D(
            size,
            padding="same",
            depthwise_initializer=self._initializer(),
            name=name,
            **options,
        )(x)

    def connect(self, x: Any, units: int, name: str, activation: str | None = None) -> Any:
        """Apply a Dense layer."""
        from keras import layers

        return layers.Dense(
            units, activation=activation, kernel_initializer=self._initializer(), name=name
        )(x)

    def drop(self, x: Any, rate: float, name: str) -> Any:
        """Apply a Dropout."""
        from keras import layers

        return layers.Dropout(rate, seed=next(self._seeds), name=name)(x)

    def normalize(self, x: Any, name: str) -> Any:
        """Normalize by batches, with statistics that follow a training of a few hundred steps."""
        from keras import layers

        return layers.BatchNormalization(momentum=0.9, name=name)(x)
