from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodnet.pruning.activation_cache import Block
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from goodnet.pruning.stop_rule import find_checkpoint
from goodnet.pruning.sweep import (
    answers_at,
    choose_expert,
    count_answers,
    expert_block,
    margins_at,
    margins_of,
    sweep,
    sweep_block,
    sweep_both_ends,
)
from tests.badnets import LAYERS

LAB_COUNTS = {
    # step: clean valid of 40 right, clean test of 28 right, poisoned answered 0 of 36
    0: (40, 28, 36),
    31: (40, 28, 36),
    45: (39, 28, 36),
    48: (36, 26, 36),
    51: (36, 24, 29),
    52: (34, 24, 29),
    53: (32, 15, 13),
    54: (21, 7, 0),
}


def order_of(cache) -> list[int]:
    return prune_order(mean_activations(block_means(cache)))


def swept_answers(passed, order) -> np.ndarray:
    """The answers of every step, (C + 1, n), from the cache."""
    blocks = [
        sweep_block(block, frontier=passed.frontier, order=order) for block in passed.cache.blocks()
    ]
    return np.concatenate(blocks, axis=1)


class Plain(NamedTuple):
    """What plain Keras answers, and what it gives the classes before a closing softmax: (n, N)."""

    outputs: np.ndarray
    scores: np.ndarray


@cache
def pruned_by_hand(model, layer: str) -> Callable[[np.ndarray, list[int]], Plain]:
    """Return what answers images as plain Keras does without some channels of a layer.

    The layer's own answer is masked, in the net itself, which is compiled once for all channels.
    That `prune_channels` gives nets which answer so is shown in tests/pruning/test_channels.py.
    """
    import keras
    import tensorflow as tf

    pruned, last, inside = model.get_layer(layer), model.layers[-1], []
    zero = np.zeros(1, np.float32)
    silent = pruned.activation(zero) if "Conv" in type(pruned).__name__ else zero
    call, close, softmax = pruned.call, last.call, keras.activations.softmax

    def softmax_of(scores):
        inside.append(scores)
        return softmax(scores)

    @tf.function
    def answer(pixels, kept):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(
                vars(pruned), "call", lambda x, **o: call(x, **o) * kept + (1 - kept) * silent
            )
            if getattr(last, "activation", None) is softmax:
                patch.setattr(last, "activation", softmax_of)
            elif isinstance(last, keras.layers.Softmax):
                patch.setitem(vars(last), "call", lambda x, **o: inside.append(x) or close(x, **o))
            outputs = model(pixels, training=False)
        return outputs, inside.pop() if inside else outputs

    def without(pixels, channels):
        kept = np.ones(pruned.output.shape[-1], np.float32)
        kept[channels] = 0
        return Plain(*map(np.asarray, answer(pixels, kept)))

    return without


