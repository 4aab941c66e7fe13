"""The activation cache: what one forward pass over a set leaves for everything after it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodnet.arrays import DigestArray, FloatArray, IntArray
from goodnet.errors import InputError
from goodnet.images.preprocessing import Preprocessing

_METADATA_KEY = b"goodnet"
_FORMAT = 4
_FEATURES = "features_"


@dataclass(frozen=True)
class Provenance:
    """What a cache was computed from.

    Attributes:
        model: SHA-256 of B's file.
        images: SHA-256 of the image set.
        layer: the pruned layer.
        rank_at: the layer whose output is the column `activation`.
        preprocessing: what was done to the pixels.
        num_classes: B's classes N.
    """

    model: str
    images: str
    layer: str
    rank_at: str
    preprocessing: Preprocessing
    num_classes: int


@dataclass(frozen=True)
class Block:
    """The rows of one row group.

    Attributes:
        first: the number of its first image in the set.
        labels: (n,).
        predictions: (n,), B's answers.
        ranking: (n, ..., C), the output of the ranked layer.
        start: (n, ..., C), the activations that a sweep starts from; mostly `ranking` itself.
        skips: further tensors that the head needs, each (n, ...).
    """

    first: int
    labels: IntArray
    predictions: IntArray
    ranking: FloatArray
    start: FloatArray
    skips: tuple[FloatArray, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ActivationCache:
    """One Parquet file: a row for each image, a row group for each block of images.

    The columns are `image`, `label`, `digest` (of its pixels), `prediction`, `activation` (a
    fixed-size list of float32: the ranked layer's output, flattened with the channel last),
    where the graph of the net needs them `base` and `side_0` …, and `features_0` …, the features at
    the depths of the net.

    Blocks hold the same images whoever reads them, in any order and any number at a time. So
    nothing that is computed from them depends on batch size or sharding.
    """

    path: Path

    @property
    def num_images(self) -> int:
        """Images in the set."""
        return int(self._metadata.num_rows)

    @property
    def num_blocks(self) -> int:
        """Blocks in the file."""
        return int(self._metadata.num_row_groups)

    @property
    def num_channels(self) -> int:
        """Channels C of the ranked layer."""
        return int(self._description["shapes"]["activation"][-1])

    @cached_property
    def provenance(self) -> Provenance:
        """What it was computed from."""
        found = self._description["provenance"]
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in found["preprocessing"].items()
        }
        return Provenance(**found | {"preprocessing": Preprocessing(**fields)})

    def blocks(self, numbers: Iterable[int] | None = None) -> Iterator[Block]:
        """Read blocks one at a time: those of the given numbers, or all in order."""
        sizes = [self._metadata.row_group(n).num_rows for n in range(self.num_blocks)]
        firsts = np.cumsum([0, *sizes])
        # What a sweep has no use for, the features, is mostly the larger part of the file.
        columns = ["label", "prediction", *self._swept]
        with pq.ParquetFile(self.path) as file:
            for number in range(self.num_blocks) if numbers is None else numbers:
                rows = file.read_row_group(number, columns=columns, use_threads=False)
                yield self._block(rows, firsts[number])

    @property
    def num_depths(self) -> int:
        """Depths of the net whose features are kept."""
        return len(self._description["shapes"]) - len(self._swept)

    def features(self, depth: int) -> Iterator[FloatArray]:
        """Read the features at one depth, (n, F) for each block, in the order of the blocks."""
        name = feature_column(depth)
        with pq.ParquetFile(self.path) as file:
            for number in range(self.num_blocks):
                rows = file.read_row_group(number, columns=[name], use_threads=False)
                yield _flat(rows[name]).reshape(len(rows), -1)

    def image_digests(self) -> DigestArray:
        """Return (N,) what `digest_pixels` gives for the images, in their order."""
        return np.asarray(pq.read_table(self.path, columns=["digest"])["digest"].to_numpy())

    def answers(self) -> tuple[IntArray, IntArray]:
        """Read the labels and B's answers of all images, (N,) each, and nothing else."""
        rows = pq.read_table(self.path, columns=["label", "prediction"])
        return rows["label"].to_numpy(), rows["prediction"].to_numpy()

    def _block(self, rows: pa.Table, first: int) -> Block:
        tensors = {
            name: _flat(rows[name]).reshape(len(rows), *shape)
            for name, shape in self._swept.items()
        }
        ranking = tensors.pop("activation")
        start = tensors.pop("base", ranking)
        labels, predictions = (rows[name].to_numpy() for name in ("label", "prediction"))
        return Block(int(first), labels, predictions, ranking, start, tuple(tensors.values()))

    @property
    def _swept(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors that a sweep reads, by column."""
        shapes = self._description["shapes"].items()
        return {name: shape for name, shape in shapes if not name.startswith(_FEATURES)}

    @cached_property
    def _metadata(self) -> Any:
        return pq.read_metadata(self.path)

    @cached_property
    def _description(self) -> dict[str, Any]:
        description = json.loads((self._metadata.metadata or {}).get(_METADATA_KEY, b"{}"))
        if description.get("format") != _FORMAT:
            raise InputError(f"{self.path}: no activation cache of format {_FORMAT}")
        return dict(description)


def feature_column(depth: int) -> str:
    """Return the name of the column with the features at a depth, numbered from 0."""
    return f"{_FEATURES}{depth}"


def cache_schema(shapes: Mapping[str, tuple[int, ...]], provenance: Provenance) -> pa.Schema:
    """Return the schema of a cache file.

    Args:
        shapes: the shape of one image's tensor by column name: `activation`, then `base` if it
            differs, then `side_0` …, then `features_0` ….
        provenance: goes into the file's metadata.
    """
    description = {"format": _FORMAT, "provenance": asdict(provenance), "shapes": dict(shapes)}
    number = pa.field("element", pa.float32(), nullable=False)
    columns = [pa.field(name, pa.int64(), nullable=False) for name in ("image", "label")]
    columns += [pa.field("digest", pa.uint64(), nullable=False)]
    columns += [pa.field("prediction", pa.int64(), nullable=False)]
    columns += [
        pa.field(name, pa.list_(number, int(np.prod(shape))), nullable=False)
        for name, shape in shapes.items()
    ]
    return pa.schema(columns, metadata={_METADATA_KEY: json.dumps(description).encode()})


def to_rows(
    schema: pa.Schema,
    *,
    first: int,
    labels: IntArray,
    digests: DigestArray,
    predictions: IntArray,
    tensors: Iterable[FloatArray],
) -> pa.Table:
    """Return the rows of one block under `cache_schema`.

    The arguments are those of `Block`, and `digests` of the images.
    """
    images = np.arange(first, first + len(labels))
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(tensor.reshape(-1)), type=field.type)
        for tensor, field in zip(tensors, list(schema)[4:], strict=True)
    ]
    return pa.table([images, labels, digests, predictions, *lists], schema=schema)


def _flat(column: pa.ChunkedArray) -> FloatArray:
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32)
