"""The published results of the CSAW HackML 2020 face lab and the digests of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from goodnet.reports.about import Input
from goodnet.reports.results import RATES, Rates, Results

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
    ("B'", "clean_valid_accuracy", "valid.h5"),
    ("B'", "clean_test_accuracy", "test.h5"),
    ("B'", "attack_success_rate", "bd_test.h5"),
    ("G", "clean_test_accuracy", "test.h5"),
)
"""The columns of PUBLISHED: net, rate, and the lab's file that it is counted on."""


@dataclass(frozen=True)
class Comparison:
    """One rate of a run beside the published one, both fractions 0..1.

    Attributes:
        drop: points of the checkpoint, None for B.
        step: channels that the run's net has pruned.
        published_step: channels that the published net has pruned.
        measure: net and rate in words.
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


def recognise(sha256: str) -> str | None:
    """Return the lab's name of the file with this digest, None where it is not one of the lab's."""
    return OFFICIAL_FILES.get(sha256)


def compare_to_published(results: Results, inputs: Mapping[str, Input]) -> list[Comparison]:
    """Return each rate of the run for which a published one was measured on the same files.

    Checkpoints depend on the clean validation images, so theirs count only on the lab's valid.h5.

    Args:
        results: of the run.
        inputs: what it was given.
    """
    official = {role: recognise(given.sha256) for role, given in inputs.items()}
    same_validation = official.get("clean_valid") == "valid.h5"
    comparisons = []
    for drop, published_step, percentages in PUBLISHED:
        step, nets = _nets_at(results, drop)
        if drop is not None and not same_validation:
            continue
        for (net, rate, file), published in zip(MEASURES, percentages, strict=True):
            measured = nets[net].by_name()[rate] if net in nets else None
            if official.get(RATES[rate].role) == file and measured is not None:
                title = f"{net} {RATES[rate].heading}"
                comparisons.append(
                    Comparison(drop, step, published_step, title, published / 100, measured)
                )
    return comparisons


def _nets_at(results: Results, drop: float | None) -> tuple[int, Mapping[str, Rates]]:
    """Return step and nets of a reached checkpoint; B stands for B' after no step at all."""
    if drop is None:
        return 0, {"B'": results.baseline}
    for point in results.reached:
        if point.drop == drop:
            return point.step, {"B'": point.b_prime, "G": point.goodnet}
    return 0, {}
