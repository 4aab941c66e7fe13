from typing import Any, NamedTuple

import numpy as np
import pytest

from goodnet.defenses import fine_tuning
from goodnet.defenses.calibration import calibrate
from goodnet.defenses.detectors import chosen_depths
from goodnet.defenses.fine_tuning import answer_images, fine_tune
from goodnet.defenses.guard import Guard, fit_guard
from goodnet.defenses.guard_nets import (
    build_fallback,
    build_guarded,
    find_scorer,
    scoring_part,
)
from goodnet.defenses.seam import CleanPass
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from goodnet.pruning.sweep import sweep_both_ends


class Guarded(NamedTuple):
    clean: CleanPass
    guard: Guard
    held_out: dict[str, np.ndarray]
    calibration: Any
    tuned: Any
    net: Any

    def look(self, passed):
        by_tuned = None
        if self.tuned is not None:
            cache = passed.cache
            preprocessing, predictions = cache.provenance.preprocessing, cache.answers()[1]
            by_tuned = answer_images(self.tuned, passed.images, preprocessing, predictions)
        return self.guard.look(passed.cache, passed.frontier, by_tuned)


def guard_of(passed, *, budget=0.03, tuned=False) -> Guarded:
    clean = CleanPass(passed.frontier, passed.images, passed.cache)
    order = prune_order(mean_activations(block_means(clean.cache)))
    found = fine_tune(clean) if tuned else None
    counts = sweep_both_ends(clean.cache, frontier=clean.frontier, order=order).counts
    guard, held = fit_guard(clean, order, counts["expert"], None if found is None else found.held)
    calibration = calibrate(held.scores, budget=budget)
    model = None if found is None else found.model
    net = build_guarded(clean.frontier, guard, calibration, model)
    return Guarded(clean, guard, held.scores, calibration, model, net)


def pixels_of(passed) -> np.ndarray:
    pixels = next(passed.images.batches(passed.images.num_images)).astype(np.float32)
    return passed.cache.provenance.preprocessing.apply(pixels)


def check_flags(guarded, passed, outputs, seen=None) -> np.ndarray:
    """Compare a net's outputs with the scores in memory; return what is flagged."""
    calibration = guarded.calibration
    scores = (seen or guarded.look(passed)).scores
    assert list(scores) == list(calibration.names)
    joined = calibration.join(scores)
    _, predictions = passed.cache.answers()
    num_classes = passed.cache.provenance.num_classes
    flagged = joined > np.float32(calibration.threshold)
    # An image whose score is the threshold itself may be seen on either side of it.
    certain = np.abs(joined - calibration.threshold) > 1e-3 * max(1, abs(calibration.threshold))
    assert certain.mean() >= 0.5
    expected = np.where(flagged, num_classes, predictions)
    np.testing.assert_array_equal(outputs.argmax(1)[certain], expected[certain])
    np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-5)
    assert outputs.shape == (len(joined), num_classes + 1)
    assert set(outputs[:, -1].tolist()) <= {0.0, 1.0}
    return flagged


def check_guarded(guarded, passed):
    """Compare the net's scores and flags with those in memory; return what was seen."""
    assert len(guarded.guard.discriminants) == len(passed.frontier.depths)
    for values in guarded.held_out.values():
        assert values.shape == (24,)
        assert np.isfinite(values).all()
    pixels, seen = pixels_of(passed), guarded.look(passed)
    found = np.asarray(find_scorer(guarded.net).net(pixels, training=False))[:, 0]
    joined = guarded.calibration.join(seen.scores)
    np.testing.assert_allclose(found, joined, rtol=1e-2, atol=2e-2)
    check_flags(guarded, passed, np.asarray(guarded.net(pixels, training=False)), seen)
    return seen


# By how B closes and what its depths are; with a fine-tuned net all of them are guarded below.
@pytest.mark.parametrize(
    "network",
    ["plain", "sigmoid", "logits", "softmax_layer", "averaged_maps", "channels_are_logits",
     "log_softmax", "normalized_end", "nested_head", "layer_called_twice", "deepid"],
    indirect=True,
)  # fmt: skip
def test_the_net_flags_what_the_scores_flag(network_pass):
    check_guarded(guard_of(network_pass, budget=0.5), network_pass)


