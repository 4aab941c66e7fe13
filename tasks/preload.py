"""What the stages of a run need in any case, done while its Prefect server starts."""

from __future__ import annotations

from pathlib import Path

from goodnet.choices import Choices
from goodnet.inputs import Role
from tasks.loading import load_inputs


def preload(
    model: Path | None,
    sets: dict[Role, Path | None],
    choices: Choices,
    *,
    artifacts: Path,
) -> None:
    """Digest the inputs, and load B if activations are missing.

    Both are remembered, in this process or on disk, so that the stages find them done.

    Args:
        model: B's file; None for the embedded default, of which nothing is there yet.
        sets: the image sets by name.
        choices: what the user chose.
        artifacts: folder for runs and cache.

    Raises:
        InputError: the model or an image set is bad, or the disk too small.
    """
    if model is not None:
        load_inputs.fn(model, sets, choices, refresh=False, artifacts=artifacts.resolve())
