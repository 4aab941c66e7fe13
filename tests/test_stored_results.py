"""Stored results as somebody left them who can write to the artifacts folder."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.serializers import (
    CompressedPickleSerializer,
    PickleSerializer,
    Serializer,
)

from goodnet.digests import digest_file
from tasks.caching import RecordSerializer, cache_file, read_records_alone
from tasks.records import PruneOrder, Samples, StoredFile

ROOT = Path(__file__).resolve().parent.parent
KEY = "some stage-0123"


@pytest.fixture(scope="module", autouse=True)
def as_in_our_flows():
    read_records_alone()


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "cache")


def make_store(folder: Path, serializer: Serializer | None = None) -> ResultStore:
    """A store as Prefect makes one for a stage, over files; it remembers nothing in memory."""
    return ResultStore(
        result_storage=LocalFileSystem(basepath=str(folder)),
        serializer=serializer or RecordSerializer(),
        cache_result_in_memory=False,
    )


def make_samples(tmp_path: Path) -> Samples:
    path = tmp_path / "samples.npz"
    path.write_bytes(b"samples")
    return Samples(file=StoredFile.of(path, digest_file(path)))


def test_a_record_is_read_back(store, tmp_path):
    record = make_samples(tmp_path)
    store.write(record, KEY)
    assert store.exists(KEY)
    assert store.read(KEY).result == record


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"simples")])
def test_a_record_of_a_file_that_changed_does_not_exist(store, tmp_path, spoil, caplog):
    record = make_samples(tmp_path)
    store.write(record, KEY)
    spoil(record.file.path)
    assert not store.exists(KEY)
    with pytest.raises(ValueError, match="is gone or was altered"):
        store.read(KEY)
    assert f"{record.file.path} is gone or was altered, its stage runs again" in caplog.text


class Touching:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Attack(NamedTuple):
    """What stands in a planted record: its serializer's description and its result."""

    name: str
    serializer: dict[str, Any] | None
    result: Any


def pickled(marker: Path, kind: type[Serializer]) -> str:
    return kind().dumps(Touching(marker)).decode()


def planted(marker: Path) -> list[Attack]:
    pickle = pickled(marker, PickleSerializer)
    compressed = pickled(marker, CompressedPickleSerializer)
    call = json.dumps({"__class__": "attack.Touching", "data": {}})
    return [
        Attack("pickle", {"type": "pickle"}, pickle),
        Attack("unnamed", None, pickle),
        Attack("compressed pickle", {"type": "compressed/pickle"}, compressed),
        Attack("compressed", {"type": "compressed", "serializer": {"type": "pickle"}}, compressed),
        Attack("pickle library", {"type": "pickle", "picklelib": "attack"}, pickle),
        Attack(
            "compression library",
            {"type": "compressed", "compressionlib": "attack", "serializer": {"type": "pickle"}},
            pickle,
        ),
        Attack(
            "pickle library in compression",
            {"type": "compressed", "serializer": {"type": "pickle", "picklelib": "attack"}},
            compressed,
        ),
        Attack("json", {"type": "json"}, call),
        Attack("json library", {"type": "json", "jsonlib": "attack"}, call),
        Attack("decoder", {"type": "json", "object_decoder": "attack.loads"}, call),
        Attack("unknown", {"type": "attack"}, pickle),
        Attack("no class", {"type": "goodnet-record"}, json.dumps(["os", {}])),
        Attack("other class", {"type": "goodnet-record"}, json.dumps(["Path", {}])),
        Attack("no text", {"type": "goodnet-record"}, json.dumps([["PruneOrder"], {}])),
        Attack("extra field", {"type": "goodnet-record"}, json.dumps(["PruneOrder", {"x": 1}])),
    ]


@pytest.mark.parametrize("name", [attack.name for attack in planted(Path())])
def test_planted_results_run_nothing_and_do_not_exist(store, tmp_path, monkeypatch, name):
    """The module `attack` stands for any file under the working directory, artifacts included."""
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w').close()\ndumps = loads = compress = decompress = print"
    (tmp_path / "attack.py").write_text(f"{code}\n__version__ = '1'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "attack", raising=False)
    attack = next(attack for attack in planted(marker) if attack.name == name)
    store.write(PruneOrder(channels=(1, 0)), KEY)
    path = tmp_path / "cache" / KEY
    record = json.loads(path.read_text())
    record["result"] = attack.result
    if attack.serializer is None:
        del record["metadata"]["serializer"]
    else:
        record["metadata"]["serializer"] = attack.serializer
    path.write_text(json.dumps(record))
    assert not store.exists(KEY)
    with pytest.raises((ValueError, TypeError)):
        store.read(KEY)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x04K\x01.", b"[" * 100_000])
def test_what_is_no_stored_result_does_not_exist(store, tmp_path, content):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / KEY).write_bytes(content)
    assert not store.exists(KEY)


def test_the_cache_never_leaves_its_folder(tmp_path):
    path = cache_file(tmp_path, "activations", ".parquet", "../../evil", Path("/etc/passwd"))
    assert path.parent == tmp_path / "cache" / "activations"


@pytest.mark.slow
def test_importing_the_stages_leaves_other_results_alone():
    """As in a notebook that has flows of its own, until one of ours runs in it."""
    source = """
import tasks.caching
from prefect.serializers import PickleSerializer
text = PickleSerializer().dumps({"a": 1})
print(PickleSerializer().loads(text))
tasks.caching.read_records_alone()
try:
    PickleSerializer().loads(text)
except ValueError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines() == ["{'a': 1}", "stored results of type pickle are not read"]
