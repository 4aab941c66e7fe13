"""Reading `.keras` archives, which are zip files, without trusting their tables of contents."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goodnet.errors import InputError
from goodnet.model_files.limits import ModelLimits
from goodnet.storage.files import naming

WEIGHTS_MEMBER = "model.weights.h5"

_MEMBERS = ("config.json", "metadata.json", WEIGHTS_MEMBER)
_MAX_RATIO = 100
_MAX_TABLE_BYTES = 2**16
_SMALL_BYTES = 2**20
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


def is_archive(path: Path) -> bool:
    """Tell by its first bytes whether a file is a zip archive, as `.keras` files are."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_archive_texts(path: Path, limits: ModelLimits) -> dict[str, bytes]:
    """Check a Keras archive's table of contents and return its config.json and metadata.json."""
    with _open_archive(path) as archive:
        _check_members(archive, path, limits)
        return {name: archive.read(name) for name in ("config.json", "metadata.json")}


def extract_weights(path: Path, target: Path) -> None:
    """Unpack the weights of an archive that `read_archive_texts` has accepted."""
    with (
        naming(target),
        _open_archive(path) as archive,
        archive.open(WEIGHTS_MEMBER) as source,
        target.open("wb") as destination,
    ):
        shutil.copyfileobj(source, destination, 2**20)


@contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        _require_short_table(path)
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:
        raise
    except (*_ZIP_ERRORS, OSError) as error:
        # Only a wrong offset is the archive's fault; a full disk is not.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise InputError(f"{path}: is a damaged Keras archive ({error})") from error


def _require_short_table(path: Path) -> None:
    """Refuse tables of contents that would fill the memory when `zipfile` reads them.

    They end the file with 22 bytes; before these, a signature may refer to larger numbers than the
    22 bytes can hold.
    """
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 42, 0))
        end = file.read()
    is_plain = end[-22:-18] == b"PK\x05\x06" and end[-2:] == b"\0\0"
    if not is_plain or end[:4] == b"PK\x06\x07":
        raise zipfile.BadZipFile("no plain table of contents at its end")
    table_bytes = int.from_bytes(end[-10:-6], "little")
    if table_bytes > _MAX_TABLE_BYTES:
        raise zipfile.BadZipFile(
            f"table of contents of {table_bytes:,} bytes, expected {_MAX_TABLE_BYTES:,} or less"
        )


def _check_members(archive: zipfile.ZipFile, path: Path, limits: ModelLimits) -> None:
    members = archive.infolist()
    expected = ", ".join(_MEMBERS)
    for member in members:
        if member.filename not in _MEMBERS:
            raise InputError(f"{path}: holds `{member.filename}`, expected only {expected}")
        _check_member(member, path, limits)
    counts = Counter(member.filename for member in members)
    for name in _MEMBERS:
        if counts[name] != 1:
            raise InputError(f"{path}: holds {counts[name]} members `{name}`, expected one")


def _check_member(member: zipfile.ZipInfo, path: Path, limits: ModelLimits) -> None:
    where = f"{path}: member `{member.filename}`"
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{where} is a symbolic link, expected a file")
    if member.flag_bits & 0x1:
        raise InputError(f"{where} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{where} has compression {member.compress_type}, expected deflate or none"
        )
    is_weights = member.filename == WEIGHTS_MEMBER
    allowed_bytes = limits.max_file_bytes if is_weights else limits.max_config_bytes
    if member.file_size > allowed_bytes:
        raise InputError(
            f"{where} has {member.file_size:,} bytes, expected {allowed_bytes:,} or less"
        )
    if member.file_size > max(_SMALL_BYTES, _MAX_RATIO * member.compress_size):
        raise InputError(
            f"{where} unpacks {member.compress_size:,} bytes to {member.file_size:,}, "
            f"expected at most {_MAX_RATIO} times as many"
        )
