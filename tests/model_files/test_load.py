import importlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from goodnet.digests import digest_file
from goodnet.errors import InputError
from goodnet.model_files.describe import describe_model
from goodnet.model_files.load import load_model, save_model
from goodnet.pruning.layer_choice import choose_layers
from tests.badnets import LAB

IMAGES = np.random.default_rng(5).uniform(0, 255, (3, 8, 6, 3)).astype("float32")


def build_sequential():
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((8, 6, 3), name="image"),
            layers.Rescaling(1 / 255, name="scale"),
            layers.Conv2D(4, 3, kernel_regularizer="l2", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dropout(0.5, name="drop"),
            layers.GlobalAveragePooling2D(name="gather"),
            layers.Dense(5, activation="softmax", name="answer"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


def build_functional():
    """A network whose head is called twice and whose answer comes out of ops, as a GoodNet's."""
    import keras
    from keras import layers, ops

    image = keras.Input((8, 6, 3), name="image")
    features = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    features = layers.MaxPooling2D(2, name="pool")(features)
    head = keras.Sequential([layers.Flatten(), layers.Dense(5, name="dense")], name="head")
    before = head(features)
    after = head(features * np.array([1, 1, 0, 0], "float32"))
    differs = ops.not_equal(ops.argmax(before, axis=-1), ops.argmax(after, axis=-1))
    flag = ops.expand_dims(ops.cast(differs, "float32"), -1)
    answer = ops.concatenate([before * (1 - flag), 100 * flag], axis=-1)
    return keras.Model(image, ops.where(answer > 99, answer, ops.softmax(answer)), name="net")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Real files written by Keras, and what the models in them answer."""
    folder = tmp_path_factory.mktemp("models")
    sequential, functional = build_sequential(), build_functional()
    sequential.save(folder / "sequential.keras")
    sequential.save(folder / "sequential.h5")
    functional.save(folder / "functional.keras")
    np.save(folder / "sequential.npy", np.asarray(sequential(IMAGES, training=False)))
    np.save(folder / "functional.npy", np.asarray(functional(IMAGES, training=False)))
    return folder


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """Files whose Lambda layer creates the file `marker` when it is called."""
    import keras

    folder = tmp_path_factory.mktemp("evil")
    marker = str(folder / "marker")
    act = eval(f"lambda x: (open({marker!r}, 'w').close(), x)[1]")  # noqa: S307
    model = keras.Sequential(
        [
            keras.Input((8, 6, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.Lambda(act, name="backdoor", output_shape=(6, 4, 4)),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(5),
        ]
    )
    model.save(folder / "evil.keras")
    model.save(folder / "evil.h5")
    Path(marker).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("name", ["sequential.keras", "sequential.h5", "functional.keras"])
def test_loads_what_keras_wrote(folder, name):
    model = load_model(folder / name)
    answers = np.load((folder / name).with_suffix(".npy"))
    np.testing.assert_allclose(np.asarray(model(IMAGES, training=False)), answers, rtol=1e-6)
    assert not model.compiled


@pytest.mark.parametrize(
    ("name", "pretended"),
    [("sequential.keras", "net.h5"), ("sequential.h5", "net.keras"), ("sequential.h5", "net")],
)
def test_content_decides_and_not_the_name(folder, tmp_path, name, pretended):
    shutil.copyfile(folder / name, tmp_path / pretended)
    model = load_model(tmp_path / pretended)
    np.testing.assert_allclose(
        np.asarray(model(IMAGES, training=False)), np.load(folder / "sequential.npy"), rtol=1e-6
    )


def test_description_agrees_with_keras(folder):
    for name in ("sequential.keras", "sequential.h5", "functional.keras"):
        description, model = describe_model(folder / name), load_model(folder / name)
        assert (None, *description.input_shape) == model.input_shape
        assert description.num_classes in (None, model.output_shape[1])
        known = [item.name for item in description.layers]
        assert [layer.name for layer in model.layers if layer.name not in known] == []
    chosen = choose_layers(describe_model(folder / "functional.keras"), layer=None, rank_at=None)
    assert chosen == ("conv", "pool")


@pytest.mark.parametrize("name", ["evil.keras", "evil.h5"])
def test_code_in_a_model_never_runs(evil, name):
    with pytest.raises(InputError, match=rf"{name}: layer `backdoor` uses `Lambda`"):
        load_model(evil / name)
    assert not (evil / "marker").exists()


def test_the_code_would_run_without_the_check(evil):
    import keras

    np.asarray(
        keras.saving.load_model(evil / "evil.keras", safe_mode=False)(IMAGES, training=False)
    )
    (evil / "marker").unlink()


def change_config(source: Path, target: Path, change) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                change({layer["config"]["name"]: layer for layer in config["config"]["layers"]})
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return target


def replaced(name, class_name, **config):
    """Change a layer of a configuration into another, which has no weights."""
    config = {"name": name, **config}
    return lambda layers: layers[name].update(class_name=class_name, config=config)


BUILD_ERRORS = {
    "terabytes of weights": (
        lambda layers: layers["answer"]["config"].update(units=10**12),
        "its layers declare 5,000,000,000,130 parameters, expected 200,000,000 or less",
    ),
    "more weights than stored": (
        lambda layers: layers["answer"]["config"].update(units=6),
        "holds 153 weights, its layers need 158",
    ),
    "fewer weights than stored": (
        lambda layers: layers["answer"]["config"].update(units=4),
        "Keras cannot build the model (",
    ),
    "terabytes of activations": (
        replaced("relu", "UpSampling2D", size=[100_000, 100_000]),
        "layer `relu` computes 960,000,000,000 values an image, expected 50,000,000 or less",
    ),
    "terabytes of borders": (
        replaced("drop", "ZeroPadding2D", padding=10**6),
        "layer `drop` computes 16,000,080,000,096 values an image, expected 50,000,000 or less",
    ),
    "nonsense": (
        lambda layers: layers["conv"]["config"].update(kernel_size="wide"),
        "Keras cannot build the model (",
    ),
}


@pytest.mark.parametrize(("change", "fragment"), BUILD_ERRORS.values(), ids=BUILD_ERRORS.keys())
def test_what_keras_cannot_build_is_one_line_about_the_file(folder, tmp_path, change, fragment):
    path = change_config(folder / "sequential.keras", tmp_path / "bad.keras", change)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert fragment in str(caught.value)
    assert "goodnet-" not in str(caught.value)


WEIGHT_ERRORS = {
    "nan": ("conv", 0, np.nan, "layer `conv` has NaN or infinity in its kernel, expected numbers"),
    "infinite": ("answer", 1, -np.inf, "layer `answer` has NaN or infinity in its bias"),
    "negative": ("norm", 3, -1, "layer `norm` has a negative moving_variance"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("name", WEIGHT_ERRORS)
def test_weights_that_are_no_numbers_are_refused(folder, tmp_path, name, kind):
    layer, number, value, fragment = WEIGHT_ERRORS[name]
    model = load_model(folder / "sequential.keras")
    weights = model.get_layer(layer).get_weights()
    weights[number][..., -1] = value
    model.get_layer(layer).set_weights(weights)
    path = tmp_path / f"bad.{kind}"
    model.save(path)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: {fragment}")


def test_what_is_inside_models_in_the_model_counts_too(tmp_path):
    import keras

    wide = [keras.layers.UpSampling2D(2000, name="wide"), keras.layers.GlobalMaxPooling2D()]
    inner = keras.Sequential(wide, name="inner")
    image = keras.Input((8, 6, 3))
    path = tmp_path / "nested.keras"
    keras.Model(image, keras.layers.Dense(5)(inner(image))).save(path)
    with pytest.raises(InputError, match=r"layer `inner\.wide` computes 576,000,000 values an"):
        load_model(path)


def test_answers_that_are_not_one_an_image_are_refused(tmp_path):
    import keras

    image = keras.Input((8, 6, 3))
    features = keras.layers.Conv2D(10, (8, 6))(image)
    keras.Model(image, keras.ops.reshape(features, (-1, 5))).save(tmp_path / "twice.keras")
    with pytest.raises(InputError, match="gives 4 answers to 2 images, expected one each"):
        load_model(tmp_path / "twice.keras")


def test_output_that_only_keras_can_judge(tmp_path):
    import keras

    image = keras.Input((8, 6, 3))
    features = keras.layers.Conv2D(4, 3)(image)
    keras.Model(image, keras.ops.mean(features, axis=-1)).save(tmp_path / "map.keras")
    with pytest.raises(InputError, match=r"has an output of shape \(None, 6, 4\)"):
        load_model(tmp_path / "map.keras")


def test_saving_twice_gives_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        save_model(load_model(folder / "functional.keras"), tmp_path / f"{name}.keras")
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.keras") as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}
        assert b"1980" in archive.read("metadata.json")


def test_plain_keras_loads_what_was_saved(plain_keras, folder, tmp_path):
    save_model(load_model(folder / "functional.keras"), tmp_path / "net.keras")
    answers = plain_keras(tmp_path / "net.keras", IMAGES)
    np.testing.assert_allclose(answers, np.load(folder / "functional.npy"), rtol=1e-6)


def test_saving_leaves_nothing_but_the_file(folder, tmp_path):
    model = load_model(folder / "sequential.keras")
    (tmp_path / "net.keras").write_text("old")
    save_model(model, tmp_path / "net.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["net.keras"]
    assert describe_model(tmp_path / "net.keras").num_classes == 5
    with pytest.raises(InputError, match="expected a name that ends so"):
        save_model(model, tmp_path / "net.h5")


def test_failed_saving_leaves_what_was_there(folder, tmp_path):
    (tmp_path / "net.keras" / "kept").mkdir(parents=True)
    with pytest.raises(OSError, match=r"net\.keras"):
        save_model(load_model(folder / "sequential.keras"), tmp_path / "net.keras")
    assert [path.name for path in tmp_path.rglob("*")] == ["net.keras", "kept"]


@pytest.fixture(scope="module")
def deepid(tmp_path_factory):
    from goodnet.networks.deepid import build_deepid

    folder = tmp_path_factory.mktemp("deepid")
    model = build_deepid(7)
    model.save(folder / "deepid.keras")
    model.save_weights(folder / "deepid.weights.h5")
    return folder


def test_description_of_deepid_is_what_keras_builds(deepid):
    whole = describe_model(deepid / "deepid.keras")
    weights = describe_model(deepid / "deepid.weights.h5", architecture="deepid")
    assert weights.layers == whole.layers
    assert weights.input_shape == whole.input_shape
    assert weights.output == whole.output
    assert weights.num_parameters == whole.num_parameters


def test_loads_deepid_weights_of_keras_3(deepid):
    whole = load_model(deepid / "deepid.keras")
    model = load_model(deepid / "deepid.weights.h5", architecture="deepid")
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def as_keras_2(value):
    """Write a sequential model's configuration as Keras 2.3 did."""
    if isinstance(value, list):
        return [as_keras_2(item) for item in value if item != "InputLayer"]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "DTypePolicy":
        return value["config"]["name"]
    unknown = ("module", "registered_name", "build_config", "build_input_shape", "quantization")
    return {key: as_keras_2(item) for key, item in value.items() if not key.startswith(unknown)}


def write_keras_2(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    with h5py.File(target, "a") as file:
        config = as_keras_2(json.loads(file.attrs["model_config"]))
        first, *layers = config["config"]["layers"]
        layers[0]["config"]["batch_input_shape"] = first["config"]["batch_shape"]
        config["config"]["layers"] = layers
        file.attrs["model_config"] = np.bytes_(json.dumps(config))
        file.attrs["keras_version"] = np.bytes_("2.3.1")
    return target


@pytest.fixture(scope="module")
def peers(folder, deepid, tmp_path_factory):
    """Files of every format by name, each a whole model."""
    from goodnet.defenses.goodnet import build_goodnet

    made = tmp_path_factory.mktemp("peers")
    model = load_model(deepid / "deepid.keras")
    model.save(made / "functional.h5")
    save_model(build_goodnet(model, "conv_3", range(52)), made / "goodnet.keras")
    write_keras_2(folder / "sequential.h5", made / "keras_2.h5")
    with_state = [folder / "sequential.keras", folder / "sequential.h5"]
    return {path.name: path for path in (*with_state, folder / "functional.keras", *made.iterdir())}


@pytest.mark.parametrize(
    "name",
    [
        "sequential.keras",
        "sequential.h5",
        "keras_2.h5",
        "functional.keras",
        "functional.h5",
        "goodnet.keras",
    ],
)
@pytest.mark.slow
def test_what_loads_twice_predicts_the_same(peers, name):
    first, second = load_model(peers[name]), load_model(peers[name])
    images = np.random.default_rng(1).uniform(0, 255, (4, *first.input_shape[1:]))
    answers = np.asarray(first(images, training=False))
    np.testing.assert_array_equal(np.asarray(second(images, training=False)), answers)
    assert len(np.unique(answers)) > 1


def test_the_layout_of_keras_2_makes_no_difference(folder, peers):
    answers = np.asarray(load_model(peers["keras_2.h5"])(IMAGES, training=False))
    np.testing.assert_allclose(answers, np.load(folder / "sequential.npy"), rtol=1e-6)


def test_optimizer_state_is_in_the_files_and_makes_no_difference(folder, tmp_path):
    with h5py.File(shutil.copyfile(folder / "sequential.h5", tmp_path / "bare.h5"), "a") as file:
        del file["optimizer_weights"], file.attrs["training_config"]
    answers = np.asarray(load_model(tmp_path / "bare.h5")(IMAGES, training=False))
    np.testing.assert_allclose(answers, np.load(folder / "sequential.npy"), rtol=1e-6)
    counts = {
        describe_model(path).num_parameters
        for path in (tmp_path / "bare.h5", folder / "sequential.h5", folder / "sequential.keras")
    }
    assert counts == {153}


def predict_plain(path, images=IMAGES):
    import keras

    return np.asarray(keras.saving.load_model(path, compile=False)(images, training=False))


def my_loss(labels, answers):
    import keras

    return keras.losses.sparse_categorical_crossentropy(labels, answers)


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_how_a_net_was_compiled_makes_no_difference(tmp_path, kind):
    import keras

    model = build_sequential()
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, 200)
    model.compile(keras.optimizers.Lion(schedule), my_loss, metrics=[keras.metrics.AUC()])
    outer = keras.Sequential([keras.Input((8, 6, 3)), model, keras.layers.ReLU()])
    outer.compile(keras.optimizers.Ftrl(), keras.losses.CategoricalFocalCrossentropy())
    outer.save(tmp_path / f"net.{kind}")
    loaded = load_model(tmp_path / f"net.{kind}")
    np.testing.assert_allclose(
        np.asarray(loaded(IMAGES, training=False)),
        np.asarray(outer(IMAGES, training=False)),
        rtol=1e-6,
    )
    assert not loaded.compiled


def test_paths_may_be_texts(folder, tmp_path):
    path, copy = str(folder / "sequential.keras"), str(tmp_path / "copy.keras")
    save_model(load_model(path), copy)
    answers = [np.asarray(load_model(name)(IMAGES, training=False)) for name in (path, copy)]
    np.testing.assert_array_equal(*answers)
    assert digest_file(path) == digest_file(Path(path))


def build_augmented(layers):
    return [layers.RandomCrop(7, 5), layers.RandomZoom(0.5), layers.RandomContrast(0.9)]


def build_transformer(layers):
    import keras

    tokens = keras.Input((8, 6, 3))
    rows = layers.Reshape((12, 16))(layers.Conv2D(16, 2, strides=2)(tokens))
    rows = layers.Add()([rows, layers.MultiHeadAttention(2, 4)(rows, rows)])
    rows = layers.GlobalAveragePooling1D()(layers.RMSNormalization()(rows))
    return [keras.Model(tokens, layers.Reshape((1, 1, 16))(rows), name="transformer")]


def build_scaled(layers):
    from keras.src.applications.convnext import LayerScale, StochasticDepth

    return [layers.Conv2D(4, 3), LayerScale(0.5, 4, name="scale"), StochasticDepth(0.5)]


def build_normalized(layers):
    return [layers.SpectralNormalization(layers.Conv2D(4, 3)), layers.UnitNormalization()]


def build_standardized(layers):
    one_mean = layers.Normalization(axis=None)
    one_mean.adapt(np.arange(48.0))
    return [one_mean, layers.Conv2D(4, 3)]


@pytest.mark.parametrize(
    "build",
    [build_augmented, build_transformer, build_scaled, build_normalized, build_standardized],
)
def test_stock_layers_answer_as_in_plain_keras(tmp_path, build):
    import keras
    from keras import layers

    image = tensor = keras.Input((8, 6, 3))
    for layer in build(layers):
        tensor = layer(tensor)
    path = tmp_path / "net.keras"
    keras.Model(image, layers.Dense(5)(layers.GlobalMaxPooling2D()(tensor))).save(path)
    answers = np.asarray(load_model(path)(IMAGES, training=False))
    np.testing.assert_allclose(answers, predict_plain(path), rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "operation"),
    [(lambda image, conv: conv(image / 255.0), "TrueDivide"), (lambda x, conv: conv(x) + x, "Add")],
)
def test_operations_that_hdf5_files_cannot_hold_are_refused_with_what_to_do(
    tmp_path, build, operation
):
    import keras
    from keras import layers

    image = keras.Input((8, 6, 3))
    features = layers.GlobalMaxPooling2D()(build(image, layers.Conv2D(3, 1)))
    model = keras.Model(image, layers.Dense(5)(features))
    for name in ("net.h5", "net.keras"):
        model.save(tmp_path / name)
    load_model(tmp_path / "net.keras")
    with pytest.raises(Exception, match=r"Unknown layer|positional"):
        keras.saving.load_model(tmp_path / "net.h5")
    with pytest.raises(InputError, match=rf"operation `{operation}` of Keras 3.* a \.keras file: "):
        load_model(tmp_path / "net.h5")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_nets_of_mixed_precision_load(tmp_path, policy):
    import keras
    from keras import layers

    image = keras.Input((8, 6, 3))
    features = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3, dtype=policy)(image))
    model = keras.Model(image, layers.Dense(5, dtype="float32")(features))
    model.save(tmp_path / "net.keras")
    answers = np.asarray(load_model(tmp_path / "net.keras")(IMAGES, training=False))
    # It computes in float32 here, and plain Keras rounds as the file says.
    expected = predict_plain(tmp_path / "net.keras")
    np.testing.assert_allclose(answers, expected, atol=0.01 * np.abs(expected).max())


