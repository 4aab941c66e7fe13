"""The simulation of many workers, held against what can be worked out by hand."""

import pytest

from benchmarks.simulation import Costs, Nets, Stage, simulate, simulate_nets

FREE = Costs(schedule=0, start=0, reduce=0, bandwidth=1e30)


def test_workers_that_wait_for_nobody_share_the_work():
    stages = [Stage("a", [2.0] * 6), Stage("b", alone=5), Stage("c", [1.0] * 3)]
    assert simulate(stages, 1, FREE) == {"a": 12, "b": 5, "c": 3}
    assert simulate(stages, 3, FREE) == {"a": 4, "b": 5, "c": 1}
    assert simulate(stages, 100, FREE) == {"a": 2, "b": 5, "c": 1}


def test_a_stage_waits_for_the_last_part_of_the_one_before():
    found = simulate([Stage("a", [3.0, 1.0]), Stage("b", [1.0, 1.0])], 2, FREE)
    assert found == {"a": 3, "b": 1}


@pytest.mark.parametrize(
    ("costs", "seconds"),
    [
        (Costs(schedule=0.5, start=0, reduce=0, bandwidth=1e30), 50 + 1),
        (Costs(schedule=0, start=0, reduce=0.5, bandwidth=1e30), 50 + 1),
        (Costs(schedule=0, start=0, reduce=0, bandwidth=2), 50 + 1),
        (Costs(schedule=0, start=7, reduce=0, bandwidth=1e30), 7 + 1),
    ],
)
def test_what_all_share_is_what_many_workers_wait_for(costs, seconds):
    """A hundred tasks of a second and a byte, on a worker each."""
    found = simulate([Stage("a", [1.0] * 100, num_bytes=1)], 100, costs)
    assert found["a"] == pytest.approx(seconds)


def test_nets_wait_for_the_server_that_all_of_them_call():
    nets = Nets(seconds=10, server=1, num_bytes=0)
    assert simulate_nets(100, 1, nets, FREE) == pytest.approx(1000, rel=0.1)
    assert simulate_nets(100, 1000, nets, FREE) == pytest.approx(100)
