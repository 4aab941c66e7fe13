"""Small nets of every architecture that a sweep must get through, with random weights."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytest

NUM_CLASSES = 5


class Network(NamedTuple):
    """A net, images for it, and what is known of how its answers follow from a convolution.

    `linear` are the layers whose pre-activations a sweep updates, `activations` those whose
    outputs it masks, `start` the one that it starts from, `skips` those that it needs besides.
    """

    model: Any
    images: np.ndarray
    layer: str
    rank_at: str
    linear: set[str]
    activations: set[str]
    start: str
    skips: set[str]


class Architecture(NamedTuple):
    build: Callable[[Any, Any], Any]
    linear: str = ""
    activations: str = ""
    start: str = "rank"
    skips: str = ""
    rank_at: str = "rank"
    layer: str = "conv"
    shape: tuple[int, int, int] = (12, 12, 3)


def _classify(layers, x, **options):
    return layers.Dense(NUM_CLASSES, name="answer", **{"activation": "softmax"} | options)(x)


def _pooled(layers, x, *, channels=8, **options):
    x = layers.Conv2D(channels, 3, name="conv", **{"activation": "relu"} | options)(x)
    return layers.MaxPooling2D(2, name="rank")(x)


def plain(layers, x):
    return _classify(layers, layers.Flatten()(_pooled(layers, x)))


def flatten_then_dropout(layers, x):
    x = layers.Dropout(0.5)(layers.Flatten()(_pooled(layers, x)))
    return _classify(layers, x)


def flatten_then_normalize(layers, x):
    x = layers.BatchNormalization()(layers.Flatten()(_pooled(layers, x)))
    return _classify(layers, layers.ReLU()(x))


def batch_normalization(layers, x):
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(x)
    x = layers.ReLU(name="rank")(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(6, 3, activation="relu", name="mix")(x)
    return _classify(layers, layers.GlobalMaxPooling2D()(x))


def normalization_behind_activation(layers, x):
    x = layers.Conv2D(8, 3, activation="sigmoid", padding="same", name="conv")(x)
    x = layers.BatchNormalization(name="rank")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="mix")(x)
    return _classify(layers, layers.GlobalMaxPooling2D()(x))


def global_average(layers, x):
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    return _classify(layers, layers.GlobalAveragePooling2D(name="rank")(x))


def residual_behind(layers, x):
    x = _pooled(layers, x)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="mix")(x)
    y = layers.Conv2D(8, 3, padding="same")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    return _classify(layers, layers.GlobalMaxPooling2D()(x))


def residual_with_projection(layers, x):
    x = _pooled(layers, x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="mix")(x)
    y = layers.Conv2D(6, 3, padding="same")(y)
    x = layers.Conv2D(6, 1, use_bias=False, name="project")(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    return _classify(layers, layers.GlobalMaxPooling2D()(x))


def residual_from_before(layers, x):
    skip = layers.Conv2D(20, 3, padding="same", activation="relu", name="before")(x)
    x = layers.Conv2D(20, 3, padding="same", activation="relu", name="conv")(skip)
    x = layers.Add(name="rank")([x, skip])
    x = layers.ReLU()(x)
    x = layers.Conv2D(6, 3, activation="relu", name="mix")(x)
    return _classify(layers, layers.GlobalMaxPooling2D()(x))


def skip_from_the_image(layers, x):
    image = layers.Flatten(name="pixels")(x)
    x = layers.Dense(7, activation="tanh", name="mix")(layers.Flatten()(_pooled(layers, x)))
    return _classify(layers, layers.Concatenate()([x, image]))


def concatenated_with_the_image(layers, x):
    y = layers.Conv2D(8, 3, padding="same", activation="sigmoid", name="conv")(x)
    y = layers.Conv2D(6, 3, activation="relu")(layers.Concatenate()([y, x]))
    return _classify(layers, layers.GlobalMaxPooling2D()(y))


def merges_with_skips(layers, x):
    skip = layers.Conv2D(8, 3, activation="sigmoid", name="before")(x)
    x = layers.Conv2D(8, 3, activation="sigmoid", name="conv")(x)
    x = layers.Maximum()([layers.Multiply()([x, skip]), layers.Average()([x, skip])])
    x = layers.Subtract()([x, skip])
    return _classify(layers, layers.Flatten()(layers.MaxPooling2D(3)(x)))


def sigmoid(layers, x):
    x = layers.Conv2D(8, 3, activation="sigmoid", name="conv")(x)
    x = layers.AveragePooling2D(2, name="rank")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="sigmoid", name="mix")(x)
    return _classify(layers, layers.Flatten()(x), activation="sigmoid")


def many_convolutions(layers, x):
    x = layers.Conv2D(8, 3, activation="softplus", name="conv")(x)
    x = layers.ELU(name="rank")(x)
    read = [
        layers.Conv2D(4, 3, strides=2, name="strided")(x),
        layers.Conv2D(4, (3, 2), dilation_rate=2, name="dilated")(x),
        layers.Conv2D(4, (2, 3), strides=(3, 2), padding="same", name="padded")(x),
        layers.Conv2D(4, 3, dilation_rate=2, padding="same", name="both")(x),
        layers.Conv2D(4, 1, strides=3, padding="same", use_bias=False, name="sparse")(x),
        layers.Conv2D(4, 2, name="mix")(layers.DepthwiseConv2D(3, padding="same", strides=2)(x)),
    ]
    features = [layers.GlobalMaxPooling2D()(y) for y in read]
    return _classify(layers, layers.ReLU()(layers.Concatenate()(features)))


def branches_that_fall_silent_apart(layers, x):
    x = layers.Conv2D(8, 3, name="conv")(x)
    above = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    below = layers.GlobalAveragePooling2D()(layers.Activation("tanh")(x))
    read = [layers.Dense(6, name=name)(y) for name, y in (("mix", above), ("wide", below))]
    return _classify(layers, layers.ReLU()(layers.Concatenate()(read)))


def spatial_layers(layers, x):
    x = layers.Conv2D(8, 3, activation="sigmoid", name="conv")(x)
    x = layers.ZeroPadding2D(((1, 0), (2, 1)))(x)
    x = layers.AveragePooling2D(2, padding="same")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Cropping2D(((1, 2), (0, 1)), name="rank")(x)
    x = layers.SpatialDropout2D(0.3)(layers.PReLU(shared_axes=[1])(x))
    return _classify(layers, layers.Flatten()(x))


def in_the_middle(layers, x):
    x = layers.MaxPooling2D(2)(layers.Conv2D(6, 3, activation="relu")(x))
    x = layers.Conv2D(8, 2, activation="relu", name="conv")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(6, 2, activation="relu", name="mix")(x)
    return _classify(layers, layers.Flatten()(x))


def ranked_on_a_branch(layers, x):
    x = layers.Conv2D(20, 3, activation="relu", name="conv")(x)
    y = layers.Flatten()(layers.MaxPooling2D(4, name="rank")(x))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu", name="mix")(x))
    x = layers.Add()([x, layers.Dense(6, name="wide")(y)])
    return _classify(layers, layers.ReLU()(x))


def softmax_over_channels(layers, x):
    return _classify(layers, layers.Flatten()(layers.Softmax()(_pooled(layers, x))))


def layer_normalization(layers, x):
    x = layers.LayerNormalization()(_pooled(layers, x, activation="sigmoid"))
    return _classify(layers, layers.Flatten()(x))


def grouped_convolution(layers, x):
    x = layers.Conv2D(6, 3, groups=2, activation="relu")(_pooled(layers, x))
    return _classify(layers, layers.Flatten()(x))


def other_convolutions_behind(layers, x):
    x = _pooled(layers, x)
    read = [
        layers.SeparableConv2D(4, 3)(x),
        layers.DepthwiseConv2D(3, depth_multiplier=2)(x),
        layers.Conv2DTranspose(4, 3, strides=2)(x),
    ]
    features = [layers.GlobalMaxPooling2D()(y) for y in read]
    return _classify(layers, layers.Concatenate()(features))


def transposed(layers, x):
    x = layers.Conv2DTranspose(8, 3, strides=2, activation="relu", name="conv")(x)
    x = layers.MaxPooling2D(3, name="rank")(x)
    return _classify(layers, layers.Flatten()(x))


def separable(layers, x):
    x = layers.SeparableConv2D(8, 3, activation="relu", name="conv")(x)
    return _classify(layers, layers.Flatten()(layers.MaxPooling2D(2, name="rank")(x)))


def depthwise(layers, x):
    x = layers.DepthwiseConv2D(3, depth_multiplier=3, activation="relu", name="conv")(x)
    return _classify(layers, layers.Flatten()(layers.MaxPooling2D(2, name="rank")(x)))


def softmax_layer(layers, x):
    x = layers.Flatten()(_pooled(layers, x))
    return layers.Softmax()(_classify(layers, x, activation=None))


def softmax_activation(layers, x):
    x = layers.Dense(6, activation="relu", name="mix")(layers.Flatten()(_pooled(layers, x)))
    return layers.Activation("softmax")(_classify(layers, x, activation=None))


def log_softmax(layers, x):
    x = layers.Flatten()(_pooled(layers, x))
    return layers.Activation("log_softmax")(_classify(layers, x, activation=None))


def logits(layers, x):
    return _classify(layers, layers.Flatten()(_pooled(layers, x)), activation=None)


def averaged_maps(layers, x):
    x = layers.Conv2D(NUM_CLASSES, 3, name="mix")(_pooled(layers, x))
    return layers.Softmax()(layers.GlobalAveragePooling2D()(x))


def channels_are_answers(layers, x):
    x = layers.Conv2D(NUM_CLASSES, 3, name="conv")(x)
    return layers.Activation("softmax")(layers.GlobalAveragePooling2D(name="rank")(x))


def channels_are_logits(layers, x):
    x = layers.Conv2D(NUM_CLASSES, 3, name="conv")(x)
    return layers.GlobalMaxPooling2D(name="rank")(x)


def dense_at_every_position(layers, x):
    x = layers.Dense(6, activation="relu", name="mix")(_pooled(layers, x))
    return _classify(layers, layers.GlobalMaxPooling2D()(x))


def squeeze_and_excite(layers, x):
    x = _pooled(layers, x)
    y = layers.Dense(4, activation="relu", name="mix")(layers.GlobalAveragePooling2D()(x))
    y = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid")(y))
    return _classify(layers, layers.Flatten()(layers.Multiply()([x, y])))


def operators(layers, x):
    from keras import ops

    skip = layers.Conv2D(8, 3, activation="relu", name="before")(x)
    x = layers.Conv2D(8, 3, activation="sigmoid", name="conv")(x) - skip
    x = layers.MaxPooling2D(2, name="pool")(x * 2.0)
    largest = ops.max(skip, axis=(1, 2), keepdims=True)
    # Keras numbers such names over all nets of a process.
    largest._keras_history.operation.name = "max"
    x = ops.relu(x) + largest
    return _classify(layers, layers.Flatten()(x))


def mean_over_channels(layers, x):
    from keras import ops

    x = layers.Conv2D(10, 3, activation="relu", name="conv")(x)
    return _classify(layers, layers.Flatten()(ops.mean(x, axis=-1)))


def broadcast_over_channels(layers, x):
    gate = layers.Conv2D(1, 3, activation="sigmoid", name="gate")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    return _classify(layers, layers.Flatten()(layers.Multiply(name="rank")([x, gate])))


def nested_head(layers, x):
    import keras

    head = [layers.Conv2D(6, 3, activation="relu"), layers.Flatten()]
    x = keras.Sequential(head, name="head")(_pooled(layers, x))
    return _classify(layers, x)


def layer_called_twice(layers, x):
    x = layers.Conv2D(8, 3, activation="sigmoid", name="conv")(x)
    mix = layers.Conv2D(6, 3, activation="relu", name="mix")
    read = [mix(layers.MaxPooling2D(2)(x)), mix(layers.AveragePooling2D(2)(x))]
    return _classify(layers, layers.Flatten()(layers.Concatenate()(read)))


def activation_is_a_layer(layers, x):
    x = _pooled(layers, x, activation=layers.LeakyReLU(negative_slope=0.2))
    return _classify(layers, layers.Flatten()(x))


def end_of_a_block(layers, x):
    skip = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.Conv2D(8, 3, padding="same")(skip)
    x = layers.ReLU(name="conv")(layers.Add()([x, skip]))
    return _classify(layers, layers.GlobalAveragePooling2D(name="rank")(x))


def signed_sum(layers, x):
    skip = layers.Conv2D(8, 3)(x)
    x = layers.Conv2D(8, 3, padding="same", activation="tanh")(skip)
    x = layers.BatchNormalization()(layers.Add(name="conv")([x, skip]))
    x = layers.Conv2D(6, 3, activation="relu", name="mix")(layers.ReLU(name="rank")(x))
    return _classify(layers, layers.GlobalMaxPooling2D()(x))


def concatenated_branches(layers, x):
    read = [layers.Conv2D(4, size, padding="same", activation="relu")(x) for size in (1, 3)]
    x = layers.MaxPooling2D(3, name="rank")(layers.Concatenate(name="conv")(read))
    return _classify(layers, layers.Flatten()(x))


def normalized_end(layers, x):
    skip = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="sigmoid")(skip)
    x = layers.GlobalAveragePooling2D(name="rank")(layers.Add(name="conv")([x, skip]))
    return _classify(layers, layers.LayerNormalization()(x))


def operation_made_by_a_sum(layers, x):
    skip = layers.Conv2D(8, 3, activation="relu", name="before")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="after")(skip)
    x = layers.Activation("linear", name="conv")(x + skip)
    return _classify(layers, layers.GlobalMaxPooling2D(name="rank")(x))


def deepid(layers, x):
    from goodnet.networks.deepid import build_deepid

    return build_deepid(7)


def sequential(layers, x):
    import keras

    return keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(2, name="rank"),
            layers.Flatten(),
            layers.Dense(NUM_CLASSES, activation="softmax", name="answer"),
        ]
    )


ARCHITECTURES = (
    Architecture(plain, linear="answer"),
    Architecture(flatten_then_dropout, linear="answer"),
    Architecture(flatten_then_normalize, linear="answer"),
    Architecture(batch_normalization, linear="mix"),
    Architecture(normalization_behind_activation, linear="mix"),
    Architecture(global_average, linear="answer"),
    Architecture(residual_behind, linear="mix", activations="rank"),
    Architecture(residual_with_projection, linear="mix project"),
    Architecture(residual_from_before, linear="mix", start="conv", skips="before"),
    Architecture(skip_from_the_image, linear="mix", skips="pixels"),
    Architecture(
        concatenated_with_the_image,
        activations="conv",
        start="conv",
        skips="image",
        rank_at="conv",
    ),
    Architecture(merges_with_skips, linear="answer", start="conv", skips="before", rank_at="conv"),
    Architecture(sigmoid, linear="mix"),
    Architecture(many_convolutions, linear="strided dilated padded both sparse mix"),
    Architecture(branches_that_fall_silent_apart, linear="mix wide", start="conv", rank_at="conv"),
    Architecture(spatial_layers, linear="answer"),
    Architecture(in_the_middle, linear="mix", start="conv", rank_at="conv"),
    Architecture(ranked_on_a_branch, linear="mix wide", start="conv"),
    Architecture(softmax_over_channels, activations="rank"),
    Architecture(layer_normalization, activations="rank"),
    Architecture(grouped_convolution, activations="rank"),
    Architecture(other_convolutions_behind, activations="rank"),
    Architecture(transposed, linear="answer"),
    Architecture(separable, linear="answer"),
    Architecture(depthwise, linear="answer"),
    Architecture(softmax_layer, linear="answer"),
    Architecture(softmax_activation, linear="mix"),
    Architecture(log_softmax, linear="answer"),
    Architecture(logits, linear="answer"),
    Architecture(averaged_maps, linear="mix"),
    Architecture(channels_are_answers, activations="rank"),
    Architecture(channels_are_logits, activations="rank"),
    Architecture(dense_at_every_position, linear="mix"),
    Architecture(squeeze_and_excite, linear="mix", activations="rank"),
    Architecture(operators, activations="pool", start="conv", skips="before max", rank_at="conv"),
    Architecture(mean_over_channels, activations="conv", start="conv", rank_at="conv"),
    Architecture(
        broadcast_over_channels, activations="conv", start="conv", skips="gate", rank_at="conv"
    ),
    Architecture(nested_head, activations="rank"),
    Architecture(layer_called_twice, linear="mix", start="conv", rank_at="conv"),
    Architecture(activation_is_a_layer, linear="answer"),
    Architecture(sequential, linear="answer"),
    Architecture(end_of_a_block, linear="answer"),
    Architecture(signed_sum, linear="mix"),
    Architecture(concatenated_branches, linear="answer"),
    Architecture(normalized_end, activations="rank"),
    Architecture(operation_made_by_a_sum, linear="answer"),
    Architecture(
        deepid,
        linear="fc_1 conv_4",
        start="pool_3",
        rank_at="pool_3",
        layer="conv_3",
        shape=(55, 47, 3),
    ),
)


def make_images(num_images: int, shape: tuple[int, int, int], *, seed: int) -> np.ndarray:
    """Make images that differ in colour, contrast and pattern: (n, H, W, C), uint8."""
    rng = np.random.default_rng(seed)
    colour = rng.uniform(0, 1, (num_images, 1, 1, shape[-1]))
    pattern = rng.normal(0, 1, (num_images, *shape)) * rng.uniform(0, 0.4, (num_images, 1, 1, 1))
    return (255 * np.clip(colour + pattern, 0, 1)).astype(np.uint8)


def set_random_weights(model, *, seed: int) -> None:
    """Give every layer weights under which activations neither vanish nor grow."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if weight.name in ("gamma", "moving_variance", "alpha"):
            values = rng.uniform(0.3, 1.5, shape)
        elif len(shape) == 1:
            values = rng.normal(0, 0.3, shape)
        else:
            values = rng.normal(0, 1.5 / np.sqrt(np.prod(shape[:-1])), shape)
        weight.assign(values)


