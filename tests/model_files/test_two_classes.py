"""Nets that answer one value: the probability of class 1, or its logit."""

import zipfile

import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.model_files.describe import describe_model
from goodnet.model_files.load import load_model
from tests.zoo import make_images, set_random_weights

SHAPE = (8, 6, 3)
IMAGES = make_images(40, SHAPE, seed=2).astype("float32") / np.float32(255)


def build(close, *, loss=None, dtype=None):
    """A net whose one value lies on both sides of the threshold; `close` makes it of features."""
    import keras
    from keras import layers

    image = keras.Input(SHAPE, name="image")
    features = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    features = layers.GlobalAveragePooling2D(name="gather")(features)
    model = keras.Model(image, close(layers, features))
    set_random_weights(model, seed=2)
    dense = model.get_layer("logit")
    logits = keras.Model(image, dense.input).predict(IMAGES, verbose=0) @ dense.kernel
    dense.set_weights([dense.kernel, -np.median(logits, axis=0)])
    if loss is not None:
        model.compile("adam", loss)
    return model


def inside(layers, features):
    return layers.Dense(1, activation="sigmoid", name="logit")(features)


def behind(layers, features):
    return layers.Activation("sigmoid", dtype="float32")(layers.Dense(1, name="logit")(features))


def operation(layers, features):
    from keras import ops

    return ops.sigmoid(layers.Dense(1, name="logit")(features))


def bare(layers, features):
    return layers.Dense(1, name="logit")(features)


@pytest.mark.slow
@pytest.mark.parametrize("close", [inside, behind, operation], ids=lambda close: close.__name__)
def test_a_sigmoid_becomes_a_softmax_of_two(tmp_path, close):
    model = build(close)
    model.save(tmp_path / "net.keras")
    description, loaded = (f(tmp_path / "net.keras") for f in (describe_model, load_model))
    assert description.num_classes == 2
    names = [item.name for item in description.layers]
    assert names == [operation.name for operation in loaded.operations]
    (p,) = model.predict(IMAGES, verbose=0).T
    answers = loaded.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(answers, np.stack([1 - p, p], axis=1), atol=1e-6)
    np.testing.assert_array_equal(answers.argmax(axis=1), p > 0.5)
    assert 10 < np.count_nonzero(p > 0.5) < 30


LOSSES = ("BinaryCrossentropy", "BinaryFocalCrossentropy")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_of_logits_says_that_the_value_is_one(tmp_path, loss, kind):
    import keras

    model = build(bare, loss=getattr(keras.losses, loss)(from_logits=True))
    model.save(tmp_path / f"net.{kind}")
    description, loaded = (f(tmp_path / f"net.{kind}") for f in (describe_model, load_model))
    assert description.num_classes == 2
    (z,) = model.predict(IMAGES, verbose=0).T
    answers = loaded.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(answers, np.stack([np.zeros_like(z), z], axis=1), atol=1e-6)
    np.testing.assert_array_equal(answers.argmax(axis=1), z > 0)


def test_a_tie_is_class_0(tmp_path):
    model = build(inside)
    model.get_layer("logit").set_weights([np.zeros((4, 1)), np.zeros(1)])
    model.save(tmp_path / "net.keras")
    assert set(model.predict(IMAGES, verbose=0)[:, 0]) == {0.5}
    assert set(load_model(tmp_path / "net.keras").predict(IMAGES, verbose=0).argmax(axis=1)) == {0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("close", "loss"),
    [
        (bare, None),
        (bare, "binary_crossentropy"),
        (bare, "hinge"),
        (lambda layers, x: layers.Dense(1, activation="tanh", name="logit")(x), None),
        (lambda layers, x: layers.ReLU()(layers.Dense(1, name="logit")(x)), None),
    ],
    ids=["not compiled", "loss of probabilities", "other loss", "tanh", "ReLU behind"],
)
@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_one_value_that_nothing_explains_is_refused(tmp_path, close, loss, kind):
    build(close, loss=loss).save(tmp_path / f"net.{kind}")
    with pytest.raises(InputError, match=r"has one output value at `\w+`, and neither a sigmoid"):
        describe_model(tmp_path / f"net.{kind}")


def test_no_other_word_of_how_a_net_was_compiled_is_read(tmp_path):
    """What names code there is no reason to refuse a net, and none to run it."""
    import keras

    model = build(bare, loss=keras.losses.BinaryCrossentropy(from_logits=True))
    model.save(tmp_path / "net.keras")
    with zipfile.ZipFile(tmp_path / "net.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(b'"keras.losses"', b'"os"')
    with zipfile.ZipFile(tmp_path / "evil.keras", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    np.testing.assert_array_equal(
        load_model(tmp_path / "evil.keras").predict(IMAGES, verbose=0),
        load_model(tmp_path / "net.keras").predict(IMAGES, verbose=0),
    )


def test_a_layer_of_one_value_in_a_model_of_the_model(tmp_path):
    import keras

    image = keras.Input(SHAPE)
    model = keras.Model(image, build(inside)(keras.layers.Rescaling(2.0)(image)))
    model.save(tmp_path / "net.keras")
    loaded = load_model(tmp_path / "net.keras")
    (p,) = model.predict(IMAGES, verbose=0).T
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0)[:, 1], p, atol=1e-6)


def test_several_outputs_are_refused_in_a_line(tmp_path):
    import keras

    image = keras.Input(SHAPE)
    features = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(3, 3)(image))
    answers = [keras.layers.Dense(n)(features) for n in (2, 3)]
    keras.Model(image, answers).save(tmp_path / "net.keras")
    with pytest.raises(InputError, match="has 2 outputs, expected one"):
        load_model(tmp_path / "net.keras")
