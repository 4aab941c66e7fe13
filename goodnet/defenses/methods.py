"""The tables of repairs and detectors: a new one is a line here."""

from __future__ import annotations

from goodnet.defenses.detectors import disagreement, margin
from goodnet.defenses.pruning import prune
from goodnet.defenses.repairs import discriminate, fall_back, fine_tuned
from goodnet.defenses.seam import Detector, Repair

REPAIRS: dict[str, Repair] = {
    "pruning": prune,
    "discriminant": discriminate,
    "finetuning": fine_tuned,
    "fallback": fall_back,
}

DETECTORS: dict[str, Detector] = {"margin": margin, "disagreement": disagreement}

CONTROL = "margin"
"""The detector that needs no repair; every table of detectors shows it."""
