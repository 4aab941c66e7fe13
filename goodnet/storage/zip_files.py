"""Reading zip files made by strangers without trusting their tables of contents."""

from __future__ import annotations

import errno
import math
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goodnet.errors import InputError

SMALL_BYTES = 2**20
"""Members up to this size may unpack to any multiple; they cannot exhaust the memory."""

_MAX_RATIO = 100
_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
"""Of a file's first member and, if there is none, of the end of its table of contents."""

_END = struct.Struct("<4s4H2LH")
_ZIP64_END = struct.Struct("<4sQ2H2L4Q4sLQL")
"""The longer end and what says where it lies, which stand before the shorter end."""

_LOCATOR_BYTES = 20
_SAID_BY_ZIP64 = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF)
"""What stands in the shorter end for a number that only the longer one has room for."""

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


def is_zip(path: Path) -> bool:
    """Tell by its first bytes whether a file is a zip file."""
    with path.open("rb") as file:
        return file.read(4) in _STARTS


@contextmanager
def open_zip(path: Path, *, kind: str, most_table_bytes: int) -> Iterator[zipfile.ZipFile]:
    """Open a zip file for reading after looking at the size of its table of contents.

    Args:
        path: the file.
        kind: what it is called in errors.
        most_table_bytes: the largest table of contents to read, some 50 bytes and a name for each
            member; a member takes about 1 kB of memory.

    Raises:
        InputError: it is damaged, or its table too large. Whatever `zipfile` raises inside the
            `with` block becomes one too.
    """
    try:
        _require_short_table(path, most_table_bytes)
        with zipfile.ZipFile(path) as archive:
            _require_room(archive, path)
            yield archive
    except InputError:
        raise
    except (*_ZIP_ERRORS, OSError) as error:
        # Only a wrong offset is the archive's fault; a full disk is not.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise InputError(f"{path}: is a damaged {kind} ({error})") from error


def check_member(
    member: zipfile.ZipInfo,
    path: Path,
    *,
    most_bytes: float = math.inf,
    most_ratio: int = _MAX_RATIO,
) -> None:
    """Refuse a member that is no plain file or folder, or that explodes when it is unpacked.

    Args:
        member: of the zip file.
        path: the zip file.
        most_bytes: how large it may be when unpacked.
        most_ratio: how many times as large as packed, beyond a megabyte.

    Raises:
        InputError: it is refused.
    """
    where = f"{path}: member `{member.filename}`"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise InputError(f"{where} is a symbolic link, expected a file")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{where} is a device, expected a file")
    if member.flag_bits & 0x1:
        raise InputError(f"{where} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{where} has compression {member.compress_type}, expected deflate or none"
        )
    if member.file_size > most_bytes:
        raise InputError(f"{where} has {member.file_size:,} bytes, expected {most_bytes:,} or less")
    if member.file_size > max(SMALL_BYTES, most_ratio * member.compress_size):
        raise InputError(
            f"{where} unpacks {member.compress_size:,} bytes to {member.file_size:,}, "
            f"expected at most {most_ratio} times as many"
        )


def _require_short_table(path: Path, most_bytes: int) -> None:
    """Refuse tables of contents that would fill the memory when `zipfile` reads them.

    They end the file with 22 bytes. Where those cannot hold a number, the 76 bytes before them do.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - _END.size - _ZIP64_END.size, 0))
        tail = file.read()
    ends = tail[-_END.size :]
    if len(ends) < _END.size or ends[:4] != b"PK\x05\x06" or ends[-2:] != b"\0\0":
        raise zipfile.BadZipFile("no plain table of contents at its end")
    end = _END.unpack(ends)[1:-1]
    if tail[-_END.size - _LOCATOR_BYTES :][:4] == b"PK\x06\x07":
        end = _read_zip64_end(tail[: -_END.size], end, at=size - len(tail))
    *_, table_bytes, _ = end
    if table_bytes > most_bytes:
        raise zipfile.BadZipFile(
            f"table of contents of {table_bytes:,} bytes, expected {most_bytes:,} or less"
        )


def _read_zip64_end(record: bytes, end: tuple[int, ...], *, at: int) -> tuple[int, ...]:
    """Return what the longer end of a zip file says in the place of the shorter one.

    Only what all programs read alike: both ends say the same where the shorter one can, the longer
    one has nothing between it and either neighbour, and each says where the other parts lie.

    Args:
        record: its 76 bytes.
        end: numbers of this disk and of the table's, members here and in all, bytes of the table
            and where it begins.
        at: where the record begins in the file.
    """
    if len(record) != _ZIP64_END.size:
        raise zipfile.BadZipFile("zip64, but no room for it")
    signature, record_bytes, _, _, *long_end, _, locator_disk, place, num_disks = _ZIP64_END.unpack(
        record
    )
    is_plain = (signature, record_bytes, locator_disk, place) == (b"PK\x06\x06", 44, 0, at)
    is_alike = all(
        short in (long, unknown)
        for short, long, unknown in zip(end, long_end, _SAID_BY_ZIP64, strict=True)
    )
    if not is_plain or not is_alike or num_disks > 1 or long_end[-2] + long_end[-1] != at:
        raise zipfile.BadZipFile("zip64 whose two ends do not fit together")
    return tuple(long_end)


def _require_room(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse members that cannot all lie in the file: they share their bytes."""
    packed_bytes = sum(member.compress_size for member in archive.infolist())
    if packed_bytes > path.stat().st_size:
        raise zipfile.BadZipFile(
            f"members of {packed_bytes:,} bytes in a file of {path.stat().st_size:,}"
        )
