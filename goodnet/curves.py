"""The pruning curve of a set as a table: a row for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodnet.activations import IntArray
from goodnet.files import atomic_path
from goodnet.ranking import DoubleArray

SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("channel", pa.int64()),
        pa.field("mean_activation", pa.float64()),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("correct", pa.int64(), nullable=False),
        pa.field("flagged", pa.int64(), nullable=False),
        pa.field("goodnet_correct", pa.int64(), nullable=False),
    ]
)
"""Columns: the channel removed at this step and its mean activation over the set, both null at
step 0, and the counts of `Counts`."""


@dataclass(frozen=True)
class Counts:
    """How many images of a set are answered how at each step 0 … C; counts of shards add up.

    Attributes:
        images: images counted.
        correct: (C + 1,), B' answers the label.
        flagged: (C + 1,), B' and B disagree, so that G answers "backdoored".
        goodnet_correct: (C + 1,), B' and B agree and are right.
    """

    images: int
    correct: IntArray
    flagged: IntArray
    goodnet_correct: IntArray

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.images + other.images,
            self.correct + other.correct,
            self.flagged + other.flagged,
            self.goodnet_correct + other.goodnet_correct,
        )


def write_curve(
    path: Path, set_name: str, counts: Counts, *, order: Sequence[int], means: DoubleArray
) -> None:
    """Write the curve of one set.

    Args:
        path: the Parquet file.
        set_name: what the column `set` says.
        counts: of steps 0 … C.
        order: the channels in prune order, C of them.
        means: (C,), the mean activation of each channel, by channel number.
    """
    columns = [
        [set_name] * (len(order) + 1),
        np.arange(len(order) + 1),
        [None, *order],
        [None, *means[list(order)]],
        [counts.images] * (len(order) + 1),
        counts.correct,
        counts.flagged,
        counts.goodnet_correct,
    ]
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary)


def read_counts(path: Path) -> Counts:
    """Read the counts of a file that `write_curve` wrote."""
    table = pq.read_table(path, schema=SCHEMA)
    correct, flagged, goodnet_correct = (
        table[name].to_numpy() for name in ("correct", "flagged", "goodnet_correct")
    )
    return Counts(table["images"][0].as_py(), correct, flagged, goodnet_correct)
