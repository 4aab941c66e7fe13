"""Models in models: the flat graph on paper, and what real Keras makes of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.model_files.describe import describe_model
from goodnet.model_files.inlining import inline_models
from goodnet.model_files.load import load_model, save_model
from goodnet.pruning.layer_choice import choose_layers
from tests.model_files.descriptions import Config, describe, make_functional, make_layer
from tests.zoo import make_images, set_random_weights

SHAPE = (12, 12, 3)
IMAGES = make_images(6, SHAPE, seed=4).astype("float32")


def make_image(name: str = "image", **config: object) -> Config:
    return make_layer("InputLayer", name, **{"batch_shape": [None, *SHAPE], **config})


def make_model(name: str, *layers: Config, inputs: tuple[str, ...] = ("image",)) -> Config:
    """A model in a model, called once for each of its inputs here."""
    nodes = [make_layer("", "", source)["inbound_nodes"][0] for source in inputs]
    return make_functional(list(layers), name=name) | {"name": name, "inbound_nodes": nodes}


def make_base(*, inputs: tuple[str, ...] = ("image",)) -> Config:
    layers = (
        make_image("pixels"),
        make_layer("Conv2D", "conv", "pixels", filters=4),
        make_layer("MaxPooling2D", "pool", "conv"),
    )
    return make_model("base", *layers, inputs=inputs)


def make_head(source: str) -> list[Config]:
    return [
        make_layer("GlobalMaxPooling2D", "gather", source),
        make_layer("Dense", "answer", "gather", units=5),
    ]


def inline(*layers: Config) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Return what feeds each layer of the flat graph, and where it stood."""
    from goodnet.model_files.layer_graph import read_graph

    inlined = inline_models(make_functional(list(layers)), where="net", max_layers=100)
    graph = read_graph(inlined.config, where="net", max_layers=100)
    return {layer.name: layer.inputs for layer in graph.layers}, inlined.paths


def test_the_layers_of_a_model_take_its_place():
    feeds, paths = inline(make_image(), make_base(), *make_head("base"))
    assert feeds == {
        "image": (),
        "base.conv": ("image",),
        "base.pool": ("base.conv",),
        "gather": ("base.pool",),
        "answer": ("gather",),
    }
    assert paths["base.conv"] == ("base", "conv")
    assert paths["gather"] == ("gather",)


def test_a_model_without_models_is_left_as_it_is():
    net = make_functional([make_image(), *make_head("image")])
    assert inline_models(net, where="net", max_layers=10).config is net


def test_models_in_models_in_models():
    base, relu = make_base(inputs=("pixels",)), make_layer("ReLU", "relu", "base")
    outer = make_model("outer", make_image("pixels"), base, relu)
    feeds, paths = inline(make_image(), outer, *make_head("outer"))
    inside = ["outer.base.conv", "outer.base.pool", "outer.relu"]
    assert list(feeds) == ["image", *inside, "gather", "answer"]
    assert feeds["outer.relu"] == ("outer.base.pool",)
    assert paths["outer.base.conv"] == ("outer", "base", "conv")


def test_names_that_a_layer_has_already_get_a_line_behind_them():
    taken = make_layer("Conv2D", "base.conv", "base", filters=4)
    feeds, paths = inline(make_image(), make_base(), taken, *make_head("base.conv"))
    assert feeds["base.conv_"] == ("image",)
    assert feeds["base.conv"] == ("base.pool",)
    assert paths["base.conv_"] == ("base", "conv")


