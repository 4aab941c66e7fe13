import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.model_files.describe import describe_model
from goodnet.model_files.limits import ModelLimits
from goodnet.pruning.layer_choice import choose_layers
from tests.badnets import LAB
from tests.model_files.descriptions import (
    Config,
    describe,
    make_functional,
    make_layer,
    write_archive,
)


def make_net() -> Config:
    return make_functional(
        [
            make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
            make_layer("Conv2D", "conv", "image", filters=4, activation="relu"),
            make_layer("MaxPooling2D", "pool", "conv"),
            make_layer("Flatten", "flat", "pool"),
            make_layer("Dense", "answer", "flat", units=5, activation="softmax"),
        ]
    )


def make_chain(*layers: tuple[str, str] | tuple[str, str, dict[str, Any]]) -> Config:
    """A functional model of layers one after the other, between an input and a classifier."""
    items = [make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3])]
    closing = (("GlobalMaxPooling2D", "gather"), ("Dense", "answer", {"units": 5}))
    for class_name, name, *config in (*layers, *closing):
        items.append(make_layer(class_name, name, items[-1]["name"], **dict(*config)))
    return make_functional(items)


def write_hdf5(path: Path, config: object) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config) if isinstance(config, dict) else config
        file["model_weights/answer/kernel"] = np.zeros((4, 5), "f4")
    return path


def choose(tmp_path: Path, config: Config, layer: str | None = None, rank_at: str | None = None):
    return choose_layers(describe(tmp_path, config), layer=layer, rank_at=rank_at)


def test_describes_a_functional_archive(tmp_path):
    description = describe(tmp_path, make_net())
    assert description.kind == "keras archive"
    assert description.input_shape == (8, 6, 3)
    assert description.num_classes == 5
    assert description.num_parameters == 20
    assert description.output == "answer"
    assert [(item.name, item.class_name, item.inputs) for item in description.layers] == [
        ("image", "InputLayer", ()),
        ("conv", "Conv2D", ("image",)),
        ("pool", "MaxPooling2D", ("conv",)),
        ("flat", "Flatten", ("pool",)),
        ("answer", "Dense", ("flat",)),
    ]


def test_layers_out_of_order_are_sorted(tmp_path):
    net = make_net()
    net["config"]["layers"] = net["config"]["layers"][::-1]
    names = [item.name for item in describe(tmp_path, net).layers]
    assert names == ["image", "conv", "pool", "flat", "answer"]


@pytest.mark.parametrize("as_bytes", [True, False], ids=["Keras 2.3", "Keras 2.4"])
def test_describes_a_keras_2_model(tmp_path, as_bytes):
    layers = [
        {
            "class_name": "InputLayer",
            "config": {"batch_input_shape": [None, 8, 6, 3], "name": "image"},
            "name": "image",
            "inbound_nodes": [],
        },
        {
            "class_name": "Conv2D",
            "config": {"name": "conv", "filters": 4, "activation": "relu"},
            "name": "conv",
            "inbound_nodes": [[["image", 0, 0, {}]]],
        },
        {
            "class_name": "Add",
            "config": {"name": "twice"},
            "name": "twice",
            "inbound_nodes": [[["conv", 0, 0, {}], ["conv", 0, 0, {}]]],
        },
        {
            "class_name": "GlobalAveragePooling2D",
            "config": {"name": "answer"},
            "name": "answer",
            "inbound_nodes": [[["twice", 0, 0, {}]]],
        },
    ]
    config = {"name": "net", "layers": layers}
    config |= {"input_layers": [["image", 0, 0]], "output_layers": [["answer", 0, 0]]}
    text = json.dumps({"class_name": "Model", "config": config})
    path = write_hdf5(tmp_path / "net.h5", np.bytes_(text) if as_bytes else text)
    description = describe_model(path)
    assert (description.kind, description.num_classes) == ("hdf5 model", 4)
    assert [item.inputs for item in description.layers] == [(), ("image",), ("conv",), ("twice",)]


def make_sequential(*layers: Config, **config: object) -> Config:
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "net", "layers": list(layers), **config},
        "registered_name": None,
    }


SEQUENTIAL_INPUTS = {
    "input layer": ([make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3])], {}, {}),
    "first layer": ([], {"batch_input_shape": [None, 8, 6, 3]}, {}),
    "build shape": ([], {}, {"build_input_shape": [None, 8, 6, 3]}),
}


@pytest.mark.parametrize(
    ("first", "layer_config", "model_config"),
    SEQUENTIAL_INPUTS.values(),
    ids=SEQUENTIAL_INPUTS.keys(),
)
def test_describes_a_sequential_model(tmp_path, first, layer_config, model_config):
    net = make_sequential(
        *first,
        make_layer("Conv2D", "conv", filters=4, **layer_config),
        make_layer("GlobalMaxPooling2D", "gather"),
        make_layer("Dense", "answer", units=5),
        **model_config,
    )
    description = describe(tmp_path, net)
    assert (description.input_shape, description.num_classes) == ((8, 6, 3), 5)
    assert description.layers[-1].inputs == ("gather",)


