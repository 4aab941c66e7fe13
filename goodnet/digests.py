"""SHA-256 digests of inputs, and a memory of them so that large files are not read twice."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from goodnet.errors import InputError, printable
from goodnet.images.image_folders import list_images
from goodnet.images.image_sets import ImageSet
from goodnet.storage.files import file_status, read_json, write_json
from goodnet.storage.signatures import SignedFile

logger = logging.getLogger(__name__)

# A file written twice within one tick of the file system's clock can look unchanged.
_SETTLED_NANOSECONDS = 2_000_000_000


@dataclass(frozen=True)
class FileDigest:
    """The SHA-256 of a content, in hexadecimal, and its size in bytes."""

    sha256: str
    size: int


def digest_file(path: str | Path) -> FileDigest:
    """Digest one file without holding it in memory.

    Args:
        path: of a file, not of a folder.

    Returns:
        Its SHA-256 in hexadecimal, and its size in bytes.

    Raises:
        InputError: there is no such file, or it may not be read.
    """
    path = Path(path)
    file_status(path)
    try:
        with path.open("rb", buffering=0) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return FileDigest(sha256, file.tell())
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def digest_once(path: Path) -> FileDigest:
    """Digest one file, or recall what this process found in it while it looks the same.

    Raises:
        InputError: there is no such file, it may not be read, or changes while it is read.
    """
    now, file = time.time_ns(), SignedFile.of(path)
    changed = max(file.signature.mtime_ns, file.signature.ctime_ns)
    return _digest_settled(file) if now - changed >= _SETTLED_NANOSECONDS else digest_file(path)


@lru_cache(maxsize=1024)
def _digest_settled(file: SignedFile) -> FileDigest:
    digest = digest_file(file.path)
    file.require_unchanged()
    return digest


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
        """Digest the image set or other file at `path`, reading only what has changed.

        A folder is digested by the names and digests of its images.

        Raises:
            InputError: it is missing, may not be read, or changes while it is read.
        """
        return self._digest(path, _sign_set(path))

    def digest_opened(self, images: ImageSet) -> FileDigest:
        """Digest what an opened set reads: this holds for the images that it delivers.

        Raises:
            InputError: it has changed since it was opened.
        """
        return self._digest(images.path, images.files)

    def _digest(self, path: Path, files: Sequence[SignedFile]) -> FileDigest:
        known: dict[str, object] = {} if self._refresh else self._load()
        learned: dict[str, object] = {}

        def digest_one(file: SignedFile) -> FileDigest:
            name, now = str(file.path.absolute()), time.time_ns()
            digest = _recall(known.get(name), file)
            if digest is not None:
                return digest
            digest = digest_file(file.path)
            file.require_unchanged()
            if now - file.signature.mtime_ns >= _SETTLED_NANOSECONDS:
                learned[name] = _entry(file, digest)
            return digest

        result = _digest_set(path, files, digest_one)
        self._store(learned)
        return result

    def _load(self) -> dict[str, object]:
        # Nothing but a regular file: reading a pipe would never end.
        if not self._memory.is_file():
            return {}
        try:
            known = read_json(self._memory)
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _store(self, learned: dict[str, object]) -> None:
        if not learned:
            return
        if self._memory.is_dir():
            reason = f"{self._memory} is a folder, so digests of inputs are not remembered"
            logger.warning(printable(reason))
            return
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._memory, self._load() | learned)


def _sign_set(path: Path) -> list[SignedFile]:
    images = [path / image for image in list_images(path)] if path.is_dir() else [path]
    return [SignedFile.of(image) for image in images]


def _digest_set(
    path: Path, files: Sequence[SignedFile], digest_one: Callable[[SignedFile], FileDigest]
) -> FileDigest:
    """Digest a set that is the one file `path`, or those of the folder `path`."""
    if files[0].path == path:
        return digest_one(files[0])
    total, size = hashlib.sha256(), 0
    for file in files:
        digest = digest_one(file)
        name = os.fsencode(file.path.relative_to(path))
        total.update(name + b"\0" + digest.sha256.encode())
        size += digest.size
    return FileDigest(total.hexdigest(), size)


def _recall(entry: object, file: SignedFile) -> FileDigest | None:
    """Return the digest in a remembered `entry` if it describes the file as it was signed."""
    sha256 = entry.get("sha256") if isinstance(entry, dict) else None
    if not isinstance(sha256, str):
        return None
    digest = FileDigest(sha256, file.signature.size)
    return digest if entry == _entry(file, digest) else None


def _entry(file: SignedFile, digest: FileDigest) -> dict[str, object]:
    return file.signature._asdict() | {"sha256": digest.sha256}
