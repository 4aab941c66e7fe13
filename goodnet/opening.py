"""Opening B for a run: the file that was digested, and how its channels reach the answer."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from goodnet.digests import FileDigest, digest_file
from goodnet.errors import InputError
from goodnet.model_files.limits import DEFAULT_LIMITS, ModelLimits
from goodnet.storage.signatures import SignedFile

if TYPE_CHECKING:
    import keras

    from goodnet.pruning.frontier import Frontier


# The stages of one run share the net and what was compiled of it.
@lru_cache(maxsize=1)
def open_frontier(
    path: Path,
    sha256: str,
    *,
    layer: str,
    rank_at: str,
    architecture: str | None = None,
    limits: ModelLimits = DEFAULT_LIMITS,
) -> Frontier:
    """Load B and find its frontier.

    Args:
        path: B's file.
        sha256: the digest that it had when the run began.
        layer: whose channels are pruned.
        rank_at: the layer that ranks its channels.
        architecture: the network of a weights-only file.
        limits: how large the model may be.

    Raises:
        InputError: the file is no longer the one that was digested, or is refused.
    """
    signed = SignedFile.of(path)
    require_digest(path, digest_file(path), sha256)
    from goodnet.model_files.load import load_model
    from goodnet.pruning.frontier import find_frontier

    with signed.unchanged():
        model = load_model(path, architecture=architecture, limits=limits)
    return find_frontier(model, layer=layer, rank_at=rank_at)


def require_digest(path: Path, found: FileDigest, sha256: str) -> None:
    """Raise `InputError` unless a file has the digest that it had when the run began."""
    if found.sha256 != sha256:
        raise InputError(
            f"{path}: has changed since the run began, expected it to stay as it is until the "
            "run ends; give the same command again"
        )


@lru_cache(maxsize=1)
def open_saved(path: Path, sha256: str) -> keras.Model:
    """Load a net that a stage has saved, once for all of a run that use it.

    Args:
        path: its file.
        sha256: the digest that it had when it was saved.

    Raises:
        InputError: the file is no longer that one.
    """
    from goodnet.pruning.verification import load_saved

    require_digest(path, digest_file(path), sha256)
    return load_saved(path)