def make_nested(depth: int) -> Config:
    inner = make_net()
    for number in range(depth):
        inner = make_sequential(
            make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]), inner
        )
        inner["config"]["name"] = f"outer_{number}"
    return inner


def test_nested_models_count_their_classes(tmp_path):
    assert describe(tmp_path, make_nested(3)).num_classes == 5


def test_an_answer_out_of_ops_leaves_the_classes_to_keras(tmp_path):
    net = make_net()
    net["config"]["layers"].append(
        make_layer("Sort", "masked", "answer") | {"module": "keras.src.ops.numpy"}
    )
    net["config"]["output_layers"] = ["masked", 0, 0]
    assert describe(tmp_path, net).num_classes is None


def test_a_shape_of_no_axes_leaves_the_classes_to_keras(tmp_path):
    net = make_chain(("Conv2D", "conv"), ("Reshape", "flat", {"target_shape": []}))
    assert describe(tmp_path, net).num_classes is None


def test_optimizer_state_is_no_parameter(tmp_path):
    path = write_hdf5(tmp_path / "net.h5", make_net())
    with h5py.File(path, "a") as file:
        file["optimizer_weights/adam/momentum"] = np.zeros(100)
    assert describe_model(path).num_parameters == 20


def test_describing_imports_no_tensorflow(tmp_path):
    path = write_archive(tmp_path / "net.keras", make_net())
    script = (
        "import sys, pathlib; from goodnet.model_files.describe import describe_model;"
        f"describe_model(pathlib.Path({str(path)!r}));"
        "print({'keras', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "set()"


def set_layer(index: int, **changes: object) -> Callable[[Config], object]:
    return lambda net: net["config"]["layers"][index].update(changes)


def set_config(index: int, **changes: object) -> Callable[[Config], object]:
    return lambda net: net["config"]["layers"][index]["config"].update(changes)


def set_model(**changes: object) -> Callable[[Config], object]:
    return lambda net: net["config"].update(changes)


def add_layer(*arguments: str, **config: object) -> Callable[[Config], object]:
    return lambda net: net["config"]["layers"].append(make_layer(*arguments, **config))


def set_answer(*layers: Config) -> Callable[[Config], object]:
    """Let further layers, the last of them the output, follow the layer `pool`."""

    def change(net: Config) -> None:
        net["config"]["layers"] = [*net["config"]["layers"][:3], *layers]
        net["config"]["output_layers"] = [layers[-1]["name"], 0, 0]

    return change


def feed_back(net: Config) -> None:
    net["config"]["layers"][1] = make_layer("Conv2D", "conv", "pool", filters=4)


BAD_CONFIGS = {
    "lambda": (set_layer(2, class_name="Lambda"), "layer `pool` uses `Lambda`"),
    "saved model": (set_layer(2, class_name="TFSMLayer"), "layer `pool` uses `TFSMLayer`"),
    "torch wrapper": (set_layer(2, class_name="TorchModuleWrapper"), "uses `TorchModuleWrapper`"),
    "other module": (set_layer(2, module="os"), "layer `pool` uses `MaxPooling2D` of module `os`"),
    "module is a list": (set_layer(2, module=["keras.layers"]), "of module `['keras.layers']`"),
    "private module": (set_layer(2, module="keras.src.utils"), "of module `keras.src.utils`"),
    "registered": (
        set_layer(2, registered_name="mine>Pool"),
        "layer `pool` uses the registered object `mine>Pool`",
    ),
    "class is a list": (set_layer(2, class_name=["Lambda"]), "layer `pool` uses `['Lambda']`"),
    "class is missing": (
        lambda net: net["config"]["layers"][2].pop("class_name"),
        "layer `pool` uses `None`",
    ),
    "activation name": (
        set_config(1, activation="evil"),
        "layer `conv` has the unknown activation `evil`",
    ),
    "activation function": (
        set_config(1, activation={"class_name": "function", "config": "system", "module": "os"}),
        "layer `conv` uses `function` of module `os`",
    ),
    "python lambda": (
        set_config(1, activation={"class_name": "__lambda__", "config": {"code": "4wAA"}}),
        "layer `conv` uses `__lambda__`",
    ),
    "type spec": (
        set_config(1, note={"class_name": "__typespec__", "config": []}),
        "layer `conv` uses `__typespec__`",
    ),
    "initializer object": (
        set_config(
            1,
            kernel_initializer={"module": "mine", "class_name": "Zeros", "config": {}},
        ),
        "layer `conv` uses `Zeros` of module `mine`",
    ),
    "initializer name": (
        set_config(1, kernel_initializer="mine"),
        "layer `conv` has the unknown kernel_initializer `mine`",
    ),
    "regularizer": (
        set_config(1, kernel_regularizer={"class_name": "Mine", "config": {}}),
        "layer `conv` has a kernel_regularizer of class `Mine`, expected a stock regularizer",
    ),
    "constraint": (set_config(1, bias_constraint="mine"), "unknown bias_constraint `mine`"),
    "dtype": (set_config(1, dtype="object"), "layer `conv` has the unknown dtype `object`"),
    "array of objects": (
        set_config(1, note={"class_name": "__numpy__", "config": {"value": [], "dtype": "O"}}),
        "unknown dtype `O`",
    ),
    "quantized": (
        set_config(1, dtype={"module": "keras", "class_name": "QuantizedDTypePolicy"}),
        "layer `conv` has a dtype of class `QuantizedDTypePolicy`, expected a stock dtype",
    ),
    "unknown policy": (
        set_config(1, dtype={"class_name": "DTypePolicy", "config": {"name": "mixed_evil"}}),
        "layer `conv` has the unknown dtype `mixed_evil`",
    ),
    "layer as a dtype": (
        set_config(1, dtype=make_layer("Dense", "wide", units=10**9)),
        "has a dtype of class `Dense`, expected a stock dtype",
    ),
    "list as a dtype": (
        set_config(1, dtype=["float32"]),
        "has a dtype of class `None`, expected a stock dtype",
    ),
    "layer with a mask": (
        add_layer("Embedding", "words", "flat", mask_zero=True),
        "layer `words` makes a mask, which is not followed through the net",
    ),
    "op that loops": (
        set_layer(2, class_name="WhileLoop", module="keras.src.ops.core"),
        "layer `pool` uses `WhileLoop` of module `keras.src.ops.core`, which calls a function of",
    ),
    "channels first": (
        set_config(1, data_format="channels_first"),
        "layer `conv` has data_format `channels_first`, expected `channels_last`",
    ),
    "input of 2 axes": (
        set_config(0, batch_shape=[None, 8]),
        "takes input of shape [None, 8], expected (None, H, W, C)",
    ),
    "fixed batch": (set_config(0, batch_shape=[32, 8, 6, 3]), "expected (None, H, W, C)"),
    "open size": (set_config(0, batch_shape=[None, None, 6, 3]), "expected sizes for H, W and C"),
    "negative size": (set_config(0, batch_shape=[None, -8, 6, 3]), "expected sizes for H, W and C"),
    "no input shape": (set_config(0, batch_shape=None), "takes input of shape None"),
    "two inputs": (set_model(input_layers=[["image", 0, 0], ["conv", 0, 0]]), "has 2 inputs"),
    "two outputs": (set_model(output_layers=[["pool", 0, 0], ["answer", 0, 0]]), "has 2 outputs"),
    "no output": (set_model(output_layers=[]), "has 0 outputs, expected one"),
    "output unknown": (
        set_model(output_layers=["nobody", 0, 0]),
        "has the unknown output `nobody`",
    ),
    "output of 4 axes": (
        set_answer(make_layer("Dense", "map", "pool", units=5)),
        "has an output of 4 axes at `map`, expected (None, classes)",
    ),
    "one class": (
        set_config(4, units=1),
        "has one output value at `answer`, and neither a sigmoid behind a Dense layer nor the loss",
    ),
    "same name twice": (add_layer("Flatten", "flat", "pool"), "has two layers named `flat`"),
    "two names": (set_layer(2, name="puddle"), "a MaxPooling2D layer has no single name"),
    "unnamed": (set_config(2, name=None), "a MaxPooling2D layer has no single name"),
    "fed by nobody": (
        add_layer("Flatten", "more", "nobody"),
        "layer `more` is fed by unknown `nobody`",
    ),
    "circle": (feed_back, "layer `conv` waits for its own output"),
    "no layers": (set_model(layers=[]), "has 0 layers"),
    "layers are a text": (set_model(layers="conv"), 'the model\'s layers is "conv"'),
    "a layer is a number": (set_model(layers=[7]), "a layer is 7, expected an object"),
    "nodes are missing": (set_layer(2, inbound_nodes=None), "inbound_nodes of `pool` is null"),
    "no model": (lambda net: net.update(make_layer("Dense", "answer")), "no model"),
}


@pytest.mark.parametrize(("change", "fragment"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_refuses_configurations(tmp_path, change, fragment):
    net = make_net()
    describe(tmp_path, net)
    change(net)
    with pytest.raises(InputError) as caught:
        describe(tmp_path, net)
    assert str(caught.value).startswith(f"{tmp_path / 'net.keras'}: ")
    assert fragment in str(caught.value)


REASONS = {
    "Lambda": "which runs code from the file",
    "TFSMLayer": "which runs a program of another framework or folder",
    "LSTM": "which goes from step to step",
    "StringLookup": "which is for text and tables",
    "Masking": "whose mask is not followed",
    "Mine": "which is not among those whose cost and effect are known",
}


@pytest.mark.parametrize("class_name", REASONS)
def test_a_refused_class_is_refused_with_its_reason(tmp_path, class_name):
    net = make_net()
    net["config"]["layers"][2]["class_name"] = class_name
    with pytest.raises(InputError) as caught:
        describe(tmp_path, net)
    expected = f"layer `pool` uses `{class_name}` of module `keras.layers`, {REASONS[class_name]}"
    assert expected in str(caught.value)
    assert ("code" in str(caught.value)) == (class_name == "Lambda")


FOREIGN = {"class_name": "Mine", "module": "mine", "registered_name": "mine>Mine", "config": {}}


def test_how_a_net_was_compiled_and_built_is_not_read(tmp_path):
    inner = make_net() | {"compile_config": {"loss": FOREIGN}}
    net = make_sequential(
        make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
        inner,
        make_layer("ReLU", "relu") | {"build_config": FOREIGN},
    )
    net |= {"compile_config": {"optimizer": FOREIGN, "metrics": [FOREIGN]}}
    description = describe(tmp_path, net)
    assert "mine" not in json.dumps(description.config)
    del net["module"]
    path = write_hdf5(tmp_path / "net.h5", net)
    with h5py.File(path, "a") as file:
        file.attrs["training_config"] = json.dumps({"loss": FOREIGN})
    assert describe_model(path).num_classes == 5


def call_with(layer: Config, *positions: object, **keywords: object) -> Config:
    node = layer["inbound_nodes"][0]
    called = {"args": [*node["args"], *positions], "kwargs": keywords}
    return layer | {"inbound_nodes": [called]}


def make_noisy(middle: Config) -> Config:
    return make_functional(
        [
            make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
            make_layer("Conv2D", "conv", "image", filters=4),
            middle,
            make_layer("GlobalMaxPooling2D", "gather", middle["name"]),
            make_layer("Dense", "answer", "gather", units=5),
        ]
    )


def make_inner(class_name: str) -> Config:
    inner = make_sequential(make_layer(class_name, "noise"))
    inner["config"]["name"] = "inner"
    return make_layer("", "inner", "conv") | inner | {"name": "inner"}


RANDOM = {
    "by name": call_with(make_layer("Dropout", "noise", "conv"), training=True),
    "by position": call_with(make_layer("GaussianNoise", "noise", "conv"), True),
    "by a number": call_with(make_layer("SpatialDropout2D", "noise", "conv"), training=1),
    "attention": call_with(make_layer("Attention", "noise", "conv", dropout=0.1), training=True),
    "in a model": call_with(make_inner("Dropout"), training=True),
    "augmentation in a model": call_with(make_inner("RandomFlip"), training=True),
    "Keras 2": make_layer("Dropout", "noise")
    | {"inbound_nodes": [[["conv", 0, 0, {"training": True}]]]},
}


@pytest.mark.parametrize("middle", RANDOM.values(), ids=RANDOM.keys())
def test_refuses_layers_that_stay_random(tmp_path, middle):
    with pytest.raises(InputError, match="layer `noise` is called with training=True, so that"):
        describe(tmp_path, make_noisy(middle))


FIXED = {
    "off": call_with(make_layer("Dropout", "noise", "conv"), training=False),
    "not said": call_with(make_layer("Dropout", "noise", "conv"), training=None),
    "an augmentation's default": call_with(
        make_layer("RandomZoom", "noise", "conv"), training=True
    ),
    "nothing random": call_with(make_layer("BatchNormalization", "noise", "conv"), training=True),
    "model in inference": call_with(make_inner("Dropout"), training=False),
}


@pytest.mark.parametrize("middle", FIXED.values(), ids=FIXED.keys())
def test_layers_that_are_random_in_training_only_pass(tmp_path, middle):
    assert describe(tmp_path, make_noisy(middle)).num_classes == 5


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_images_without_channels_get_one(tmp_path, kind):
    layers = [
        make_layer("InputLayer", "image", batch_shape=[None, 8, 6]),
        make_layer("Reshape", "deep", "image", target_shape=[8, 6, 1]),
        make_layer("Conv2D", "conv", "deep", filters=4),
        make_layer("GlobalMaxPooling2D", "gather", "conv"),
        make_layer("Dense", "answer", "gather", units=5),
    ]
    net = make_functional(layers) if kind == "functional" else make_sequential(*layers)
    description = describe(tmp_path, net)
    assert (description.input_shape, description.num_classes) == ((8, 6, 1), 5)
    assert [layer.name for layer in description.layers[:3]] == [
        "image_with_channel",
        "image",
        "deep",
    ]


def test_a_model_in_the_model_may_give_the_answer(tmp_path):
    inner = make_net()
    inner["config"]["name"] = "inner"
    net = make_functional(
        [
            make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
            make_layer("", "inner", "image") | inner | {"name": "inner"},
        ]
    )
    net["config"]["output_layers"] = ["inner", 1, 0]  # so that Keras takes it for call 0
    assert describe(tmp_path, net).num_classes == 5


def test_models_in_models_of_keras_2_count_their_calls_from_one(tmp_path):
    inner = make_net()
    inner["config"] |= {"name": "inner/net"}
    node = [[["image", 0, 0, {"training": False}]]]
    net = make_functional(
        [
            make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
            make_layer("", "inner/net") | inner | {"name": "inner/net", "inbound_nodes": node},
            make_layer("Dense", "answer", units=7) | {"inbound_nodes": [[["inner/net", 1, 0, {}]]]},
        ]
    )
    description = describe(tmp_path, net)
    assert description.num_classes == 7
    names = ["image", "inner_net.conv", "inner_net.pool", "inner_net.flat", "inner_net.answer"]
    assert [item.name for item in description.layers] == [*names, "answer"]
    assert [item.inputs for item in description.layers] == [(), *((name,) for name in names)]


def test_names_stay_apart_without_their_slashes(tmp_path):
    layers = [
        make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
        make_layer("Conv2D", "a_b", "image", filters=4),
        make_layer("GlobalMaxPooling2D", "a/b", "a_b"),
        make_layer("Dense", "answer", "a/b", units=5),
    ]
    described = describe(tmp_path, make_functional(layers)).layers
    assert [item.name for item in described] == ["image", "a_b", "a_b_", "answer"]
    assert described[-1].inputs == ("a_b_",)


def test_functions_of_tensorflow_without_translation_are_named(tmp_path):
    net = make_net()
    net["config"]["layers"][2] |= {
        "class_name": "TFOpLambda",
        "config": {"name": "pool", "function": "io.read_file"},
    }
    with pytest.raises(InputError, match=r"`pool` is TensorFlow's function `io\.read_file` as"):
        describe(tmp_path, net)


@pytest.mark.parametrize(
    ("class_name", "found"),
    [
        ("Lambda", "uses `Lambda`"),
        ("mine>Pool", "uses `mine>Pool`"),
        ("OneHot", "is the operation `OneHot`"),
    ],
)
def test_refuses_classes_in_hdf5_models(tmp_path, class_name, found):
    net = make_net()
    for layer in net["config"]["layers"]:
        del layer["module"], layer["registered_name"]
    del net["module"]
    assert describe_model(write_hdf5(tmp_path / "good.h5", net)).num_classes == 5
    net["config"]["layers"][2]["class_name"] = class_name
    with pytest.raises(InputError, match=f"layer `pool` {found}"):
        describe_model(write_hdf5(tmp_path / "bad.h5", net))


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (b"{", "config.json is no JSON"),
        (b"[" * 100_000, "config.json is no JSON"),
        (b"\xff\xfe\xff", "config.json is no JSON"),
        (b"9" * 5000, "config.json is no JSON"),
        (b"[" * 500 + b"]" * 500, "is nested deeper than 100 levels"),
        (b"7", "describes no model"),
        (b"[]", "describes no model"),
    ],
    ids=["cut", "deep and cut", "no text", "huge number", "deep", "number", "list"],
)
def test_refuses_texts(tmp_path, text, fragment):
    with pytest.raises(InputError, match=fragment):
        describe(tmp_path, text)


def test_refuses_models_nested_too_deep(tmp_path):
    with pytest.raises(InputError, match="layer `net` is nested deeper than 3 models"):
        describe(tmp_path, make_nested(4))


def write_twice(path: Path) -> None:
    write_archive(path, make_net())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", b"{}")


def write_link(path: Path) -> None:
    member = zipfile.ZipInfo("config.json")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")


def write_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(2**22))


