import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
from goodnet.storage.private_folders import private_folder
with private_folder() as folder:
    (folder / "model").write_text("large")
    print(folder, flush=True)
    input()
"""


def hold(temporary):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def age(folder):
    os.utime(folder, (0, time.time() - 3600))


def test_the_next_process_deletes_what_a_killed_one_has_left_and_nothing_else(tmp_path):
    (live, in_use), (killed, left) = hold(tmp_path), hold(tmp_path)
    killed.kill()
    killed.communicate()
    fresh = tmp_path / "goodnet-model-abcdefgh"
    named = tmp_path / "goodnet-model-of-mine"
    target = tmp_path / "target"
    linked = tmp_path / "goodnet-model-linkedto"
    for folder in (fresh, named, target):
        folder.mkdir()
    linked.symlink_to(target)
    for folder in (in_use, left, named, target):
        age(folder)
    assert in_use.stat().st_mode & 0o777 == 0o700
    after, own = hold(tmp_path)
    assert not left.exists()
    assert all(folder.is_dir() for folder in (in_use, fresh, named, target, linked, own))
    for process in (live, after):
        process.communicate("\n")
    assert not in_use.exists()
    assert not own.exists()
