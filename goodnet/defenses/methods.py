"""The table of repairs; that of detectors is in `goodnet.defenses.detectors`."""

from __future__ import annotations

from goodnet.defenses.pruning import prune
from goodnet.defenses.repairs import discriminate, fall_back, fine_tuned
from goodnet.defenses.seam import Repair

REPAIRS: dict[str, Repair] = {
    "pruning": prune,
    "discriminant": discriminate,
    "finetuning": fine_tuned,
    "fallback": fall_back,
}
