"""What the stages of a run need in any case, done while its Prefect server starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goodnet.inputs import SetName
from goodnet.model_files.limits import ModelLimits
from tasks.loading import load_inputs


def preload(
    parameters: Mapping[str, Any], sets: dict[SetName, Path | None], limits: ModelLimits
) -> None:
    """Digest the inputs, and load B if activations are missing.

    Both are remembered, in this process or on disk, so that the stages find them done.

    Args:
        parameters: of the flow.
        sets: the image sets by name.
        limits: how large the model may be.

    Raises:
        InputError: the model or an image set is bad, or the disk too small.
    """
    if parameters["model"] is not None:
        names = ("architecture", "layer", "rank_at", "pixel_scale", "allow_same_data", "target")
        options = {name: parameters[name] for name in names}
        artifacts = parameters["artifacts"].resolve()
        load_inputs.fn(
            parameters["model"],
            sets,
            **options,
            limits=limits,
            refresh=False,
            artifacts=artifacts,
        )
