"""The password of our Prefect servers."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from goodnet.errors import InputError

_FILE = "goodnet-password"
_PRIVATE = 0o077


def new_password() -> str:
    """Return a random one, in Prefect's form."""
    return f"goodnet:{secrets.token_urlsafe(32)}"


def kept_password(home: Path) -> str:
    """Return the one of the servers with this Prefect folder, made at the first call.

    Raises:
        InputError: others may read the file, or may have written it.
    """
    path = home / _FILE
    if not path.exists():
        _make(path)
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & _PRIVATE:
        raise InputError(
            f"{path}: holds the password of the Prefect server and others have access to it, "
            "expected a file of yours with mode 600; delete it to get a new one"
        )
    return path.read_text("utf-8").strip()


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # with mode 600 from the start
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(new_password())
        with suppress(FileExistsError):  # Another process was faster: its password counts.
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()
