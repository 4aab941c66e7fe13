"""Opening B for a run: the file that was digested, and how its channels reach the answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from goodnet.digests import FileDigest, digest_file
from goodnet.errors import InputError
from goodnet.model_files.limits import ModelLimits
from goodnet.storage.signatures import SignedFile

if TYPE_CHECKING:
    import keras

    from goodnet.pruning.frontier import Frontier


@dataclass(frozen=True)
class NetFile:
    """B's file, and the layers to work at.

    Attributes:
        path: the file.
        sha256: the digest that it had when the run began.
        layer: whose channels are pruned.
        rank_at: the layer that ranks its channels.
        architecture: the network of a weights-only file.
        limits: how large the model may be.
    """

    path: Path
    sha256: str
    layer: str
    rank_at: str
    architecture: str | None
    limits: ModelLimits


# The stages of one run share the net and what was compiled of it.
@lru_cache(maxsize=1)
def open_frontier(net: NetFile) -> Frontier:
    """Load B and find its frontier, once in a process.

    Raises:
        InputError: the file is no longer the one that was digested, or is refused.
    """
    signed = SignedFile.of(net.path)
    require_digest(net.path, digest_file(net.path), net.sha256)
    from goodnet.model_files.load import load_model
    from goodnet.pruning.frontier import find_frontier

    with signed.unchanged():
        model = load_model(net.path, architecture=net.architecture, limits=net.limits)
    return find_frontier(model, layer=net.layer, rank_at=net.rank_at)


def require_digest(path: Path, found: FileDigest, sha256: str) -> None:
    """Raise `InputError` unless a file has the digest that it had when the run began."""
    if found.sha256 != sha256:
        raise InputError(
            f"{path}: has changed since the run began, expected it to stay as it is until the "
            "run ends; give the same command again"
        )


def load_digested(path: Path, sha256: str) -> keras.Model:
    """Load a net that a stage has saved.

    Args:
        path: its file.
        sha256: the digest that it had when it was saved.

    Raises:
        InputError: the file is no longer that one.
    """
    from goodnet.pruning.verification import load_saved

    require_digest(path, digest_file(path), sha256)
    return load_saved(path)


open_saved = lru_cache(maxsize=1)(load_digested)
"""The same, loaded once for all of a run that use it."""
