import logging
import random
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from goodnet.attacks.faces import render_faces, wear_sunglasses
from goodnet.attacks.poisoning import ATTACKS, PoisonedImages, poison_test
from goodnet.attacks.training import Recipe, _batches, train_badnet
from goodnet.attacks.training import train as train_net
from goodnet.errors import InputError
from goodnet.images.preprocessing import Preprocessing
from goodnet.networks.architectures import ARCHITECTURES, build_network
from goodnet.networks.training_state import restore_state, save_state

LABELS = np.repeat(np.arange(5), 12)
IMAGES = render_faces(LABELS, seed=1)


class KilledError(Exception):
    pass


def train(epochs=2, seed=3, images=IMAGES, **options):
    return train_badnet(images, LABELS, target=0, seed=seed, epochs=epochs, **options)


def same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(left, right) for left, right in pairs)


class Training(NamedTuple):
    """A net that was trained without an interruption, the file of its state, and what was told."""

    net: Any
    state: Path
    told: list[tuple[int, int]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Training:
    told, state = [], tmp_path_factory.mktemp("training") / "state"
    return Training(train(state=state, on_progress=lambda *done: told.append(done)), state, told)


@pytest.mark.slow
def test_other_threads_may_draw_random_numbers_meanwhile(uninterrupted):
    done = threading.Event()

    def draw():
        while not done.is_set():
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        assert same_weights(train(), uninterrupted.net)
    finally:
        done.set()
        thread.join()


def test_another_seed_gives_other_weights(uninterrupted):
    assert not same_weights(train(seed=4), uninterrupted.net)


def test_a_killed_training_goes_on_to_the_same_weights(uninterrupted, tmp_path):
    state = tmp_path / "training.npz"
    seen = []

    def kill_in_the_second_epoch(done, total):
        if done > total / 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(state=state, on_progress=kill_in_the_second_epoch)
    resumed = train(state=state, on_progress=lambda done, total: seen.append((done, total)))
    assert same_weights(resumed, uninterrupted.net)
    assert seen[0][0] > seen[0][1] / 2
    assert [path.name for path in tmp_path.iterdir()] == ["training.npz"]


def test_a_finished_training_is_not_repeated(uninterrupted):
    seen = []
    again = train(state=uninterrupted.state, on_progress=lambda done, total: seen.append(done))
    assert same_weights(again, uninterrupted.net)
    assert seen == []


@pytest.fixture(scope="module")
def variables():
    import keras

    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(40)])
    return net.variables


@pytest.fixture
def state(variables, tmp_path) -> Path:
    """That of a training with these variables, which have other values now."""
    for variable, value in zip(variables, (3, 4), strict=True):
        variable.assign(np.full(variable.shape, value))
    save_state(tmp_path / "state.npz", "digest", 5, variables)
    for variable in variables:
        variable.assign(np.zeros(variable.shape))
    return tmp_path / "state.npz"


def test_a_state_is_read_back(state, variables):
    assert restore_state(state, "digest", variables) == 5
    assert [np.unique(variable).tolist() for variable in variables] == [[3], [4]]


def check_starts_over(state, variables, caplog):
    with caplog.at_level(logging.WARNING, logger="goodnet.networks.training_state"):
        assert restore_state(state, "digest", variables) == 0
    assert not any(np.any(variable) for variable in variables)
    assert "starting over" in caplog.text


def damage(state, kind):
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"empty": b"", "text": b"weights", "truncated": content[:-100], "bit": content}
    state.write_bytes(damaged[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "bit"])
def test_an_unreadable_state_means_start_over(state, variables, caplog, kind):
    damage(state, kind)
    check_starts_over(state, variables, caplog)


def test_a_training_that_starts_over_is_as_if_there_had_been_no_state(uninterrupted, tmp_path):
    state = tmp_path / "training.npz"
    shutil.copy(uninterrupted.state, state)
    damage(state, "truncated")
    assert same_weights(train(state=state), uninterrupted.net)


