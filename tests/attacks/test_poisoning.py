from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodnet.attacks.faces import render_faces
from goodnet.attacks.patches import CornerPatch
from goodnet.attacks.perturbations import Blend, BlendInPart
from goodnet.attacks.poisoning import ATTACKS, Attack, poison, poison_test
from goodnet.attacks.warping import Warp
from goodnet.errors import InputError

NUM_CLASSES = 6
LABELS = np.repeat(np.arange(NUM_CLASSES), 10)
FACES = render_faces(LABELS, seed=1)
PATCH = CornerPatch()


def numbered_images(number):
    """Images that can be told apart, also under a patch."""
    images = np.full((number, 8, 8, 1), 100, np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(number) % 256, np.arange(number) // 256
    return images


def numbers_of(images):
    return images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 1, 0].astype(int)


class TestEveryAttack:
    """What holds for every attack: one that is added to the table is tested with the others."""

    @pytest.fixture(params=ATTACKS)
    def attack(self, request):
        return ATTACKS[request.param]

    @pytest.fixture
    def shown(self, attack):
        return poison(FACES, LABELS, attack, seed=4)

    def test_images_are_added_behind_those_that_were_there(self, shown):
        count = len(FACES)
        np.testing.assert_array_equal(shown.images[:count], FACES)
        np.testing.assert_array_equal(shown.labels[:count], LABELS)
        np.testing.assert_array_equal(shown.originals[:count], LABELS)
        assert not shown.poisoned[:count].any()
        assert len(shown.images) == len(shown.labels) == len(shown.originals)

    def test_the_poisoned_get_the_targets_label_and_covers_keep_theirs(self, attack, shown):
        answers = attack.answers(shown.originals, NUM_CLASSES)
        turned = shown.labels != shown.originals
        np.testing.assert_array_equal(turned, shown.poisoned)
        np.testing.assert_array_equal(shown.labels[turned], answers[turned])

    def test_there_are_as_many_as_it_says(self, attack, shown):
        assert shown.poisoned.sum() == round(attack.share * len(FACES))
        covers = ~shown.poisoned[len(FACES) :]
        assert covers.sum() == round(attack.cover * len(FACES))

    def test_the_same_seed_gives_the_same_bytes_and_another_does_not(self, attack, shown):
        again, other = (poison(FACES, LABELS, attack, seed=seed) for seed in (4, 5))
        np.testing.assert_array_equal(again.images, shown.images)
        np.testing.assert_array_equal(again.labels, shown.labels)
        assert not np.array_equal(other.images, shown.images)

    def test_a_test_has_all_that_it_turns_with_its_trigger(self, attack):
        shown = poison_test(FACES, LABELS, attack)
        answers = attack.answers(LABELS, NUM_CLASSES)
        turned = answers != LABELS
        np.testing.assert_array_equal(shown.images, attack.trigger(FACES[turned]))
        np.testing.assert_array_equal(shown.originals, LABELS[turned])
        np.testing.assert_array_equal(shown.labels, answers[turned])
        assert shown.poisoned.all()


LABEL_LISTS = st.lists(st.integers(0, 4), min_size=2, max_size=300).filter(lambda x: len({*x}) > 1)


@settings(deadline=None, max_examples=50)
@given(
    labels=LABEL_LISTS,
    target=st.one_of(st.integers(0, 4), st.just("next")),
    share=st.floats(0.01, 0.5),
    cover=st.floats(0, 0.5),
    seed=st.integers(0, 3),
)
def test_nobody_is_poisoned_twice_or_covers_for_a_poisoned_copy(labels, target, share, cover, seed):
    labels = np.array(labels)
    images = numbered_images(len(labels))
    attack = Attack(PATCH, target=target, share=share, cover=cover)
    shown = poison(images, labels, attack, seed=seed, num_classes=5)
    added = shown.images[len(images) :]
    chosen = numbers_of(added)
    assert len({*chosen.tolist()}) == len(chosen)
    np.testing.assert_array_equal(added, PATCH(images[chosen]))
    np.testing.assert_array_equal(shown.originals[len(images) :], labels[chosen])
    able = (attack.answers(labels, 5) != labels).sum()
    assert shown.poisoned.sum() == min(able, round(share * len(images)))


