import numpy as np
import pytest

from goodnet.defenses.calibration import calibrate
from goodnet.defenses.guard import build_guarded, fit_guard
from goodnet.defenses.guard_check import check_guarded
from goodnet.defenses.guard_files import read_guard, read_scores, write_guard, write_scores
from goodnet.defenses.seam import CleanPass
from goodnet.pruning.ranking import block_means, mean_activations, prune_order


@pytest.fixture(scope="module")
def fitted(faces_passes):
    passed = faces_passes["clean_valid"]
    clean = CleanPass(passed.frontier, passed.images, passed.cache)
    return fit_guard(clean, prune_order(mean_activations(block_means(passed.cache))))


def test_a_guard_is_read_as_it_was_written(fitted, faces_passes, tmp_path):
    guard, held = fitted
    write_guard(tmp_path / "guard.npz", guard, held)
    again, held_again = read_guard(tmp_path / "guard.npz")
    assert (again.order, again.expert) == (guard.order, guard.expert)
    assert list(held_again) == list(held)
    for passed in faces_passes.values():
        scores = guard.scores(passed.cache, passed.frontier)
        for name, values in again.scores(passed.cache, passed.frontier).items():
            np.testing.assert_array_equal(values, scores[name])
        write_scores(tmp_path / "scores.npz", scores)
        for name, values in read_scores(tmp_path / "scores.npz").items():
            np.testing.assert_array_equal(values, scores[name])


def test_a_net_that_flags_what_its_scores_do_not_is_found(fitted, faces_passes):
    guard, held = fitted
    calibration = calibrate(held, budget=0.03)
    for passed in faces_passes.values():
        scores = guard.scores(passed.cache, passed.frontier)
        given = {
            "cache": passed.cache,
            "images": passed.images,
            "scores": scores,
            "calibration": calibration,
            "full": True,
        }
        net = build_guarded(passed.frontier, guard, calibration)
        assert check_guarded(net, **given) is None
        worse = {name: values[::-1] + 100 for name, values in scores.items()}
        if name_of(passed) == "clean_valid":
            with pytest.raises(
                RuntimeError, match=r"disagrees with its scores on \d+ of 40 images"
            ):
                check_guarded(net, **{**given, "scores": worse})


def name_of(passed) -> str:
    return passed.images.path.stem