def looked_at(order) -> range:
    """Sixty nets take their time; the trained ones below are looked at after each channel."""
    return range(0, len(order) + 1, 1 + len(order) // 25)


def test_sweep_answers_what_the_pruned_net_answers_at_every_step(network, network_pass):
    passed = network_pass
    order, pruned = order_of(passed.cache), pruned_by_hand(network.model, network.layer)
    pixels, steps = network.images / np.float32(255), looked_at(order_of(passed.cache))
    direct = np.array([pruned(pixels, order[:step]).outputs.argmax(1) for step in steps])
    assert len(np.unique(direct[0])) >= 3
    assert len(np.unique(direct, axis=0)) > (len(steps) - 1) / 3
    swept = swept_answers(passed, order)
    np.testing.assert_array_equal(swept[steps], direct)
    (block,) = passed.cache.blocks()
    alone = [
        answers_at(block, frontier=passed.frontier, order=order, step=step)
        for step in range(len(order) + 1)
    ]
    np.testing.assert_array_equal(alone, swept)


def test_the_lab_net_gives_the_published_counts(lab_passes):
    order = order_of(lab_passes["clean_valid"].cache)
    counts = {
        name: sweep(passed.cache, frontier=passed.frontier, order=order)
        for name, passed in lab_passes.items()
    }
    assert [curve.images for curve in counts.values()] == [40, 28, 36]
    found = {
        step: tuple(int(curve.correct[step]) for curve in counts.values()) for step in LAB_COUNTS
    }
    assert found == LAB_COUNTS
    for curve in counts.values():
        np.testing.assert_array_equal(curve.goodnet_correct, curve.correct)
        np.testing.assert_array_equal(curve.flagged, curve.images - curve.correct)


def test_the_lab_net_reaches_its_checkpoints(lab_passes):
    passed = lab_passes["clean_valid"]
    means = mean_activations(block_means(passed.cache))
    assert (means == 0).sum() == 32
    counts = sweep(passed.cache, frontier=passed.frontier, order=prune_order(means))
    steps = {
        drop: find_checkpoint(counts.correct.tolist(), images=counts.images, drop=drop).step
        for drop in (2, 4, 10)
    }
    assert steps == {2: 45, 4: 47, 10: 48}


@pytest.mark.slow
def test_sweep_of_a_badnet_answers_what_the_pruned_net_answers(badnet, passes):
    import tensorflow as tf

    from goodnet.pruning.channels import prune_channels

    order = order_of(passes["clean_valid"].cache)
    pixels = [np.float32(next(p.images.batches(40))) for p in passes.values()]
    pruned = prune_channels(badnet, "conv_3", [])
    answer = tf.function(lambda: [pruned(images, training=False) for images in pixels])
    kernel, bias = pruned.get_layer("conv_3").get_weights()
    direct = []
    for step in range(len(order) + 1):
        kernel[..., order[:step]] = bias[order[:step]] = 0
        pruned.get_layer("conv_3").set_weights([kernel, bias])
        direct.append(np.concatenate(answer()).argmax(1))
    swept = [swept_answers(passed, order) for passed in passes.values()]
    np.testing.assert_array_equal(np.concatenate(swept, axis=1), direct)


def test_the_head_runs_only_where_an_answer_can_change(passes):
    passed = passes["clean_valid"]
    (block,) = passed.cache.blocks()
    head, rows = passed.frontier.head, []
    order = order_of(passed.cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(passed.frontier), "head", lambda *x: rows.append(len(x[0])) or head(*x))
        answers = sweep_block(block, frontier=passed.frontier, order=order)
    active = block.start.any(axis=(1, 2))
    num_silent = np.count_nonzero(~active.any(axis=0))
    assert num_silent > 0
    assert (~active[:, order[:num_silent]]).all()
    # All channels removed, the images are alike; and B's own answers are known.
    assert sum(rows) == 1 + (active.sum(axis=1) - 1).sum()
    np.testing.assert_array_equal(
        answers[: num_silent + 1], np.tile(block.predictions, (num_silent + 1, 1))
    )


@pytest.mark.parametrize("order", [[*range(59), 0], range(59)])
def test_an_order_names_each_channel_once(faces_passes, order):
    passed = faces_passes["clean_valid"]
    (block,) = passed.cache.blocks()
    with pytest.raises(ValueError, match="each of 60 channels once"):
        sweep_block(block, frontier=passed.frontier, order=order)


def test_count_answers_by_hand():
    nothing = np.zeros((4, 1), np.float32)
    labels, predictions = np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0])
    block = Block(0, labels, predictions, nothing, nothing, ())
    answers = np.array([predictions, [0, 2, 2, 3], [1, 0, 0, 1]])
    counts = count_answers(block, answers)
    assert counts.images == 4
    assert counts.correct.tolist() == [3, 3, 0]
    assert counts.flagged.tolist() == [0, 2, 4]
    assert counts.goodnet_correct.tolist() == [3, 2, 0]


@pytest.fixture(scope="module")
def many_blocks(faces_net, faces_case, first_pass):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goodnet.pruning.first_pass._MAX_BLOCK", 5)
        passed = first_pass(faces_net, faces_case.poisoned_test, **LAYERS)
    order = order_of(passed.cache)
    assert passed.cache.num_blocks == 6
    return passed, order, sweep(passed.cache, frontier=passed.frontier, order=order)


def test_progress_is_told_block_by_block(many_blocks):
    passed, order, _ = many_blocks
    told = []
    sweep(
        passed.cache,
        frontier=passed.frontier,
        order=order,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(min(done, 28), 28) for done in range(5, 31, 5)]


def test_blocks_add_up_to_the_whole(many_blocks, faces_passes):
    passed, order, counts = many_blocks
    whole = faces_passes["poisoned_test"]
    assert whole.cache.num_blocks == 1
    np.testing.assert_array_equal(swept_answers(passed, order), swept_answers(whole, order))
    assert counts.images == 28


