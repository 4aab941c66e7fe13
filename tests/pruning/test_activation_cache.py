import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from goodnet.errors import InputError
from goodnet.images.preprocessing import Preprocessing
from goodnet.pruning.activation_cache import ActivationCache, Provenance, cache_schema, to_rows

PROVENANCE = Provenance("b" * 64, "a" * 64, "conv", "pool", Preprocessing.named("torch"), 3)
SHAPES = {"activation": (2, 3, 4), "base": (4, 6, 4), "side_0": (5,), "side_1": (1, 1, 2)}
LABELS = np.array([0, 1, 2, 0, 1, 2, 2])
PREDICTIONS = np.array([0, 1, 2, 0, 0, 0, 2])
DIGESTS = np.array([2**64 - 1, 0, 1, 2, 3, 4, 5], np.uint64)
SIZES = (3, 3, 1)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(7, *shape)).astype("f4") for name, shape in SHAPES.items()}


def write(path, tensors) -> ActivationCache:
    shapes = {name: tensor.shape[1:] for name, tensor in tensors.items()}
    schema = cache_schema(shapes, PROVENANCE)
    first = 0
    with pq.ParquetWriter(path, schema) as writer:
        for size in SIZES:
            rows = slice(first, first + size)
            table = to_rows(
                schema,
                first=first,
                labels=LABELS[rows],
                digests=DIGESTS[rows],
                predictions=PREDICTIONS[rows],
                tensors=[tensor[rows] for tensor in tensors.values()],
            )
            writer.write_table(table)
            first += size
    return ActivationCache(path)


@pytest.fixture(scope="module")
def cache(tensors, tmp_path_factory) -> ActivationCache:
    return write(tmp_path_factory.mktemp("cache") / "activations.parquet", tensors)


def test_what_is_written_is_read(cache, tensors):
    assert (cache.num_images, cache.num_blocks, cache.num_channels) == (7, 3, 4)
    assert cache.provenance == PROVENANCE
    np.testing.assert_array_equal(cache.image_digests(), DIGESTS)
    blocks = list(cache.blocks())
    assert [len(block) for block in blocks] == list(SIZES)
    assert [block.first for block in blocks] == [0, 3, 6]
    for block in blocks:
        rows = slice(block.first, block.first + len(block))
        np.testing.assert_array_equal(block.labels, LABELS[rows])
        np.testing.assert_array_equal(block.predictions, PREDICTIONS[rows])
        found = (block.ranking, block.start, *block.skips)
        for tensor, expected in zip(found, tensors.values(), strict=True):
            assert tensor.dtype == np.float32
            np.testing.assert_array_equal(tensor, expected[rows])


def test_base_is_the_ranked_activation_where_there_is_no_other(tensors, tmp_path):
    cache = write(tmp_path / "cache.parquet", {"activation": tensors["activation"]})
    for block in cache.blocks():
        assert block.start is block.ranking
        assert block.skips == ()


def test_blocks_can_be_chosen_in_any_order(cache):
    assert [block.first for block in cache.blocks([2, 0])] == [6, 0]
    assert list(cache.blocks([])) == []


def test_the_file_is_plain_parquet(cache, tensors):
    table = pq.read_table(cache.parts[0])
    assert table.column_names == ["image", "label", "digest", "prediction", *SHAPES]
    assert [str(table.schema.field(name).type) for name in table.column_names[:4]] == [
        *["int64"] * 2,
        "uint64",
        "int64",
    ]
    for name, shape in SHAPES.items():
        kind = table.schema.field(name).type
        assert pa.types.is_fixed_size_list(kind)
        assert (kind.value_type, kind.list_size) == (pa.float32(), np.prod(shape))
    assert not any(field.nullable for field in table.schema)
    frame = pd.read_parquet(cache.parts[0])
    assert frame["image"].tolist() == list(range(7))
    assert frame["label"].tolist() == LABELS.tolist()
    np.testing.assert_array_equal(
        np.stack(frame["activation"]).reshape(7, 2, 3, 4), tensors["activation"]
    )


def test_the_metadata_say_where_it_comes_from(cache):
    description = json.loads(pq.read_metadata(cache.parts[0]).metadata[b"goodnet"])
    assert description["format"] == 5
    assert description["provenance"]["preprocessing"]["std"] == [0.229, 0.224, 0.225]
    assert cache.provenance == PROVENANCE
    assert description["shapes"] == {name: list(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("metadata", [None, {b"goodnet": b'{"format": 1}'}])
def test_another_format_is_refused(tmp_path, metadata):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"label": [1]}).replace_schema_metadata(metadata), path)
    with pytest.raises(InputError, match=r"other\.parquet: no activation cache of format 5"):
        list(ActivationCache(path).blocks())


def test_rows_of_another_width_are_refused(tensors):
    schema = cache_schema({"activation": (2, 3, 4)}, PROVENANCE)
    with pytest.raises(ValueError, match="length"):
        to_rows(
            schema,
            first=0,
            labels=LABELS,
            digests=DIGESTS,
            predictions=PREDICTIONS,
            tensors=[tensors["base"]],
        )
