"""Pictures in a zip file: `<class>/<image>.png`, perhaps all in one more folder."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import ZipFile, ZipInfo

from goodnet.errors import InputError
from goodnet.images.class_names import sort_folders
from goodnet.images.pictures import Source, T, is_picture
from goodnet.storage.signatures import SignedFile
from goodnet.storage.zip_files import check_member, open_zip

_MOST_TABLE_BYTES = 2**24
"""Some 200,000 pictures, which take 0.2 GB while the table is read."""

_MOST_PICTURE_BYTES = 2**28
_NOT_OURS = "__MACOSX"
"""Where macOS puts what its files have besides their content."""


@dataclass(frozen=True)
class ZippedPictures:
    """Pictures in one zip file; see `Pictures`.

    Attributes:
        file: the zip file.
        folders: of the classes, empty ones too, in the order of `sort_folders`.
        members: the names of the pictures in the zip file, by folder and then by name.
    """

    file: SignedFile
    folders: Sequence[str]
    members: Sequence[str]

    @property
    def names(self) -> Sequence[Path]:
        """The paths that they have as if the zip file were a folder."""
        return [self.file.path / member for member in self.members]

    @property
    def files(self) -> Sequence[SignedFile]:
        """The zip file."""
        return [self.file]

    def each(self, numbers: Iterable[int], use: Callable[[Source, Path], T]) -> Iterator[T]:
        """Yield what `use` makes of each of these pictures, without unpacking them to the disk.

        Raises:
            InputError: one is damaged, or the zip file has changed since it was signed.
        """
        path = self.file.path
        with _opened(path) as archive:
            for number in numbers:
                member = self.members[number]
                made = use(io.BytesIO(archive.read(member)), path / member)
                self.file.require_unchanged()
                yield made


def list_zip(file: SignedFile, *, flat: bool = False) -> ZippedPictures:
    """Check the table of contents of a zip file and list its pictures.

    Hidden files are passed over, and what macOS adds; anything else that is no picture of a class
    is refused.

    Args:
        file: the zip file.
        flat: whether pictures may also lie in no folder.

    Raises:
        InputError: it is damaged, a member does not belong there or could do harm, or there is no
            picture at all.
    """
    with file.unchanged(), _opened(file.path) as archive:
        members = [member for member in archive.infolist() if _is_visible(member, file.path)]
        for member in members:
            check_member(member, file.path, most_bytes=_MOST_PICTURE_BYTES)
    paths = _without_common_folder(_paths(members, file.path))
    for name, path in paths.items():
        _require_place(file.path, name, path, flat=flat)
    pictures = {name: path for name, path in paths.items() if not _is_folder(name)}
    if not pictures:
        raise InputError(f"{file.path}: holds no image, expected <class>/<image>.png or .jpg")
    empty = {path.name for name, path in paths.items() if _is_folder(name)}
    folders = sort_folders(empty | {path.parent.name for path in pictures.values()})
    place = {folder: number for number, folder in enumerate(folders)}
    ordered = sorted(pictures, key=lambda name: (place[pictures[name].parent.name], name))
    return ZippedPictures(file, folders, ordered)


def _opened(path: Path) -> AbstractContextManager[ZipFile]:
    return open_zip(path, kind="zip file", most_table_bytes=_MOST_TABLE_BYTES)


def _is_visible(member: ZipInfo, path: Path) -> bool:
    """Return whether a member counts; refuse one whose name leads elsewhere."""
    parts = member.filename.removesuffix("/").split("/")
    if "\\" in member.filename or not {"", ".", ".."}.isdisjoint(parts):
        raise InputError(
            f"{path}: holds `{member.filename}`, expected names such as <class>/<image>.png"
        )
    return parts[0] != _NOT_OURS and not any(part.startswith(".") for part in parts)


def _paths(members: Sequence[ZipInfo], path: Path) -> dict[str, PurePosixPath]:
    counts = Counter(member.filename for member in members)
    for name, count in counts.most_common(1):
        if count > 1:
            raise InputError(f"{path}: holds {count} members `{name}`, expected one")
    return {name: PurePosixPath(name) for name in counts}


def _is_folder(name: str) -> bool:
    return name.endswith("/")


def _without_common_folder(paths: dict[str, PurePosixPath]) -> dict[str, PurePosixPath]:
    """Leave out the one folder that holds the folders of the classes, as in `set/cat/1.png`."""
    tops = {path.parts[0] for path in paths.values()}
    depths = {len(path.parts) for name, path in paths.items() if not _is_folder(name)}
    if len(tops) != 1 or min(depths, default=0) < 3:
        return paths
    inner = {name: path.relative_to(*tops) for name, path in paths.items()}
    return {name: path for name, path in inner.items() if path.parts}


def _require_place(where: Path, name: str, inner: PurePosixPath, *, flat: bool) -> None:
    """Refuse a member that is neither a folder of a class nor a picture in one."""
    depths = (1,) if _is_folder(name) else (1, 2) if flat else (2,)
    if len(inner.parts) not in depths:
        raise InputError(f"{where / name}: is at a wrong place, expected <class>/<image>.png")
    if not _is_folder(name) and not is_picture(inner):
        raise InputError(f"{where / name}: is no image file, expected .png, .jpg or .jpeg")
