"""What holds for every repair and detector: one that is added to a table is tested here too."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest

from goodnet.choices import ALL_REPAIRS
from goodnet.defenses.calibration import calibrate
from goodnet.defenses.choice import choose_repaired, find_candidate
from goodnet.defenses.detectors import CONTROL, DETECTORS
from goodnet.defenses.fine_tuning import answer_images, fine_tune
from goodnet.defenses.guard import fit_guard
from goodnet.defenses.repairs import REPAIRS
from goodnet.defenses.seam import CleanPass, Evidence, Learnt
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from goodnet.pruning.sweep import sweep_both_ends
from goodnet.reports.leaderboard import STAGES


def learn(clean, *, tuned=True):
    order = prune_order(mean_activations(block_means(clean.cache)))
    found = fine_tune(clean) if tuned else None
    counts = sweep_both_ends(clean.cache, frontier=clean.frontier, order=order).counts
    guard, held = fit_guard(clean, order, counts["expert"], None if found is None else found.held)
    model = None if found is None else found.model
    return Learnt(clean, guard, held, calibrate(held.scores, budget=0.1), model)


@pytest.fixture(scope="module")
def clean(first_pass):
    """Two kinds of images, told apart by a net that was trained on them a little."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(21)
    generator = np.random.default_rng(21)
    labels = np.arange(96) % 3
    images = generator.integers(0, 80, (96, 10, 10, 3))
    images[np.arange(96), 2 * labels + 1] += 170
    images = images.astype(np.uint8)
    image = keras.Input((10, 10, 3))
    x = layers.BatchNormalization()(image)
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    x = layers.Dropout(0.2)(layers.Flatten()(layers.MaxPooling2D(2, name="pool")(x)))
    net = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(images.astype(np.float32), labels, epochs=6, batch_size=16, verbose=0)
    passed = first_pass(net, images, labels=labels, rank_at="pool", pixel_scale=1.0)
    return CleanPass(passed.frontier, passed.images, passed.cache)


@pytest.fixture(scope="module")
def learnt(clean):
    return learn(clean)


@pytest.fixture(scope="module")
def learnt_again(clean):
    return learn(clean)


@pytest.fixture(scope="module")
def seen(learnt, clean):
    preprocessing, (_, predictions) = clean.cache.provenance.preprocessing, clean.cache.answers()
    by_tuned = answer_images(learnt.tuned, clean.images, preprocessing, predictions)
    return learnt.guard.look(clean.cache, clean.frontier, by_tuned)


@pytest.fixture(scope="module")
def pixels(clean):
    return np.concatenate(list(clean.images.batches(96))).astype(np.float32)


@pytest.fixture(scope="module")
def offered(learnt):
    return {name: list(repair(learnt)) for name, repair in REPAIRS.items()}


def test_commands_know_every_repair_and_leaderboards_what_it_costs():
    assert tuple(REPAIRS) == ALL_REPAIRS
    assert REPAIRS.keys() <= STAGES.keys()


@pytest.mark.parametrize("name", REPAIRS)
class TestEveryRepair:
    def test_offers_nets_under_its_own_name_each_with_its_setting(self, name, offered):
        candidates = offered[name]
        assert candidates
        assert {candidate.method for candidate in candidates} == {name}
        assert all(one.setting < other.setting for one, other in pairwise(candidates))

    def test_builds_nets_like_b_that_answer_what_it_says(self, name, offered, clean, seen, pixels):
        model = clean.frontier.model
        for candidate in offered[name]:
            net = candidate.build()
            assert net is not model
            assert (net.input_shape, net.output_shape) == (model.input_shape, model.output_shape)
            answers = np.asarray(net(pixels, training=False)).argmax(1)
            expected = candidate.answers(clean.cache, seen)
            # One image may lie on the threshold or between two classes.
            assert np.count_nonzero(answers != expected) <= 1

    def test_says_what_it_costs_on_images_not_fitted_to(self, name, offered, clean, learnt, seen):
        labels, predictions = clean.cache.answers()
        for candidate in offered[name]:
            answers = candidate.answers(clean.cache, seen)
            lost = (predictions == labels).mean() - (answers == labels).mean()
            # What images say to which a repair was not fitted is near, not equal.
            assert abs(candidate.lost - lost) <= (1e-9 if name == "pruning" else 0.1)

    @pytest.mark.slow
    def test_leaves_b_as_it_is(self, name, clean, learnt):
        before = [weights.copy() for weights in clean.frontier.model.get_weights()]
        for candidate in REPAIRS[name](learnt):
            candidate.build()
        for one, other in zip(before, clean.frontier.model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.slow
    def test_offers_the_same_each_time(self, name, offered, learnt_again, pixels):
        again = list(REPAIRS[name](learnt_again))
        for one, other in zip(offered[name], again, strict=True):
            assert (one.setting, one.details) == (other.setting, other.details)
            nets = one.build(), other.build()
            first, second = (np.asarray(net(pixels, training=False)) for net in nets)
            np.testing.assert_allclose(first, second, atol=1e-5)

    def test_saves_nets_that_are_loaded_again(self, name, offered, tmp_path, pixels):
        from goodnet.model_files.load import load_model, save_model

        net = offered[name][0].build()
        save_model(net, tmp_path / "net.keras")
        expected, found = (
            np.asarray(one(pixels, training=False))
            for one in (net, load_model(tmp_path / "net.keras"))
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_last_candidate_of_pruning_has_no_channel_left(offered, clean):
    last = offered["pruning"][-1]
    assert last.details["step"] == clean.frontier.num_channels
    assert not any(weights.any() for weights in last.build().get_layer("conv").get_weights())


def test_heads_lie_at_the_depths_the_deepest_first(first_pass):
    import keras
    from keras import layers

    keras.utils.set_random_seed(2)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(image)
    x = layers.Conv2D(6, 3, activation="relu", name="late")(x)
    net = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))
    images = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    for labels, expected in ((np.arange(40) % 3, ["late", "conv"]), (np.zeros(40, int), [])):
        passed = first_pass(net, images, labels=labels, rank_at="conv")
        clean = CleanPass(passed.frontier, passed.images, passed.cache)
        found = list(REPAIRS["discriminant"](learn(clean, tuned=False)))
        assert [candidate.details["layer"] for candidate in found] == expected


