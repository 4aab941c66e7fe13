"""Runs that are killed, run beside each other, or run out of disk: real processes on faces."""

import json
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import pytest

from tests.commands import IMPORTED, one_process

# Python reports every renaming to an audit hook, and a stage's file appears by being renamed: a
# process that is to be killed in a stage dies when all of the work is done and nothing is kept yet.
SMALL = f"""
import os, signal, sys
from functools import partial
{IMPORTED}
from flows.run import main
from goodnet.attacks.default_case import DefaultCase

stage = ""
repair = partial(main, default_case=DefaultCase(10, 12, 8, 8, epochs=3))

def kill(event, arguments):
    if event == "os.rename" and stage and stage in str(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)

def main(arguments):
    global stage
    stage, *arguments = arguments
    return repair(arguments)

sys.addaudithook(kill)
"""
STAGES = [
    "/default/",
    ".training",
    "/digests.json",
    "/activations/",
    "/sweeps/",
    "/models/",
    "/samples/",
    "/runs/run",
]


def options(artifacts, *more, name="run"):
    where = ["--artifacts", str(artifacts), "--run-name", name]
    return [*where, "--quick", "--quiet", *map(str, more)]


def stages_run(artifacts, name="run"):
    """The stages that a run did not find in the cache."""
    about = json.loads((artifacts / "runs" / name / "run.json").read_text())
    return [stage["name"] for stage in about["stages"] if stage["state"] != "Cached"]


def results(artifacts, name="run"):
    return (artifacts / "runs" / name / "results.json").read_bytes()


def kept(folder):
    """The files of finished stages, and what changes about them when they are written again."""
    kinds = ("default", "activations", "sweeps", "models", "samples")
    files = [path for kind in kinds for path in (folder / "cache" / kind).glob("[!.]*")]
    return {str(path): path.stat().st_ino for path in files if path.suffix != ".training"}


def checkpoints(artifacts, name):
    every = json.loads(results(artifacts, name))["checkpoints"]
    return [point for point in every if point["method"] == "pruning"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def temporaries(folder):
    return [str(path) for path in folder.rglob("*") if ".tmp" in path.name]


@pytest.fixture(scope="module")
def run(prefect_server):
    """Runs the command; with `killed_in`, until it has done the work of that stage."""
    with one_process(SMALL, prefect_server, forks=True) as run:
        yield partial(run_command, run)


def run_command(run, artifacts, *more, name="run", killed_in=""):
    done = run(killed_in, *options(artifacts, *more, name=name))
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """The artifacts of a run that nothing disturbed."""
    artifacts = tmp_path_factory.mktemp("undisturbed")
    assert run(artifacts) == (0, "")
    return artifacts


def test_a_run_killed_in_every_stage_ends_as_one_that_was_not(undisturbed, run, tmp_path):
    finished = {}
    for stage in STAGES:
        code, _ = run(tmp_path, killed_in=stage)
        assert code == -signal.SIGKILL, stage
        assert not (tmp_path / "runs" / "run").exists()
        assert finished.items() <= kept(tmp_path).items(), stage
        finished = kept(tmp_path)
    assert run(tmp_path) == (0, "")
    assert finished == kept(tmp_path)
    assert results(tmp_path) == results(undisturbed)
    assert stages_run(tmp_path) == ["load"]
    assert temporaries(tmp_path) == []


def test_two_runs_at_once_on_one_cache_agree(undisturbed, run, prefect_server, tmp_path):
    with one_process(SMALL, prefect_server, forks=True) as other, ThreadPoolExecutor(2) as pool:
        runs = run, partial(run_command, other)
        done = pool.map(lambda run, name: run(tmp_path, name=name), runs, ("one", "other"))
        assert list(done) == [(0, ""), (0, "")]
    assert results(tmp_path, "one") == results(tmp_path, "other") == results(undisturbed)


def test_an_altered_file_in_the_cache_is_computed_again(undisturbed, run):
    for path in (undisturbed / "cache" / "activations").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert run(undisturbed, name="altered") == (0, "")
    assert set(stages_run(undisturbed, "altered")) == {
        "load",
        "activations of clean_valid",
        "activations of clean_test",
        "activations of poisoned_test",
    }
    assert results(undisturbed, "altered") == results(undisturbed)


def test_a_changed_byte_recomputes_what_depends_on_it_and_nothing_else(undisturbed, run, tmp_path):
    about = json.loads((undisturbed / "runs" / "run" / "run.json").read_text())
    files = {role: tmp_path / Path(file["path"]).name for role, file in about["inputs"].items()}
    for role, file in files.items():
        shutil.copy(about["inputs"][role]["path"], file)
    with h5py.File(files["clean_test"], "r+") as file:
        file["data"][0, 0, 0, 0] ^= 1
    given = [part for role, path in files.items() for part in (f"--{role.replace('_', '-')}", path)]
    # The net learnt for moments only. Given as a model it is asked for more than as the default.
    given += ["--min-clean-accuracy", "0.1"]
    assert run(undisturbed, *given, name="changed") == (0, "")
    reached = {point["step"] for point in checkpoints(undisturbed, "changed")} - {None}
    assert sorted(stages_run(undisturbed, "changed")) == sorted(
        ["load", "activations of clean_test", "compare sets", "sweep of clean_test", "samples"]
        + ["check sets"]
        + [f"check of answers on {name}" for name in ("clean_valid", "clean_test")]
        + ["scores of clean_test", "answers to clean_test", "verify nets", "measure"]
        + ["verify checkpoint"] * len(reached)
    )


def test_another_ranking_layer_is_nothing_to_the_stages_before_it(undisturbed, run):
    assert run(undisturbed, "--rank-at", "conv_3", name="ranked") == (0, "")
    assert not {"render default faces", "train default BadNet"} & set(
        stages_run(undisturbed, "ranked")
    )
    assert "prune order" in stages_run(undisturbed, "ranked")


def test_refresh_computes_everything_again_and_finds_the_same(undisturbed, run):
    assert run(undisturbed, "--refresh", name="fresh") == (0, "")
    about = json.loads((undisturbed / "runs" / "fresh" / "run.json").read_text())
    assert stages_run(undisturbed, "fresh") == [stage["name"] for stage in about["stages"]]
    assert results(undisturbed, "fresh") == results(undisturbed)


def test_a_full_disk_ends_in_one_line_and_leaves_no_broken_file(undisturbed, run, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        for stage, size in [("render", "2m"), ("train", "4m"), ("save models", "8m")]:
            subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
            code, errors = run(disk)
            assert code == 2, stage
            assert errors.count("\n") == 1, stage
            assert "No space left on device" in errors
            assert temporaries(disk) == []
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert run(disk) == (0, "")
        assert results(disk) == results(undisturbed)
        assert names(disk / "cache" / "default") == names(undisturbed / "cache" / "default")
    finally:
        subprocess.run(["umount", disk], check=True)
