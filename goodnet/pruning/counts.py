"""What a sweep counts of a set, as a table: a row for each end and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodnet.arrays import DoubleArray, IntArray
from goodnet.storage.files import atomic_path

End = Literal["pruned", "expert"]
"""From which end of the prune order: its first k channels are removed, or they alone are kept."""

SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("end", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("channel", pa.int64()),
        pa.field("mean_activation", pa.float64()),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("correct", pa.int64(), nullable=False),
        pa.field("flagged", pa.int64(), nullable=False),
        pa.field("goodnet_correct", pa.int64(), nullable=False),
        pa.field("recovered", pa.int64()),
        pa.field("goodnet_recovered", pa.int64()),
    ]
)
"""Columns: the set, the end, the step, the channel that is removed or kept from this step on and
its mean activation over the set, both null at step 0, and the counts of `Counts`, the last two null
where they are not known."""


@dataclass(frozen=True)
class Counts:
    """How many images of a set are answered how at each step 0 … C; counts of shards add up.

    Attributes:
        images: images counted.
        correct: (C + 1,), B' answers the label.
        flagged: (C + 1,), B' and B disagree, so that G answers "backdoored".
        goodnet_correct: (C + 1,), B' and B agree and are right.
        recovered: (C + 1,), B' answers the label from before the trigger, where that is known.
        goodnet_recovered: (C + 1,), B' and B agree on that label.
    """

    images: int
    correct: IntArray
    flagged: IntArray
    goodnet_correct: IntArray
    recovered: IntArray | None = None
    goodnet_recovered: IntArray | None = None

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.images + other.images,
            self.correct + other.correct,
            self.flagged + other.flagged,
            self.goodnet_correct + other.goodnet_correct,
            _add_known(self.recovered, other.recovered),
            _add_known(self.goodnet_recovered, other.goodnet_recovered),
        )


def add_counts(parts: Sequence[Mapping[End, Counts]]) -> dict[End, Counts]:
    """Reduce: add up the counts of the parts of a set, from each end."""
    first, *others = parts
    total = dict(first)
    for part in others:
        total = {end: counts + part[end] for end, counts in total.items()}
    return total


def _add_known(mine: IntArray | None, others: IntArray | None) -> IntArray | None:
    """Add counts of shards; a shard of no images knows nothing, which is not to hide the rest."""
    if mine is None or others is None:
        return others if mine is None else mine
    return mine + others


def write_curves(
    path: str | Path,
    role: str,
    counts: Mapping[End, Counts],
    *,
    order: Sequence[int],
    means: DoubleArray,
) -> None:
    """Write the curves of one set to a Parquet file, under `SCHEMA`.

    Args:
        path: of the file, which appears once it is complete; one that is there is replaced.
        role: of the set; what the column `set` says.
        counts: of images at steps 0 … C, from each end.
        order: the channels in prune order, C of them.
        means: (C,), the mean activation of each channel, by channel number.
    """
    with atomic_path(Path(path)) as temporary:
        pq.write_table(curves_table(role, counts, order=order, means=means), temporary)


def curves_table(
    role: str, counts: Mapping[End, Counts], *, order: Sequence[int], means: DoubleArray
) -> pa.Table:
    """Return the curves of one set under `SCHEMA`.

    Args:
        role: of the set; what the column `set` says.
        counts: of steps 0 … C from each end.
        order: the channels in prune order, C of them.
        means: (C,), the mean activation of each channel, by channel number.
    """
    return pa.concat_tables([_curve(role, end, one, order, means) for end, one in counts.items()])


def _curve(
    role: str, end: End, counts: Counts, order: Sequence[int], means: DoubleArray
) -> pa.Table:
    steps = len(order) + 1
    unknown = [None] * steps
    columns = [
        [role] * steps,
        [end] * steps,
        np.arange(steps),
        [None, *order],
        [None, *means[list(order)]],
        [counts.images] * steps,
        counts.correct,
        counts.flagged,
        counts.goodnet_correct,
        unknown if counts.recovered is None else counts.recovered,
        unknown if counts.goodnet_recovered is None else counts.goodnet_recovered,
    ]
    return pa.table(columns, schema=SCHEMA)


def read_counts(path: Path, end: End = "pruned") -> Counts:
    """Read the counts of a file that `write_curves` wrote, from one end."""
    table = pq.read_table(path, schema=SCHEMA, filters=[("end", "=", end)])
    _, *names = (field.name for field in fields(Counts))
    counted: list[Any] = [
        None if table[name].null_count else table[name].to_numpy() for name in names
    ]
    return Counts(table["images"][0].as_py(), *counted)


def read_sweep(path: Path) -> pa.Table:
    """Read sweep.parquet of any run; columns that an older one has not got are null.

    Runs of before swept from one end, and did not name it.

    Raises:
        ValueError: a column is missing that every run has.
    """
    table = pq.read_table(path)
    if "end" not in table.column_names:
        table = table.append_column("end", pa.array(["pruned"] * len(table)))
    for field in SCHEMA:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(SCHEMA.names).cast(SCHEMA)
