"""Files that are exchanged while a run reads them: real stages on real files, no Prefect server."""

import shutil
import time

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from goodnet.choices import Choices
from goodnet.errors import InputError
from goodnet.images.image_sets import write_images
from goodnet.images.preprocessing import Preprocessing
from goodnet.opening import open_frontier
from tasks import activations, progress
from tasks.activations import (
    compute_evaluation_activations,
    compute_validation_activations,
    open_set,
)
from tasks.loading import load_inputs

CHANGED = "has changed since"
NUM_IMAGES = 6000  # Some batches, so that some are read after the first ones are through.


def make_images(seed, num_images=NUM_IMAGES, shape=(12, 12, 3)):
    return np.random.default_rng(seed).integers(0, 256, (num_images, *shape), dtype=np.uint8)


def make_net(path, shape=(12, 12, 3), seed=0):
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    net = keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(4, 3, padding="same", activation="relu", name="conv"),
            layers.MaxPooling2D(2, padding="same", name="pool"),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ]
    )
    net.save(path)
    return net


def load(folder, artifacts=None, **options):
    names = ("clean_valid", "clean_test", "poisoned_test")
    sets = {
        name: next(path for path in (folder / f"{name}.h5", folder / name) if path.exists())
        for name in names[: options.pop("num_sets", 2)]
    }
    refresh = options.pop("refresh", False)
    choices = Choices(**{"preprocessing": Preprocessing(scale=255), **options})
    artifacts = artifacts or folder / "artifacts"
    return load_inputs.fn(folder / "net.keras", sets, choices, refresh=refresh, artifacts=artifacts)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A net and two sets, and another set to put in the place of one of them."""
    folder = tmp_path_factory.mktemp("original")
    net = make_net(folder / "net.keras")
    labels = np.arange(NUM_IMAGES) % 5
    for seed, name in enumerate(("clean_valid", "clean_test", "other")):
        write_images(folder / f"{name}.h5", make_images(seed), labels)
    return folder, net


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original[0], tmp_path / "case")
    time.sleep(0.02)  # More than a tick of the file system's clock.
    return tmp_path / "case"


class After:
    """Does something once, when the first images of a stage are through."""

    def __init__(self, action):
        self._action = action

    def advanced(self, stage, done, total):
        if self._action is not None and done < total:
            self._action, action = None, self._action
            action()

    def began(self, stage):
        pass

    def ended(self):
        pass

    def finished(self, stage):
        pass


@pytest.fixture
def after_first_images():
    """Call with what is to happen in the middle of the first pass."""
    yield lambda action: progress.listeners.append(After(action))
    progress.listeners.clear()


def first_pass(inputs, folder):
    return compute_validation_activations.fn(
        inputs.network, inputs.clean_valid, artifacts=folder / "artifacts"
    )


def exchange(folder):
    (folder / "other.h5").replace(folder / "clean_valid.h5")


def write_into(folder):
    """Change one image in its place and set the time of change back."""
    path = folder / "clean_valid.h5"
    place = path.stat().st_size - 100
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(50))


def exchange_and_put_back(folder):
    (folder / "clean_valid.h5").rename(folder / "kept.h5")
    shutil.copy(folder / "other.h5", folder / "clean_valid.h5")
    (folder / "kept.h5").replace(folder / "clean_valid.h5")


def require_right(record, net, seed):
    """The activations are those that plain Keras computes of the images of a seed."""
    answers = net.predict(make_images(seed) / np.float32(255), verbose=0, batch_size=512)
    found = pq.read_table(record.parts[0].path, columns=["prediction"])["prediction"].to_numpy()
    assert np.count_nonzero(found != answers.argmax(1)) <= 1


def stored(folder):
    cache = folder / "artifacts" / "cache" / "activations"
    return sorted(cache.iterdir()) if cache.exists() else []


@pytest.mark.parametrize("change", [exchange, write_into, exchange_and_put_back])
@pytest.mark.slow
def test_a_set_that_changes_in_the_middle_of_the_first_pass_leaves_nothing(
    original, folder, after_first_images, change
):
    inputs = load(folder)
    after_first_images(lambda: change(folder))
    with pytest.raises(InputError, match=CHANGED):
        first_pass(inputs, folder)
    assert stored(folder) == []
    if change is not write_into:
        seed = 2 if change is exchange else 0
        require_right(first_pass(load(folder), folder), original[1], seed)


def test_a_set_that_changes_between_stages_is_refused(original, folder):
    inputs = load(folder)
    exchange(folder)
    for stage in (first_pass, lambda inputs, folder: open_valid(inputs, folder)):
        with pytest.raises(InputError, match=r"clean_valid\.h5: has changed since the run began"):
            stage(inputs, folder)
    assert stored(folder) == []
    require_right(first_pass(load(folder), folder), original[1], 2)


def open_valid(inputs, folder):
    return open_set(inputs.network, inputs.clean_valid, artifacts=folder / "artifacts")


def test_a_set_that_was_only_touched_or_copied_is_the_same(folder):
    inputs = load(folder)
    shutil.copy(folder / "clean_valid.h5", folder / "copy.h5")
    (folder / "copy.h5").replace(folder / "clean_valid.h5")
    assert open_valid(inputs, folder).num_images == NUM_IMAGES


def test_a_folder_that_changes_between_stages_and_while_it_is_read_is_refused(folder):
    (folder / "clean_valid.h5").unlink()
    for number, picture in enumerate(make_images(0, 30)):
        place = folder / "clean_valid" / str(number % 5)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number:02}.png")
    time.sleep(0.02)
    inputs = load(folder)
    batches = open_valid(inputs, folder).batches(10)
    next(batches)
    last = folder / "clean_valid" / "4" / "29.png"
    Image.fromarray(make_images(5, 1)[0]).save(last)
    with pytest.raises(InputError, match=r"29\.png: has changed since it was opened"):
        list(batches)
    with pytest.raises(InputError, match="clean_valid: has changed since the run began"):
        open_valid(inputs, folder)
    inputs = load(folder)
    Image.fromarray(make_images(5, 1)[0]).save(last.with_name("30.png"))
    with pytest.raises(InputError, match="clean_valid: has changed since the run began"):
        open_valid(inputs, folder)


def write_named(folder, pictures, classes):
    """Write pictures into folders named by class, taking turns."""
    for number, picture in enumerate(pictures):
        place = folder / classes[number % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number:02}.png")


def labels_of(record):
    return pq.read_table(record.parts[0].path, columns=["label"])["label"].to_pylist()


def test_stages_number_named_folders_as_clean_validation_does(tmp_path):
    """Also where a list gives another order: then nothing of the first one's cache is taken."""
    make_net(tmp_path / "net.keras")
    classes = ("ant", "bee", "cat", "dog", "eel")
    write_named(tmp_path / "clean_valid", make_images(0, 10), classes)
    write_named(tmp_path / "clean_test", make_images(1, 10), classes[1:])
    write_named(tmp_path / "poisoned_test", make_images(2, 3), classes[3:4])
    (tmp_path / "classes.txt").write_text("\n".join(reversed(classes)))
    expected = {
        None: ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [1, 1, 1, 2, 2, 2, 3, 3, 4, 4], [3, 3, 3]),
        tmp_path / "classes.txt": (
            [4, 4, 3, 3, 2, 2, 1, 1, 0, 0],
            [3, 3, 3, 2, 2, 2, 1, 1, 0, 0],
            [1, 1, 1],
        ),
    }
    for given, labels in expected.items():
        inputs = load(tmp_path, num_sets=3, classes=given)
        assert inputs.classes == (classes if given is None else classes[::-1])
        records = [
            first_pass(inputs, tmp_path),
            *(
                compute_evaluation_activations.fn(
                    inputs.network, images, artifacts=tmp_path / "artifacts"
                )
                for images in inputs.evaluation
            ),
        ]
        assert tuple(map(labels_of, records)) == labels
    assert len(stored(tmp_path)) == 6


