import numpy as np
import pytest

from goodnet.networks.graph import as_functional, replay
from goodnet.pruning import head
from goodnet.pruning.frontier import find_frontier


def frontier_of(network):
    model = as_functional(network.model)
    return find_frontier(model, layer=network.layer, rank_at=network.rank_at)


def states_of(frontier, network, first_pass) -> list[np.ndarray]:
    passed = first_pass(network.model, network.images, layer=network.layer, rank_at=network.rank_at)
    (block,) = passed.cache.blocks()
    values = replay(frontier.model, {id(frontier.start): block.start})
    return [np.asarray(state) for state in frontier.states(values)]


IN_NUMPY = [
    "deepid",
    "plain",
    "flatten_then_dropout",
    "global_average",
    "softmax_layer",
    "logits",
    "sequential",
    "activation_is_a_layer",
]


@pytest.mark.parametrize("network", IN_NUMPY, indirect=True)
def test_numpy_gives_what_tensorflow_gives(network, first_pass):
    frontier = frontier_of(network)
    states = states_of(frontier, network, first_pass)
    before = [state.copy() for state in states]
    parts = frontier.model, frontier.head_inputs
    in_numpy = head._numpy_head(*parts)(*states)
    in_tensorflow = head._tensorflow_head(*parts, ())(*states)
    np.testing.assert_allclose(in_numpy, in_tensorflow, rtol=1e-5, atol=1e-5)
    assert len(np.unique(in_numpy.argmax(axis=1))) > 1
    for state, unchanged in zip(states, before, strict=True):
        np.testing.assert_array_equal(state, unchanged)


@pytest.mark.parametrize(
    "network", ["sigmoid", "batch_normalization", "residual_behind", "nested_head"], indirect=True
)
def test_what_numpy_does_not_know_is_left_to_tensorflow(network, first_pass):
    frontier = frontier_of(network)
    with pytest.raises(head._NotInNumpyError):
        head._numpy_head(frontier.model, frontier.head_inputs)
    scores = frontier.head(*states_of(frontier, network, first_pass))
    assert scores.shape == (len(network.images), network.model.output_shape[-1])


@pytest.mark.parametrize("options", [{"max_value": 6.0}, {"negative_slope": 0.1}, {"threshold": 1}])
def test_a_relu_of_another_kind_is_not_taken_for_a_plain_one(options):
    import keras
    from keras import layers

    def net(relu):
        image = keras.Input((4, 4, 3))
        x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
        x = layers.Dense(5)(layers.Flatten()(x))
        model = keras.Model(image, layers.Dense(3)(relu(x)))
        return model, find_frontier(model, layer="conv", rank_at="conv").head_inputs

    state = np.array([[-2.0, 0.5, 1.5, 7.0, 9.0]], np.float32)
    model, head_inputs = net(layers.ReLU())
    expected = np.maximum(state, 0) @ model.layers[-1].kernel.numpy()
    np.testing.assert_allclose(head._numpy_head(model, head_inputs)(state), expected, rtol=1e-5)
    with pytest.raises(head._NotInNumpyError):
        head._numpy_head(*net(layers.ReLU(**options)))
