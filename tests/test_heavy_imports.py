import gc

import pytest

from goodnet.heavy_imports import uncollected


@pytest.fixture
def collector():
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_passes_over_what_was_made(collector):
    before = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_the_collector_is_back_after_an_error(collector):
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(collector):
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()
