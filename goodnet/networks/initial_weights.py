"""Initial weights, and whatever else layers draw, that a seed alone decides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING

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


def initializers(seed: int | None) -> Iterator[keras.Initializer]:
    """Yield an initializer for the kernel of one layer after another, the default one of layers.

    Args:
        seed: decides all of them; None leaves each to Keras.
    """
    import keras

    for one in layer_seeds(seed):
        yield keras.initializers.GlorotUniform(seed=one)
