"""What audits keep: which repairs are finished already, and the table over all nets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact

from goodnet.reports.audit_files import write_audit
from goodnet.reports.audits import AuditedModel, Limits, audit_rows
from goodnet.storage.files import read_json, write_json
from goodnet.storage.run_folder import RunFolder
from tasks.caching import always_run, cache_file, digest_memory
from tasks.markdown import artifact_key, as_cells, as_markdown
from tasks.records import StoredFile


class FinishedRepairs:
    """Remembers which nets were repaired with the same image sets and parameters.

    A repair is known by the content of the files, and honoured only while its results.json is
    there and unaltered.
    """

    def __init__(
        self,
        artifacts: Path,
        *,
        files: Mapping[str, Path | None],
        parameters: Mapping[str, Any],
        refresh: bool = False,
    ) -> None:
        """Digest the image sets and what else is given as a file.

        Args:
            artifacts: folder of runs and cache.
            files: by what they are given as; None where one is not given.
            parameters: all else that the results depend on.
            refresh: read all files again, and find no finished repair.
        """
        self._artifacts = artifacts
        self._memory = digest_memory(artifacts, refresh=refresh)
        self._refresh = refresh
        digests = {
            name: path and self._memory.digest(path).sha256 for name, path in sorted(files.items())
        }
        self._key = json.dumps([digests, parameters], sort_keys=True)

    def find(self, model: Path) -> Path | None:
        """Return the folder of the finished repair of this net, if there is one."""
        if self._refresh:
            return None
        record = self.record(model)
        try:
            results = StoredFile.model_validate(read_json(record))
            intact = StoredFile.of(results.path) == results
        except (OSError, ValueError):
            return None
        return results.path.parent if intact else None

    def record(self, model: Path) -> Path:
        """Return the file that remembers the repair of this net, the same for copies of it."""
        digest = self._memory.digest(model).sha256
        return cache_file(self._artifacts, "audited", ".json", digest, self._key)


def remember_repair(record: Path, run: Path) -> None:
    """Remember the finished repair in the folder `run` under the record of its net."""
    results = StoredFile.of(RunFolder(run).results)
    write_json(record, results.model_dump(mode="json"))


@task(name="publish audit", **always_run())
def publish_audit(
    folder: Path, models: str, audited: Sequence[AuditedModel], limits: Limits
) -> None:
    """Write the files of an audit into a new folder and show the table in the Prefect UI.

    Args:
        folder: of the audit, which is not there yet.
        models: name of the folder of the nets.
        audited: what came of each.
        limits: of the audit.
    """
    write_audit(folder, audited, limits)
    create_table_artifact(
        [as_cells(row) for row in audit_rows(audited)],
        key=artifact_key(models, "audit"),
        description=as_markdown(folder.name),
    )
