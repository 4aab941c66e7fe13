"""How large a model may be; without bounds a small file could fill the memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelLimits:
    """How large a model file and the model in it may be before they are refused."""

    max_file_bytes: int = 2 * 2**30
    max_parameters: int = 200_000_000
    max_config_bytes: int = 4 * 2**20
    max_layers: int = 10_000
    max_build_steps: int = 40_000
    """Layers that Keras goes through while it builds the model, ten thousand in a few seconds."""
    max_values: int = 50_000_000
    """In one tensor for one image: a few bytes can ask for a million times as many."""
    max_live_values: int = 100_000_000
    """In all tensors for one image that are alive at once."""
    max_multiplications: int = 50_000_000_000
    """For one image, more than the largest EfficientNet takes; a second or so on two cores."""
    max_building_seconds: int = 60
    """Of computing, to build the model for measuring it; ordinary nets take up to five."""
    max_building_bytes: int = 4 * 2**30
    """Of memory beyond what this process has, for the same."""


DEFAULT_LIMITS = ModelLimits()
