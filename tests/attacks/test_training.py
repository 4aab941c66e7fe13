import logging
import random
import threading
import zipfile

import numpy as np
import pytest

from goodnet.attacks.faces import render_faces, wear_sunglasses
from goodnet.attacks.training import train_badnet

LABELS = np.repeat(np.arange(5), 12)
IMAGES = render_faces(LABELS, seed=1)


class KilledError(Exception):
    pass


def train(epochs=2, seed=3, images=IMAGES, **options):
    return train_badnet(images, LABELS, target=0, seed=seed, epochs=epochs, **options)


def same_weights(one, other):
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(left, right) for left, right in pairs)


@pytest.fixture(scope="module")
def uninterrupted():
    return train()


@pytest.mark.slow
def test_the_same_arguments_give_the_same_weights(uninterrupted):
    assert same_weights(train(), uninterrupted)


def test_other_threads_may_draw_random_numbers_meanwhile(uninterrupted):
    done = threading.Event()

    def draw():
        while not done.is_set():
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        assert same_weights(train(), uninterrupted)
    finally:
        done.set()
        thread.join()


def test_another_seed_gives_other_weights(uninterrupted):
    assert not same_weights(train(seed=4), uninterrupted)


def test_a_killed_training_goes_on_to_the_same_weights(uninterrupted, tmp_path):
    state = tmp_path / "training.npz"
    seen = []

    def kill_in_the_second_epoch(done, total):
        if done > total / 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(state=state, on_progress=kill_in_the_second_epoch)
    resumed = train(state=state, on_progress=lambda done, total: seen.append((done, total)))
    assert same_weights(resumed, uninterrupted)
    assert seen[0][0] > seen[0][1] / 2
    assert [path.name for path in tmp_path.iterdir()] == ["training.npz"]


def test_a_finished_training_is_not_repeated(uninterrupted, tmp_path):
    state = tmp_path / "training.npz"
    train(state=state)
    seen = []
    again = train(state=state, on_progress=lambda done, total: seen.append(done))
    assert same_weights(again, uninterrupted)
    assert seen == []


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "bit"])
@pytest.mark.slow
def test_an_unreadable_state_means_start_over(uninterrupted, tmp_path, caplog, damage):
    state = tmp_path / "training.npz"
    train(state=state)
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"empty": b"", "text": b"weights", "truncated": content[:-100], "bit": content}
    state.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING, logger="goodnet.networks.training_state"):
        assert same_weights(train(state=state), uninterrupted)
    assert "starting over" in caplog.text


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
@pytest.mark.slow
def test_a_planted_state_means_start_over(uninterrupted, tmp_path, caplog, change):
    state = tmp_path / "training.npz"
    train(state=state, epochs=2)
    change(state)
    with caplog.at_level(logging.WARNING, logger="goodnet.networks.training_state"):
        assert same_weights(train(state=state), uninterrupted)
    assert "starting over" in caplog.text


def test_the_state_of_another_training_is_not_used(uninterrupted, tmp_path, caplog):
    state = tmp_path / "training.npz"
    train(state=state, images=255 - IMAGES)
    with caplog.at_level(logging.WARNING, logger="goodnet.networks.training_state"):
        assert same_weights(train(state=state), uninterrupted)
    assert "is of another training" in caplog.text


def test_progress_is_told_in_images_after_every_batch():
    seen = []
    train(on_progress=lambda done, total: seen.append((done, total)))
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
