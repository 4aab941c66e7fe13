import numpy as np
import pytest

from goodnet.networks.rounding import explains, largest_difference, near_ties

SCORES = np.array([[10, 9.9995, 0], [10, 9.9, 0], [-10, -10.0005, -20]], np.float32)


def test_only_the_two_best_classes_make_a_near_tie():
    np.testing.assert_array_equal(near_ties(SCORES), [True, False, True])


def plain(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_a_near_tie_explains_its_two_classes_and_no_third():
    best = np.array([0, 0, 0])
    second, third = (SCORES[:, order] for order in ([1, 0, 2], [2, 1, 0]))
    np.testing.assert_array_equal(explains(SCORES, best, second), [True, False, True])
    np.testing.assert_array_equal(explains(SCORES, best, third), [False] * 3)
    np.testing.assert_array_equal(explains(SCORES, best, SCORES), [True] * 3)


def test_a_tie_of_ours_alone_explains_nothing():
    ties = np.array([[5, 5, 0]], np.float32)
    assert not explains(ties, np.array([0]), plain([5, 6, 0])).any()
    assert not explains(ties, np.array([0]), plain([0.2, 0.8, 0])).any()
    assert explains(ties, np.array([0]), plain([0.49999, 0.50001, 0])).all()


def test_scores_that_softmax_cannot_tell_apart_are_a_tie():
    scores = np.array([[1e-8, 3e-8, 2e-8], [0, 1e-5, 0]], np.float32)
    assert near_ties(scores).tolist() == [True, False]
    uniform = np.full((2, 3), 1 / 3, np.float32)
    assert explains(scores, scores.argmax(1), uniform).tolist() == [True, False]


def test_equal_scores_of_zero_are_a_tie():
    assert near_ties(np.zeros((1, 3), np.float32)).all()


def test_the_difference_is_a_share_of_the_largest_value():
    assert largest_difference(np.array([1.0, -3.0]), np.array([1.0, -4.0])) == pytest.approx(0.25)
    assert largest_difference(np.zeros(2), np.zeros(2)) == 0