def test_each_preprocessing_has_activations_of_its_own(folder, original):
    from keras.applications.imagenet_utils import preprocess_input

    for name in ("tf", "caffe", "torch"):
        inputs = load(folder, preprocessing=Preprocessing.named(name))
        record = first_pass(inputs, folder)
        prepared = preprocess_input(make_images(0).astype(np.float32), mode=name)
        answers = original[1].predict(prepared, verbose=0, batch_size=512)
        found = pq.read_table(record.parts[0].path, columns=["prediction"])["prediction"].to_numpy()
        assert np.count_nonzero(found != answers.argmax(1)) <= 1
    assert len(stored(folder)) == 3
    with pytest.raises(InputError, match="has 2 means, but the net takes 3 channels"):
        load(folder, preprocessing=Preprocessing(mean=(1, 2)))


def test_a_net_whose_classes_only_keras_counts_is_held_against_the_names_too(tmp_path):
    """Its number of classes is not known before it is loaded."""
    import keras
    from keras import layers

    image = keras.Input((12, 12, 3))
    features = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    scores = layers.Dense(5)(layers.GlobalMaxPooling2D(name="pool")(features))
    keras.Model(image, keras.ops.softmax(scores)).save(tmp_path / "net.keras")
    write_named(tmp_path / "clean_valid", make_images(0, 10), "abcd")
    write_named(tmp_path / "clean_test", make_images(1, 10), "abcd")
    inputs = load(tmp_path)
    with pytest.raises(InputError, match=r"names 4 classes \(a, b, c, d\), but the net answers 5"):
        first_pass(inputs, tmp_path)


def test_a_net_that_changes_after_it_was_digested_is_refused(folder, monkeypatch):
    """Also one that changes after it was digested again, just before it is read."""
    from goodnet.model_files import load as models

    inputs = load(folder)
    make_net(folder / "other.keras", seed=1)
    open_frontier.cache_clear()
    as_it_is = models.load_model

    def exchange_and_load(path, **options):
        shutil.copy(folder / "other.keras", path)
        return as_it_is(path, **options)

    monkeypatch.setattr(models, "load_model", exchange_and_load)
    with pytest.raises(InputError, match=r"net\.keras: has changed since it was opened"):
        activations.open_frontier(inputs.network)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"net\.keras: has changed since the run began"):
        activations.open_frontier(inputs.network)
    assert activations.open_frontier(load(folder).network)


@pytest.mark.parametrize("shape", [(3, 12, 11), (12, 11, 2), (12, 11, 10), (12, 1, 4)])
@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.slow
def test_every_stage_opens_a_set_in_the_shape_of_the_net(tmp_path, shape, channels_first):
    pixels = make_images(0, 20, shape)
    for number, name in enumerate(("clean_valid", "clean_test")):
        images = pixels // (number + 1)
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["data"] = images.transpose(0, 3, 1, 2) if channels_first else images
            file["label"] = np.arange(20) % 5
    make_net(tmp_path / "net.keras", (shape[0], shape[1], shape[2]))
    inputs = load(tmp_path)
    (batch,) = open_valid(inputs, tmp_path).batches(20)
    np.testing.assert_array_equal(batch, pixels)
