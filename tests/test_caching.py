import errno
from dataclasses import dataclass, replace

import pytest
from PIL import Image
from prefect import flow, task
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from goodnet.attacks.patches import Overlay
from goodnet.attacks.perturbations import Blend
from goodnet.attacks.poisoning import Attack
from goodnet.errors import InputError
from tasks.caching import cache_file, cached
from tasks.records import DefaultModel, StoredFile


@pytest.fixture(scope="module", autouse=True)
def on_server(server_settings, tmp_path_factory):
    results = {PREFECT_LOCAL_STORAGE_PATH: tmp_path_factory.mktemp("results")}
    with temporary_settings(server_settings | results):
        yield


def test_only_errors_that_another_try_can_mend_are_retried(tmp_path):
    (tmp_path / "file").touch()
    done = DefaultModel(file=StoredFile.of(tmp_path / "file"))
    tries = []

    @task(**cached(version=1) | {"retry_delay_seconds": 0})
    def fail_once(name):
        tries.append(name)
        if tries.count(name) == 1:
            raise errors[name]
        return done

    @flow
    def all_errors():
        return {name: fail_once(name, return_state=True).is_completed() for name in errors}

    errors = {
        "device": OSError(errno.EIO, "Input/output error"),
        "no number": OSError("Can't read data"),
        "full disk": OSError(errno.ENOSPC, "No space left on device"),
        "no file": FileNotFoundError(errno.ENOENT, "No such file or directory"),
        "bad input": InputError("a.h5: no labels"),
        "ours": RuntimeError("disagreement"),
    }
    mended = {"device", "no number"}
    assert all_errors() == {name: name in mended for name in errors}
    assert {name: tries.count(name) for name in errors} == {
        name: 2 if name in mended else 1 for name in errors
    }


def test_a_result_is_honoured_while_its_file_is_there_and_unaltered(tmp_path):
    path, given = tmp_path / "made", [tmp_path / "given", tmp_path / "copy"]
    for file in given:
        file.write_text("same")

    def stage(version):
        @task(name="make", **cached(version=version))
        def make(given):
            path.write_text("made")
            return DefaultModel(file=StoredFile.of(path))

        return make

    def state(*, file=given[0], version=1):
        @flow
        def once():
            return stage(version)(StoredFile.of(file), return_state=True).name

        return once()

    states = [state(), state(), state(file=given[1]), state(version=2)]
    assert states == ["Completed", "Cached", "Cached", "Completed"]
    given[0].write_text("Same")
    assert state() == "Completed"
    path.write_text("Made")
    assert (state(), state()) == ("Completed", "Cached")
    path.unlink()
    assert (state(), state()) == ("Completed", "Cached")


def test_attacks_are_told_apart_by_their_triggers(tmp_path):
    @dataclass(frozen=True)
    class Another(Blend):
        """Has the same settings as its base."""

    def key(attack):
        return cache_file(tmp_path, "nets", ".keras", attack).name

    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(tmp_path / "picture.png")
    attacks = [Attack(trigger) for trigger in (Blend(), Another(), Blend(opacity=0.3))]
    attacks.append(Attack(Overlay(tmp_path / "picture.png")))
    Image.new("RGBA", (4, 4), (1, 2, 4, 255)).save(tmp_path / "picture.png")
    attacks.append(Attack(Overlay(tmp_path / "picture.png")))
    attacks += [replace(attacks[0], target="next"), replace(attacks[0], target=(1, 0))]
    assert len({key(attack) for attack in attacks}) == len(attacks)
    assert key(replace(attacks[2])) == key(attacks[2])