@settings(max_examples=8, deadline=None)
@given(
    shard_of=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    shuffle=st.randoms(use_true_random=False),
    num_threads=st.integers(1, 3),
)
def test_shards_in_any_order_count_the_same(many_blocks, shard_of, shuffle, num_threads):
    passed, order, expected = many_blocks
    shards = [[n for n in range(6) if shard_of[n] == shard] for shard in range(4)]
    for shard in shards:
        shuffle.shuffle(shard)
    shuffle.shuffle(shards)
    first, *others = (
        sweep(
            passed.cache,
            frontier=passed.frontier,
            order=order,
            blocks=shard,
            num_threads=num_threads,
        )
        for shard in shards
    )
    counts = sum(others, start=first)
    assert counts.images == expected.images
    np.testing.assert_array_equal(counts.correct, expected.correct)
    np.testing.assert_array_equal(counts.flagged, expected.flagged)
    np.testing.assert_array_equal(counts.goodnet_correct, expected.goodnet_correct)


def test_an_expert_answers_what_the_net_with_its_channels_alone_answers(network, network_pass):
    passed = network_pass
    order, pruned = order_of(passed.cache), pruned_by_hand(network.model, network.layer)
    (block,) = passed.cache.blocks()
    answers = expert_block(block, frontier=passed.frontier, order=order)
    steps = looked_at(order)
    margins = margins_at(passed.cache, frontier=passed.frontier, order=order, steps=steps)
    pixels = network.images / np.float32(255)
    for kept, found in zip(steps, margins, strict=True):
        alone = pruned(pixels, order[kept:])
        np.testing.assert_array_equal(answers[kept], alone.outputs.argmax(1))
        expected = margins_of(alone.scores, block.predictions)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(alone.scores).max())
    np.testing.assert_array_equal(answers[-1], block.predictions)
    assert len(np.unique(margins, axis=0)) >= 3


def test_experts_of_the_lab_net_agree_with_b_on_poisoned_images(lab_passes):
    order = order_of(lab_passes["clean_valid"].cache)
    agreeing = {}
    for name, passed in lab_passes.items():
        counts = sweep_both_ends(passed.cache, frontier=passed.frontier, order=order).counts[
            "expert"
        ]
        found = counts.images - counts.flagged
        agreeing[name] = {k: int(found[k]) for k in (46, 51, 54)}
    assert agreeing == {
        "clean_valid": {46: 0, 51: 8, 54: 16},
        "clean_test": {46: 1, 51: 5, 54: 10},
        "poisoned_test": {46: 0, 51: 36, 54: 36},
    }


def test_both_ends_are_counted_in_one_pass(many_blocks):
    passed, order, expected = many_blocks
    counts, shares = sweep_both_ends(passed.cache, frontier=passed.frontier, order=order)
    np.testing.assert_array_equal(shares, block_means(passed.cache))
    reverse = sweep(passed.cache, frontier=passed.frontier, order=order[::-1])
    for end, other in ((counts["pruned"], expected), (counts["expert"], reverse)):
        there = slice(None, None, 1 if other is expected else -1)
        assert end.images == other.images
        np.testing.assert_array_equal(end.correct, other.correct[there])
        np.testing.assert_array_equal(end.flagged, other.flagged[there])
        np.testing.assert_array_equal(end.goodnet_correct, other.goodnet_correct[there])


def test_margins_by_hand():
    scores = np.array([[1, 4, 2], [1, 4, 2], [3, 3, 0], [-5, -1, -9]], np.float32)
    before = scores.copy()
    found = margins_of(scores, np.array([1, 2, 0, 0]))
    np.testing.assert_array_equal(found, [2, -2, 0, -4])
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize(
    ("tenths", "expert"),
    [
        ([3, 3, 4, 10], 0),
        ([0, 3, 2, 10], 0),
        ([0, 1, 3, 2, 10], 1),
        ([0, 1, 2, 2, 10], 3),
        ([0, 0, 1, 1], 3),
    ],
)
def test_the_expert_is_the_last_before_agreement_exceeds_a_fifth(tenths, expert):
    assert choose_expert(np.array(tenths) / 10) == expert