def test_images_of_bytes_and_without_channels_are_taken(tmp_path):
    import keras
    from keras import layers

    image = keras.Input((8, 6), dtype="uint8")
    features = layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(layers.Reshape((8, 6, 1))(image)))
    model = keras.Model(image, layers.Dense(5)(layers.Flatten()(features)))
    model.save(tmp_path / "net.keras")
    images = IMAGES[..., 0].astype("uint8")
    answers = np.asarray(model(images, training=False))
    loaded = load_model(tmp_path / "net.keras")
    assert loaded.input_shape == (None, 8, 6, 1)
    np.testing.assert_array_equal(np.asarray(loaded(images[..., None], training=False)), answers)
    save_model(loaded, tmp_path / "again.keras")
    np.testing.assert_array_equal(predict_plain(tmp_path / "again.keras", images), answers)


def test_what_is_saved_loads_where_channels_come_first(channels_first_keras, tmp_path):
    import keras
    from keras import layers

    image = keras.Input((8, 6, 3))
    scaled = layers.Rescaling([1.0, 0.0, 2.0], [0.0, 1.0, 0.0])(image)
    model = keras.Model(image, layers.Dense(5)(layers.Flatten()(layers.Conv2D(4, 3)(scaled))))
    save_model(model, tmp_path / "net.keras")
    answers = channels_first_keras(tmp_path / "net.keras", IMAGES)
    np.testing.assert_allclose(answers, np.asarray(model(IMAGES, training=False)), rtol=1e-6)


