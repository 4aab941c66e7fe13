import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from goodnet.digests import (
    DigestMemory,
    FileDigest,
    _digest_settled,
    digest_file,
    digest_once,
)
from goodnet.errors import InputError
from goodnet.images.image_sets import open_images

LONG_AGO = time.time() - 3600


def write_settled(path, content):
    """Write a file that looks an hour old, so that it may be remembered."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def write_image(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 5), color).save(path)
    os.utime(path, (LONG_AGO, LONG_AGO))


def digest_images(path):
    """Digest a set with nothing remembered."""
    return DigestMemory(path.parent / "no memory" / "digests.json", refresh=True).digest(path)


@pytest.fixture
def memory(tmp_path):
    return DigestMemory(tmp_path / "cache" / "digests.json")


@pytest.fixture
def folder(tmp_path):
    for label in range(3):
        write_image(tmp_path / "faces" / str(label) / "a.png", (label, 0, 0))
    return tmp_path / "faces"


def forget_bytes(path):
    """Spoil the remembered digest of `path`, to see whether it is used or the file is read."""
    known = json.loads(path.read_text())
    for entry in known.values():
        entry["sha256"] = "f" * 64
    path.write_text(json.dumps(known))


def test_a_file_has_its_sha256_and_size(tmp_path):
    path = write_settled(tmp_path / "a.h5", b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_file(path) == FileDigest(sha256, 3)
    assert digest_images(path) == FileDigest(sha256, 3)


def test_an_empty_and_a_large_file_are_digested(tmp_path):
    content = os.urandom(3_000_001)
    large = write_settled(tmp_path / "large", content)
    assert digest_file(large) == FileDigest(hashlib.sha256(content).hexdigest(), 3_000_001)
    empty = write_settled(tmp_path / "empty", b"")
    assert digest_file(empty) == FileDigest(hashlib.sha256().hexdigest(), 0)


@pytest.mark.parametrize("name", ["missing.h5", "pipe", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path, memory, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"no such file|is a folder or a device"):
        digest_file(tmp_path / name)
    with pytest.raises(InputError, match=r"no such file|holds no image|is a folder or a device"):
        memory.digest(tmp_path / name)


def test_a_folder_is_digested_by_names_and_contents(folder):
    before = digest_images(folder)
    assert before.size == sum(path.stat().st_size for path in folder.rglob("*.png"))
    (folder / ".DS_Store").write_bytes(b"hidden files do not count")
    assert digest_images(folder) == before

    (folder / "0" / "a.png").rename(folder / "0" / "b.png")
    renamed = digest_images(folder)
    assert renamed != before
    write_image(folder / "0" / "b.png", (9, 9, 9))
    assert digest_images(folder) != renamed


def test_a_folder_with_an_image_moved_to_another_label_differs(folder):
    before = digest_images(folder)
    (folder / "0" / "a.png").rename(folder / "1" / "b.png")
    assert digest_images(folder) != before


def test_an_unchanged_file_is_not_read_again(tmp_path, memory):
    path = write_settled(tmp_path / "a.h5", b"abc")
    assert memory.digest(path) == digest_file(path)
    forget_bytes(tmp_path / "cache" / "digests.json")
    assert memory.digest(path) == FileDigest("f" * 64, 3)


def test_with_refresh_every_file_is_read_again_and_remembered(tmp_path, memory):
    path = write_settled(tmp_path / "a.h5", b"abc")
    memory.digest(path)
    forget_bytes(tmp_path / "cache" / "digests.json")
    fresh = DigestMemory(tmp_path / "cache" / "digests.json", refresh=True)
    assert fresh.digest(path) == memory.digest(path) == digest_file(path)


def test_the_memory_outlives_the_object_and_knows_relative_paths(tmp_path, memory, monkeypatch):
    path = write_settled(tmp_path / "a.h5", b"abc")
    memory.digest(path)
    forget_bytes(tmp_path / "cache" / "digests.json")
    monkeypatch.chdir(tmp_path)
    again = DigestMemory(tmp_path / "cache" / "digests.json")
    assert again.digest(Path("a.h5")).sha256 == "f" * 64


def rewrite(path):
    write_settled(path, b"xyz")


def rewrite_restoring_the_time(path):
    status = path.stat()
    path.write_bytes(b"xyz")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path):
    other = write_settled(path.with_name("other"), b"xyz")
    other.replace(path)


def grow(path):
    write_settled(path, b"abcabc")


@pytest.mark.parametrize("change", [rewrite, rewrite_restoring_the_time, replace, grow])
def test_a_changed_file_is_read_again(tmp_path, memory, change):
    path = write_settled(tmp_path / "a.h5", b"abc")
    old = memory.digest(path)
    time.sleep(0.02)
    change(path)
    assert memory.digest(path) != old
    assert memory.digest(path) == digest_file(path)


@pytest.mark.parametrize("change", [rewrite, rewrite_restoring_the_time, replace, grow])
def test_a_process_reads_a_file_once_until_it_changes(tmp_path, monkeypatch, change):
    monkeypatch.setattr("goodnet.digests._SETTLED_NANOSECONDS", 10_000_000)
    path = write_settled(tmp_path / "a.h5", b"abc")
    time.sleep(0.02)
    hits = _digest_settled.cache_info().hits
    assert digest_once(path) == digest_once(path) == digest_file(path)
    assert _digest_settled.cache_info().hits == hits + 1
    change(path)
    assert digest_once(path) == digest_file(path)  # too new to be remembered
    time.sleep(0.02)
    assert digest_once(path) == digest_file(path)
    assert _digest_settled.cache_info().hits == hits + 1


def test_a_process_remembers_no_file_that_was_just_written(tmp_path):
    """Whatever time it says it is from: the time of its last change cannot be set."""
    path = write_settled(tmp_path / "a.h5", b"abc")
    misses = _digest_settled.cache_info().misses
    assert digest_once(path) == digest_file(path)
    assert _digest_settled.cache_info().misses == misses


def test_a_file_just_written_is_not_remembered(tmp_path, memory):
    path = tmp_path / "a.h5"
    path.write_bytes(b"abc")
    assert memory.digest(path) == digest_file(path)
    assert not (tmp_path / "cache" / "digests.json").exists()


def test_each_file_of_a_folder_is_remembered(tmp_path, folder, memory):
    before = memory.digest(folder)
    assert before == digest_images(folder)
    assert len(json.loads((tmp_path / "cache" / "digests.json").read_text())) == 3
    assert memory.digest(folder) == before
    write_image(folder / "3" / "new.png", (1, 2, 3))
    assert memory.digest(folder) == digest_images(folder) != before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"PATH": 1}',
        b'{"PATH": {"sha256": 5}}',
        b'{"PATH": {"sha256": "0"}}',
        b"[" * 200_000,
        b'{"PATH": ' * 100_000,
        b'{"PATH": {"size": 1' + b"0" * 10_000 + b"}}",
    ],
)
def test_a_corrupt_memory_is_ignored_and_rebuilt(tmp_path, memory, content):
    path = write_settled(tmp_path / "a.h5", b"abc")
    file = tmp_path / "cache" / "digests.json"
    file.parent.mkdir()
    file.write_bytes(content.replace(b"PATH", str(path).encode()))
    assert memory.digest(path) == digest_file(path)
    assert json.loads(file.read_text())[str(path)]["sha256"] == digest_file(path).sha256


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_the_memory_is_passed_over(tmp_path, memory, make):
    path = write_settled(tmp_path / "a.h5", b"abc")
    (tmp_path / "cache").mkdir()
    make(tmp_path / "cache" / "digests.json")
    assert memory.digest(path) == memory.digest(path) == digest_file(path)


def test_the_digest_of_an_opened_set_is_that_of_what_it_reads(tmp_path, folder, memory):
    images, before = open_images(folder), digest_images(folder)
    assert memory.digest_opened(images) == before
    write_image(folder / "3" / "new.png", (1, 2, 3))
    write_image(folder / "1" / "a.png", (1, 2, 3))
    # Remembered for what was opened; whoever reads it is refused, and so is who digests it anew.
    assert memory.digest_opened(images) == before != digest_images(folder)
    fresh = DigestMemory(tmp_path / "cache" / "digests.json", refresh=True)
    for read in (lambda: fresh.digest_opened(images), lambda: list(images.batches(4))):
        with pytest.raises(InputError, match=r"1/a\.png: has changed since it was opened"):
            read()


DIGEST_ALL = """
import sys
from pathlib import Path
from goodnet.digests import DigestMemory, digest_file
memory = DigestMemory(Path(sys.argv[1]))
for path in sorted(Path(sys.argv[2]).iterdir()):
    if memory.digest(path) != digest_file(path):
        sys.exit("wrong digest")
"""


def test_two_processes_share_the_memory(tmp_path):
    files = tmp_path / "files"
    for number in range(40):
        write_settled(files / f"{number}.h5", str(number).encode())
    file = tmp_path / "digests.json"
    command = [sys.executable, "-c", DIGEST_ALL, str(file), str(files)]
    root = Path(__file__).parents[1]
    processes = [subprocess.Popen(command, cwd=root) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    known = json.loads(file.read_text())
    assert 20 <= len(known) <= 40
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []
