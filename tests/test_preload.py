import h5py
import pytest

from goodnet.errors import InputError
from goodnet.model_files.limits import DEFAULT_LIMITS
from goodnet.opening import open_frontier
from tasks import activations
from tasks.loading import load_inputs
from tasks.preload import preload


@pytest.fixture
def on_faces(faces_case, tmp_path):
    """What the command passes on for a net and its clean sets."""
    sets = {name: faces_case.sets[name] for name in ("clean_valid", "clean_test")}
    parameters = {
        "model": faces_case.model,
        "architecture": "deepid",
        "layer": None,
        "rank_at": None,
        "pixel_scale": 1.0,
        "allow_same_data": False,
        "target": None,
        "refresh": False,
        "artifacts": tmp_path / "artifacts",
    }
    open_frontier.cache_clear()
    yield parameters, sets
    open_frontier.cache_clear()


def test_the_net_is_loaded_where_its_activations_are_missing(on_faces):
    from tasks.activations import (
        compute_evaluation_activations,
        compute_validation_activations,
    )

    parameters, sets = on_faces
    preload(parameters, sets, DEFAULT_LIMITS)
    assert open_frontier.cache_info().currsize == 1
    assert (parameters["artifacts"] / "cache" / "digests.json").is_file()

    options = {key: value for key, value in parameters.items() if key != "model"}
    inputs = load_inputs.fn(parameters["model"], sets, **options, limits=DEFAULT_LIMITS)
    compute_validation_activations.fn(
        inputs.network, inputs.clean_valid, artifacts=parameters["artifacts"]
    )
    compute_evaluation_activations.fn(
        inputs.network, inputs.evaluation[0], artifacts=parameters["artifacts"]
    )
    assert open_frontier.cache_info().misses == 1
    open_frontier.cache_clear()
    preload(parameters, sets, DEFAULT_LIMITS)
    assert open_frontier.cache_info().currsize == 0


def test_the_default_needs_no_files(tmp_path):
    preload({"model": None, "artifacts": tmp_path}, {}, DEFAULT_LIMITS)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_found_before_the_flow_starts(on_faces, tmp_path):
    parameters, sets = on_faces
    with pytest.raises(InputError, match="clean_test"):
        preload(parameters, {**sets, "clean_test": tmp_path / "clean_test.h5"}, DEFAULT_LIMITS)


def test_a_net_that_is_swapped_after_its_digest_is_refused(on_faces, tmp_path):
    parameters, sets = on_faces
    model = tmp_path / "model.h5"
    model.write_bytes(parameters["model"].read_bytes())
    options = {key: value for key, value in parameters.items() if key != "model"}
    network = load_inputs.fn(model, sets, **options, limits=DEFAULT_LIMITS).network
    open_frontier.cache_clear()
    with h5py.File(model, "r+") as file:
        file["layers/conv2d/vars/1"][0] += 1
    with pytest.raises(InputError, match=r"model\.h5: has changed since the run began"):
        activations.open_frontier(network)