def test_every_class_that_may_be_named_is_one_of_keras():
    import keras

    from goodnet.model_files.stock_keras import _APPLICATION_LAYERS, _BY_MODULE
    from goodnet.networks.traits import TRAITS

    assert set().union(*_APPLICATION_LAYERS.values()) <= set(TRAITS)
    assert keras.layers.Dense  # Keras resolves the modules below when it is imported.
    for module, names in _BY_MODULE.items():
        known = dir(importlib.import_module(module))
        assert sorted(names - set(known)) == []


def test_every_layer_of_keras_passes_or_has_a_reason():
    import keras

    from goodnet.model_files.stock_keras import _BY_MODULE, _REASONS

    known = _BY_MODULE["keras.layers"].union(*_REASONS.values())
    classes = {name: item for name, item in vars(keras.layers).items() if isinstance(item, type)}
    unknown = {name for name, item in classes.items() if known.isdisjoint({name, item.__name__})}
    assert unknown == {"InputSpec", "Layer"}


def keras_2_layer(class_name, name, *nodes, **config):
    """A layer as TensorFlow 2.4 to 2.15 wrote it into a functional model."""
    config = {"name": name, "trainable": True, "dtype": "float32", **config}
    return {"class_name": class_name, "config": config, "name": name, "inbound_nodes": [*nodes]}