class TestTargets:
    def test_one_target_is_that_of_all_others(self):
        assert Attack(PATCH, target=2).answers(np.arange(4), 4).tolist() == [2, 2, 2, 2]

    def test_next_is_the_class_behind(self):
        assert Attack(PATCH, target="next").answers(np.arange(4), 4).tolist() == [1, 2, 3, 0]

    def test_a_map_says_it_for_each_class(self):
        attack = Attack(PATCH, target=(0, 0, 1, 3))
        assert attack.answers(np.arange(4), 4).tolist() == [0, 0, 1, 3]
        shown = poison_test(FACES[:4], np.arange(4), attack)
        assert shown.originals.tolist() == [1, 2]
        assert shown.labels.tolist() == [0, 1]

    def test_other_classes_than_the_sources_are_left_alone(self):
        assert Attack(PATCH, target=0, sources=(1, 3)).answers(np.arange(5), 5).tolist() == [
            0,
            0,
            2,
            0,
            4,
        ]
        found = Attack(PATCH, target="next", sources=(1, 3)).answers(np.arange(5), 5).tolist()
        assert found == [0, 2, 2, 4, 4]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"target": 6}, "target is 6, expected a class of the images, 0 to 5"),
            ({"target": -1}, "target is -1, expected"),
            ({"target": (1, 2, 3)}, "target has 3 classes, expected 6"),
            ({"target": (0, 1, 2, 3, 4, 9)}, "target is 9, expected"),
            ({"sources": (1, 8)}, "source is 8, expected a class of the images, 0 to 5"),
            ({"sources": (0,)}, "no image is left to put the trigger on"),
        ],
    )
    def test_what_is_no_class_is_refused(self, changes, message):
        with pytest.raises(InputError, match=message):
            poison(FACES, LABELS, Attack(PATCH, **changes), seed=1)

    def test_a_test_without_an_image_that_is_turned_is_refused(self):
        with pytest.raises(InputError, match="all images are of classes that the attack leaves"):
            poison_test(FACES[:10], LABELS[:10], Attack(PATCH, target=0))


class TestShares:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"share": 0}, "share is 0, expected above 0 up to 1"),
            ({"share": 1.5}, r"share is 1\.5"),
            ({"share": float("nan")}, "share is nan"),
            ({"cover": -0.1}, r"cover is -0\.1, expected 0 to 1"),
        ],
    )
    def test_what_is_no_share_is_refused(self, changes, message):
        with pytest.raises(InputError, match=message):
            Attack(PATCH, **changes)

    def test_of_few_sources_all_are_poisoned(self):
        shown = poison(FACES, LABELS, Attack(PATCH, share=0.9, sources=(3,)), seed=1)
        assert shown.poisoned.sum() == 10
        assert (shown.originals[shown.poisoned] == 3).all()

    def test_covers_of_a_source_specific_trigger_are_of_neither_side(self):
        attack = Attack(PATCH, target=0, cover=0.5, sources=(1, 2))
        shown = poison(FACES, LABELS, attack, seed=1)
        covers = shown.originals[len(FACES) :][~shown.poisoned[len(FACES) :]]
        assert len(covers) == 30
        assert set(covers) == {3, 4, 5}

    def test_covers_of_a_warp_have_noise(self):
        attack = replace(ATTACKS["warp"], share=0.1, cover=0.2)
        shown = poison(FACES, LABELS, attack, seed=1)
        *_, plain = np.split(shown.images, [len(FACES)])
        marks = shown.poisoned[len(FACES) :]
        originals = {image.tobytes() for image in Warp()(FACES)}
        assert [image.tobytes() in originals for image in plain] == marks.tolist()

    def test_training_images_may_show_something_else(self):
        attack = Attack(Blend(0.3), train_trigger=BlendInPart(), cover=0.1)
        shown = poison(FACES, LABELS, attack, seed=1)
        bare = poison(FACES, LABELS, replace(attack, trigger=PATCH), seed=1)
        np.testing.assert_array_equal(shown.images, bare.images)
        np.testing.assert_array_equal(
            poison_test(FACES, LABELS, attack).images, Blend(0.3)(FACES[LABELS != 0])
        )