def test_a_model_that_is_called_twice_is_shared():
    twice = make_base(inputs=("image", "flip"))
    flip = make_layer("RandomFlip", "flip", "image")
    join = make_layer("Concatenate", "join", "base", "base", axis=-1)
    join["inbound_nodes"][0]["args"][0][1]["config"]["keras_history"][1] = 1
    net = make_functional([make_image(), flip, twice, join, *make_head("join")])
    inlined = inline_models(net, where="net", max_layers=100)
    conv = next(item for item in inlined.config["config"]["layers"] if item["name"] == "base.conv")
    (joined,) = (item for item in inlined.config["config"]["layers"] if item["name"] == "join")
    assert [history_of(node) for node in conv["inbound_nodes"]] == [
        [["image", 0, 0]],
        [["flip", 0, 0]],
    ]
    assert history_of(joined["inbound_nodes"][0]) == [["base.pool", 0, 0], ["base.pool", 1, 0]]


def history_of(node: Config) -> list[Any]:
    return [tensor["config"]["keras_history"] for tensor in node["args"][0]]


def test_a_model_that_is_called_twice_counts_its_classes(tmp_path):
    net = make_functional(
        [
            make_image(),
            make_layer("RandomFlip", "flip", "image"),
            make_base(inputs=("image", "flip")),
            make_layer("GlobalMaxPooling2D", "answer", "base"),
        ]
    )
    described = describe(tmp_path, net)
    assert described.num_classes == 4
    assert [item.num_calls for item in described.layers] == [1, 1, 2, 2, 1]
    with pytest.raises(InputError, match="has no layer that gives spatial features"):
        choose_layers(described, layer=None, rank_at=None)


KINDS = {
    "whole numbers inside": ("float32", "uint8", "Cast"),
    "real numbers inside": ("uint8", "float32", "Cast"),
    "half precision inside": ("float32", "float16", None),
    "the same": ("uint8", "uint8", None),
}


@pytest.mark.parametrize(("outside", "inside", "expected"), KINDS.values(), ids=KINDS.keys())
def test_an_input_of_another_kind_stays_as_a_cast(outside, inside, expected):
    scale = make_model(
        "scale", make_image("pixels", dtype=inside), make_layer("Rescaling", "by", "pixels")
    )
    net = make_functional([make_image(dtype=outside), scale, *make_head("scale")])
    inlined = inline_models(net, where="net", max_layers=100).config
    classes = {item["name"]: item["class_name"] for item in inlined["config"]["layers"]}
    assert classes.get("scale.pixels") == expected


def with_many_values() -> list[Config]:
    base = make_base(inputs=("image",) * 1001)
    base["config"]["layers"][1]["inbound_nodes"][0]["args"].append([[0.5]] * 1000)
    return [make_image(), base, *make_head("base")]


def with_second_input() -> list[Config]:
    base = make_base()
    base["config"]["layers"].insert(1, make_image("more"))
    base["config"]["input_layers"] = [["pixels", 0, 0], ["more", 0, 0]]
    return [make_image(), base, *make_head("base")]


def without_input_layer() -> list[Config]:
    base = make_base()
    base["config"]["input_layers"] = ["conv", 0, 0]
    return [make_image(), base, *make_head("base")]


def with_doubled_name() -> list[Config]:
    base = make_base()
    base["config"]["layers"].append(make_layer("ReLU", "conv", "pool"))
    return [make_image(), base, *make_head("base")]


def with_unknown_output() -> list[Config]:
    head = make_head("base")
    head[0]["inbound_nodes"][0]["args"][0][0]["config"]["keras_history"] = ["base", 0, 3]
    return [make_image(), make_base(), *head]


BAD_MODELS = {
    "too many values": (with_many_values, "net: calls models with more than 1,000,000 values"),
    "second input": (
        with_second_input,
        "net: layer `base` is a model that gets 1 tensors, expected 2",
    ),
    "no input layer": (
        without_input_layer,
        "net: layer `base`: begins with layer `conv`, expected an input layer",
    ),
    "damage": (with_doubled_name, "net: layer `base`: has two layers named `conv`"),
    "unknown output": (with_unknown_output, "net: model `base` has no output 3"),
}


