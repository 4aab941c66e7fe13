"""SHA-256 digests of inputs, and a memory of them so that large files are not read twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from goodnet.errors import InputError
from goodnet.files import write_json
from goodnet.image_folders import list_images

# A file written twice within one tick of the file system's clock can look unchanged.
_SETTLED_NANOSECONDS = 2_000_000_000


@dataclass(frozen=True)
class FileDigest:
    """The SHA-256 of a content, in hexadecimal, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class _Signature:
    """What changes about a file when its content does."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def digest_file(path: Path) -> FileDigest:
    """Digest one file without holding it in memory.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb", buffering=0) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(sha256, file.tell())


def digest_images(
    path: Path, *, digest_one: Callable[[Path], FileDigest] = digest_file
) -> FileDigest:
    """Digest an image set: a file, or a folder by the names and digests of its images.

    Args:
        path: An HDF5 file or an image folder.
        digest_one: Digests one file.

    Raises:
        InputError: there is no such file, or the folder is not an image folder.
    """
    if not path.is_dir():
        return digest_one(path)
    total, size = hashlib.sha256(), 0
    for image in list_images(path):
        digest = digest_one(path / image)
        total.update(os.fsencode(image) + b"\0" + digest.sha256.encode())
        size += digest.size
    return FileDigest(total.hexdigest(), size)


class DigestMemory:
    """Digests remembered in a JSON file, valid while a file keeps its size, times and inode.

    Several processes may share the file. Each replaces it as a whole, so one may undo what
    another just remembered, which costs reading that input once more and nothing else.
    """

    def __init__(self, memory: Path, *, refresh: bool = False) -> None:
        """Open a memory.

        Args:
            memory: The JSON file; made when there is something to remember.
            refresh: Read all files again, and remember what they are now.
        """
        self._memory = memory
        self._refresh = refresh

    def digest(self, path: Path) -> FileDigest:
        """Digest the image set or other file at `path`, reading only what has changed."""
        known, learned = {} if self._refresh else self._load(), {}

        def digest_one(file: Path) -> FileDigest:
            name = str(file.absolute())
            digest = _recall(known.get(name), file)
            if digest is None:
                digest, entry = _digest_and_sign(file)
                learned[name] = entry
            return digest

        result = digest_images(path, digest_one=digest_one)
        self._store({name: entry for name, entry in learned.items() if entry is not None})
        return result

    def _load(self) -> dict[str, object]:
        try:
            known = json.loads(self._memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _store(self, learned: dict[str, dict[str, object]]) -> None:
        if learned:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._memory, self._load() | learned)


def _recall(entry: object, path: Path) -> FileDigest | None:
    """Return the digest in a remembered `entry` if it still describes the file at `path`."""
    if not isinstance(entry, dict) or not path.is_file():
        return None
    signature, sha256 = _sign(path), entry.get("sha256")
    if not isinstance(sha256, str) or entry != asdict(signature) | {"sha256": sha256}:
        return None
    return FileDigest(sha256, signature.size)


def _digest_and_sign(path: Path) -> tuple[FileDigest, dict[str, object] | None]:
    """Digest the file; the entry to remember is None for a file just written."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    # Signed before it is read: a change in between makes the entry one that never matches.
    before, now = _sign(path), time.time_ns()
    digest = digest_file(path)
    if now - before.mtime_ns < _SETTLED_NANOSECONDS:
        return digest, None
    return digest, asdict(before) | {"sha256": digest.sha256}


def _sign(path: Path) -> _Signature:
    status = path.stat()
    return _Signature(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