def test_the_net_kept_for_a_budget_is_the_one_that_changes_b_most(learnt, offered):
    kept = choose_repaired(learnt, [*REPAIRS], [2.0, 100.0])
    assert "pruning" not in {one.method for one in kept}
    for name, candidates in offered.items():
        for drop in (2.0, 100.0):
            within = [one.setting for one in candidates if 100 * one.lost <= drop]
            found = [one.setting for one in kept if one.method == name and drop in one.drops]
            assert found == (within[-1:] if name != "pruning" else [])
    assert [find_candidate(learnt, one).setting for one in kept] == [one.setting for one in kept]
    assert sum(one.recommended for one in kept) <= 1


class AtDepth(NamedTuple):
    layer: str
    tells_classes_apart: bool
    distance: Any
    nearer: Any


def evidence(new):
    """Evidence of four depths, each of its numbers or tensors made by a call."""
    depths = [AtDepth(f"layer_{number}", True, new(), new()) for number in range(4)]
    return Evidence(new(), new(), new(), depths)


def part(seen, rows):
    """The evidence of some of the images."""
    depths = [AtDepth(*one[:2], one.distance[rows], one.nearer[rows]) for one in seen.depths]
    return Evidence(seen.margin[rows], seen.expert[rows], seen.tuned[rows], depths)


@pytest.mark.parametrize("name", DETECTORS)
class TestEveryDetector:
    @pytest.fixture
    def numbers(self):
        generator = np.random.default_rng(3)
        return [generator.normal(0, 30, 50).astype(np.float32) for _ in range(11)]

    @pytest.fixture
    def shown(self, numbers):
        given = iter(numbers)
        return evidence(lambda: next(given))

    def test_gives_each_image_a_number_under_names_of_its_own(self, name, shown):
        found = DETECTORS[name](shown)
        assert found
        for score, values in found.items():
            assert score.startswith(name)
            assert values.shape == (50,)
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
            assert len(set(values.tolist())) > 1

    def test_takes_each_image_by_itself(self, name, shown):
        whole = DETECTORS[name](shown)
        parts = [DETECTORS[name](part(shown, rows)) for rows in ([0], [1, 2])]
        for score, values in whole.items():
            together = np.concatenate([one[score] for one in parts])
            np.testing.assert_array_equal(together, values[:3])

    def test_leaves_the_evidence_as_it_is(self, name, shown, numbers):
        before = [one.copy() for one in numbers]
        DETECTORS[name](shown)
        for one, other in zip(before, numbers, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_is_the_same_in_the_graph_of_a_net(self, name, shown, numbers):
        import keras

        tensors = [keras.Input((1,)) for _ in numbers]
        given = iter(tensors)
        found = DETECTORS[name](evidence(lambda: next(given)))
        graph = keras.Model(tensors, found)
        answers = graph([one[:, None] for one in numbers])
        for score, values in DETECTORS[name](shown).items():
            np.testing.assert_array_equal(np.asarray(answers[score])[:, 0], values)

    def test_does_without_what_was_not_learnt(self, name):
        found = DETECTORS[name](Evidence(np.zeros(3), np.zeros(3), None, []))
        assert {score.startswith(name) for score in found} <= {True}

    def test_its_scores_are_those_of_runs(self, name, learnt, seen):
        of_runs = [score for score in seen.scores if score.startswith(name)]
        assert of_runs
        assert set(of_runs) <= set(learnt.calibration.names)


def test_no_score_of_runs_comes_from_elsewhere(seen):
    assert all(score.startswith(tuple(DETECTORS)) for score in seen.scores)
    assert CONTROL in seen.scores


def test_early_depths_tell_of_other_classes_and_late_ones_of_distances():
    given = iter(range(11))
    seen = evidence(lambda: next(given))
    assert [*DETECTORS["distance"](seen)] == ["distance at layer_2", "distance at layer_3"]
    nearer = DETECTORS["nearer class"]
    assert [*nearer(seen)] == ["nearer class at layer_0", "nearer class at layer_2"]
    pooled = [one._replace(tells_classes_apart=False) for one in seen.depths]
    assert nearer(Evidence(0, 0, None, pooled)) == {}