@pytest.mark.parametrize(("make", "message"), BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_refuses_models_in_models(make, message):
    with pytest.raises(InputError) as caught:
        inline(*make())
    assert str(caught.value).startswith(message)


def build_base(name: str = "base"):
    import keras
    from keras import layers

    pixels = keras.Input((None, None, 3), name="pixels")
    features = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(pixels)
    features = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(features))
    features = layers.Add(name="add")([features, layers.Conv2D(6, 1, name="short")(pixels)])
    return keras.Model(pixels, layers.MaxPooling2D(2, name="pool")(features), name=name)


def build_head():
    import keras
    from keras import layers

    parts = [layers.GlobalAveragePooling2D(), layers.Dropout(0.3), layers.Dense(5, name="dense")]
    return keras.Sequential(parts, name="head")


def functional(layers, image):
    import keras

    augment = [layers.RandomFlip(), layers.RandomRotation(0.2)]
    augmented = keras.Sequential(augment, name="augment")(image)
    return build_head()(build_base()(layers.Rescaling(1 / 255)(augmented), training=False))


def sequential(layers, image):
    import keras

    parts = [keras.Input(SHAPE), layers.Rescaling(1 / 255), layers.RandomZoom(0.1), build_base()]
    return keras.Sequential([*parts, build_head()])


def model_first(layers, image):
    import keras

    parts = [build_base(), layers.ReLU(), build_head()]
    return keras.Sequential([keras.Input(SHAPE), *parts])


def two_levels(layers, image):
    import keras

    inner = keras.Input(SHAPE, name="inner_pixels")
    wrapped = keras.Model(inner, build_base()(layers.Rescaling(1 / 255)(inner)), name="wrapped")
    return build_head()(wrapped(image))


def three_levels(layers, image):
    """As a ConvNeXt, whose stem is a model, stands in a model that prepares its images."""
    import keras

    stem = keras.Sequential([layers.Conv2D(4, 2, strides=2), layers.ReLU()], name="stem")
    pixels, inner = keras.Input(SHAPE), keras.Input(SHAPE)
    features = layers.Conv2D(6, 3, padding="same", name="conv")(stem(pixels))
    base = keras.Model(pixels, layers.LayerNormalization(name="norm")(features), name="base")
    wrapped = keras.Model(inner, base(layers.Rescaling(1 / 255)(inner)), name="wrapped")
    return build_head()(wrapped(image))


def the_answer(layers, image):
    import keras

    inner = keras.Input(SHAPE)
    return keras.Model(inner, build_head()(build_base()(inner)), name="whole")(image)


def called_twice(layers, image):
    base = build_base()
    other = layers.Rescaling(-1 / 255, 1.0)(image)
    joined = layers.Concatenate()([base(layers.Rescaling(1 / 255)(image)), base(other)])
    return build_head()(layers.Conv2D(4, 3, name="behind")(joined))


def called_on_its_own_answer(layers, image):
    """A layer with three calls in a model with two of which one feeds the other."""
    import keras

    inner = keras.Input(SHAPE)
    conv = layers.Conv2D(3, 3, padding="same", activation="tanh", name="conv")
    block = keras.Model(inner, layers.Average()([conv(conv(inner)), conv(inner)]), name="block")
    seen = layers.Conv2D(3, 3, padding="same", name="before")(layers.Rescaling(1 / 255)(image))
    return build_head()(layers.Subtract()([block(seen), block(block(seen))]))


def several_ends(layers, image):
    import keras

    one, two = keras.Input(SHAPE), keras.Input(SHAPE)
    seen = layers.Conv2D(3, 3, name="conv")(layers.Subtract()([two, one]))
    inner = keras.Model([two, one], [seen, layers.Conv2D(4, 1)(seen)], name="inner")
    first, second = inner([layers.Rescaling(1 / 255)(image), layers.Rescaling(1 / 99)(image)])
    return build_head()(layers.Concatenate()([second, first]))


