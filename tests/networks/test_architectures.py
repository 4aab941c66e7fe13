import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.networks.architectures import ARCHITECTURES, build_network
from goodnet.networks.initial_weights import layer_seeds

ROOT = Path(__file__).resolve().parents[2]
LEAST = {name: 31 if name == "deepid" else 8 for name in ARCHITECTURES}


def same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(left, right) for left, right in pairs)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.slow
class TestEveryNetwork:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_classifies_the_smallest_images_and_larger_ones(self, name, channels):
        for height, width in [(LEAST[name], LEAST[name]), (LEAST[name] + 5, LEAST[name] + 16)]:
            shape = (height, width, channels)
            images = np.random.default_rng(1).uniform(0, 1, (3, *shape)).astype(np.float32)
            answers = build_network(name, 7, image_shape=shape, seed=1)(images).numpy()
            assert answers.shape == (3, 7)
            np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)
            assert np.ptp(answers, axis=0).min() > 0

    def test_a_seed_decides_its_weights_whatever_others_draw(self, name):
        random.seed(1)
        one = build_network(name, 3, image_shape=(31, 31, 3), seed=5)
        random.seed(2)
        assert same_weights(build_network(name, 3, image_shape=(31, 31, 3), seed=5), one)
        assert not same_weights(build_network(name, 3, image_shape=(31, 31, 3), seed=6), one)

    def test_its_channels_can_be_pruned(self, name, tmp_path):
        from goodnet.model_files.describe import describe_model
        from goodnet.model_files.load import load_model, save_model
        from goodnet.pruning.frontier import find_frontier
        from goodnet.pruning.layer_choice import choose_layers

        save_model(build_network(name, 4, image_shape=(32, 40, 3), seed=1), tmp_path / "net.keras")
        description = describe_model(tmp_path / "net.keras")
        assert description.num_classes == 4
        layer, rank_at = choose_layers(description, layer=None, rank_at=None)
        frontier = find_frontier(load_model(tmp_path / "net.keras"), layer=layer, rank_at=rank_at)
        assert frontier.num_channels >= 40
        assert len(frontier.depths) >= 3

    def test_its_layers_have_names_of_their_own(self, name):
        nets = [build_network(name, 3, image_shape=(31, 31, 3), seed=1) for _ in range(2)]
        one, other = ([net.name, *(layer.name for layer in net.layers)] for net in nets)
        assert one == other


def test_only_those_with_batch_normalization_have_it():
    import keras

    found = {
        name: any(
            isinstance(layer, keras.layers.BatchNormalization)
            for layer in build_network(name, 3, image_shape=(31, 31, 3)).layers
        )
        for name in ARCHITECTURES
    }
    expected = {name: name in ("resnet", "mobilenet") for name in ARCHITECTURES}
    assert found == expected


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="network is alexnet, expected one of deepid, vgg"):
        build_network("alexnet", 3, image_shape=(32, 32, 3))


def test_images_that_are_too_small_for_deepid_are_refused():
    with pytest.raises(InputError, match="images are 28 x 28, expected at least 31 x 31"):
        build_network("deepid", 3, image_shape=(28, 28, 1))


def test_weights_are_those_that_keras_draws_after_the_same_seed():
    import keras

    def weights(seed):
        return np.asarray(keras.initializers.GlorotUniform(seed=seed)((2, 3)))

    mine = [weights(seed) for _, seed in zip(range(3), layer_seeds(5), strict=False)]

    def draw():
        keras.utils.set_random_seed(5)
        return [weights(None) for _ in mine]

    # A thread that earlier tests left may draw from Python's random numbers in between.
    assert any(np.array_equal(draw(), mine) for _ in range(10))


@pytest.mark.slow
def test_the_module_alone_loads_no_keras():
    probe = "import goodnet.networks.architectures, sys; print('keras' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"
