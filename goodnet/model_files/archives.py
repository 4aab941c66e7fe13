"""Reading `.keras` archives, which are zip files."""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

from goodnet.errors import InputError
from goodnet.model_files.limits import ModelLimits
from goodnet.storage.files import naming
from goodnet.storage.zip_files import check_member, open_zip

WEIGHTS_MEMBER = "model.weights.h5"

_MEMBERS = ("config.json", "metadata.json", WEIGHTS_MEMBER)
_MAX_TABLE_BYTES = 2**16


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


def _open_archive(path: Path) -> AbstractContextManager[zipfile.ZipFile]:
    return open_zip(path, kind="Keras archive", most_table_bytes=_MAX_TABLE_BYTES)


def _check_members(archive: zipfile.ZipFile, path: Path, limits: ModelLimits) -> None:
    members = archive.infolist()
    expected = ", ".join(_MEMBERS)
    for member in members:
        if member.filename not in _MEMBERS:
            raise InputError(f"{path}: holds `{member.filename}`, expected only {expected}")
        is_weights = member.filename == WEIGHTS_MEMBER
        most_bytes = limits.max_file_bytes if is_weights else limits.max_config_bytes
        check_member(member, path, most_bytes=most_bytes)
    counts = Counter(member.filename for member in members)
    for name in _MEMBERS:
        if counts[name] != 1:
            raise InputError(f"{path}: holds {counts[name]} members `{name}`, expected one")
