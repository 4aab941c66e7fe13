"""Read all attributes of an HDF5 file: `python -I hdf5_probe.py FILE`, a process that may die.

HDF5 1.14 loops for ever, asks for gigabytes or crashes on damaged texts of variable length, and
Python cannot interrupt it. What reads a model file lets this script read the texts first.
"""

import resource
import sys

import h5py

_SECONDS = 3
_BYTES = 2**29

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))

    def _read(_: str, item: h5py.Group | h5py.Dataset) -> None:
        dict(item.attrs)

    with h5py.File(sys.argv[1], "r") as file:
        _read("/", file)
        file.visititems(_read)
