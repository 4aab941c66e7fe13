"""The state of a training in a file, so that a killed one goes on where it was."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from goodnet.errors import printable
from goodnet.storage.files import atomic_path

logger = logging.getLogger(__name__)


def save_state(path: Path, digest: str, epochs_done: int, variables: Sequence[Any]) -> None:
    """Write the state of a training.

    Args:
        path: the file.
        digest: tells this training from any other.
        epochs_done: so far.
        variables: of the net and of the optimizer.
    """
    arrays = {f"variable_{i}": variable.numpy() for i, variable in enumerate(variables)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, digest=digest, epochs_done=epochs_done, **arrays)


def restore_state(path: Path, digest: str, variables: Sequence[Any]) -> int:
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


def _require_alike(values: list[NDArray[Any]], variables: Sequence[Any]) -> None:
    """Raise ValueError unless the values could be those of the variables."""
    for value, variable in zip(values, variables, strict=True):
        if value.shape != tuple(variable.shape) or value.dtype != np.dtype(variable.dtype):
            raise ValueError(
                f"{variable.path} has {value.dtype} of shape {value.shape}, expected "
                f"{variable.dtype} of shape {tuple(variable.shape)}"
            )
        if not np.isfinite(value).all():
            raise ValueError(f"{variable.path} is NaN or infinite")
