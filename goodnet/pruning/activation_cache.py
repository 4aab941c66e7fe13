"""The activation cache: what one forward pass over a set leaves for everything after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodnet.arrays import DigestArray, FloatArray, IntArray
from goodnet.errors import InputError
from goodnet.images.preprocessing import Preprocessing
from goodnet.storage.signatures import SignedFile

_METADATA_KEY = b"goodnet"
_FORMAT = 5
_FEATURES = "features_"
_PART_IMAGES = 8192
"""Some seconds of a small net, beside which the price of a part is nothing; 16 of the largest
blocks, and a multiple of every size of block."""


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


@dataclass(frozen=True, init=False)
class ActivationCache:
    """Parquet files, the parts of a set: a row for each image, a row group for each block of them.

    The columns are `image`, `label`, `digest` (of its pixels), `prediction`, `activation` (a
    fixed-size list of float32: the ranked layer's output, flattened with the channel last),
    where the graph of the net needs them `base` and `side_0` …, and `features_0` …, the features at
    those depths of the net where they are not another column.

    Blocks hold the same images whoever reads them, in any order and any number at a time. So
    nothing that is computed from them depends on batch size or sharding. They are numbered through
    all parts.

    Attributes:
        parts: the files, in the order of their images.
    """

    parts: tuple[Path, ...]

    def __init__(self, *parts: str | Path) -> None:
        object.__setattr__(self, "parts", tuple(map(Path, parts)))

    def __reduce__(self) -> tuple[Callable[..., ActivationCache], tuple[SignedFile, ...]]:
        """Let another process open the same files, and refuse others in their place."""
        return _reopen, self._signed

    @property
    def num_images(self) -> int:
        """Images in the set."""
        return sum(self._sizes)

    @property
    def num_blocks(self) -> int:
        """Blocks in all parts."""
        return len(self._places)

    def images_of(self, blocks: Iterable[int]) -> int:
        """Return how many images some blocks have."""
        return sum(self._sizes[number] for number in blocks)

    def rows_of(self, blocks: range) -> range:
        """Return the images of blocks that follow each other."""
        first = sum(self._sizes[: blocks.start])
        return range(first, first + self.images_of(blocks))

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

    def blocks_by_part(self) -> list[range]:
        """Return the numbers of the blocks of each part."""
        counts = [metadata.num_row_groups for metadata in self._metadata]
        ends = np.cumsum(counts).tolist()
        return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]

    def blocks(self, numbers: Iterable[int] | None = None) -> Iterator[Block]:
        """Read blocks one at a time: those of the given numbers, or all in order."""
        firsts = np.cumsum([0, *self._sizes])
        # What a sweep has no use for, the features, is mostly the larger part of the file.
        columns = ["label", "prediction", *self._swept]
        for number, rows in self._rows(numbers, columns):
            yield self._block(rows, firsts[number])

    @property
    def num_depths(self) -> int:
        """Depths of the net whose features are kept."""
        return len(self._description["features"])

    def features(self, depth: int, blocks: Iterable[int] | None = None) -> Iterator[FloatArray]:
        """Read the features at one depth, (n, F) for each block, in the order of the blocks.

        Args:
            depth: its number.
            blocks: numbers of blocks, or all.
        """
        name = self._description["features"][depth]
        for _, rows in self._rows(blocks, [name]):
            yield _flat(rows[name]).reshape(len(rows), -1)

    def image_digests(self) -> DigestArray:
        """Return (N,) what `digest_pixels` gives for the images, in their order."""
        return np.asarray(self._read("digest")["digest"].to_numpy())

    def answers(self) -> tuple[IntArray, IntArray]:
        """Read the labels and B's answers of all images, (N,) each, and nothing else."""
        rows = self._read("label", "prediction")
        return rows["label"].to_numpy(), rows["prediction"].to_numpy()

    def _read(self, *columns: str) -> pa.Table:
        return pa.concat_tables(pq.read_table(part, columns=[*columns]) for part in self.parts)

    def _rows(
        self, numbers: Iterable[int] | None, columns: list[str]
    ) -> Iterator[tuple[int, pa.Table]]:
        """Read columns of blocks, each part opened once for those that follow each other in it."""
        opened, file = -1, None
        with ExitStack() as open_files:
            for number in range(self.num_blocks) if numbers is None else numbers:
                part, group = self._places[number]
                if file is None or part != opened:
                    open_files.close()
                    opened = part
                    file = open_files.enter_context(pq.ParquetFile(self.parts[part]))
                yield number, file.read_row_group(group, columns=columns, use_threads=False)

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
    def _signed(self) -> tuple[SignedFile, ...]:
        return tuple(map(SignedFile.of, self.parts))

    @cached_property
    def _metadata(self) -> list[Any]:
        return [pq.read_metadata(part) for part in self.parts]

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """The part of each block, and its number among the row groups there."""
        return [
            (part, group)
            for part, metadata in enumerate(self._metadata)
            for group in range(metadata.num_row_groups)
        ]

    @cached_property
    def _sizes(self) -> list[int]:
        """How many images each block has."""
        return [self._metadata[part].row_group(group).num_rows for part, group in self._places]

    @cached_property
    def _description(self) -> dict[str, Any]:
        """What all parts say of themselves."""
        found: list[dict[str, Any]] = []
        for part, metadata in zip(self.parts, self._metadata, strict=True):
            description = json.loads((metadata.metadata or {}).get(_METADATA_KEY, b"{}"))
            if description.get("format") != _FORMAT:
                raise InputError(f"{part}: no activation cache of format {_FORMAT}")
            if found and description != found[0]:
                raise InputError(f"{part}: is of another net or set than {self.parts[0]}")
            found.append(description)
        return found[0]


def _reopen(*parts: SignedFile) -> ActivationCache:
    for part in parts:
        part.require_unchanged()
    return _opened(parts)


# A process works on many parts of a set, and the metadata of all take a moment.
@lru_cache(maxsize=4)
def _opened(parts: tuple[SignedFile, ...]) -> ActivationCache:
    return ActivationCache(*(part.path for part in parts))


def part_rows(num_images: int) -> list[range]:
    """Return the images of each part of a set, the same whoever computes how many of them."""
    return [
        range(first, min(first + _PART_IMAGES, num_images))
        for first in range(0, num_images, _PART_IMAGES)
    ]


def feature_column(depth: int) -> str:
    """Return the name of the column with the features at a depth, numbered from 0."""
    return f"{_FEATURES}{depth}"


def cache_schema(
    shapes: Mapping[str, tuple[int, ...]],
    provenance: Provenance,
    *,
    features: Sequence[str] = (),
) -> pa.Schema:
    """Return the schema of a cache file.

    Args:
        shapes: the shape of one image's tensor by column name: `activation`, then `base` if it
            differs, then `side_0` …, then `features_0` ….
        provenance: goes into the file's metadata.
        features: the column of the features at each depth, `features_0` … or another one.
    """
    description = {
        "format": _FORMAT,
        "provenance": asdict(provenance),
        "shapes": dict(shapes),
        "features": list(features),
    }
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
