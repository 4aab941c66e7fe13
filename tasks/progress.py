"""Progress of long stages, to whoever listens on this process and to the Prefect UI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from goodnet.progress import Progress
from tasks.cluster import require_wanted, still_wanted

_UPDATE_SECONDS = 2.0


class Listener(Protocol):
    """Is told of each stage that begins and ends, and how far the long work in it is."""

    def began(self, stage: str) -> None:
        """A stage begins; the cache may answer it at once."""

    def ended(self) -> None:
        """That stage has ended well."""

    def advanced(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` images are through."""

    def finished(self, stage: str) -> None:
        """That work has ended, well or not."""


listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Tell a listener, if there is one, what happens meanwhile."""
    if listener is None:
        yield
        return
    listeners.append(listener)
    try:
        yield
    finally:
        listener.ended()
        listeners.remove(listener)


def tell_began(stage: str) -> None:
    """Tell whoever listens that a stage begins."""
    for listener in listeners:
        listener.began(stage)


def tell_ended() -> None:
    """Tell whoever listens that it has ended."""
    for listener in listeners:
        listener.ended()


@contextmanager
def progress(stage: str) -> Iterator[Progress]:
    """Yield a function that takes the numbers of images done and in all.

    In a worker of Dask it raises InputError once the command that wanted this has ended.

    Args:
        stage: what is going on, in a few words.
    """
    artifact, wanted = _ProgressArtifact(stage), still_wanted()

    def advance(done: int, total: int) -> None:
        require_wanted(wanted)
        for listener in listeners:
            listener.advanced(stage, done, total)
        artifact.show(100 * done / total)

    try:
        yield advance
    finally:
        for listener in listeners:
            listener.finished(stage)


class _ProgressArtifact:
    """A progress artifact in the Prefect UI, for a stage that takes more than a moment."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._shown = time.monotonic()
        self._artifact: Any = None

    def show(self, percent: float) -> None:
        late = percent < 100 and time.monotonic() - self._shown >= _UPDATE_SECONDS
        ended = percent >= 100 and self._artifact is not None
        if TaskRunContext.get() is None or not (late or ended):
            return
        self._shown = time.monotonic()
        if self._artifact is None:
            key = "".join(c if c.isalnum() else "-" for c in self._stage.lower())
            self._artifact = create_progress_artifact(percent, key=key, description=self._stage)
        else:
            update_progress_artifact(self._artifact, percent)
