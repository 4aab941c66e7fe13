"""What the stages of a run need in any case, done while its Prefect server starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goodnet.inputs import SetName
from goodnet.report import vega_script
from tasks.activations import activations_path, open_frontier
from tasks.loading import load_inputs


def work_ahead(parameters: Mapping[str, Any], sets: dict[SetName, Path | None]) -> None:
    """Digest the inputs, load B if its activations are not cached, and bundle the report's script.

    Each of these is remembered in this process or on disk, so that the stages find it done.

    Args:
        parameters: of the flow.
        sets: the image sets by name.

    Raises:
        InputError: the model or an image set is bad.
    """
    if parameters["model"] is not None:
        artifacts = parameters["artifacts"].resolve()
        names = ("architecture", "layer", "rank_at", "pixel_scale", "allow_same_data")
        options = {name: parameters[name] for name in names}
        inputs = load_inputs.fn(parameters["model"], sets, **options, artifacts=artifacts)
        path = activations_path(inputs.network, inputs.clean_valid, artifacts)
        if parameters["refresh"] or not path.exists():
            open_frontier(inputs.network)
    vega_script()