def write_bzip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("config.json", b"{}")


def write_encrypted(path: Path) -> None:
    write_archive(path, make_net())
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 8] |= 1
    path.write_bytes(content)


def write_damaged(path: Path) -> None:
    write_archive(path, make_net())
    path.write_bytes(path.read_bytes().replace(b"MaxPooling2D", b"MinPooling2D"))


def write_without_weights(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", b"{}")
        archive.writestr("metadata.json", b"{}")


def write_weights_elsewhere(path: Path) -> None:
    weights = path.with_suffix(".h5")
    with h5py.File(weights, "w") as file:
        file["layers"] = h5py.ExternalLink("other.h5", "/")
    write_archive(path, make_net(), **{"model.weights.h5": weights.read_bytes()})


def write_with_member(name: str) -> Callable[[Path], object]:
    return lambda path: write_archive(path, make_net(), **{name: b"x"})


BAD_FILES = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a folder or a device"),
    "empty": (lambda path: path.write_bytes(b""), "is empty, expected a .keras or .h5 model"),
    "text": (lambda path: path.write_text("model"), "is neither a Keras archive nor HDF5"),
    "zip magic only": (lambda path: path.write_bytes(b"PK\x03\x04"), "is a damaged Keras archive"),
    "hdf5 magic only": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "is damaged"),
    "leaves the folder": (write_with_member("../evil.py"), "holds `../evil.py`, expected only"),
    "absolute": (write_with_member("/etc/cron.d/evil"), "holds `/etc/cron.d/evil`"),
    "asset": (write_with_member("assets/evil.txt"), "holds `assets/evil.txt`"),
    "doubled": (write_twice, "holds 2 members `config.json`, expected one"),
    "no weights": (write_without_weights, "holds 0 members `model.weights.h5`"),
    "link": (write_link, "member `config.json` is a symbolic link"),
    "bomb": (write_bomb, "to 4,194,304, expected at most 100 times as many"),
    "compression": (write_bzip, "has compression 12, expected deflate or none"),
    "encrypted": (write_encrypted, "is encrypted"),
    "changed": (write_damaged, "is a damaged Keras archive"),
    "metadata": (
        lambda path: write_archive(path, make_net(), **{"metadata.json": b"[]"}),
        "metadata.json is a list, expected an object",
    ),
    "weights are none": (
        lambda path: write_archive(path, make_net(), **{"model.weights.h5": b"PK"}),
        "net.keras/model.weights.h5: is no HDF5 file",
    ),
    "weights elsewhere": (
        write_weights_elsewhere,
        "net.keras/model.weights.h5: `/layers` is an external link",
    ),
    "config is a number": (lambda path: write_hdf5(path, 7), "model_config is a int64"),
    "config is a list": (
        lambda path: write_hdf5(path, ["a", "b"]),
        "model_config has shape (2,)",
    ),
    "config is no JSON": (lambda path: write_hdf5(path, "{"), "model_config is no JSON"),
}