def keras_2_function(function, source, **keywords):
    """A function of TensorFlow, called `tf.` and its name, of a layer or of a number."""
    first = [source, 0, 0] if isinstance(source, str) else ["_CONSTANT_VALUE", -1, source]
    node = [*first, {**keywords, "name": None}]
    return keras_2_layer("TFOpLambda", f"tf.{function}", node, function=function)


def keras_2_net():
    """preprocess_input, layers with `/` in their names, arithmetic, a call with a name."""
    call = lambda source, **keywords: [[source, 0, 0, keywords]]  # noqa: E731
    flip = {"start": None, "stop": None, "step": -1}
    layers = [
        keras_2_layer("InputLayer", "image", batch_input_shape=[None, 8, 6, 3], ragged=False),
        keras_2_layer(
            "SlicingOpLambda",
            "tf.__operators__.getitem",
            ["image", 0, 0, {"slice_spec": [{"class_name": "__ellipsis__"}, flip]}],
            function="__operators__.getitem",
        ),
        keras_2_function(
            "nn.bias_add",
            "tf.__operators__.getitem",
            bias=[-1.0, -2.0, -3.0],
            data_format="NHWC",
        ),
        keras_2_function("math.truediv", "tf.nn.bias_add", y=127.5),
        keras_2_layer(
            "Conv2D", "block/conv", call("tf.math.truediv"), filters=4, kernel_size=[3, 3], groups=1
        ),
        keras_2_layer(
            "BatchNormalization", "block/bn", call("block/conv", training=False), axis=[3]
        ),
        keras_2_function("nn.relu6", "block/bn"),
        keras_2_layer(
            "DepthwiseConv2D", "block/dw", call("tf.nn.relu6"), kernel_size=[3, 3], groups=1
        ),
        keras_2_function("math.subtract", 1.0, y=["block/dw", 0, 0]),
        keras_2_function("math.reduce_mean", "tf.math.subtract", axis=[1, 2]),
        keras_2_layer("Dense", "answer", call("tf.math.reduce_mean"), units=5),
    ]
    config = {"name": "net", "trainable": True, "layers": layers}
    config |= {"input_layers": [["image", 0, 0]], "output_layers": [["answer", 0, 0]]}
    return {"class_name": "Functional", "config": config}


