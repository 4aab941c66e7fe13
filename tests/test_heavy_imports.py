import gc
import signal

import pytest

from goodnet.heavy_imports import importing


@pytest.fixture
def collector():
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_passes_over_what_was_made(collector):
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_the_collector_is_back_after_an_error(collector):
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(collector):
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()


class Destroyed:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_is_raised_at_the_end(collector):
    passed = []

    def import_it():
        with importing():
            Destroyed()
            passed.append(True)

    with pytest.raises(KeyboardInterrupt):
        import_it()
    assert passed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
