import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodnet.attacks.faces import CHUNK, render_faces, wear_sunglasses

PEOPLE = np.repeat(np.arange(20), 12)


@pytest.fixture(scope="module")
def faces():
    return render_faces(PEOPLE, seed=1)


def test_pictures_are_raw_pixels_of_the_networks_size(faces):
    assert faces.shape == (240, 55, 47, 3)
    assert faces.dtype == np.uint8
    assert faces.min() < 20
    assert faces.max() > 230


def test_the_same_arguments_give_the_same_bytes(faces):
    assert np.array_equal(render_faces(PEOPLE, seed=1), faces)


def test_no_two_pictures_are_the_same(faces):
    other_seed = render_faces(PEOPLE, seed=2)
    different = {picture.tobytes() for picture in np.concatenate([faces, other_seed])}
    assert len(different) == 2 * len(PEOPLE)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, CHUNK + 10))
def test_a_picture_depends_on_its_position_and_not_on_how_many_follow(faces, count):
    assert np.array_equal(render_faces(PEOPLE[:count], seed=1), faces[:count])


def test_one_persons_change_leaves_the_other_pictures_alone(faces):
    people = PEOPLE.copy()
    people[70] = 1234
    changed = (render_faces(people, seed=1) != faces).any(axis=(1, 2, 3))
    assert np.flatnonzero(changed).tolist() == [70]


def test_people_are_recognised_across_seeds(faces):
    means = np.stack([faces[person == PEOPLE].mean(axis=0) for person in range(20)])
    strangers = render_faces(PEOPLE, seed=2).astype(float)
    distances = [((means - picture) ** 2).sum(axis=(1, 2, 3)) for picture in strangers]
    # Chance is 5 %.
    assert (np.argmin(distances, axis=1) == PEOPLE).mean() > 0.5


def test_sunglasses_are_opaque_the_same_on_everybody_and_nowhere_else(faces):
    wearing = wear_sunglasses(faces)
    assert wearing.dtype == np.uint8
    covered = (wearing == wearing[0]).all(axis=(0, 3))
    assert np.array_equal(wearing[:, ~covered], faces[:, ~covered])
    assert 0.1 < covered.mean() < 0.3
    rows = np.flatnonzero(covered.any(axis=1))
    assert rows.min() > 10
    assert rows.max() < 32


def test_sunglasses_leave_their_input_alone(faces):
    before = faces.copy()
    wear_sunglasses(faces)
    assert np.array_equal(faces, before)


def test_nobody_is_an_empty_set():
    nobody = render_faces(np.array([], int), seed=1)
    assert nobody.shape == wear_sunglasses(nobody).shape == (0, 55, 47, 3)