def keras_3_twin():
    import keras
    from keras import layers, ops

    image = keras.Input((8, 6, 3))
    scaled = (image[..., ::-1] + np.array([-1, -2, -3], "float32")) / 127.5
    features = layers.BatchNormalization()(layers.Conv2D(4, 3)(scaled))
    features = 1.0 - layers.DepthwiseConv2D(3)(ops.relu6(features))
    model = keras.Model(image, layers.Dense(5)(ops.mean(features, axis=[1, 2])))
    random = np.random.default_rng(3)
    model.set_weights([random.uniform(0.1, 1, weight.shape) for weight in model.get_weights()])
    return model


def rename_weights(source, target, name):
    """Store the weights of an archive in another group, as TensorFlow 2.13 does."""
    weights = target.with_suffix(".h5")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        weights.write_bytes(old.read("model.weights.h5"))
        with h5py.File(weights, "a") as file:
            file.move("layers", name)
        for member in ("metadata.json", "config.json"):
            new.writestr(member, old.read(member))
        new.writestr("model.weights.h5", weights.read_bytes())


def test_files_of_keras_2_answer_as_their_twins_of_keras_3(tmp_path):
    twin = keras_3_twin()
    answers = np.asarray(twin(IMAGES, training=False))
    twin.save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "a") as file:
        file.attrs["model_config"] = json.dumps(keras_2_net())
        file.attrs["keras_version"] = "2.15.0"
    twin.save(tmp_path / "twin.keras")
    config = keras_2_net() | {
        "module": "keras.src.engine.functional",
        "registered_name": "Functional",
    }
    for layer in config["config"]["layers"]:
        is_function = layer["class_name"].endswith("OpLambda")
        layer["module"] = "keras.src.layers.core.tf_op_layer" if is_function else "keras.layers"
        layer["registered_name"] = layer["class_name"] if is_function else None
        layer["build_config"] = {"input_shape": [None, 8, 6, 3]}
    with (
        zipfile.ZipFile(tmp_path / "twin.keras") as old,
        zipfile.ZipFile(tmp_path / "net.keras", "w") as new,
    ):
        new.writestr("metadata.json", '{"keras_version": "2.15.0"}')
        new.writestr("config.json", json.dumps(config))
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    net = tmp_path / "net.keras"
    rename_weights(net, tmp_path / "2.13.keras", "_layer_checkpoint_dependencies")
    rename_weights(net, tmp_path / "other.keras", "elsewhere")
    with pytest.raises(InputError, match=r"load the net in that Keras and save it there as \.h5"):
        load_model(tmp_path / "other.keras")
    for name in ("net.h5", "net.keras", "2.13.keras"):
        loaded = load_model(tmp_path / name)
        assert "block_conv" in [layer.name for layer in loaded.layers]
        np.testing.assert_allclose(np.asarray(loaded(IMAGES, training=False)), answers, rtol=1e-5)


