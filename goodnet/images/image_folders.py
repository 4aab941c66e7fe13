"""Pictures in files: folders `<class>/<image>.png`, where a class has a number or a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from goodnet.arrays import Images
from goodnet.errors import InputError
from goodnet.images.class_names import sort_folders
from goodnet.images.pictures import Source, T, is_picture
from goodnet.storage.files import atomic_folder
from goodnet.storage.signatures import SignedFile


@dataclass(frozen=True)
class PictureFiles:
    """Pictures in a file each; see `Pictures`."""

    files: Sequence[SignedFile]

    @property
    def names(self) -> Sequence[Path]:
        """Their paths."""
        return [file.path for file in self.files]

    def each(self, numbers: Iterable[int], use: Callable[[Source, Path], T]) -> Iterator[T]:
        """Yield what `use` makes of each of these pictures.

        Raises:
            InputError: one is damaged, or has changed since it was signed.
        """
        for number in numbers:
            file = self.files[number]
            with file.unchanged():
                made = use(file.path, file.path)
            yield made


def list_folders(folder: Path) -> list[str]:
    """List the folders of the classes, empty ones too, by number or, if not all have one, by name.

    Hidden files are passed over.

    Raises:
        InputError: anything else is no folder, or a link leads out of the folder.
    """
    visible = list_visible(folder, inside=folder.resolve())
    for path in visible:
        if not path.is_dir():
            raise InputError(f"{path}: is no folder, expected folders named by their class")
    return sort_folders(path.name for path in visible)


def list_images(folder: Path) -> list[Path]:
    """List the images of a folder relative to it, in the order of `list_folders` and then by name.

    Hidden files are passed over; anything else that is no image of a class is refused.

    Raises:
        InputError: a file does not belong there, a link leads out of the folder, or there is
            no image at all.
    """
    images = [
        image.relative_to(folder)
        for name in list_folders(folder)
        for image in list_visible(folder / name, inside=folder.resolve())
        if _is_image(image)
    ]
    if not images:
        raise InputError(f"{folder}: holds no image, expected <class>/<image>.png or .jpg")
    return images


def write_folders(folder: Path, pictures: Iterable[tuple[str, str, Images]]) -> None:
    """Write `<class>/<name>.png` into a new folder, atomically.

    Args:
        folder: which is not there yet.
        pictures: the class and the name of each, and its pixels, (H, W, C) with 1, 3 or 4 channels.
    """
    with atomic_folder(folder) as temporary:
        for class_name, name, pixels in pictures:
            (temporary / class_name).mkdir(exist_ok=True)
            plane = pixels[..., 0] if pixels.shape[2] == 1 else pixels
            Image.fromarray(plane).save(temporary / class_name / f"{name}.png")


def list_visible(folder: Path, *, inside: Path) -> list[Path]:
    """List what is in a folder by name, but for hidden files.

    Raises:
        InputError: it cannot be listed, or a link in it leads out of the folder `inside`.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error
    for path in paths:
        if path.is_symlink():
            require_link_inside(path, inside)
    return paths


def require_link_inside(link: Path, folder: Path) -> None:
    """Raise InputError if a link leads to nothing or out of a folder, which is resolved."""
    if not link.exists():
        raise InputError(f"{link}: is a link to nothing")
    if not link.resolve().is_relative_to(folder):
        raise InputError(f"{link}: is a link that leads out of the folder")


def _is_image(path: Path) -> bool:
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder, expected an image; give the folder of which each folder is a "
            "class"
        )
    if not is_picture(path) or not path.is_file():
        raise InputError(f"{path}: is no image file, expected .png, .jpg or .jpeg")
    return True
