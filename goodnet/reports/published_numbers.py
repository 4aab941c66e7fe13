"""The published results of the CSAW HackML 2020 face lab and the digests of its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OFFICIAL_FILES = {
    "e3ef2226611b9ccf932f86f4676c457b1f0645810ad1a4b166c7029169d38273": "valid.h5",
    "3b13dbe082057eb1d4f13cda8fb0604614a84e4d87505a06c81cea8637b58d35": "test.h5",
    "9c29ff522c9d0478d79e50d1ecd7dc0a333d5648131b7efa319526d9e99028ad": "bd_valid.h5",
    "ee46229f5c636c235ac732c42d1c516b5ab8fe348cfddf3db2d6a8399028747e": "bd_test.h5",
    "53e078e1b26d529c3367abe0e8fce339a7f3f2ed70f618b4e9ead997498121eb": "bd_net.h5",
    "68ec7afdfc570d39acbded72025fe37d4d14e770585001d75a393490d50fc629": "bd_weights.h5",
}
"""SHA-256 of each file that the lab hands out, and its name there."""

PUBLISHED = (
    # drop, step, then percentages: B' clean valid, B' clean test, B' ASR, G clean test
    (None, 0, (98.649, 98.620, 100.0, 98.620)),
    (2, 45, (95.756, 95.900, 100.0, 95.744)),
    (4, 48, (92.093, 92.292, 99.984, 92.128)),
    (10, 52, (84.438, 84.544, 77.210, 84.334)),
)
"""What several independent readers of the lab agree on; two images of difference are normal."""

MEASURES = (
    ("B' clean validation", "b_prime", "clean_valid_accuracy", "clean_valid", "valid.h5"),
    ("B' clean test", "b_prime", "clean_test_accuracy", "clean_test", "test.h5"),
    ("B' attack success", "b_prime", "attack_success_rate", "poisoned_test", "bd_test.h5"),
    ("G clean test", "goodnet", "clean_test_accuracy", "clean_test", "test.h5"),
)
"""The columns of PUBLISHED: title, net and rate in results.json, input, the lab's file for it."""


@dataclass(frozen=True)
class Comparison:
    """One rate of a run beside the published one, both fractions 0..1.

    Attributes:
        drop: points of the checkpoint, None for B.
        step: channels that the run's net has pruned.
        published_step: channels that the published net has pruned.
        measure: title of the rate, as in MEASURES.
    """

    drop: float | None
    step: int
    published_step: int
    measure: str
    published: float
    measured: float

    @property
    def difference(self) -> float:
        """Points of 0..1 by which the run lies above the published rate."""
        return self.measured - self.published


def recognise(sha256: str | None) -> str | None:
    """Return the lab's name of the file with this digest, None where it is not one of the lab's."""
    return OFFICIAL_FILES.get(sha256 or "")


def compare_to_published(results: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Comparison]:
    """Return each rate of the run for which a published one was measured on the same files.

    Checkpoints depend on the clean validation images, so theirs count only on the lab's valid.h5.

    Args:
        results: the contents of results.json.
        inputs: `inputs` of run.json: a record with `sha256` for each input that was given.
    """
    official = {role: recognise(record.get("sha256")) for role, record in inputs.items()}
    same_validation = official.get("clean_valid") == "valid.h5"
    comparisons = []
    for drop, published_step, percentages in PUBLISHED:
        row = _row_at(results, drop)
        if row is None or (drop is not None and not same_validation):
            continue
        for (title, net, rate, role, file), published in zip(MEASURES, percentages, strict=True):
            measured = row[net][rate] if net in row else None
            if official.get(role) == file and measured is not None:
                step = row["step"]
                comparisons.append(
                    Comparison(drop, step, published_step, title, published / 100, measured)
                )
    return comparisons


def _row_at(results: Mapping[str, Any], drop: float | None) -> Mapping[str, Any] | None:
    """Return a reached checkpoint; for None B itself, in the place of B' after no step at all."""
    if drop is None:
        return {"step": 0, "b_prime": results["baseline"]}
    rows: Sequence[Mapping[str, Any]] = results["checkpoints"]
    return next((row for row in rows if row["drop"] == drop and row["reached"]), None)
