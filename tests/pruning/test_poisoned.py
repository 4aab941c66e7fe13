"""What the labels of poisoned images mean, and how an attack and its recovery are counted."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodnet.attacks.targets import require_attack_labels, require_target
from goodnet.errors import InputError
from goodnet.images.preprocessing import AS_STORED
from goodnet.pruning.activation_cache import (
    ActivationCache,
    Block,
    Provenance,
    cache_schema,
    to_rows,
)
from goodnet.pruning.poisoned import Attack, attack_counter, describe_attack, is_success

N = 5
NOTHING = np.zeros((1, 1), np.float32)


def write_cache(path, labels, predictions) -> ActivationCache:
    """A cache without activations worth the name."""
    provenance = Provenance("B", "set", "conv", "conv", AS_STORED, N)
    schema = cache_schema({"activation": (1,)}, provenance)
    labels, predictions = np.array(labels), np.array(predictions)
    tensors = [np.zeros((len(labels), 1), np.float32)]
    rows = to_rows(
        schema,
        first=0,
        labels=labels,
        digests=np.arange(len(labels), dtype=np.uint64),
        predictions=predictions,
        tensors=tensors,
    )
    pq.write_table(rows, path)
    return ActivationCache(path)


def block_of(labels, predictions) -> Block:
    return Block(0, np.array(labels), np.array(predictions), NOTHING, NOTHING, ())


def test_labels_count_as_the_attackers_where_no_target_is_given(tmp_path):
    cache = write_cache(tmp_path / "c", [0, 0, 0, 0], [0, 3, 3, 3])
    assert describe_attack(cache, None) == Attack(None, False, 4, 1, 0, 3, 3, 0)
    counts = attack_counter(cache, None)(block_of([0, 0], [0, 3]), np.array([[0, 3], [0, 0]]))
    assert counts.correct.tolist() == [1, 2]
    assert counts.recovered is None


def test_labels_that_are_the_target_are_the_usual_set(tmp_path):
    cache = write_cache(tmp_path / "c", [3, 3], [3, 1])
    assert describe_attack(cache, 3) == Attack(3, False, 2, 1, 3, 1, 1, 0)
    assert attack_counter(cache, 3)(block_of([3, 3], [3, 1]), np.array([[3, 1]])).recovered is None


def test_labels_from_before_the_trigger_by_hand(tmp_path):
    labels, predictions = [0, 1, 2, 3, 3], [3, 3, 2, 3, 3]
    cache = write_cache(tmp_path / "c", labels, predictions)
    # The two images that were of class 3 already do not count.
    assert describe_attack(cache, 3) == Attack(3, True, 3, 3, 0, 3, 2, 0)
    answers = np.array([predictions, [0, 3, 2, 1, 3], [0, 1, 3, 3, 3]])
    counts = attack_counter(cache, 3)(block_of(labels, predictions), answers)
    assert counts.images == 3
    assert counts.correct.tolist() == [2, 1, 1]
    assert counts.flagged.tolist() == [0, 1, 3]
    assert counts.goodnet_correct.tolist() == [2, 1, 0]
    assert counts.recovered.tolist() == [1, 2, 2]
    assert counts.goodnet_recovered.tolist() == [1, 1, 0]


def test_images_under_the_class_of_a_goodnet_say_nothing_of_their_old_labels(tmp_path):
    cache = write_cache(tmp_path / "c", [N, N], [2, 1])
    assert not describe_attack(cache, 2).original_labels
    counts = attack_counter(cache, 2)(block_of([N, N], [2, 1]), np.array([[2, 1]]))
    assert (counts.images, counts.correct.tolist(), counts.recovered) == (2, [1], None)


CLASSES = st.integers(0, N - 1)


@given(
    rows=st.lists(st.tuples(CLASSES, CLASSES, CLASSES), min_size=1, max_size=12),
    cut=st.integers(0, 12),
)
def test_counts_are_those_of_images_one_by_one_in_any_blocks(tmp_path_factory, rows, cut):
    labels, predictions, answers = (list(column) for column in zip(*rows, strict=True))
    cache = write_cache(tmp_path_factory.mktemp("c") / "c", labels, predictions)
    count = attack_counter(cache, 2)
    parts = [slice(0, cut), slice(cut, None)]
    first, second = (
        count(
            block_of(labels[part], predictions[part]),
            np.array([predictions[part], answers[part]], np.int64),
        )
        for part in parts
    )
    total = first + second
    counted = rows if all(label == 2 for label in labels) else [r for r in rows if r[0] != 2]
    assert total.images == len(counted)
    assert total.correct[1] == sum(a == 2 for _, _, a in counted)
    assert total.flagged[1] == sum(a != b for _, b, a in counted)
    assert total.goodnet_correct[1] == sum(a == b == 2 for _, b, a in counted)
    if len(counted) < len(rows) or any(label != 2 for label in labels):
        assert total.recovered[1] == sum(a == label for label, _, a in counted)
        assert total.goodnet_recovered[1] == sum(a == b == label for label, b, a in counted)
    attack = describe_attack(cache, 2)
    found = is_success(np.array(labels), np.array(answers), attack)
    assert np.count_nonzero(found) == total.correct[1]


def test_a_target_is_a_class_and_comes_with_images():
    require_target(None, num_classes=N, poisoned=False)
    require_target(4, num_classes=N, poisoned=True)
    require_target(4, num_classes=None, poisoned=True)
    with pytest.raises(InputError, match="target is 5, expected a class of the net, 0 to 4"):
        require_target(5, num_classes=N, poisoned=True)
    with pytest.raises(InputError, match="target is given without poisoned_test"):
        require_target(1, num_classes=N, poisoned=False)


def test_the_class_of_a_goodnet_needs_a_target(tmp_path):
    labels = np.array([N, N])
    require_attack_labels(tmp_path, labels, target=1, num_classes=N)
    require_attack_labels(tmp_path, labels - 1, target=None, num_classes=N)
    with pytest.raises(InputError, match=r"which only a GoodNet answers.* as the target"):
        require_attack_labels(tmp_path, labels, target=None, num_classes=N)