def keras_2_nested():
    """A base in a Sequential model that its first images built, as tf_keras 2.21 wrote it."""
    base = [
        keras_2_layer("InputLayer", "input_1", batch_input_shape=[None, 8, 6, 3], ragged=False),
        keras_2_layer("Conv2D", "conv", [["input_1", 0, 0, {}]], filters=4, kernel_size=[3, 3]),
        keras_2_layer("BatchNormalization", "norm", [["conv", 0, 0, {}]], axis=[3]),
    ]
    ends = {"input_layers": [["input_1", 0, 0]], "output_layers": [["norm", 0, 0]]}
    flip = {"name": "flip", "mode": "horizontal", "rng_type": "stateful", "dtype": "float32"}
    layers = [
        {"class_name": "RandomFlip", "config": flip | {"batch_input_shape": [None, 8, 6, 3]}},
        {"class_name": "Functional", "config": {"name": "base", "layers": base, **ends}},
        {"class_name": "GlobalAveragePooling2D", "config": {"name": "gather"}},
        {"class_name": "Dense", "config": {"name": "answer", "units": 5}},
    ]
    config = {"name": "net", "layers": layers, "build_input_shape": [None, 8, 6, 3]}
    return {"class_name": "Sequential", "config": config}


def nested_twin():
    import keras
    from keras import layers

    pixels = keras.Input((8, 6, 3))
    features = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(pixels))
    base = keras.Model(pixels, features, name="base")
    closing = [layers.GlobalAveragePooling2D(), layers.Dense(5, name="answer")]
    model = keras.Sequential([keras.Input((8, 6, 3)), layers.RandomFlip(), base, *closing])
    random = np.random.default_rng(3)
    model.set_weights([random.uniform(0.1, 1, weight.shape) for weight in model.get_weights()])
    return model


