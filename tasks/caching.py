"""How stages are cached: keyed on content, kept as JSON, valid while their files are unaltered."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.serializers import Serializer
from prefect.tasks import Task
from prefect.utilities.dispatch import get_registry_for_type

from goodnet.digests import DigestMemory, digest_once
from goodnet.errors import printable
from goodnet.pruning.activation_cache import part_rows
from goodnet.storage.files import parse_json
from tasks import records
from tasks.records import CleanValidation, EvaluationSet, Network, Record, StoredFile
from tasks.stages import log_stage, tell_stage

logger = logging.getLogger(__name__)

_FINAL_ERRNOS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG),
)
"""What is not otherwise a few seconds later."""


@dataclass
class StageInputs(CachePolicy):
    """Keys a stage on its name, its version and its inputs, files by their digests.

    The version goes up when the code of the stage, or what it calls, gives another result.
    """

    version: int = 1

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """Return a key that is the same in every process and for every copy of the files."""
        named = {name: _canonical(value) for name, value in sorted(inputs.items())}
        text = json.dumps([task_ctx.task.name, self.version, named], sort_keys=True)
        return f"{task_ctx.task.name}-{hashlib.sha256(text.encode()).hexdigest()}"


class RecordSerializer(Serializer):
    """Keeps a record as JSON, and refuses to give it back once a file that it names has changed.

    Prefect takes the refusal for a missing result and runs the stage again.
    """

    type: Literal["goodnet-record"] = "goodnet-record"

    def dumps(self, obj: Record) -> bytes:
        """Encode a record."""
        return json.dumps([type(obj).__name__, obj.model_dump(mode="json")]).encode()

    def loads(self, blob: bytes) -> Record:
        """Decode a record and check its files.

        Raises:
            ValueError: it is no record, or a file of it is gone or altered.
        """
        name, fields = parse_json(blob)
        kind = getattr(records, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Record)):
            raise ValueError(f"no record is called {name}")
        record = kind.model_validate(fields)
        for file in _produced_files(record):
            # Prefect reads a record twice, and the activations in it take a second to digest.
            if not file.path.is_file() or digest_once(file.path).sha256 != file.sha256:
                reason = f"{file.path} is gone or was altered"
                logger.warning(printable(f"{reason}, its stage runs again"))
                raise ValueError(reason)
        return record


def can_be_retried(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether another try can help: for I/O errors, but not for bad input or a full disk."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and error.errno not in _FINAL_ERRNOS


def cached(version: int) -> dict[str, Any]:
    """Return the options of a cached, retried stage for Prefect's `task` decorator."""
    return {
        "cache_policy": StageInputs(version=version),
        "result_serializer": RecordSerializer(),
        "persist_result": True,
        "retries": 2,
        "retry_delay_seconds": [1, 10],
        "retry_condition_fn": can_be_retried,
        "on_running": [tell_stage],
        "on_completion": [log_stage],
    }


def always_run() -> dict[str, Any]:
    """Return the options of a stage that looks at the world anew, or shows it something."""
    return {
        "persist_result": False,
        "on_running": [tell_stage],
        "on_completion": [log_stage],
    }


def cache_file(artifacts: Path, kind: str, suffix: str, *parts: Any) -> Path:
    """Return where in the cache a file belongs that follows from `parts`, and make its folder."""
    text = json.dumps([_canonical(part) for part in parts], sort_keys=True)
    folder = artifacts / "cache" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}{suffix}"


def cache_folder(artifacts: Path, kind: str, *parts: Any) -> Path:
    """Return a folder for several such files, which is there."""
    folder = cache_file(artifacts, kind, "", *parts)
    folder.mkdir(exist_ok=True)
    return folder


def digest_memory(artifacts: Path, *, refresh: bool = False) -> DigestMemory:
    """Return the memory of digests that all runs with these artifacts share."""
    return DigestMemory(artifacts / "cache" / "digests.json", refresh=refresh)


def activations_files(
    artifacts: Path, network: Network, images: CleanValidation | EvaluationSet
) -> dict[range, Path]:
    """Return where the activations of a set are kept, by the images of each part."""
    whole = cache_file(artifacts, "activations", ".parquet", network, images.file, images.classes)
    first, *others = part_rows(images.num_images)
    return {first: whole} | {
        rows: whole.with_stem(f"{whole.stem}-{number}") for number, rows in enumerate(others, 1)
    }


def _canonical(value: Any) -> Any:
    """Return what stands for a value in a key: JSON, with digests in place of files."""
    if isinstance(value, StoredFile):
        return value.sha256
    if isinstance(value, Record):
        fields = {
            name: _canonical(getattr(value, name))
            for name in type(value).model_fields
            if name not in value.not_keyed
        }
        return [type(value).__name__, fields]
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        # Not asdict, which forgets the types of what is in it: triggers may differ in nothing else.
        return [
            type(value).__name__,
            {one.name: _canonical(getattr(value, one.name)) for one in fields_of(value)},
        ]
    if isinstance(value, Path):
        return str(value)
    return value


def _produced_files(record: Record) -> Iterator[StoredFile]:
    """Iterate over the files that a stage wrote; its inputs were digested in this run already."""
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, StoredFile):
            yield value
        elif isinstance(value, tuple):
            yield from (one for one in value if isinstance(one, StoredFile))


@cache
def read_records_alone() -> None:
    """Let this process, from now on, read no stored result but a record.

    A stored result names the serializer that reads it and the modules that this imports: pickle's
    would run what it reads, and each would run such a module. Our flows call this before their
    first stage; a process that only imports this module keeps Prefect's serializers as they are.
    """
    for other in (get_registry_for_type(Serializer) or {}).values():
        if other is not RecordSerializer:
            other.loads = _refuse  # type: ignore[method-assign, assignment]
    Serializer.__init__ = _refuse_modules  # type: ignore[method-assign, assignment]


_initialise = Serializer.__init__


def _refuse(serializer: Serializer[Any], blob: bytes) -> Any:
    raise ValueError(f"stored results of type {serializer.type} are not read")


def _refuse_modules(serializer: Serializer[Any], **settings: Any) -> None:
    """Create a serializer unless one of its settings is a text other than its default."""
    defaults = {name: field.default for name, field in type(serializer).model_fields.items()}
    for name in settings.keys() - {"type"}:
        if isinstance(settings[name], str) and settings[name] != defaults.get(name):
            raise ValueError(f"serializers with another {name} are not read")
    _initialise(serializer, **settings)
