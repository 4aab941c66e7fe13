import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodnet.defenses.calibration import calibrate, find_threshold, most_above, share_out


@given(
    labels=st.lists(st.integers(0, 6), min_size=2, max_size=300),
    repeats=st.sampled_from([1, 30]),
)
@settings(max_examples=60, deadline=None)
def test_every_class_is_shared_out_evenly_and_always_alike(labels, repeats):
    labels = np.array(labels * repeats)
    folds = share_out(labels)
    for part in folds.parts:
        assert not (part.fit & part.held_out).any()
        assert (part.fit | part.held_out).all()
    if len(labels) >= 2000:
        (part,) = folds.parts
        np.testing.assert_array_equal(folds.final, part.fit)
        np.testing.assert_array_equal(folds.calibrating, part.held_out)
    else:
        np.testing.assert_array_equal(folds.final, folds.parts[0].fit)
        assert folds.calibrating.all()
        assert sum(part.held_out.sum() for part in folds.parts) == len(labels)
    share = 0.7 if len(folds.parts) == 1 else 0.8
    for label in np.unique(labels):
        found = [part.fit[labels == label].sum() for part in folds.parts]
        expected = share * (labels == label).sum()
        assert np.abs(np.array(found) - expected).max() <= 1.0 + 1e-9
    again = share_out(labels)
    for one, other in zip(folds.parts, again.parts, strict=True):
        np.testing.assert_array_equal(one.fit, other.fit)


def test_classes_of_one_image_are_in_all_folds():
    folds = share_out(np.arange(40))
    assert len(folds.parts) == 5
    assert all(3 <= part.held_out.sum() <= 14 for part in folds.parts)


@pytest.mark.parametrize(
    # Published: 59 images hold 5 % with none above, 93 with one, 124 with two.
    ("images", "budget", "above"),
    [(58, 0.05, None), (59, 0.05, 0), (92, 0.05, 0), (93, 0.05, 1), (124, 0.05, 2), (99, 0.03, 0)],
)
def test_most_above_is_that_of_the_tables(images, budget, above):
    assert most_above(images, budget=budget) == above


@given(
    images=st.integers(60, 1500),
    budget=st.floats(0.01, 0.3),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=25, deadline=None)
def test_a_threshold_holds_what_it_says_with_95_percent_confidence(images, budget, seed):
    generator = np.random.default_rng(seed)
    draws = generator.random((400, images))
    found = [find_threshold(draw, budget=budget) for draw in draws]
    # Of uniform numbers the share above a threshold is known.
    broken = sum(1 - threshold > held for threshold, held in found)
    assert broken <= 400 * 0.05 + 4 * np.sqrt(400 * 0.05 * 0.95)
    assert len({held for _, held in found}) == 1
    assert found[0][1] >= budget


def test_too_few_images_hold_the_least_that_they_can():
    threshold, held = find_threshold(np.arange(40, dtype=np.float32), budget=0.03)
    assert threshold == 39
    assert held == pytest.approx(1 - 0.05 ** (1 / 40))


def test_the_joined_score_counts_from_the_tail_of_each_score():
    generator = np.random.default_rng(5)
    clean = {"one": generator.exponential(2, 5000), "other": 100 * generator.exponential(1, 5000)}
    clean = {name: values.astype(np.float32) for name, values in clean.items()}
    found = calibrate(clean, budget=0.03)
    assert found.names == ("one", "other")
    np.testing.assert_allclose(found.starts, [2 * np.log(10), 100 * np.log(10)], rtol=0.1)
    np.testing.assert_allclose(found.excesses, [2, 100], rtol=0.1)
    starts, excesses = np.array([found.starts, found.excesses])
    fresh = starts + excesses * np.array([[0, 0], [9, -9], [-9, 30], [4, 4]])
    joined = found.join(dict(zip(found.names, np.float32(fresh.T), strict=True)))
    np.testing.assert_allclose(joined, [np.log(2), 9, 30, 4 + np.log(2)], rtol=1e-3)
    above = np.count_nonzero(found.join(clean) > np.float32(found.threshold))
    assert abs(above - most_above(5000, budget=0.03)) < 10
    assert (found.budget, found.held, found.images) == (0.03, 0.03, 5000)


@pytest.mark.parametrize("num_images", [1, 2, 7, 200])
def test_scores_that_hardly_vary_are_joined_to_numbers(num_images):
    same = np.zeros(num_images, np.float32)
    clean = {"one": same, "other": np.append(same[1:], np.float32(5))}
    found = calibrate(clean, budget=0.03)
    assert np.isfinite(found.join(clean)).all()
    assert np.isfinite(found.threshold)
    far = found.join({"one": np.float32([1e6]), "other": np.float32([0])})
    assert np.isfinite(far).all()


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_joined_threshold_holds_on_fresh_images(seed):
    """Scales and threshold come from the same images, which must not cost the budget."""
    generator = np.random.default_rng(seed)
    shares = []
    for _ in range(60):
        clean, fresh = (
            dict(zip("abcd", np.exp(generator.normal(size=(4, n))).astype(np.float32), strict=True))
            for n in (300, 20_000)
        )
        found = calibrate(clean, budget=0.05)
        shares.append((found.join(fresh) > np.float32(found.threshold)).mean())
    assert np.count_nonzero(np.array(shares) > 0.05) <= 60 * 0.05 + 4 * np.sqrt(60 * 0.05)
