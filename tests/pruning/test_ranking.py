import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodnet.images.preprocessing import AS_STORED
from goodnet.pruning.activation_cache import ActivationCache, Provenance, cache_schema, to_rows
from goodnet.pruning.ranking import block_means, mean_activations, prune_order

PROVENANCE = Provenance("B", "set", "conv", "pool", AS_STORED, 3)


def write_cache(path, blocks) -> ActivationCache:
    schema = cache_schema({"activation": blocks[0].shape[1:]}, PROVENANCE)
    first = 0
    with pq.ParquetWriter(path, schema) as writer:
        for block in blocks:
            zeros = np.zeros(len(block), np.int64)
            rows = to_rows(
                schema,
                first=first,
                labels=zeros,
                digests=zeros,
                predictions=zeros,
                tensors=[block],
            )
            writer.write_table(rows)
            first += len(block)
    return ActivationCache(path)


@pytest.fixture(scope="module")
def blocks() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.exponential(10 ** rng.uniform(-3, 3, 5), (n, 4, 3, 5)) for n in (7, 1, 7, 6, 2, 7)]


@pytest.fixture(scope="module")
def cache(blocks, tmp_path_factory) -> ActivationCache:
    path = tmp_path_factory.mktemp("ranking") / "activations.parquet"
    return write_cache(path, [block.astype(np.float32) for block in blocks])


def test_two_channels_by_hand(tmp_path):
    # Two images of 1x2 pixels: channel 0 has 1 2 | 3 6, channel 1 has 0 4 | 0 0.
    first = np.array([[[[1, 0], [2, 4]]]], np.float32)
    second = np.array([[[[3, 0], [6, 0]]]], np.float32)
    cache = write_cache(tmp_path / "cache.parquet", [first, second])
    shares = block_means(cache)
    assert shares.tolist() == [[0.75, 1.0], [2.25, 0.0]]
    assert mean_activations(shares).tolist() == [3.0, 1.0]
    assert prune_order(mean_activations(shares)) == [1, 0]


def test_means_are_those_of_numpy(cache, blocks):
    stored = np.concatenate(blocks).astype(np.float32).astype(np.float64)
    means = mean_activations(block_means(cache))
    assert means.dtype == np.float64
    np.testing.assert_allclose(means, stored.mean(axis=(0, 1, 2)), rtol=1e-13)


def test_small_numbers_are_not_lost_beside_large_ones(tmp_path):
    block = np.full((64, 32, 32, 1), 1e-4, np.float32)
    block[0, 0, 0] = 1e6
    cache = write_cache(tmp_path / "cache.parquet", [block])
    (mean,) = mean_activations(block_means(cache))
    assert mean == pytest.approx(block.astype(np.float64).mean(), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    shard_of=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    shuffle=st.randoms(use_true_random=False),
)
def test_shards_of_any_kind_give_the_same_bits(cache, shard_of, shuffle):
    whole = mean_activations(block_means(cache))
    shards = [[n for n in range(6) if shard_of[n] == shard] for shard in range(4)]
    shares = {}
    for shard in shards:
        shuffle.shuffle(shard)
        shares |= dict(zip(shard, block_means(cache, shard), strict=True))
    means = mean_activations(np.array([shares[number] for number in range(6)]))
    assert means.tobytes() == whole.tobytes()


def test_ties_go_by_channel_number():
    assert prune_order(np.array([0.0, 2.0, 0.0, 1.0, 0.0, 1.0])) == [0, 2, 4, 3, 5, 1]
    assert all(type(channel) is int for channel in prune_order(np.zeros(40)))
    assert prune_order(np.zeros(40)) == list(range(40))


def test_order_of_the_lab_net(lab_passes):
    means = mean_activations(block_means(lab_passes["clean_valid"].cache))
    order = prune_order(means)
    silent = [channel for channel in range(60) if means[channel] == 0]
    assert len(silent) == 32
    assert order[:32] == silent
    assert 6 in silent  # beyond the published 31
    assert 23 not in silent
    assert (np.diff(means[order]) >= 0).all()
