"""What a caller of the library has in hand, a net and arrays, as the files that repairs read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from goodnet.errors import InputError
from goodnet.images.image_sets import ImageSet
from goodnet.images.stored_arrays import TEXT_LABELS
from goodnet.storage.files import write_json

if TYPE_CHECKING:
    import keras

Images = ImageSet | str | Path | tuple[npt.ArrayLike, npt.ArrayLike]
"""Labelled images: an opened set, where one is, or arrays `(x, y)`.

`x` is (n, H, W, C), (n, C, H, W) or grey (n, H, W), raw 0..255 or as `pixel_range` says; `y` is
(n,), whole numbers from 0, or one-hot rows.
"""

_MODEL_NAME = "model.keras"


def as_model_file(model: keras.Model | str | Path, folder: Path) -> Path:
    """Return the file of a model; one in memory is saved, and so checked like any other.

    Args:
        model: a Keras model or its file.
        folder: for what is written.
    """
    if isinstance(model, (str, Path)):
        return Path(model)
    path = folder / _MODEL_NAME
    model.save(path)
    return path


def as_path(name: str, images: Images, folder: Path) -> Path:
    """Return where images are; arrays are written to a file, and so checked like any other.

    Args:
        name: of the set.
        images: the images.
        folder: for what is written.

    Raises:
        InputError: they are neither a set, nor a path, nor a pair of arrays of numbers.
    """
    if isinstance(images, ImageSet):
        return images.path
    if isinstance(images, (str, Path)):
        return Path(images)
    if not isinstance(images, (tuple, list)) or len(images) != 2:
        raise InputError(f"{name}: is a {type(images).__name__}, expected a path or a pair (x, y)")
    path = folder / f"{name}.h5"
    with h5py.File(path, "w") as file:
        for key, array in zip(("data", "label"), map(_as_array, images), strict=True):
            if array.dtype.kind not in "biuf":
                advice = f": {TEXT_LABELS}" if array.dtype.kind in "SU" else ""
                raise InputError(f"{name}: `{key}` holds {array.dtype}, expected numbers{advice}")
            file[key] = array
    return path


def as_names_file(names: Sequence[str] | str | Path, folder: Path) -> Path:
    """Return a file with names of classes; a list of them is written to one, and so checked.

    Args:
        names: the list or its file.
        folder: for what is written.
    """
    if isinstance(names, (str, Path)):
        return Path(names)
    path = folder / "classes.json"  # `named_as_given` says the name alone, that of the argument
    write_json(path, list(names))
    return path


@contextmanager
def named_as_given(folder: Path) -> Iterator[None]:
    """Let an `InputError` about a file in `folder` say what was given in its place."""
    try:
        yield
    except InputError as error:
        raise InputError(say_as_given(str(error), folder)) from error


def say_as_given(line: str, folder: Path) -> str:
    """Return a line with what was given in the place of files in `folder`."""
    line = line.replace(str(folder / _MODEL_NAME), "the model")
    return re.sub(rf"{re.escape(str(folder))}/(\w+)\.(?:h5|json)", r"\1", line)


def _as_array(values: Any) -> npt.NDArray[Any]:
    return np.asarray(values)