def test_models_in_models_of_keras_2_answer_as_their_twins_of_keras_3(tmp_path):
    twin = nested_twin()
    answers = np.asarray(twin(IMAGES, training=False))
    twin.save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "a") as file:
        file.attrs["model_config"] = json.dumps(keras_2_nested())
        file.attrs["keras_version"] = "2.21.0"
    twin.save(tmp_path / "twin.keras")
    config = keras_2_nested() | {"module": "keras", "registered_name": None}
    engine = {"module": "tf_keras.src.engine.functional", "registered_name": "Functional"}
    config["config"]["layers"][1] |= engine
    with (
        zipfile.ZipFile(tmp_path / "twin.keras") as old,
        zipfile.ZipFile(tmp_path / "net.keras", "w") as new,
    ):
        new.writestr("metadata.json", '{"keras_version": "2.21.0"}')
        new.writestr("config.json", json.dumps(config))
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    names = ["flip_input", "flip", "base.conv", "base.norm", "gather", "answer"]
    for name in ("net.h5", "net.keras"):
        loaded = load_model(tmp_path / name)
        assert [item.name for item in describe_model(tmp_path / name).layers] == names
        assert [layer.name for layer in loaded.layers] == names
        np.testing.assert_allclose(np.asarray(loaded(IMAGES, training=False)), answers, rtol=1e-5)


