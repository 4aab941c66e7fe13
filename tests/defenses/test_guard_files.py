import numpy as np
import pytest

from goodnet.defenses.answer_check import check_answers, expected_answers
from goodnet.defenses.calibration import calibrate
from goodnet.defenses.guard import fit_guard
from goodnet.defenses.guard_files import (
    read_answers,
    read_guard,
    read_seen,
    write_answers,
    write_guard,
    write_seen,
)
from goodnet.defenses.guard_nets import build_guarded
from goodnet.defenses.seam import CleanPass
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from goodnet.pruning.sweep import sweep_both_ends


@pytest.fixture(scope="module")
def fitted(faces_passes):
    passed = faces_passes["clean_valid"]
    clean = CleanPass(passed.frontier, passed.images, passed.cache)
    order = prune_order(mean_activations(block_means(passed.cache)))
    counts = sweep_both_ends(clean.cache, frontier=clean.frontier, order=order).counts
    return fit_guard(clean, order, counts["expert"])


def check_same(one, other):
    for name in ("scores", "nearest"):
        left, right = getattr(one, name), getattr(other, name)
        assert list(left) == list(right)
        for key, values in left.items():
            np.testing.assert_array_equal(values, right[key])
    np.testing.assert_array_equal(one.tuned, other.tuned)
    np.testing.assert_array_equal(one.instead, other.instead)


def test_a_guard_is_read_as_it_was_written(fitted, faces_passes, tmp_path):
    guard, held = fitted
    write_guard(tmp_path / "guard.npz", guard, held)
    again, held_again = read_guard(tmp_path / "guard.npz")
    assert (again.order, again.expert) == (guard.order, guard.expert)
    check_same(held_again, held)
    for passed in faces_passes.values():
        seen = guard.look(passed.cache, passed.frontier)
        check_same(again.look(passed.cache, passed.frontier), seen)
        write_seen(tmp_path / "seen.npz", seen)
        check_same(read_seen(tmp_path / "seen.npz"), seen)


def test_answers_are_read_as_they_were_written(tmp_path):
    answers = [np.arange(5), np.arange(5)[::-1].copy()]
    for given in (answers, []):
        write_answers(tmp_path / "answers.npz", given)
        found = read_answers(tmp_path / "answers.npz")
        assert len(found) == len(given)
        for one, other in zip(given, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_net_that_flags_what_its_scores_do_not_is_found(fitted, faces_passes):
    guard, held = fitted
    calibration = calibrate(held.scores, budget=0.03)
    for name, passed in faces_passes.items():
        seen = guard.look(passed.cache, passed.frontier)
        net = build_guarded(passed.frontier, guard, calibration)
        (expected,) = expected_answers(passed.cache, seen, calibration, [])
        given = {
            "images": passed.images,
            "preprocessing": passed.cache.provenance.preprocessing,
            "full": True,
        }
        assert check_answers(net, expected, **given) is None
        if name == "clean_valid":
            worse = expected._replace(answers=(expected.answers + 1) % 8)
            with pytest.raises(
                RuntimeError, match=r"disagrees with what was computed on \d+ of 40"
            ):
                check_answers(net, worse, **given)
