import pytest

from goodnet.networks.traits import acts_on_each_channel_alone, is_elementwise

APART = [
    ("ReLU", {}),
    ("MaxPooling2D", {"pool_size": [2, 2]}),
    ("GlobalAveragePooling2D", {}),
    ("SpatialDropout2D", {"rate": 0.5}),
    ("Activation", {"activation": "tanh"}),
    ("Activation", {"activation": {"class_name": "function", "config": "relu"}}),
    ("BatchNormalization", {"axis": -1}),
    ("BatchNormalization", {"axis": [3]}),
    ("DepthwiseConv2D", {"depth_multiplier": 1, "activation": "relu"}),
]
MIXING = [
    ("Conv2D", {}),
    ("Dense", {}),
    ("Softmax", {}),
    ("LayerNormalization", {}),
    ("Flatten", {}),
    ("Activation", {"activation": "softmax"}),
    ("Activation", {"activation": {"class_name": "Softmax", "config": {"axis": -1}}}),
    ("Activation", {"activation": "somebody's own"}),
    ("BatchNormalization", {"axis": 1}),
    ("BatchNormalization", {"axis": [2]}),
    ("DepthwiseConv2D", {"depth_multiplier": 2}),
    ("DepthwiseConv2D", {"depth_multiplier": 1, "activation": "softmax"}),
]


@pytest.mark.parametrize(("class_name", "config"), APART)
def test_layers_that_keep_channels_apart(class_name, config):
    assert acts_on_each_channel_alone(class_name, config)


@pytest.mark.parametrize(("class_name", "config"), MIXING)
def test_layers_that_mix_channels(class_name, config):
    assert not acts_on_each_channel_alone(class_name, config)


def test_every_keras_activation_is_what_it_is_said_to_be():
    import keras
    import numpy as np
    from keras.src.activations import ALL_OBJECTS_DICT

    numbers = np.random.default_rng(2).normal(0, 2, (3, 4)).astype(np.float32)
    changed = numbers.copy()
    changed[:, 0] += 1.5
    for name in ALL_OBJECTS_DICT:
        function = keras.activations.get(name)
        extra = (0.5, 0.0) if name == "threshold" else ()
        before, after = (np.asarray(function(x, *extra)) for x in (numbers, changed))
        apart = before.shape == after.shape == (3, 4)
        apart = apart and np.allclose(before[:, 1:], after[:, 1:], atol=1e-6)
        assert is_elementwise(name) == apart, name


def test_a_layer_in_the_place_of_an_activation():
    import keras

    for layer, expected in ((keras.layers.LeakyReLU(), True), (keras.layers.Softmax(), False)):
        config = keras.layers.Conv2D(2, 3, activation=layer).get_config()
        assert is_elementwise(config["activation"]) == expected
