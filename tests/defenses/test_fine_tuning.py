import numpy as np
import pytest

from goodnet.defenses import fine_tuning
from goodnet.defenses.augmentation import augment
from goodnet.defenses.fine_tuning import MOST_EPOCHS, fine_tune
from goodnet.defenses.seam import CleanPass


class KilledError(Exception):
    pass


def clean_of(passed):
    return CleanPass(passed.frontier, passed.images, passed.cache)


@pytest.fixture(scope="module")
def clean(faces_passes):
    return clean_of(faces_passes["clean_valid"])


@pytest.fixture(scope="module", autouse=True)
def few_epochs():
    """A third of what is usual is enough to see what it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tuning, "MOST_EPOCHS", 12)
        yield


@pytest.fixture(scope="module")
def uninterrupted(clean):
    return fine_tune(clean)


def same(one, other):
    weights = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
    return all(np.array_equal(left, right) for left, right in weights) and np.array_equal(
        one.held.margins, other.held.margins
    )


def test_the_net_is_another_one_and_knows_the_faces(clean, uninterrupted):
    labels, _ = clean.cache.answers()
    assert (uninterrupted.held.answers == labels).mean() > 0.8
    before, after = (net.get_weights()[0] for net in (clean.frontier.model, uninterrupted.model))
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_net(clean, uninterrupted, tmp_path):
    state = tmp_path / "state.npz"
    seen = []

    def kill(done, total):
        if done > 0.3 * total:
            raise KilledError

    with pytest.raises(KilledError):
        fine_tune(clean, state=state, on_progress=kill)
    assert len(list(tmp_path.iterdir())) == 2
    again = fine_tune(clean, state=state, on_progress=lambda *done: seen.append(done))
    assert same(again, uninterrupted)
    assert seen[0][0] > 0.2 * seen[0][1]  # the first part was done
    assert seen[-1][0] == seen[-1][1]
    assert not list(tmp_path.iterdir())


def test_a_net_that_takes_too_long_is_not_trained(clean, monkeypatch):
    monkeypatch.setattr(fine_tuning, "MOST_WORK", 1e3)
    assert fine_tune(clean) is None


@pytest.mark.parametrize(
    ("images", "trainings", "work", "epochs"),
    [
        (8000, 1, 1e7, 12),
        (32, 5, 1e7, 40),
        (480, 5, 5e7, 33),
        (20000, 1, 1e6, 5),
        (100, 1, 5e10, 0),
    ],
)
def test_epochs_are_bounded_by_images_and_work(images, trainings, work, epochs, monkeypatch):
    monkeypatch.setattr(fine_tuning, "MOST_EPOCHS", MOST_EPOCHS)
    assert fine_tuning._num_epochs(images, trainings, work=work) == epochs


@pytest.mark.parametrize("shape", [(55, 47, 3), (8, 9, 1), (32, 32, 4)])
def test_augmented_images_are_others_in_range_and_the_same_again(shape):
    images = np.random.default_rng(1).integers(0, 256, (64, *shape)).astype(np.float32)
    before = images.copy()
    one, other = (augment(images, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(images, before)
    assert one.shape == images.shape
    assert one.dtype == np.float32
    assert one.min() >= 0
    assert one.max() <= 255
    assert (np.abs(one - images).mean(axis=(1, 2, 3)) > 1).all()


def test_augmented_images_still_show_what_they_show():
    """An image resembles its own augmented ones more than those of others."""
    from goodnet.attacks.faces import render_faces

    faces = render_faces(np.arange(40), seed=3).astype(np.float32)
    changed = augment(faces, np.random.default_rng(2))
    rows = (one.reshape(40, -1) - one.mean(axis=(1, 2, 3))[:, None] for one in (faces, changed))
    one, other = (row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows)
    assert ((one @ other.T).argmax(axis=1) == np.arange(40)).mean() > 0.5