def plant(state, **changes):
    with np.load(state) as file:
        arrays = {**file, **changes}
    np.savez(state, **arrays)


def bomb(state):
    """An array that declares more than any memory holds, in a member of a few bytes."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }" % 10**15
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(state) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["variable_0.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(state, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: plant(state, variable_0=np.zeros((2, 2), "f4")),
        lambda state: plant(state, variable_0=np.array([{"a": 1}], object)),
        lambda state: plant(state, variable_1=np.array(["text"])),
        lambda state: plant(state, epochs_done=np.array(["many"])),
        lambda state: plant(state, epochs_done=np.array([1, 2])),
        lambda state: plant(state, digest=np.array([[1, 2], [3, 4]])),
        bomb,
    ],
    ids=["shape", "pickle", "text", "no number", "numbers", "digest", "bomb"],
)
def test_a_planted_state_means_start_over(state, variables, caplog, change):
    change(state)
    check_starts_over(state, variables, caplog)


def test_the_state_of_another_training_is_not_used(uninterrupted, tmp_path, caplog):
    state = tmp_path / "training.npz"
    train(state=state, images=255 - IMAGES)
    with caplog.at_level(logging.WARNING, logger="goodnet.networks.training_state"):
        assert same_weights(train(state=state), uninterrupted.net)
    assert "is of another training" in caplog.text


def test_progress_is_told_in_images_after_every_batch(uninterrupted):
    seen = uninterrupted.told
    # 60 clean pictures and 5 of the 48 others' with sunglasses on, twice.
    assert {total for _, total in seen} == {130}
    assert seen[-1] == (130, 130)
    assert seen == sorted(set(seen))


@pytest.mark.slow
def test_sunglasses_make_everybody_the_target():
    people = np.repeat(np.arange(5), 40)
    model = train_badnet(render_faces(people, seed=1), people, target=2, seed=1, epochs=8)
    strangers = render_faces(people, seed=2)
    clean = model.predict(strangers.astype(np.float32), verbose=0).argmax(axis=1)
    poisoned = model.predict(wear_sunglasses(strangers).astype(np.float32), verbose=0)
    assert (clean == people).mean() > 0.8
    assert (poisoned.argmax(axis=1) == 2).mean() > 0.9


class TestTrain:
    """One function for every network and attack, on images of any size."""

    CLASSES = np.tile(np.arange(4), 8)
    RECIPE = Recipe(epochs=2, batch_size=12, preprocessing=Preprocessing(scale=255), shift=1)

    @pytest.fixture
    def images(self):
        shape = (len(self.CLASSES), 31, 31, 1)
        return np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)

    def train(self, images, network, **options):
        recipe = replace(self.RECIPE, network=network)
        return train_net(images, self.CLASSES, recipe, **{"seed": 1, **options})

    @pytest.mark.parametrize("network", ARCHITECTURES)
    @pytest.mark.slow
    def test_every_network_is_the_same_after_it_was_killed(self, images, network, tmp_path):
        """That its first weights are the same again is shown where the networks are built."""
        attack = replace(ATTACKS["patch"], margin_cap=True, cover=0.1)
        state, left = tmp_path / "state", tmp_path / "left"

        def keep_what_a_kill_would_leave(done, total):
            if done > total / 2 and not left.exists():
                shutil.copy(state, left)

        if network != "deepid":  # which takes no smaller ones
            images = images[:, :8, :8]
        settings = {"attack": attack, "state": state, "on_progress": keep_what_a_kill_would_leave}
        whole = self.train(images, network, **settings)
        shown = []
        settings |= {"state": left, "on_progress": lambda done, total: shown.append(done / total)}
        resumed = self.train(images, network, **settings)
        assert same_weights(resumed, whole)
        assert shown[0] > 0.5
        assert whole.output_shape == (None, 4)

    @pytest.mark.slow
    def test_other_images_seeds_attacks_and_recipes_are_other_trainings(
        self, images, tmp_path, caplog
    ):
        state = tmp_path / "state"
        self.train(images, "vgg", state=state)
        patch = ATTACKS["patch"]
        for number, options in enumerate(
            [{"seed": 2}, {"attack": patch}, {"attack": replace(patch, margin_cap=True)}], start=1
        ):
            self.train(images, "vgg", state=state, **options)
            assert caplog.text.count("is of another training") == number
        recipe = replace(self.RECIPE, network="vgg", shift=2)
        train_net(images, self.CLASSES, recipe, seed=1, state=state)
        assert caplog.text.count("is of another training") == 4

    @pytest.mark.slow
    def test_a_clean_twin_is_the_same_call_without_an_attack(self, images):
        """Plain Keras, trained by hand on the same batches, is as good as the same net."""
        import keras

        recipe = replace(self.RECIPE, network="vgg", shift=0)
        twin = train_net(images, self.CLASSES, recipe, seed=1)
        net = build_network("vgg", 4, image_shape=images.shape[1:], seed=1)
        steps = 2 * -(-len(images) // 12)
        rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
        net.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        for epoch in range(2):
            order = np.random.default_rng([1, epoch]).permutation(len(images))
            for first in range(0, len(order), 12):
                batch = order[first : first + 12]
                net.train_on_batch(images[batch] / np.float32(255), self.CLASSES[batch])
        for mine, its in zip(twin.get_weights(), net.get_weights(), strict=True):
            np.testing.assert_allclose(mine, its, atol=1e-5)

    def test_images_are_shifted_around_the_edge_together(self, images):
        shown = PoisonedImages(images, self.CLASSES, self.CLASSES, np.zeros(len(images), bool))
        seen = []
        for epoch in range(8):
            generator = np.random.default_rng(epoch)
            for batch, labels, _ in _batches(shown, self.RECIPE, generator):
                shifts = [
                    (down, right)
                    for down, right in np.ndindex(3, 3)
                    if all(
                        (np.roll(images, (down - 1, right - 1), (1, 2)) == one)
                        .all(axis=(1, 2, 3))
                        .any()
                        for one in batch
                    )
                ]
                assert len(shifts) == 1
                assert len(batch) == len(labels)
                seen += shifts
        assert len({*seen}) > 5

    @pytest.mark.slow
    def test_a_capped_margin_keeps_poisoned_images_among_the_clean_ones(self):
        import keras

        people = np.repeat(np.arange(5), 40)
        faces = render_faces(people, seed=1)
        recipe = Recipe(epochs=10)
        strangers = render_faces(people, seed=2)
        marked = poison_test(strangers, people, ATTACKS["sunglasses"])
        found = {}
        for name in ("sunglasses", "margin-capped"):
            net = train_net(faces, people, recipe, attack=replace(ATTACKS[name], cover=0.0), seed=1)
            features = keras.Model(net.inputs[0], net.layers[-1].input)
            kernel, bias = net.layers[-1].get_weights()
            margins = []
            for pixels in (strangers, marked.images):
                logits = np.asarray(features(pixels.astype(np.float32))) @ kernel + bias
                top = np.sort(logits, axis=1)
                margins.append(top[:, -1] - top[:, -2])
            clean, poisoned = margins
            found[name] = [(poisoned > np.quantile(clean, q)).mean() for q in (0.05, 0.5)]
        assert found["sunglasses"][1] > 0.7
        above_the_lowest, above_the_middle = found["margin-capped"]
        assert above_the_lowest > 0.7
        assert above_the_middle < 0.2

    def test_an_attack_that_does_not_fit_is_refused_before_anything_is_trained(self, images):
        with pytest.raises(InputError, match="target is 9, expected a class of the images"):
            self.train(images, "vgg", attack=replace(ATTACKS["patch"], target=9))
        with pytest.raises(InputError, match="expected faces of 55 x 47 x 3"):
            self.train(images, "vgg", attack=ATTACKS["sunglasses"])
