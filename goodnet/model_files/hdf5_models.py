"""What the HDF5 files of models hold besides the network's description: weights and attributes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py

from goodnet.errors import InputError
from goodnet.model_files.limits import ModelLimits
from goodnet.storage import hdf5_probe
from goodnet.storage.forks import CAN_FORK, succeeds
from goodnet.storage.safe_hdf5 import hdf5_errors, iterate_datasets, iterate_objects

_PLAIN_ATTRIBUTES = {h5py.h5t.FLOAT, h5py.h5t.INTEGER, h5py.h5t.STRING}
_PLAIN_WEIGHTS = {h5py.h5t.FLOAT, h5py.h5t.INTEGER, h5py.h5t.ENUM, h5py.h5t.OPAQUE}
"""Type classes of stored weights; Keras keeps bfloat16 as opaque values."""

_TEXT_SECONDS, _TEXT_BYTES = 3, 2**29
"""What reading all texts may take; a thousandth is usual."""

_PATIENCE_SECONDS = 60
"""On a busy machine."""


def count_parameters(file: h5py.File, path: Path, limits: ModelLimits) -> int:
    """Count the stored numbers without the optimizer's, and check their types.

    Raises:
        InputError: there are too many, or data or attributes are of types that no model needs.
    """
    with hdf5_errors(path):
        _check_types(file, path)
        num_parameters = sum(
            dataset.size or 0
            for dataset in iterate_datasets(file)
            if not dataset.name.startswith(("/optimizer/", "/optimizer_weights/"))
        )
    if num_parameters > limits.max_parameters:
        raise InputError(
            f"{path}: has {num_parameters:,} parameters, expected {limits.max_parameters:,} or less"
        )
    return int(num_parameters)


def read_text_attribute(file: h5py.File, name: str, path: Path, limits: ModelLimits) -> str:
    """Return an attribute of the file that holds one text."""
    attribute = file.attrs.get_id(name)
    stored_bytes = attribute.get_storage_size()
    if attribute.shape != () or stored_bytes > limits.max_config_bytes:
        raise InputError(
            f"{path}: {name} has shape {attribute.shape} and {stored_bytes:,} bytes, "
            f"expected one text of at most {limits.max_config_bytes:,}"
        )
    value = file.attrs[name]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        raise InputError(f"{path}: {name} is a {type(value).__name__}, expected a text")
    return value


def _check_types(file: h5py.File, path: Path) -> None:
    """Refuse variable-length and reference types, except for texts: HDF5 can crash on them."""
    has_texts = False
    for item in iterate_objects(file):
        is_dataset = isinstance(item, h5py.Dataset)
        if is_dataset and item.id.get_type().get_class() not in _PLAIN_WEIGHTS:
            raise InputError(f"{path}: `{item.name}` holds no numbers")
        for name in item.attrs:
            kind = item.attrs.get_id(name).get_type()
            if kind.get_class() not in _PLAIN_ATTRIBUTES:
                raise InputError(
                    f"{path}: attribute `{name}` of `{item.name}` is neither text nor number"
                )
            has_texts |= kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()
    if has_texts:
        _require_readable_texts(file, path)


def _require_readable_texts(file: h5py.File, path: Path) -> None:
    """Refuse texts that HDF5 cannot read, found out in a process that may die.

    HDF5 1.14 loops for ever, asks for gigabytes or crashes on damaged texts of variable length, and
    Python cannot interrupt it.
    """

    def read() -> None:
        for item in iterate_objects(file):
            dict(item.attrs)

    if CAN_FORK:
        readable = succeeds(
            read,
            max_seconds=_TEXT_SECONDS,
            max_bytes=_TEXT_BYTES,
            patience_seconds=_PATIENCE_SECONDS,
        )
    else:
        readable = _new_process_reads(path)
    if not readable:
        raise InputError(f"{path}: has texts that HDF5 cannot read, it is damaged")


def _new_process_reads(path: Path) -> bool:
    """Return whether a new Python reads all texts: slower, for systems where none may fork."""
    command = [sys.executable, "-I", str(Path(hdf5_probe.__file__)), str(path)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # Each thread counts as memory.
    try:
        done = subprocess.run(  # noqa: S603 - our own script, the path is no option of it
            command, env=environment, capture_output=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
