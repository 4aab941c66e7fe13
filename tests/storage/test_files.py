import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from goodnet.storage.files import atomic_path, remove_leftovers, write_json


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_path_replaces_the_file_and_keeps_its_suffix(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".keras"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names_in(tmp_path) == ["model.keras"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_atomic_path_leaves_the_old_file_and_no_temporary_on_failure(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.json"]


def test_atomic_path_complains_when_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.json"):
        pass
    assert names_in(tmp_path) == []


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    write_json(tmp_path / "a.json", 1)
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == usual


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from goodnet.storage.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["sweep.parquet", "no_suffix", "with two.dots.h5"])
def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path, name):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path / name)],
        cwd=Path(__file__).parents[2],
    )
    assert killed.returncode == -signal.SIGKILL
    [leftover] = names_in(tmp_path)
    others = [".hidden", ".notes.tmp", "result.tmp", leftover.replace(".tmp", ".TMP")]
    for other in others:
        (tmp_path / other).write_text("keep")
    with atomic_path(tmp_path / "b.json") as ours:
        ours.write_text("being written")
        remove_leftovers(tmp_path)
        assert names_in(tmp_path) == sorted([*others, ours.name])


def test_leftovers_of_another_machine_stay(tmp_path):
    with atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("")
        host_and_random = temporary.name.split("-")[1]
    other_host = f"{int(host_and_random[:8], 16) ^ 1:08x}"
    (tmp_path / f".a.json.999999999-{host_and_random}").write_text("dead, ours")
    theirs = tmp_path / f".a.json.999999999-{other_host}{host_and_random[8:]}"
    theirs.write_text("perhaps alive over there")
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == sorted([theirs.name, "a.json"])


def test_remove_leftovers_accepts_a_folder_that_is_not_there(tmp_path):
    remove_leftovers(tmp_path / "missing")


def test_write_json_is_readable_and_keeps_the_order(tmp_path):
    path = tmp_path / "a.json"
    value = {"b": 1, "a": [0.1, None, "ä\udcff"]}
    write_json(path, value)
    assert json.loads(path.read_text()) == value
    assert path.read_text().startswith('{\n  "b": 1,\n  "a"')
    assert path.read_text().endswith("\n}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_write_json_refuses_what_json_cannot_hold(tmp_path, number):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"rate": number})
    assert path.read_text() == "1\n"


WRITE_BEYOND_THE_LIMIT = """
import resource, sys
from pathlib import Path
from goodnet.storage.files import write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_json(Path(sys.argv[1]), "x" * 5000)
except OSError as error:
    print(error.strerror)
"""


def test_a_write_that_finds_no_room_surfaces_as_oserror_and_changes_nothing(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    done = subprocess.run(
        [sys.executable, "-c", WRITE_BEYOND_THE_LIMIT, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "File too large\n"
    assert path.read_text() == "1\n"
    assert names_in(tmp_path) == ["a.json"]


def test_the_same_bytes_again_leave_the_file_that_others_have_opened(tmp_path):
    path = tmp_path / "file"
    for text, is_kept in (("one", None), ("one", True), ("two", False)):
        before = path.stat() if path.exists() else None
        with atomic_path(path) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text
        if before is not None:
            now = path.stat()
            same = (now.st_ino, now.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
            assert same is is_kept
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
