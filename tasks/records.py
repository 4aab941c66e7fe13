"""What stages hand to each other: small frozen records of files, never arrays or models."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from goodnet.defenses.choice import Kept
from goodnet.digests import FileDigest, digest_file
from goodnet.images.preprocessing import Preprocessing
from goodnet.inputs import Role
from goodnet.model_files.limits import ModelLimits
from goodnet.pruning.activation_cache import ActivationCache

EvaluationRole = Literal["clean_test", "poisoned_valid", "poisoned_test"]


class Record(BaseModel):
    """A value that travels between stages and is kept with Prefect's results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    not_keyed: ClassVar[frozenset[str]] = frozenset()
    """Fields that no result depends on."""


class StoredFile(Record):
    """A file or image folder and the digest of its content, which stands for it in cache keys."""

    path: Path
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, digest: FileDigest | None = None) -> StoredFile:
        """Record a file that is complete; digest it unless its digest is known."""
        digest = digest or digest_file(path)
        return cls(path=path, size=digest.size, sha256=digest.sha256)


class Network(Record):
    """B and the layers to work at."""

    file: StoredFile
    architecture: str | None
    layer: str
    rank_at: str
    preprocessing: Preprocessing
    limits: ModelLimits

    not_keyed = frozenset({"limits"})


class DefaultFaces(Record):
    """The image sets of the embedded default."""

    train: StoredFile
    clean_valid: StoredFile
    clean_test: StoredFile
    poisoned_test: StoredFile

    def sets(self) -> dict[Role, Path | None]:
        """Return the files as a repair takes them."""
        return {
            "clean_valid": self.clean_valid.path,
            "clean_test": self.clean_test.path,
            "poisoned_test": self.poisoned_test.path,
        }


class DefaultModel(Record):
    """The BadNet of the embedded default."""

    file: StoredFile


class SuiteSets(Record):
    """The clean image sets of a benchmark, raw pixels and numbers of classes."""

    train: StoredFile
    clean_valid: StoredFile
    clean_test: StoredFile
    num_classes: int


class PoisonedTest(Record):
    """What an attack makes of the clean test images of a benchmark."""

    file: StoredFile


class TrainedNet(Record):
    """A net of a benchmark, and how long its training took."""

    file: StoredFile
    seconds: float


class ImageFiles(Record):
    """An image set; its labels are the numbers of `classes` if its folders have such names."""

    file: StoredFile
    num_images: int
    classes: tuple[str, ...] | None = None


class CleanValidation(ImageFiles):
    """The one image set that ranking, stop rule and training may see."""

    role: Literal["clean_valid"] = "clean_valid"


class EvaluationSet(ImageFiles):
    """An image set that exists for evaluation only."""

    role: EvaluationRole


class Inputs(Record):
    """All that a repair is given."""

    network: Network
    clean_valid: CleanValidation
    evaluation: tuple[EvaluationSet, ...]
    classes: tuple[str, ...] | None
    remarks: tuple[str, ...]


class Remarks(Record):
    """A check was passed; what is to be said nevertheless, a sentence each."""

    remarks: tuple[str, ...]


class Activations(Record):
    """The activation cache of a set, a file for each of its parts."""

    parts: tuple[StoredFile, ...]

    def cache(self) -> ActivationCache:
        """Return the cache."""
        return ActivationCache(*(part.path for part in self.parts))


class CleanValidationActivations(Activations):
    """The activation cache of clean validation."""

    images: CleanValidation


class EvaluationActivations(Activations):
    """The activation cache of a set that selection never sees."""

    images: EvaluationSet


class PruneOrder(Record):
    """All channels of the pruned layer in the order in which they are removed."""

    channels: tuple[int, ...]


class CleanValidationSweep(Record):
    """The counts of clean validation at every step."""

    role: Literal["clean_valid"] = "clean_valid"
    file: StoredFile


class EvaluationSweep(Record):
    """The counts of another set at every step."""

    role: EvaluationRole
    file: StoredFile


class CheckpointSteps(Record):
    """Budget and step of each checkpoint.

    The budget is None where its channels were asked for, the step where none spends the budget.
    """

    steps: tuple[tuple[float | None, int | None], ...]


class SavedCheckpoint(Record):
    """B' and G with the first `step` channels of the prune order removed."""

    step: int
    b_prime: StoredFile
    goodnet: StoredFile


class FineTuned(Record):
    """The fine-tuned net, and what is made of the images that calibrate; no files without one."""

    net: StoredFile | None
    held: StoredFile | None


class FittedGuard(Record):
    """What scores are computed with, and the scores that calibrate them."""

    activations: CleanValidationActivations
    tuned: FineTuned
    file: StoredFile


class ImageScores(Record):
    """The scores of the images of a set, and what repaired nets make of them."""

    role: Role
    file: StoredFile


class GuardedNet(Record):
    """The calibrated GoodNet."""

    file: StoredFile


class RepairedNets(Record):
    """The repaired nets of methods beside pruning, and their files."""

    kept: tuple[Kept, ...]
    files: tuple[StoredFile, ...]


class RepairedAnswers(Record):
    """What those nets answer to the images of a set, (nets, images)."""

    file: StoredFile


class Samples(Record):
    """Images worth looking at in the report."""

    file: StoredFile


class Measured(Record):
    """What the nets of a run are worth: files as the run's folder has them, and their charts.

    `charts` holds the Vega-Lite of the report's charts by name, `curve` one of them as a PNG.
    """

    results: StoredFile
    sweep: StoredFile
    scores: StoredFile
    charts: StoredFile
    curve: StoredFile


class PublishedRun(Record):
    """A finished run: its folder, the verdict on the repair, and what to use, in a word and why."""

    folder: Path
    verdict: str
    word: str
    why: str


ActivationsRecord = CleanValidationActivations | EvaluationActivations
SweepRecord = CleanValidationSweep | EvaluationSweep


def require_clean_validation(record: Record, kind: type[Record]) -> None:
    """Raise TypeError unless a selection stage was handed clean validation and nothing else."""
    if not isinstance(record, kind):
        raise TypeError(f"selection sees clean validation only, not a {type(record).__name__}")