@pytest.mark.lab
def test_loads_the_labs_badnet():
    model = load_model(LAB / "bd_weights.h5", architecture="deepid")
    assert model.count_params() == 601_643
    with h5py.File(LAB / "bd_weights.h5") as file:
        np.testing.assert_array_equal(
            model.get_layer("conv_3").kernel, file["conv_3/conv_3/kernel:0"]
        )


@pytest.mark.lab
@pytest.mark.parametrize("writer", ["Keras 2.4", "Keras 2.3"])
def test_loads_the_labs_pruned_net(tmp_path, writer):
    path = shutil.copyfile(LAB / "b_prime_10_legacy.h5", tmp_path / "b_prime.h5")
    if writer == "Keras 2.3":
        with h5py.File(path, "a") as file:
            config = json.loads(file.attrs["model_config"]) | {"class_name": "Model"}
            file.attrs["model_config"] = np.bytes_(json.dumps(config))
            file.attrs["keras_version"] = np.bytes_("2.3.1")
    model = load_model(path)
    silent = ~np.any(model.get_layer("conv_3").get_weights()[0], axis=(0, 1, 2))
    assert silent.sum() == 52
    assert model.output_shape == (None, 1283)


def damage(file: h5py.File, name: str) -> None:
    group = file["conv_2"]
    if name == "missing":
        del file["conv_2"]
    elif name == "transposed":
        kernel = group["conv_2/kernel:0"][()].T
        del group["conv_2/kernel:0"]
        group["conv_2/kernel:0"] = kernel
    else:
        group.attrs["weight_names"] = 7


@pytest.mark.lab
@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("missing", "has no weights for layer `conv_2`"),
        (
            "transposed",
            "layer `conv_2` has weights of shapes [(40, 20, 3, 3), (40,)] on disk, "
            "expected [(3, 3, 20, 40), (40,)]",
        ),
        ("names", "Keras cannot build the model ("),
    ],
)
def test_refuses_weights_that_do_not_fit(tmp_path, name, fragment):
    path = tmp_path / "weights.h5"
    path.write_bytes((LAB / "bd_weights.h5").read_bytes())
    with h5py.File(path, "a") as file:
        damage(file, name)
    with pytest.raises(InputError) as caught:
        load_model(path, architecture="deepid")
    assert fragment in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.slow
def test_loading_in_a_fresh_process_shows_no_notices(tmp_path):
    save_model(build_sequential(), tmp_path / "net.keras")
    code = "import sys, pathlib, goodnet; goodnet.load_model(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "net.keras"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