def centre_answers(model, images) -> None:
    """Shift the biases of the answers so that no class wins on all images."""
    answers = np.asarray(model(images, training=False))
    if np.allclose(answers.sum(1), 1, atol=1e-4):
        answers = np.log(answers)
    elif answers.min() >= 0 and answers.max() <= 1:
        answers = np.log(answers / (1 - answers))
    bias = next(layer for layer in reversed(model.layers) if layer.weights).bias
    bias.assign(bias - answers.mean(axis=0))


@lru_cache
def _build(architecture: Architecture) -> Network:
    import keras

    image = keras.Input(architecture.shape, name="image")
    model = architecture.build(keras.layers, image)
    if not isinstance(model, keras.Model):
        model = keras.Model(image, model)
    set_random_weights(model, seed=0)
    images = make_images(24, architecture.shape, seed=0)
    centre_answers(model, images / np.float32(255))
    return Network(
        model,
        images,
        architecture.layer,
        architecture.rank_at,
        set(architecture.linear.split()),
        set(architecture.activations.split()),
        architecture.start,
        set(architecture.skips.split()),
    )


BY_NAME = {architecture.build.__name__: architecture for architecture in ARCHITECTURES}


@pytest.fixture(params=BY_NAME)
def network(request) -> Network:
    """Each of the small nets in turn, or those that `parametrize` names with `indirect=True`."""
    return _build(BY_NAME[request.param])
