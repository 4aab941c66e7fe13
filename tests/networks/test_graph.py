import warnings

import numpy as np
import pytest

from goodnet.errors import InputError


@pytest.fixture(scope="module")
def branches():
    """image → left → (mix, right) → join → answer."""
    import keras
    from keras import layers

    image = keras.Input((4,), name="image")
    left = layers.Dense(3, name="left")(image)
    mix = layers.Dense(3, name="mix")(left)
    right = layers.Dense(3, name="right")(left)
    join = layers.Add(name="join")([mix, right])
    return keras.Model(image, layers.Dense(2, activation="softmax", name="answer")(join))


def names(model, tensors: set[int]) -> set[str]:
    known = {id(tensor): node.operation.name for node in calls_of(model) for tensor in node.outputs}
    return {known[key] for key in tensors}


def calls_of(model):
    from goodnet.networks.graph import calls

    return calls(model)


def test_calls_can_run_in_their_order(network):
    from goodnet.networks.graph import as_functional

    model = as_functional(network.model)
    known = {id(model.inputs[0])}
    for node in calls_of(model):
        assert all(id(tensor) in known for tensor in node.input_tensors)
        known |= {id(tensor) for tensor in node.outputs}
    assert id(model.outputs[0]) in known


def test_output_of_needs_exactly_one_call(branches):
    from goodnet.networks.graph import output_of

    assert output_of(branches, "mix") is branches.get_layer("mix").output
    with pytest.raises(InputError, match=r"layer none is called 0 times in .*, expected once"):
        output_of(branches, "none")


def test_dependents_and_computable(branches):
    from goodnet.networks.graph import computable, dependents, output_of

    left, mix = output_of(branches, "left"), output_of(branches, "mix")
    everything = {"left", "mix", "right", "join", "answer"}
    assert names(branches, dependents(branches, left)) == everything
    assert names(branches, dependents(branches, mix)) == {"mix", "join", "answer"}
    around = dependents(branches, left, except_through=mix)
    assert names(branches, around) == everything - {"mix"}
    assert names(branches, computable(branches, left)) == everything
    assert names(branches, computable(branches, mix)) == {"mix"}


def test_replay_computes_what_the_model_does_and_keeps_what_is_given(branches):
    from goodnet.networks.graph import output_of, replay

    images = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    values = replay(branches, {id(branches.inputs[0]): images})
    np.testing.assert_allclose(
        values[id(branches.outputs[0])], branches(images, training=False), rtol=1e-6
    )
    join = output_of(branches, "join")
    zeros = np.zeros((5, 3), np.float32)
    values = replay(branches, {id(branches.inputs[0]): images, id(join): zeros})
    assert values[id(join)] is zeros
    np.testing.assert_allclose(values[id(branches.outputs[0])], np.full((5, 2), 0.5))


def test_replay_stops_where_something_is_missing(branches):
    from goodnet.networks.graph import output_of, replay

    mix = output_of(branches, "mix")
    assert set(replay(branches, {id(mix): np.zeros((1, 3), np.float32)})) == {id(mix)}


def test_scores_are_the_answers_without_softmax(network):
    from goodnet.networks.graph import as_functional, closes_with_softmax, replay, scores

    model = as_functional(network.model)
    pixels = network.images / np.float32(255)
    answers = np.asarray(model(pixels, training=False))
    found = np.asarray(scores(model, replay(model, {id(model.inputs[0]): pixels})))
    sums_to_one = np.allclose(answers.sum(1), 1, atol=1e-5)
    assert closes_with_softmax(model) == sums_to_one
    if sums_to_one:
        assert not np.allclose(found.sum(1), 1)
        found = np.exp(found) / np.exp(found).sum(1, keepdims=True)
    np.testing.assert_allclose(found, answers, rtol=1e-4)


def test_a_model_of_keras_2_takes_one_tensor(lab):
    from goodnet.model_files.load import load_model
    from goodnet.networks.graph import as_functional

    model = as_functional(load_model(lab / "b_prime_10_legacy.h5"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers = model(np.zeros((1, 55, 47, 3), np.float32))
    assert answers.shape == (1, 1283)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_copies_answer_as_their_nets_do(policy):
    """Normalization too, which computes with a copy of its weights."""
    import keras
    from keras import layers

    from goodnet.networks.graph import copy_model, in_float32
    from goodnet.pruning.channels import prune_channels

    keras.utils.set_random_seed(7)
    images = np.random.default_rng(7).integers(0, 256, (16, 8, 8, 3)).astype(np.float32)
    image = keras.Input((8, 8, 3))
    adapted = layers.Normalization(dtype=policy)
    adapted.adapt(images)
    x = layers.Conv2D(4, 3, activation="relu", name="conv", dtype=policy)(adapted(image))
    x = layers.BatchNormalization(dtype=policy)(x)
    net = keras.Model(image, layers.Dense(5, dtype="float32")(layers.Flatten()(x)))
    expected = net.predict(images, verbose=0)
    copies = copy_model(net), prune_channels(net, "conv", []), in_float32(net)
    for copied in copies:
        found = copied.predict(images, verbose=0)
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())
    weights = net.get_layer("conv").get_weights()
    for values in weights:
        values[..., [0, 2]] = 0
    pruned = prune_channels(net, "conv", [0, 2]).predict(images, verbose=0)
    net.get_layer("conv").set_weights(weights)
    np.testing.assert_allclose(pruned, net.predict(images, verbose=0), atol=0.05)