def whole_numbers(layers, image):
    import keras

    pixels = keras.Input(SHAPE, dtype="uint8")
    scale = keras.Model(pixels, layers.Rescaling(1 / 255)(pixels), name="scale")
    return build_head()(build_base()(scale(layers.Rescaling(0.3)(image))))


def normalized(layers, image):
    import keras

    prepare = keras.Sequential([keras.Input(SHAPE), layers.Normalization()], name="prepare")
    return build_head()(build_base()(prepare(image)))


def half_precision(layers, image):
    import keras

    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        return build_head()(build_base()(layers.Rescaling(1 / 255)(image)))
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


NETS: dict[Callable[[Any, Any], Any], tuple[str, str]] = {
    functional: ("base.add", "base.pool"),
    sequential: ("base.add", "base.pool"),
    model_first: ("base.add", "base.pool"),
    two_levels: ("wrapped.base.add", "wrapped.base.pool"),
    three_levels: ("wrapped.base.norm", "head.global_average_pooling2d"),
    the_answer: ("whole.base.add", "whole.base.pool"),
    called_twice: ("behind", "head.global_average_pooling2d"),
    called_on_its_own_answer: ("subtract", "head.global_average_pooling2d"),
    several_ends: ("concatenate", "head.global_average_pooling2d"),
    whole_numbers: ("base.add", "base.pool"),
    normalized: ("base.add", "base.pool"),
    half_precision: ("base.add", "base.pool"),
}
"""Nets with models in them, and where each is pruned and ranked by default."""


KINDS_OF_FILES = [
    *((build, "keras") for build in NETS),
    *(
        (build, "h5")
        for build in (functional, three_levels, called_twice, several_ends, normalized)
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "kind"),
    KINDS_OF_FILES,
    ids=[f"{build.__name__} {kind}" for build, kind in KINDS_OF_FILES],
)
def test_the_flat_net_answers_as_the_one_in_the_file(tmp_path, build, kind):
    import keras

    keras.backend.clear_session()  # for the numbers in the names
    image = keras.Input(SHAPE, name="image")
    model = build(keras.layers, image)
    model = model if isinstance(model, keras.Model) else keras.Model(image, model)
    set_random_weights(model, seed=1)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.adapt(IMAGES)
    expected = np.asarray(model(IMAGES, training=False))
    assert np.ptp(expected.astype("float32"), axis=0).max() > 0.05
    path = tmp_path / f"net.{kind}"
    model.save(path)

    description, loaded = describe_model(path), load_model(path)
    reach = 1e-2 if build is half_precision else 1e-5
    np.testing.assert_allclose(np.asarray(loaded(IMAGES, training=False)), expected, atol=reach)
    names = [item.name for item in description.layers]
    assert sorted(names) == sorted(operation.name for operation in loaded.operations)
    assert not any(isinstance(layer, keras.Model) for layer in loaded.layers)
    assert description.num_classes == 5
    assert choose_layers(description, layer=None, rank_at=None) == NETS[build]

    save_model(loaded, tmp_path / "saved.keras")
    again = keras.saving.load_model(tmp_path / "saved.keras")
    np.testing.assert_array_equal(
        np.asarray(again(IMAGES, training=False)), np.asarray(loaded(IMAGES, training=False))
    )


def test_a_net_that_answers_otherwise_once_it_is_flat_is_refused(tmp_path):
    """The inner input makes real numbers of whole ones, which only the operation knows of."""
    import keras

    image = keras.Input(SHAPE)
    inner = keras.Input(SHAPE)
    double = keras.Model(inner, keras.layers.Add()([inner, inner]), name="double")
    features = keras.layers.Rescaling(1 / 255)(double(keras.ops.cast(image, "uint8")))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(features))
    keras.Model(image, keras.layers.Dense(5)(pooled)).save(tmp_path / "net.keras")
    with pytest.raises(InputError, match="answers otherwise once the models in it are put into"):
        load_model(tmp_path / "net.keras")