@pytest.mark.parametrize(("write", "fragment"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_refuses_files(tmp_path, write, fragment):
    path = tmp_path / "net.keras"
    write(path)
    with pytest.raises(InputError) as caught:
        describe_model(path)
    assert str(path) in str(caught.value)
    assert fragment in str(caught.value)


def test_refuses_attributes_that_hdf5_can_crash_on(tmp_path):
    path = write_hdf5(tmp_path / "net.h5", make_net())
    rows = np.empty(1, object)
    rows[0] = np.arange(3, dtype=np.int32)
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs.create("layer_names", rows, dtype=h5py.vlen_dtype(np.int32))
    with pytest.raises(InputError, match="attribute `layer_names` of `/model_weights` is neither"):
        describe_model(path)


@pytest.mark.parametrize("name", ["a\0b.keras", "x" * 5000], ids=["zero byte", "long"])
def test_refuses_impossible_names(name):
    with pytest.raises(InputError, match="cannot be opened"):
        describe_model(Path(name))


@pytest.mark.parametrize(
    ("limits", "fragment"),
    [
        (ModelLimits(max_file_bytes=100), "expected 100 or less"),
        (ModelLimits(max_parameters=19), "has 20 parameters, expected 19 or less"),
        (ModelLimits(max_config_bytes=100), "expected 100 or less"),
        (ModelLimits(max_layers=4), "has 5 layers, expected 1 to 4"),
    ],
    ids=["file", "parameters", "config", "layers"],
)
def test_limits_hold(tmp_path, limits, fragment):
    with pytest.raises(InputError, match=fragment):
        describe(tmp_path, make_net(), limits=limits)


def write_deepid_weights(path: Path, kernel_shape: tuple[int, int] = (160, 7)) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"output"]
        file["output/output/kernel:0"] = np.zeros(kernel_shape, "f4")
    return path


def test_weights_alone_need_their_architecture(tmp_path):
    path = write_deepid_weights(tmp_path / "weights.h5")
    with pytest.raises(InputError, match="give architecture=deepid"):
        describe_model(path)
    description = describe_model(path, architecture="deepid")
    assert (description.kind, description.num_classes) == ("hdf5 weights", 7)
    assert choose_layers(description, layer=None, rank_at=None) == ("conv_3", "pool_3")


def test_unknown_architecture_is_refused(tmp_path):
    path = write_deepid_weights(tmp_path / "weights.h5")
    with pytest.raises(InputError, match="`vgg` is unknown, expected one of: deepid"):
        describe_model(path, architecture="vgg")


def test_weights_of_another_network_are_refused(tmp_path):
    path = write_deepid_weights(tmp_path / "weights.h5", (512, 7))
    with pytest.raises(InputError, match=r"\(512, 7\).* expected one of \(160, classes\)"):
        describe_model(path, architecture="deepid")


def test_images_are_no_model(tmp_path):
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["data"], file["label"] = [1.0], [0]
    with pytest.raises(InputError, match="holds `data`, `label`, expected a Keras model"):
        describe_model(tmp_path / "images.h5", architecture="deepid")


@pytest.mark.lab
@pytest.mark.parametrize(
    ("name", "architecture"), [("b_prime_10_legacy.h5", None), ("bd_weights.h5", "deepid")]
)
def test_describes_the_labs_networks(name, architecture):
    description = describe_model(LAB / name, architecture=architecture)
    assert description.input_shape == (55, 47, 3)
    assert description.num_classes == 1283
    assert description.num_parameters == 601_643
    assert choose_layers(description, layer=None, rank_at=None) == ("conv_3", "pool_3")


def make_branches() -> Config:
    """DeepID in small: `late` stands on one of two branches only."""
    return make_functional(
        [
            make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
            make_layer("Conv2D", "early", "image", filters=4),
            make_layer("Conv2D", "shared", "early", filters=4),
            make_layer("Conv2D", "late", "shared", filters=4),
            make_layer("Add", "join", "shared", "late"),
            make_layer("GlobalMaxPooling2D", "gather", "join"),
            make_layer("Dense", "answer", "gather", units=5),
        ]
    )


def test_default_is_the_last_tensor_on_every_path(tmp_path):
    assert choose(tmp_path, make_branches()) == ("join", "gather")
    assert choose(tmp_path, make_branches(), "shared") == ("shared", "shared")


def test_default_is_the_last_convolution_where_no_tensor_is_on_every_path(tmp_path):
    net = make_chain(("Conv2D", "conv", {"filters": 4}))
    net["config"]["layers"][-1:] = [
        make_layer("Flatten", "pixels", "image"),
        make_layer("Concatenate", "both", "gather", "pixels", axis=-1),
        make_layer("Dense", "answer", "both", units=5),
    ]
    assert choose(tmp_path, net) == ("conv", "gather")


def test_a_layer_that_nothing_needs_is_no_way_around(tmp_path):
    net = make_branches()
    net["config"]["layers"][4] = make_layer("MaxPooling2D", "join", "late")
    net["config"]["layers"].insert(1, make_layer("Conv2D", "unused", "image", filters=4))
    assert choose(tmp_path, net) == ("late", "join")


BLOCK_ENDS = {
    "nothing": ([], "join", "gather"),
    "an activation": ([("ReLU", "relu", "join")], "relu", "gather"),
    "normalized and activated": (
        [("BatchNormalization", "n", "join"), ("ReLU", "relu", "n"), ("Dropout", "drop", "relu")],
        "relu",
        "gather",
    ),
    "pooled": ([("ReLU", "relu", "join"), ("MaxPooling2D", "pool", "relu")], "relu", "pool"),
    "gated by itself": (
        [("ReLU", "gate", "join"), ("Multiply", "gated", "join", "gate")],
        "gated",
        "gather",
    ),
}


@pytest.mark.parametrize(("end", "layer", "rank_at"), BLOCK_ENDS.values(), ids=BLOCK_ENDS.keys())
def test_default_of_a_residual_net_is_the_end_of_its_last_block(tmp_path, end, layer, rank_at):
    net = make_branches()
    items = [make_layer(*item) for item in end]
    last = items[-1]["name"] if items else "join"
    net["config"]["layers"][5:6] = [*items, make_layer("GlobalMaxPooling2D", "gather", last)]
    assert choose(tmp_path, net) == (layer, rank_at)


def test_a_convolution_whose_channels_reach_the_last_tensor_apart_is_pruned_itself(tmp_path):
    net = make_chain(("Conv2D", "conv", {"filters": 4}), ("ReLU", "gate"))
    net["config"]["layers"][-2:-1] = [
        make_layer("Multiply", "swish", "conv", "gate"),
        make_layer("GlobalMaxPooling2D", "gather", "swish"),
    ]
    assert choose(tmp_path, net) == ("conv", "gather")


CLASSIFIERS = {
    "MobileNet": [("Reshape", "row"), ("Dropout", "drop"), ("Conv2D", "classes"), ("Reshape", "z")],
    "SqueezeNet": [("Conv2D", "classes"), ("ReLU", "relu"), ("GlobalAveragePooling2D", "z")],
    "depthwise behind": [("Conv2D", "classes"), ("DepthwiseConv2D", "each"), ("Flatten", "z")],
}


@pytest.mark.parametrize("class_name", ["Conv1D", "Conv3D", "Conv3DTranspose"])
def test_a_convolution_that_another_one_of_any_rank_reads_is_hidden(tmp_path, class_name):
    behind = [("Reshape", "grid"), (class_name, "classes"), ("Reshape", "z")]
    net = make_chain(("Conv2D", "early"), ("Conv2D", "conv"), ("MaxPooling2D", "pool"), *behind)
    del net["config"]["layers"][-2:]
    net["config"]["output_layers"] = ["z", 0, 0]
    assert choose(tmp_path, net) == ("conv", "pool")


@pytest.mark.parametrize("closing", CLASSIFIERS.values(), ids=CLASSIFIERS.keys())
def test_default_is_no_convolution_whose_channels_are_the_classes(tmp_path, closing):
    net = make_chain(("Conv2D", "early"), ("Conv2D", "conv"), ("MaxPooling2D", "pool"), *closing)
    del net["config"]["layers"][-2:]
    net["config"]["output_layers"] = ["z", 0, 0]
    assert choose(tmp_path, net) == ("conv", "pool")
    assert choose(tmp_path, net, "classes")[0] == "classes"


def test_default_is_the_only_convolution_even_if_its_channels_are_the_classes(tmp_path):
    net = make_chain(("Conv2D", "classes"), ("GlobalAveragePooling2D", "gap"))
    del net["config"]["layers"][-2:]
    net["config"]["output_layers"] = ["gap", 0, 0]
    assert choose(tmp_path, net) == ("classes", "gap")


CHAINS = {
    "pooling": ([("MaxPooling2D", "a")], "a"),
    "pooling behind others": (
        [("BatchNormalization", "a"), ("ReLU", "b"), ("Dropout", "c"), ("AveragePooling2D", "d")],
        "d",
    ),
    "first pooling": ([("MaxPooling2D", "a"), ("MaxPooling2D", "b")], "a"),
    "activation": ([("BatchNormalization", "a"), ("ReLU", "b"), ("Conv2D", "z")], "b"),
    "dropout changes nothing": ([("ReLU", "a"), ("Dropout", "b"), ("Permute", "z")], "a"),
    "softmax mixes": ([("Activation", "z", {"activation": "softmax"})], "conv"),
    "normalization of rows mixes": ([("BatchNormalization", "z", {"axis": 1})], "conv"),
    "padding is walked through": ([("ZeroPadding2D", "a"), ("MaxPooling2D", "b")], "b"),
    "padding ranks nothing": ([("ReLU", "a"), ("ZeroPadding2D", "b"), ("Permute", "z")], "a"),
    "not behind the next convolution": (
        [("ReLU", "a"), ("DepthwiseConv2D", "b"), ("ReLU", "c"), ("MaxPooling2D", "d")],
        "a",
    ),
    "global pooling": ([], "gather"),
}


@pytest.mark.parametrize(("layers", "expected"), CHAINS.values(), ids=CHAINS.keys())
def test_default_place_to_rank(tmp_path, layers, expected):
    net = make_chain(("Conv2D", "conv", {"filters": 4}), *layers)
    assert choose(tmp_path, net, "conv") == ("conv", expected)


def test_ranks_where_asked(tmp_path):
    net = make_chain(("Conv2D", "conv"), ("ReLU", "relu"), ("MaxPooling2D", "pool"))
    for place in ("conv", "relu", "pool", "gather"):
        assert choose(tmp_path, net, "conv", place) == ("conv", place)


BAD_CHOICES = {
    "unknown layer": (
        ("nobody", None),
        "has no layer `nobody`, the last of its 5 are: image, conv, pool, flat, answer; "
        "goodnet.load_model(path).summary() names all",
    ),
    "misspelt layer": (
        ("cnv", None),
        "has no layer `cnv`, closest are: conv; the last of its 5 are: image, conv, pool, flat, ",
    ),
    "no features": (
        ("flat", None),
        "layer `flat` is a Flatten, expected one that gives spatial features and is called once, "
        "as the last of 2 are: conv, pool",
    ),
    "behind flatten": (
        (None, "answer"),
        "cannot rank `conv` at `answer`, expected one of: conv, pool",
    ),
    "before": (("conv", "image"), "cannot rank `conv` at `image`"),
    "unknown place": ((None, "nobody"), "cannot rank `conv` at `nobody`"),
}


@pytest.mark.parametrize(("choice", "fragment"), BAD_CHOICES.values(), ids=BAD_CHOICES.keys())
def test_refuses_choices(tmp_path, choice, fragment):
    with pytest.raises(InputError) as caught:
        choose(tmp_path, make_net(), *choice)
    assert fragment in str(caught.value)


def test_refuses_a_network_without_convolution(tmp_path):
    with pytest.raises(InputError, match="has no layer that gives spatial features"):
        choose(tmp_path, make_chain())


def test_a_convolution_called_twice_cannot_be_pruned(tmp_path):
    net = make_branches()
    shared = net["config"]["layers"][2]
    shared["inbound_nodes"] *= 2
    description = describe(tmp_path, net)
    assert description.layers[2].num_calls == 2
    with pytest.raises(InputError, match="layer `shared` is a Conv2D, expected one that gives"):
        choose_layers(description, layer="shared", rank_at=None)
