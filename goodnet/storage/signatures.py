"""Telling without reading it whether a file is still the one that was opened or digested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from goodnet.errors import InputError


class Signature(NamedTuple):
    """What changes about a file when its content does.

    Nobody can set `ctime_ns` back, so a file that was exchanged and put back again differs too.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class SignedFile(NamedTuple):
    """A file as it was when it was signed."""

    path: Path
    signature: Signature

    @classmethod
    def of(cls, path: Path) -> SignedFile:
        """Sign a file; do so before reading it, so that a change while it is read is seen.

        Raises:
            InputError: there is no such file.
        """
        try:
            status = path.stat()  # Once: folders hold many files, and each stage signs them anew.
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({error.strerror})") from error
        except ValueError as error:  # A NUL in a name.
            raise InputError(f"{path}: cannot be opened ({error})") from error
        if not S_ISREG(status.st_mode):
            raise InputError(f"{path}: is a folder or a device, expected a file")
        times = status.st_mtime_ns, status.st_ctime_ns
        return cls(path, Signature(status.st_size, *times, status.st_ino))

    def is_unchanged(self) -> bool:
        """Return whether the file is there and still the one that was signed."""
        try:
            return SignedFile.of(self.path) == self
        except InputError:
            return False

    def require_unchanged(self) -> None:
        """Raise InputError if the file is another by now, or gone."""
        if not self.is_unchanged():
            raise InputError(
                f"{self.path}: has changed since it was opened, expected it to stay as it is until "
                "the command ends; give the same command again"
            )

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Make sure that what is read in this block is the file that was signed."""
        self.require_unchanged()
        yield
        self.require_unchanged()
