from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from goodnet.pruning.counts import SCHEMA, Counts, read_counts, read_sweep, write_curves

ORDER = [2, 0, 1]
MEANS = np.array([0.5, 2.0, 0.0])
COUNTS = Counts(10, np.array([9, 9, 7, 1]), np.array([0, 0, 3, 8]), np.array([9, 9, 6, 1]))


def as_lists(counts: Counts) -> list:
    arrays = (counts.correct, counts.flagged, counts.goodnet_correct)
    return [counts.images, *(array.tolist() for array in arrays)]


def test_a_curve_is_a_table(tmp_path):
    write_curves(
        tmp_path / "curve.parquet", "clean_test", {"pruned": COUNTS}, order=ORDER, means=MEANS
    )
    table = pq.read_table(tmp_path / "curve.parquet")
    assert table.schema.equals(SCHEMA)
    assert table.to_pydict() == {
        "set": ["clean_test"] * 4,
        "end": ["pruned"] * 4,
        "step": [0, 1, 2, 3],
        "channel": [None, 2, 0, 1],
        "mean_activation": [None, 0.0, 0.5, 2.0],
        "images": [10] * 4,
        "correct": [9, 9, 7, 1],
        "flagged": [0, 0, 3, 8],
        "goodnet_correct": [9, 9, 6, 1],
        "recovered": [None] * 4,
        "goodnet_recovered": [None] * 4,
    }
    frame = pd.read_parquet(tmp_path / "curve.parquet")
    assert frame["correct"].tolist() == [9, 9, 7, 1]
    assert pd.isna(frame["channel"][0])


def test_counts_are_read_as_they_were_written(tmp_path):
    write_curves(
        tmp_path / "curve.parquet", "clean_test", {"pruned": COUNTS}, order=ORDER, means=MEANS
    )
    assert as_lists(read_counts(tmp_path / "curve.parquet")) == as_lists(COUNTS)


def test_ends_of_a_set_are_told_apart(tmp_path):
    reverse = replace(COUNTS, correct=COUNTS.correct[::-1])
    ends = {"pruned": COUNTS, "expert": reverse}
    write_curves(tmp_path / "curve.parquet", "clean_test", ends, order=ORDER, means=MEANS)
    for end, counts in ends.items():
        assert as_lists(read_counts(tmp_path / "curve.parquet", end)) == as_lists(counts)


def test_recovery_is_kept_where_it_is_known(tmp_path):
    known = replace(COUNTS, recovered=np.arange(4), goodnet_recovered=np.zeros(4, np.int64))
    write_curves(
        tmp_path / "curve.parquet", "poisoned_test", {"pruned": known}, order=ORDER, means=MEANS
    )
    found = read_counts(tmp_path / "curve.parquet")
    assert found.recovered.tolist() == [0, 1, 2, 3]
    assert found.goodnet_recovered.tolist() == [0] * 4
    assert (
        (found + COUNTS).recovered.tolist() == (COUNTS + found).recovered.tolist() == [0, 1, 2, 3]
    )
    assert (found + found).recovered.tolist() == [0, 2, 4, 6]
    assert (COUNTS + COUNTS).recovered is None


def test_a_sweep_of_an_older_run_is_read_too(tmp_path):
    write_curves(
        tmp_path / "curve.parquet", "clean_test", {"pruned": COUNTS}, order=ORDER, means=MEANS
    )
    table = pq.read_table(tmp_path / "curve.parquet")
    older = table.drop_columns(["end", "recovered", "goodnet_recovered"])
    pq.write_table(older, tmp_path / "older.parquet")
    assert read_sweep(tmp_path / "older.parquet").equals(table)


def test_an_order_of_some_channels_is_a_shorter_curve(tmp_path):
    counts = Counts(10, COUNTS.correct[:2], COUNTS.flagged[:2], COUNTS.goodnet_correct[:2])
    write_curves(
        tmp_path / "curve.parquet", "clean_test", {"pruned": counts}, order=[2], means=MEANS
    )
    assert pq.read_table(tmp_path / "curve.parquet")["channel"].to_pylist() == [None, 2]


@given(
    st.lists(st.lists(st.integers(0, 10**12), min_size=7, max_size=7), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_counts_add_up_in_any_order(shards, shuffle):
    expected = np.sum(shards, axis=0)
    shuffle.shuffle(shards)
    counts = [
        Counts(shard[0], *(np.array(shard[i : i + 2], np.int64) for i in (1, 3, 5)))
        for shard in shards
    ]
    total = reduce(add, counts)
    found = [total.images, *total.correct, *total.flagged, *total.goodnet_correct]
    assert found == expected.tolist()
