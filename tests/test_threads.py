import os
import subprocess
import sys
import threading
import time

import pytest

from goodnet.errors import InputError
from goodnet.threads import mapped, prefetched


def test_prefetched_yields_everything_in_order():
    assert list(prefetched(iter(range(100)))) == list(range(100))
    assert list(prefetched(iter([]))) == []
    assert list(prefetched(iter([None, None]), depth=1)) == [None, None]


def test_prefetched_works_ahead_but_not_without_bound():
    fetched = []

    def items():
        for number in range(50):
            fetched.append(number)
            yield number

    ahead = prefetched(items(), depth=2)
    next(ahead)
    deadline = time.monotonic() + 5
    while len(fetched) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert fetched == [0, 1, 2]
    ahead.close()


def test_prefetched_runs_on_another_thread():
    def threads():
        yield threading.get_ident()

    assert next(prefetched(threads())) != threading.get_ident()


def test_an_error_arrives_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise InputError("broken")

    ahead = prefetched(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(InputError, match="broken"):
        next(ahead)
    assert list(ahead) == []


@pytest.mark.parametrize("read", [0, 1, 3])
@pytest.mark.parametrize("ahead_of", [prefetched, lambda items: mapped(str, items)])
def test_a_consumer_that_stops_early_ends_the_thread_and_closes_the_source(read, ahead_of):
    closed = threading.Event()
    threads = threading.active_count()

    def slow_items():
        try:
            for number in range(1_000_000):
                time.sleep(0.02)
                yield number
        finally:
            closed.set()

    source = slow_items()
    ahead = ahead_of(source)
    for _ in range(read):
        next(ahead)
    ahead.close()
    assert threading.active_count() == threads
    assert closed.is_set() == (read > 0)


def test_mapped_keeps_the_order_whatever_takes_longest():
    def slowest_first(number):
        time.sleep((20 - number) / 1000)
        return number**2

    results = mapped(slowest_first, (n for n in range(20)), num_threads=3)
    assert list(results) == [n**2 for n in range(20)]


def test_mapped_computes_side_by_side():
    together = threading.Barrier(2, timeout=10)
    results = mapped(lambda _: together.wait(), (n for n in range(4)), num_threads=2)
    assert len(list(results)) == 4


def test_mapped_takes_no_more_than_it_can_work_on():
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    results = mapped(str, items(), num_threads=2)
    assert next(results) == "0"
    assert taken == [0, 1, 2]
    results.close()


def test_an_error_of_the_function_is_raised_in_its_turn():
    def half(number):
        if number == 3:
            raise InputError("3 is bad")
        return number / 2

    results = mapped(half, (n for n in range(5)))
    assert [next(results) for _ in range(3)] == [0, 0.5, 1]
    with pytest.raises(InputError, match="3 is bad"):
        next(results)


def test_products_take_one_thread_in_whatever_library_they_are():
    """SciPy has one of its own, which is here only once somebody imports it."""
    source = """
import sys
import numpy
from threadpoolctl import threadpool_info
from goodnet.threads import one_blas_thread

def threads():
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

for libraries in (1, 2):
    before = threads()
    with one_blas_thread():
        assert threads() == [1] * libraries, threads()
    assert threads() == before
    assert "scipy" not in sys.modules or libraries == 2
    import scipy.linalg
"""
    environment = {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", source], env=os.environ | environment, stderr=subprocess.PIPE
    )
    assert done.returncode == 0, done.stderr.decode()


def test_threads_of_products_sleep_soon_when_there_is_no_more_to_do():
    source = """
import os
import time
import goodnet
import numpy

def used():
    return sum(os.times()[:2])

many, idly = numpy.ones((800, 800)), 0
for _ in range(5):
    many @ many
    before = used()
    time.sleep(0.1)
    idly += used() - before
print(idly)
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    environment.pop("OPENBLAS_THREAD_TIMEOUT", None)
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.05
