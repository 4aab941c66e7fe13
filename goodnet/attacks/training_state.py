"""The state of a training in a file, from which it goes on after it was stopped."""

from __future__ import annotations

import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodnet.errors import printable
from goodnet.storage.files import atomic_path

logger = logging.getLogger(__name__)


def save_state(path: Path, digest: str, epochs_done: int, variables: list[Any]) -> None:
    """Write what a training has come to.

    Args:
        path: the file.
        digest: tells this training from any other.
        epochs_done: how many are behind it.
        variables: of Keras, all that the training changes.
    """
    arrays = {f"variable_{i}": variable.numpy() for i, variable in enumerate(variables)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, digest=digest, epochs_done=epochs_done, **arrays)


def restore_state(path: Path, digest: str, variables: list[Any]) -> int:
    """Set `variables` from the file and return the epochs done; 0 where it is of no use."""
    if not path.is_file():
        return 0
    try:
        # Opened here, since numpy leaves a damaged archive open that it was given by name.
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            if str(file["digest"]) != digest:
                logger.warning(printable(f"{path}: is of another training, starting over"))
                return 0
            values = [file[f"variable_{i}"] for i in range(len(variables))]
            epochs_done = int(file["epochs_done"])
        _require_alike(values, variables)
    except (
        *(OSError, EOFError, KeyError, ValueError, TypeError, MemoryError),
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    ) as error:
        logger.warning(printable(f"{path}: is unreadable ({error}), starting over"))
        return 0
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return epochs_done


def _require_alike(values: list[NDArray[Any]], variables: list[Any]) -> None:
    """Raise ValueError unless the values could be those of the variables."""
    for value, variable in zip(values, variables, strict=True):
        if value.shape != tuple(variable.shape) or value.dtype != np.dtype(variable.dtype):
            raise ValueError(
                f"{variable.path} has {value.dtype} of shape {value.shape}, expected "
                f"{variable.dtype} of shape {tuple(variable.shape)}"
            )
        if not np.isfinite(value).all():
            raise ValueError(f"{variable.path} is NaN or infinite")
