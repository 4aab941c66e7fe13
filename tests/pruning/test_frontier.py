import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.networks.graph import replay


def name_of(tensor) -> str:
    return tensor._keras_history.operation.name


def test_frontier_of_each_architecture(network):
    from goodnet.networks.graph import as_functional
    from goodnet.pruning.frontier import find_frontier

    model = as_functional(network.model)
    frontier = find_frontier(model, layer=network.layer, rank_at=network.rank_at)
    linear = {c.layer.name for c in frontier.head_inputs if c.layer is not None}
    activations = {name_of(c.tensor) for c in frontier.head_inputs if c.layer is None}
    assert (linear, activations) == (network.linear, network.activations)
    assert name_of(frontier.ranking) == network.rank_at
    assert name_of(frontier.start) == network.start
    assert {name_of(skip) for skip in frontier.skips} == network.skips
    assert frontier.num_channels == model.get_layer(network.layer).output.shape[-1]


def test_deepid_has_one_source_for_both_readers(faces_net):
    from goodnet.pruning.frontier import find_frontier

    frontier = find_frontier(faces_net, layer="conv_3", rank_at="pool_3")
    assert [head_input.layer.name for head_input in frontier.head_inputs] == ["conv_4", "fc_1"]
    assert [name_of(source) for source in frontier.sources] == ["pool_3"]
    assert frontier.start is frontier.ranking
    assert frontier.num_channels == 60
    assert not frontier.start_constant.any()


def test_constants_come_from_batch_normalization_and_padding():
    import keras
    from keras import layers

    from goodnet.pruning.frontier import find_frontier

    image = keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 3, activation="sigmoid", padding="same", name="conv")(image)
    x = layers.BatchNormalization(epsilon=0.0, name="norm")(x)
    x = layers.ZeroPadding2D(((1, 0), (0, 0)), name="pad")(x)
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    model.get_layer("norm").set_weights(
        np.array([[2.0, 1.0], [0.5, -1.0], [0.1, 0.5], [0.25, 4.0]])  # gamma, beta, mean, variance
    )
    constant = find_frontier(model, layer="conv", rank_at="pad").start_constant
    assert constant.shape == (1, 5, 4, 2)
    assert not constant[0, 0].any()
    # sigmoid(0) = 0.5, then gamma * (0.5 - mean) / sqrt(variance) + beta
    np.testing.assert_allclose(constant[0, 1:, :, 0], 2 * (0.5 - 0.1) / 0.5 + 0.5, rtol=1e-6)
    np.testing.assert_allclose(constant[0, 1:, :, 1], -1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "network",
    ["many_convolutions", "dense_at_every_position", "flatten_then_normalize", "deepid"],
    indirect=True,
)
def test_a_term_is_the_change_of_the_pre_activation(network_pass):
    passed, frontier = network_pass, network_pass.frontier
    (block,) = passed.cache.blocks()
    channel = 1
    masked = block.start.copy()
    masked[..., channel] = frontier.start_constant[..., channel]
    beside = dict(zip(map(id, frontier.skips), block.skips, strict=True))
    values, without = (
        replay(frontier.model, {**beside, id(frontier.start): start})
        for start in (block.start, masked)
    )
    states = zip(frontier.states(values), frontier.states(without), strict=True)
    for head_input, (before, after) in zip(frontier.head_inputs, states, strict=True):
        if head_input.layer is None:
            continue
        change = np.asarray(values[id(head_input.source)] - without[id(head_input.source)])
        change = change.reshape(len(block), -1, frontier.num_channels)[..., channel]
        assert np.abs(before - after).max() > 1e-3
        np.testing.assert_allclose(head_input.term(change, channel), before - after, atol=2e-5)


@pytest.mark.parametrize(
    "network", ["deepid", "residual_behind", "residual_from_before"], indirect=True
)
def test_a_sweep_starts_without_any_channel(network_pass):
    passed, frontier = network_pass, network_pass.frontier
    (block,) = passed.cache.blocks()
    nothing = np.broadcast_to(frontier.start_constant, block.start.shape)
    beside = dict(zip(map(id, frontier.skips), block.skips, strict=True))
    expected = frontier.states(replay(frontier.model, {**beside, id(frontier.start): nothing}))
    begun = frontier.prepare(block.start, block.skips)
    assert {len(state) for state in begun.states} == {len(block) if block.skips else 1}
    assert len(begun.sources) == len(frontier.sources)
    for found, state in zip(begun.states, expected, strict=True):
        np.testing.assert_allclose(np.broadcast_to(found, state.shape), state, atol=1e-5)


@pytest.fixture
def build():
    """Build a net of 8x8 images from a function of its input."""
    import keras

    def run(answer):
        image = keras.Input((8, 8, 3))
        return keras.Model(image, answer(keras.layers, image), name="net")

    return run


def test_a_layer_called_twice_is_refused(build):
    from goodnet.pruning.frontier import find_frontier

    def answer(layers, image):
        conv = layers.Conv2D(3, 3, padding="same", name="conv")
        return layers.GlobalAveragePooling2D(name="gather")(conv(conv(image)))

    with pytest.raises(InputError, match="layer conv is called 2 times in net, expected once"):
        find_frontier(build(answer), layer="conv", rank_at="gather")


def test_an_unknown_layer_is_refused(build):
    from goodnet.pruning.frontier import find_frontier

    net = build(lambda layers, image: layers.GlobalAveragePooling2D(name="gather")(image))
    with pytest.raises(InputError, match="layer conv is called 0 times in net, expected once"):
        find_frontier(net, layer="conv", rank_at="gather")


def test_an_operation_named_like_a_merge_may_still_mix(build):
    from keras import ops

    from goodnet.pruning.frontier import find_frontier

    def answer(layers, image):
        x = layers.Conv2D(4, 3, name="conv")(image)
        return layers.Dense(3)(layers.Flatten()(ops.average(x, axis=-1)))

    frontier = find_frontier(build(answer), layer="conv", rank_at="conv")
    assert [name_of(head_input.tensor) for head_input in frontier.head_inputs] == ["conv"]


@pytest.mark.parametrize("rank_at", ["mix", "behind", "before", "flat", "flat_relu"])
def test_ranking_where_channels_are_not_apart_is_refused(build, rank_at):
    from goodnet.pruning.frontier import find_frontier

    def answer(layers, image):
        x = layers.Conv2D(4, 3, name="conv")(layers.ReLU(name="before")(image))
        y = layers.ReLU(name="behind")(layers.Conv2D(4, 3, name="mix")(x))
        x = layers.ReLU(name="flat_relu")(layers.Flatten(name="flat")(x))
        return layers.Dense(3)(layers.Concatenate()([x, layers.Flatten()(y)]))

    with pytest.raises(InputError, match=rf"conv.* {rank_at}\b"):
        find_frontier(build(answer), layer="conv", rank_at=rank_at)


@pytest.mark.parametrize("activation", ["softmax", "log_softmax", "glu"])
def test_an_activation_that_mixes_channels_is_refused(build, activation):
    from goodnet.pruning.frontier import find_frontier

    def answer(layers, image):
        x = layers.Conv2D(4, 3, activation=activation, name="conv")(image)
        return layers.Dense(3)(layers.Flatten()(x))

    with pytest.raises(InputError, match=f"layer conv has the activation {activation}"):
        find_frontier(build(answer), layer="conv", rank_at="conv")
