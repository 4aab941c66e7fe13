"""Runs that are killed, run beside each other, or run out of disk: real processes on faces."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Python reports every renaming to an audit hook, and a stage's file appears by being renamed: the
# process dies when all of the stage's work is done and nothing of it is kept yet.
COMMAND = """
import os, signal, sys
from flows.run import main
from goodnet.default_case import DefaultCase

stage, artifacts, name = sys.argv[1:]

def kill(event, arguments):
    if event == "os.rename" and stage and stage in str(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
case = DefaultCase(10, 12, 8, 8, epochs=3)
sys.exit(main(["--artifacts", artifacts, "--run-name", name, "--quiet"], default_case=case))
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


def start(artifacts, environment, *, name="run", killed_in=""):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, killed_in, str(artifacts), name],
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


def temporaries(folder):
    return [str(path) for path in folder.rglob("*") if ".tmp" in path.name]


@pytest.fixture(scope="module")
def undisturbed(prefect_server, tmp_path_factory):
    """The artifacts of a run that nothing disturbed."""
    artifacts = tmp_path_factory.mktemp("undisturbed")
    assert finish(start(artifacts, prefect_server)) == (0, "")
    return artifacts


def test_a_run_killed_in_every_stage_ends_as_one_that_was_not(
    undisturbed, prefect_server, tmp_path
):
    for stage in STAGES:
        code, _ = finish(start(tmp_path, prefect_server, killed_in=stage))
        assert code == -signal.SIGKILL, stage
        assert not (tmp_path / "runs" / "run").exists()
    assert finish(start(tmp_path, prefect_server)) == (0, "")
    assert results(tmp_path) == results(undisturbed)
    assert stages_run(tmp_path) == ["load"]
    assert temporaries(tmp_path) == []


def test_two_runs_at_once_on_one_cache_agree(undisturbed, prefect_server, tmp_path):
    processes = [start(tmp_path, prefect_server, name=name) for name in ("one", "other")]
    assert [finish(process) for process in processes] == [(0, ""), (0, "")]
    assert results(tmp_path, "one") == results(tmp_path, "other") == results(undisturbed)


def test_an_altered_file_in_the_cache_is_computed_again(undisturbed, prefect_server):
    for path in (undisturbed / "cache" / "activations").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert finish(start(undisturbed, prefect_server, name="altered")) == (0, "")
    assert set(stages_run(undisturbed, "altered")) == {
        "load",
        "activations of clean_valid",
        "activations",
    }
    assert results(undisturbed, "altered") == results(undisturbed)


def test_a_full_disk_ends_in_one_line_and_leaves_no_broken_file(prefect_server, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        code, errors = finish(start(disk, prefect_server))
        assert code == 2
        assert errors.count("\n") == 1
        assert "No space left on device" in errors
        assert temporaries(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)