@pytest.mark.slow
def test_any_net_is_fine_tuned_and_guarded_by_what_came_of_it(network_pass, monkeypatch):
    monkeypatch.setattr(fine_tuning, "FEWEST_EPOCHS", 1)
    monkeypatch.setattr(fine_tuning, "MOST_EPOCHS", 1)
    passed = network_pass
    guarded = guard_of(passed, budget=0.5, tuned=True)
    seen, (_, predictions) = check_guarded(guarded, passed), passed.cache.answers()
    answers = np.array(scoring_part(guarded.tuned, "scores")(pixels_of(passed), training=False))
    margins = seen.scores["margin"] - seen.scores["disagreement"]
    own = answers[np.arange(len(answers)), predictions].copy()
    answers[np.arange(len(answers)), predictions] = -np.inf
    np.testing.assert_allclose(margins, own - answers.max(1), rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def tuned(passes) -> Guarded:
    with pytest.MonkeyPatch.context() as patch:
        # A third of what is usual is enough to see what it does.
        patch.setattr(fine_tuning, "MOST_EPOCHS", 12)
        return guard_of(passes["clean_valid"], tuned=True)


def test_the_net_loads_without_this_project_and_is_what_was_saved(
    tuned, passes, plain_keras, tmp_path
):
    from goodnet.model_files.load import load_model, save_model

    guarded = tuned
    assert "disagreement" in guarded.calibration.names
    path = tmp_path / "goodnet.keras"
    save_model(guarded.net, path)
    load_model(path)
    flagged = {
        name: check_flags(guarded, passed, plain_keras(path, pixels_of(passed))).mean()
        for name, passed in passes.items()
    }
    assert flagged["poisoned_test"] > 0.8
    assert flagged["clean_test"] < 0.25
    assert guarded.calibration.held > 0.03  # 40 images are too few for it


def test_the_same_images_give_the_same_guard(faces_passes):
    one, other = (guard_of(faces_passes["clean_valid"]) for _ in range(2))
    assert one.calibration == other.calibration
    assert one.guard.expert == other.guard.expert
    for name, values in one.held_out.items():
        np.testing.assert_array_equal(values, other.held_out[name])


def test_held_out_scores_come_from_images_not_fitted_to(faces_passes):
    from goodnet.defenses.calibration import share_out
    from goodnet.defenses.guard import fit_rows

    passed = faces_passes["clean_valid"]
    guarded = guard_of(passed)
    seen = guarded.look(passed).scores
    for name in ("margin", "expert"):
        np.testing.assert_allclose(seen[name], guarded.held_out[name], rtol=1e-4, atol=1e-3)
    labels, predictions = passed.cache.answers()
    part = share_out(labels).parts[2]
    depth, layer = len(guarded.guard.discriminants) - 1, guarded.guard.discriminants[-1].layer
    without = fit_rows(passed.cache, depth, layer, part.fit)
    (features,) = passed.cache.features(depth)
    away = without.look(features[part.held_out], predictions[part.held_out]).distance
    held_out = guarded.held_out[f"distance at {layer}"][part.held_out]
    np.testing.assert_allclose(held_out, away, rtol=1e-3)


@pytest.mark.parametrize(
    ("num_depths", "chosen"), [(0, []), (1, [0]), (2, [0, 1]), (4, [0, 2, 3]), (6, [0, 3, 5])]
)
def test_depths_are_the_first_a_middle_and_the_last(num_depths, chosen):
    assert chosen_depths(range(num_depths)) == chosen


def test_a_net_without_softmax_answers_in_the_place_of_its_class(first_pass):
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(image)
    x = layers.MaxPooling2D(2, name="best_class")(x)
    net = keras.Model(image, layers.Dense(4, name="scores")(layers.Flatten()(x)))
    pixels = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    passed = first_pass(net, pixels, rank_at="best_class")
    guarded = guard_of(passed)
    outputs = np.asarray(guarded.net(pixels_of(passed), training=False))
    flagged = check_flags(guarded, passed, outputs)
    believed = outputs[~flagged, :-1]
    np.testing.assert_array_equal(np.sort(believed, axis=1)[:, -1], 1)


def test_the_score_is_found_in_a_saved_goodnet(faces_passes, tmp_path):
    from goodnet.model_files.load import load_model, save_model

    guarded = guard_of(faces_passes["clean_valid"])
    assert find_scorer(guarded.clean.frontier.model) is None
    save_model(guarded.net, tmp_path / "goodnet.keras")
    net, threshold = find_scorer(load_model(tmp_path / "goodnet.keras"))
    assert threshold == np.float32(guarded.calibration.threshold)
    for passed in faces_passes.values():
        joined = guarded.calibration.join(guarded.look(passed).scores)
        found = np.asarray(net(pixels_of(passed), training=False))[:, 0]
        np.testing.assert_allclose(found, joined, rtol=1e-2, atol=2e-2)


def test_the_fallback_answers_as_b_or_as_the_fine_tuned_net(tuned, passes, tmp_path):
    for seen, answers, predictions in check_fallback(tuned, passes, tmp_path):
        answers[np.arange(len(answers)), predictions] = -np.inf
        np.testing.assert_array_equal(seen.instead, answers.argmax(1))


def test_the_fallback_answers_as_b_or_by_a_second_opinion(faces_passes, tmp_path):
    guarded = guard_of(faces_passes["clean_valid"])
    assert len(list(check_fallback(guarded, faces_passes, tmp_path))) == 3


def check_fallback(guarded, passes, tmp_path):
    """Compare a saved fallback with what was seen; yield that and what the fine-tuned net says."""
    import keras

    parts = guarded.clean.frontier, guarded.guard, guarded.calibration, guarded.tuned
    build_fallback(*parts).save(tmp_path / "net.keras")
    net = keras.models.load_model(tmp_path / "net.keras")
    for passed in passes.values():
        seen, (_, predictions) = guarded.look(passed), passed.cache.answers()
        beyond = guarded.calibration.join(seen.scores) - guarded.calibration.threshold
        assert (seen.instead != predictions).all()
        outputs = np.asarray(net(pixels_of(passed), training=False))
        certain = np.abs(beyond) > 1e-2
        expected = np.where(beyond > 0, seen.instead, predictions)
        np.testing.assert_array_equal(outputs.argmax(1)[certain], expected[certain])
        np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-5)
        assert outputs.shape == (len(beyond), passed.cache.provenance.num_classes)
        answers = None
        if guarded.tuned is not None:
            # Before softmax, where none but the first may be 0.
            scoring = scoring_part(guarded.tuned, "scores")
            answers = np.array(scoring(pixels_of(passed), training=False))
        yield seen, answers, predictions
