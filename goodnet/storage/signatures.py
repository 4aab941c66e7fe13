"""Telling without reading it whether a file is still the one that was opened or digested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from goodnet.errors import InputError
from goodnet.storage.files import file_status


class SignedFile(NamedTuple):
    """A file as it was when it was signed: its path, and what changes when its content does.

    Nobody can set `ctime_ns` back, so a file that was exchanged and put back again differs too.
    """

    path: Path
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> SignedFile:
        """Sign a file; do so before reading it, so that a change while it is read is seen.

        Raises:
            InputError: there is no such file.
        """
        status = file_status(path)  # Once: folders hold many, and each stage signs them anew.
        times = status.st_mtime_ns, status.st_ctime_ns
        return cls(path, status.st_size, *times, status.st_ino)

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
