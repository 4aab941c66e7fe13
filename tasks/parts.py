"""Mapping a function over the parts of an image set, here or on Dask; stages know nothing of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from goodnet.progress import Progress, silent
from goodnet.threads import mapped
from tasks.cluster import Cluster, require_source, require_wanted, source_digest, still_wanted

if TYPE_CHECKING:
    from distributed import Client

Work = TypeVar("Work", bound=Sized)
Result = TypeVar("Result")

_COMPUTING = ("CUDA_VISIBLE_DEVICES", "TF_CPP_MIN_LOG_LEVEL")
"""What TensorFlow reads when it is imported; it computes on a worker as it does here."""


def map_parts(
    function: Callable[[Work, Progress], Result],
    parts: Sequence[Work],
    advance: Progress,
    *,
    num_threads: int = 1,
) -> Iterator[Result]:
    """Yield what a function makes of each part, in their order.

    Args:
        function: of a module of goodnet, which takes a part and what is told of its progress.
        parts: as long as they have images; on Dask they are pickled, and so are the results.
        advance: called with the numbers of images done and in all parts.
        num_threads: parts worked on at a time in this process, if a part keeps one core busy.
    """
    workers, total, done = _workers.get(), sum(map(len, parts)), 0
    if workers is not None and len(parts) > 1:
        results = workers.map(function, parts)
    elif num_threads > 1:
        results = mapped(lambda part: function(part, silent), parts, num_threads=num_threads)
    else:
        for part in parts:
            before = done
            yield function(part, lambda ready, _: advance(before + ready, total))  # noqa: B023
            done += len(part)
        return
    for part, result in zip(parts, results, strict=True):
        done += len(part)
        advance(done, total)
        yield result


@contextmanager
def mapped_on(dask: str | None, *, artifacts: Path) -> Iterator[None]:
    """Let stages that are called within map their parts on workers, once there is more than one.

    Args:
        dask: where these are; None to work on one part after the other here.
        artifacts: folder of runs and cache, which the workers have to see too.
    """
    with ExitStack() as stack:
        workers = None if dask is None else _Workers(Cluster.parse(dask), artifacts, stack)
        token = _workers.set(workers)
        try:
            yield
        finally:
            _workers.reset(token)


@dataclass
class _Workers:
    """The workers of a run, which are there once they are needed."""

    cluster: Cluster
    artifacts: Path
    stack: ExitStack
    _client: Client | None = field(default=None, init=False)

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = self.stack.enter_context(self.cluster.runner(self.artifacts)).client
        return self._client

    def map(
        self, function: Callable[[Work, Progress], Result], parts: Sequence[Work]
    ) -> Iterator[Result]:
        given = {name: os.environ[name] for name in _COMPUTING if name in os.environ}
        client = self.client
        # Not by their content: two runs that have the same work write their own files.
        futures = [
            client.submit(run_part, function, part, given, source_digest(), pure=False)
            for part in parts
        ]
        try:
            for future in futures:
                with self.cluster.errors():
                    result: Result = future.result()
                yield result
        except ConnectionError:
            self._client = None  # A stage that is tried again asks for the scheduler anew.
            raise
        finally:
            client.cancel(futures, force=True)


_workers: ContextVar[_Workers | None] = ContextVar("workers", default=None)


def run_part(
    function: Callable[[Any, Progress], Any], part: Any, environment: dict[str, str], source: str
) -> Any:
    """Work on a part in the process of a worker."""
    require_source(source)
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    wanted = still_wanted()
    return function(part, lambda done, total: require_wanted(wanted))
