"""Threads that work ahead of whoever consumes the results, in order and in bounded memory."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(items: Iterator[Item], *, depth: int = 2) -> Generator[Item, None, None]:
    """Yield what `items` yields while a background thread fetches up to `depth` items ahead.

    An error in `items` is raised here, after the items before it. When the consumer stops early,
    the thread ends and `items` is closed.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        ahead = deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(pool.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            pool.shutdown(cancel_futures=True)
            if isinstance(items, Generator):
                items.close()


def mapped(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int = 2
) -> Iterator[Result]:
    """Yield `function(item)` for each item in order, `num_threads` of them computed at a time.

    An error of `function` is raised here. When the consumer stops early, `items` is closed.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="mapped") as pool:
        ahead = deque[Future[Result]]()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            if isinstance(items, Generator):
                items.close()


def one_blas_thread() -> AbstractContextManager[Any]:
    """Return a context in which the matrix products of NumPy and SciPy take one thread each."""
    return _controller(len(sys.modules)).limit(limits=1, user_api="blas")


@lru_cache(maxsize=1)
def _controller(num_modules: int) -> ThreadpoolController:
    """Look at all libraries of the process, anew only where an import may have brought another."""
    # That takes 15 ms where TensorFlow's are among them.
    return ThreadpoolController()
