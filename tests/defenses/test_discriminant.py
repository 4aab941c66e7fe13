import numpy as np
import pytest

from goodnet.defenses.discriminant import (
    build_head,
    fit_discriminant,
    linear_answer,
    shrunk_covariance,
)


def draw(num_images, *, num_features=6, num_classes=3, seed=0, apart=3.0):
    generator = np.random.default_rng(seed)
    centres = apart * np.random.default_rng(99).normal(size=(num_classes, num_features))
    labels = generator.integers(0, num_classes, num_images)
    mixing = np.eye(num_features) + 0.2 * np.random.default_rng(98).normal(size=(num_features,) * 2)
    noise = generator.normal(size=(num_images, num_features)) @ mixing
    return (centres[labels] + noise).astype(np.float32), labels


def fit(features, labels, *, num_classes=3, size=None):
    size = size or len(features)
    parts = [features[first : first + size] for first in range(0, len(features), size)]
    return fit_discriminant(
        lambda: parts, labels, depth=0, layer="features", num_classes=num_classes
    )


def distances(fitted, features):
    affinities, lengths = fitted.affinities(features)
    return lengths[:, None] - affinities


def test_distances_are_those_of_the_textbook():
    features, labels = draw(5000)
    found = distances(fit(features, labels), features[:20])
    means = np.array([features[labels == c].mean(0) for c in range(3)], float)
    residuals = features - means[labels]
    inverse = np.linalg.inv(residuals.T @ residuals / len(features))
    away = features[:20, None] - means
    expected = np.einsum("ncf,fg,ncg->nc", away, inverse, away)
    # So many images leave next to nothing to shrink.
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_few_images_have_the_components_that_many_would_have():
    """The products of images with images give the same as those of features with features."""
    features, labels = draw(40, num_features=41)
    few, many = (fit(features[:, :size], labels) for size in (41, 40))
    assert few.kernel.shape == (41, 39)
    assert many.kernel.shape == (40, 39)
    padded = np.pad(features[:, :40], ((0, 0), (0, 1)))
    np.testing.assert_allclose(
        distances(fit(padded, labels), padded), distances(many, features[:, :40]), rtol=1e-3
    )


def textbook_shrinkage(residuals):
    """Ledoit and Wolf's estimate as their paper writes it, a matrix for each image."""
    n, p = residuals.shape
    sample = residuals.T @ residuals / n
    target = np.trace(sample) / p * np.eye(p)
    away = np.linalg.norm(sample - target) ** 2
    scatter = sum(np.linalg.norm(np.outer(x, x) - sample) ** 2 for x in residuals) / n**2
    share = min(scatter, away) / away
    return share * target + (1 - share) * sample


@pytest.mark.parametrize(("num_images", "num_features"), [(2, 5), (20, 30), (200, 30), (5000, 6)])
def test_the_covariance_is_shrunk_as_the_paper_says(num_images, num_features):
    features, _ = draw(num_images, num_features=num_features)
    residuals = features - features.mean(axis=0, dtype=float)
    blocks = [residuals[first : first + 7] for first in range(0, num_images, 7)]
    np.testing.assert_allclose(
        shrunk_covariance(blocks), textbook_shrinkage(residuals), rtol=1e-9, atol=1e-12
    )


def test_what_does_not_vary_has_no_covariance():
    np.testing.assert_array_equal(shrunk_covariance([np.zeros((9, 4))]), np.zeros((4, 4)))
    np.testing.assert_allclose(shrunk_covariance([np.eye(4)]), np.eye(4) / 4)


@pytest.mark.parametrize("size", [7, 64, 500])
def test_the_size_of_blocks_changes_next_to_nothing(size):
    features, labels = draw(500)
    one, other = fit(features, labels), fit(features, labels, size=size)
    np.testing.assert_allclose(distances(one, features), distances(other, features), rtol=1e-4)


def test_what_is_called_by_another_class_is_suspicious():
    features, labels = draw(3000)
    fitted = fit(features, labels)
    assert (fitted.look(features, labels).nearest == labels).mean() > 0.97
    own, other, *_ = fitted.look(features, labels)
    wrong_own, wrong_other, *_ = fitted.look(features, (labels + 1) % 3)
    assert (wrong_own > np.quantile(own, 0.97)).mean() > 0.9
    assert (wrong_other > np.quantile(other, 0.97)).mean() > 0.97
    np.testing.assert_array_equal(other > 0, fitted.look(features, labels).nearest != labels)
    apart = np.sort(distances(fitted, features), axis=1)
    right = other < 0
    np.testing.assert_allclose(
        -other[right], (apart[:, 1] - apart[:, 0])[right], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 2, 3, 4, 5],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 5],
        [4, 4, 4, 2, 2, 2],
        [7],
        [1, 2],
    ],
)
@pytest.mark.parametrize("alike", [False, True])
def test_few_images_give_numbers(labels, alike):
    labels = np.array(labels)
    features = np.random.default_rng(2).normal(size=(len(labels), 30)).astype(np.float32)
    features = features[:1].repeat(len(labels), 0) if alike else features
    fitted = fit(features, labels, num_classes=8)
    fresh = np.random.default_rng(3).normal(size=(16, 30)).astype(np.float32)
    for values in (*fitted.look(fresh, np.arange(16) % 8), *linear_answer(fitted)):
        assert np.isfinite(values).all()
    is_pooled = not fitted.seen.any()
    assert is_pooled == (len(labels) < 2 * len(set(labels.tolist())))
    if is_pooled:
        own, other, *_ = fitted.look(fresh, np.arange(16) % 8)
        again, *_ = fitted.look(fresh, np.zeros(16, int))
        np.testing.assert_array_equal(own, again)
        assert not other.any()


def test_a_class_without_images_is_never_answered():
    features, labels = draw(400)
    fitted = fit(features, labels + 1, num_classes=5)
    assert set(fitted.look(features, labels).nearest.tolist()) == {1, 2, 3}
    kernel, bias = linear_answer(fitted)
    np.testing.assert_array_equal(
        (features @ kernel + bias).argmax(1), fitted.look(features, labels).nearest
    )


def test_a_head_answers_the_nearest_class(faces_passes, faces_net, tmp_path):
    import keras

    passed = faces_passes["clean_valid"]
    labels, _ = passed.cache.answers()
    pixels = next(passed.images.batches(len(labels))).astype(np.float32)
    before = faces_net.get_weights()
    for number, depth in enumerate(passed.frontier.depths):
        fitted = fit_discriminant(
            lambda number=number: passed.cache.features(number),
            labels,
            depth=number,
            layer=depth.layer,
            num_classes=8,
        )
        net = build_head(passed.frontier.model, depth, fitted)
        net.save(tmp_path / "net.keras")
        loaded = keras.models.load_model(tmp_path / "net.keras")
        (features,) = passed.cache.features(number)
        answers = np.asarray(loaded(pixels, training=False))
        np.testing.assert_array_equal(answers.argmax(1), fitted.look(features, labels).nearest)
        np.testing.assert_allclose(answers.sum(1), 1, rtol=1e-5)
        assert (answers.argmax(1) == labels).mean() > 0.9
    for one, other in zip(before, faces_net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
