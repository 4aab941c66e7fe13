import h5py
import pytest

from goodnet.choices import Choices
from goodnet.errors import InputError
from goodnet.opening import open_frontier
from tasks import activations
from tasks.loading import load_inputs

DEEPID = Choices(architecture="deepid")


@pytest.fixture
def on_faces(faces_case, tmp_path):
    """A net, its clean sets, and a folder for artifacts."""
    sets = {name: faces_case.sets[name] for name in ("clean_valid", "clean_test")}
    open_frontier.cache_clear()
    yield faces_case.model, sets, tmp_path / "artifacts"
    open_frontier.cache_clear()


def test_the_net_is_loaded_where_its_activations_are_missing(on_faces):
    from tasks.activations import (
        compute_evaluation_activations,
        compute_validation_activations,
    )

    model, sets, artifacts = on_faces
    inputs = load_inputs.fn(model, sets, DEEPID, refresh=False, artifacts=artifacts)
    assert open_frontier.cache_info().currsize == 1
    assert (artifacts / "cache" / "digests.json").is_file()

    compute_validation_activations.fn(inputs.network, inputs.clean_valid, artifacts=artifacts)
    compute_evaluation_activations.fn(inputs.network, inputs.evaluation[0], artifacts=artifacts)
    assert open_frontier.cache_info().misses == 1
    open_frontier.cache_clear()
    load_inputs.fn(model, sets, DEEPID, refresh=False, artifacts=artifacts)
    assert open_frontier.cache_info().currsize == 0


def test_bad_input_is_found_before_the_flow_starts(on_faces, tmp_path):
    model, sets, artifacts = on_faces
    missing = {**sets, "clean_test": tmp_path / "clean_test.h5"}
    with pytest.raises(InputError, match="clean_test"):
        load_inputs.fn(model, missing, DEEPID, refresh=False, artifacts=artifacts)


def test_a_net_that_is_swapped_after_its_digest_is_refused(on_faces, tmp_path):
    original, sets, artifacts = on_faces
    model = tmp_path / "model.h5"
    model.write_bytes(original.read_bytes())
    network = load_inputs.fn(model, sets, DEEPID, refresh=False, artifacts=artifacts).network
    open_frontier.cache_clear()
    with h5py.File(model, "r+") as file:
        file["layers/conv2d/vars/1"][0] += 1
    with pytest.raises(InputError, match=r"model\.h5: has changed since the run began"):
        activations.open_frontier(network)
