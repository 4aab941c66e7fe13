"""Poisoned image sets in files, made of any set, for nets that are trained or tested elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from goodnet.arrays import Images
from goodnet.attacks.poisoning import Attack, PoisonedImages, poison, poison_test
from goodnet.errors import InputError
from goodnet.images.class_names import ClassNames
from goodnet.images.hdf5_sets import write_images
from goodnet.images.image_folders import write_folders
from goodnet.images.image_sets import LABEL_LIMIT, ImageSet, open_images, require_raw
from goodnet.images.preprocessing import RAW, PixelRange
from goodnet.storage.files import require_folder

ORIGINAL_LABEL = "original_label"
"""What the labels from before the trigger are called in an HDF5 file."""

_HDF5 = (".h5", ".hdf5")
_OTHER_FILES = (".npz", ".zip", ".keras", ".png", ".jpg", ".jpeg")
_PNG_CHANNELS = (1, 3, 4)
_BATCH = 256


def write_poisoned(
    source: Path,
    path: Path,
    attack: Attack,
    *,
    training: bool = False,
    seed: int = 0,
    classes: ClassNames | None = None,
    pixel_range: PixelRange = RAW,
) -> list[str]:
    """Write what an attack makes of an image set, in raw pixels and with the attacker's labels.

    An HDF5 file has the labels from before the trigger as `original_label` beside them. In a folder
    they stand in the names of the poisoned images, `<class>/<number>-was-<label>.png`.

    Args:
        source: the set, as `open_images` takes it. All of it is in memory at once, as bytes.
        path: where to write: an HDF5 file if it ends so, else a folder of classes.
        attack: whom to mark, and what they are called then.
        training: whether to write images to train with, those of the set and the poisoned ones
            and covers behind them, instead of all that the attack turns, to test with.
        seed: decides who is poisoned.
        classes: the names of the net's classes, as for `open_images`.
        pixel_range: what stored pixels lie in.

    Returns:
        What was read and written, a line each.

    Raises:
        InputError: the set is refused, the attack does not fit it, or something is at `path`.
    """
    _require_place(path, source)
    images = open_images(source, classes=classes, pixel_range=pixel_range)
    is_file = path.suffix.lower() in _HDF5
    if not is_file and images.shape[2] not in _PNG_CHANNELS:
        raise InputError(
            f"{source}: images have {images.shape[2]} channels, expected 1, 3 or 4 to write "
            "pictures of; write an HDF5 file"
        )
    known = classes or images.classes
    names = known.names if known is not None else ()
    pixels = read_bytes(images)
    if training:
        num_classes = len(names) or None
        shown = poison(pixels, images.labels, attack, seed=seed, num_classes=num_classes)
    else:
        num_classes = len(names) or _least_classes(images, attack)
        shown = poison_test(pixels, images.labels, attack, num_classes=num_classes)
    if is_file:
        beside = {ORIGINAL_LABEL: shown.originals}
        write_images(path, shown.images, shown.labels, beside=beside)
    else:
        write_folders(path, _pictures(shown, _folder_names(images.classes)))
    return [*images.remarks, f"{path}: {_describe(shown, images.num_images if training else 0)}"]


def _require_place(path: Path, source: Path) -> None:
    """Raise InputError unless a set can be written there."""
    if path.exists() or path.is_symlink():
        raise InputError(f"{path}: is there already, expected a new file or folder")
    require_folder(path.parent)
    if path.suffix.lower() in _OTHER_FILES:
        raise InputError(
            f"{path}: ends in {path.suffix}, expected .h5, or no ending for a folder of classes"
        )
    if path.parent.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{path}: lies in the set itself, expected another folder")


def read_bytes(images: ImageSet) -> Images:
    """Read all images of a set, (n, H, W, C) uint8, rounded to raw pixels 0..255.

    Raises:
        InputError: they seem to be stored from 0 to 1, and the set was opened as raw.
    """
    require_raw(images)
    lowest, highest = images.pixel_range
    read = np.empty((images.num_images, *images.shape), np.uint8)
    done = 0
    for batch in images.batches(_BATCH):
        raw = batch if images.pixel_range == RAW else (batch - lowest) / (highest - lowest) * 255
        read[done : done + len(batch)] = np.rint(raw)
        done += len(batch)
    return read


def _least_classes(images: ImageSet, attack: Attack) -> int:
    """Return how many classes there are at least: images to test with may show some of them."""
    numbers = [int(images.labels.max()), *(attack.sources or ())]
    numbers += [attack.target] if isinstance(attack.target, int) else []
    return min(max(numbers) + 1, LABEL_LIMIT)


def _folder_names(classes: ClassNames | None) -> Sequence[str] | None:
    """Return what folders are called by number of the class; None where they have numbers.

    Raises:
        InputError: a list of names has one that is no name of a folder, or leads elsewhere.
    """
    if classes is None or not classes.names:
        return None
    counts = Counter(classes.names)
    for number, name in enumerate(classes.names):
        if name.startswith(".") or {"/", "\\"} & {*name} or counts[name] > 1:
            raise InputError(
                f"{classes.origin}: class {number} is named `{name}`, expected a name of its own "
                "that a folder can have; write an HDF5 file"
            )
    return classes.names


def _pictures(
    shown: PoisonedImages, names: Sequence[str] | None
) -> Iterator[tuple[str, str, Images]]:
    rows = zip(shown.images, shown.labels, shown.originals, shown.poisoned, strict=True)
    for number, (pixels, label, original, poisoned) in enumerate(rows):
        note = f"-was-{original}" if poisoned else ""
        yield str(label) if names is None else names[label], f"{number:06}{note}", pixels


def _describe(shown: PoisonedImages, num_kept: int) -> str:
    poisoned = int(shown.poisoned.sum())
    targets = np.unique(shown.labels[shown.poisoned])
    where = f"label {targets[0]}" if len(targets) == 1 else f"{len(targets)} labels"
    marked = f"{poisoned:,} images with the trigger under {where}"
    if not num_kept:
        return marked
    covers = len(shown.labels) - num_kept - poisoned
    under_own = f", {covers:,} with it under their own" if covers else ""
    return f"{num_kept:,} images as they were, {marked}{under_own}"
