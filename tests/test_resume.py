"""Runs that are killed, run beside each other, or run out of disk: real processes on faces."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from tests.commands import one_process

ROOT = Path(__file__).resolve().parent.parent

SMALL = """
from functools import partial
from flows.run import main
from goodnet.attacks.default_case import DefaultCase
from goodnet.defenses import fine_tuning

# Of so few images each is shown forty times in each of five trainings, which shows nothing more.
fine_tuning.FEWEST_EPOCHS = fine_tuning.MOST_EPOCHS = 2
main = partial(main, default_case=DefaultCase(10, 12, 8, 8, epochs=3))
"""
# Python reports every renaming to an audit hook, and a stage's file appears by being renamed: the
# process dies when all of the stage's work is done and nothing of it is kept yet.
COMMAND = f"""{SMALL}
import os, signal, sys

stage, *arguments = sys.argv[1:]

def kill(event, arguments):
    if event == "os.rename" and stage and stage in str(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
sys.exit(main(arguments))
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
    return ["--artifacts", str(artifacts), "--run-name", name, "--quiet", *map(str, more)]


def start(artifacts, environment, *, name="run", killed_in=""):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, killed_in, *options(artifacts, name=name)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


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
    """Runs the command in one process with others that have the artifacts of `undisturbed`."""
    with one_process(SMALL, prefect_server) as run:
        yield lambda artifacts, *more, name="run": run(*options(artifacts, *more, name=name))


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """The artifacts of a run that nothing disturbed."""
    artifacts = tmp_path_factory.mktemp("undisturbed")
    assert run(artifacts) == (0, "", "")
    return artifacts


def test_a_run_killed_in_every_stage_ends_as_one_that_was_not(
    undisturbed, prefect_server, tmp_path
):
    finished = {}
    for stage in STAGES:
        code, _ = finish(start(tmp_path, prefect_server, killed_in=stage))
        assert code == -signal.SIGKILL, stage
        assert not (tmp_path / "runs" / "run").exists()
        assert finished.items() <= kept(tmp_path).items(), stage
        finished = kept(tmp_path)
    assert finish(start(tmp_path, prefect_server)) == (0, "")
    assert finished == kept(tmp_path)
    assert results(tmp_path) == results(undisturbed)
    assert stages_run(tmp_path) == ["load"]
    assert temporaries(tmp_path) == []


def test_two_runs_at_once_on_one_cache_agree(undisturbed, prefect_server, tmp_path):
    processes = [start(tmp_path, prefect_server, name=name) for name in ("one", "other")]
    assert [finish(process) for process in processes] == [(0, ""), (0, "")]
    assert results(tmp_path, "one") == results(tmp_path, "other") == results(undisturbed)


def test_an_altered_file_in_the_cache_is_computed_again(undisturbed, run):
    for path in (undisturbed / "cache" / "activations").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert run(undisturbed, name="altered") == (0, "", "")
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
    assert run(undisturbed, *given, name="changed") == (0, "", "")
    reached = {point["step"] for point in checkpoints(undisturbed, "changed")} - {None}
    assert sorted(stages_run(undisturbed, "changed")) == sorted(
        ["load", "activations of clean_test", "compare sets", "sweep of clean_test", "samples"]
        + ["check sets"]
        + [f"check of answers on {name}" for name in ("clean_valid", "clean_test")]
        + ["scores of clean_test", "answers to clean_test", "verify nets", "measure"]
        + ["verify checkpoint"] * len(reached)
    )


def test_another_ranking_layer_is_nothing_to_the_stages_before_it(undisturbed, run):
    assert run(undisturbed, "--rank-at", "conv_3", name="ranked") == (0, "", "")
    assert not {"render default faces", "train default BadNet"} & set(
        stages_run(undisturbed, "ranked")
    )
    assert "prune order" in stages_run(undisturbed, "ranked")


def test_refresh_computes_everything_again_and_finds_the_same(undisturbed, run):
    assert run(undisturbed, "--refresh", name="fresh") == (0, "", "")
    about = json.loads((undisturbed / "runs" / "fresh" / "run.json").read_text())
    assert stages_run(undisturbed, "fresh") == [stage["name"] for stage in about["stages"]]
    assert results(undisturbed, "fresh") == results(undisturbed)


def test_a_full_disk_ends_in_one_line_and_leaves_no_broken_file(
    undisturbed, prefect_server, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        with one_process(SMALL, prefect_server) as run:
            for stage, size in [("render", "2m"), ("train", "4m"), ("save models", "8m")]:
                subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
                done = run(*options(disk))
                assert done.returncode == 2, stage
                assert done.stderr.count("\n") == 1, stage
                assert "No space left on device" in done.stderr
                assert temporaries(disk) == []
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            assert run(*options(disk)) == (0, "", "")
        assert results(disk) == results(undisturbed)
        assert names(disk / "cache" / "default") == names(undisturbed / "cache" / "default")
    finally:
        subprocess.run(["umount", disk], check=True)
