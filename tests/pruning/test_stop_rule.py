from typing import NamedTuple

import pytest

from goodnet.errors import InputError
from goodnet.pruning.stop_rule import (
    Checkpoint,
    describe_budget,
    describe_channels,
    describe_checkpoint,
    find_checkpoint,
    find_checkpoints,
)


class Case(NamedTuple):
    title: str
    correct: list[int]
    images: int
    drop: float
    step: int | None


CASES = [
    Case("exactly at the boundary", [50, 50, 49, 48], 50, 2, 2),
    Case("one image is 2 % of 50", [49, 48], 50, 2, 1),
    Case("one image of 51 is less", [51, 50, 49], 51, 2, 2),
    Case("first step, not the last", [100, 98, 95, 97, 90], 100, 4, 2),
    Case("comes back and drops again", [100, 95, 100, 90], 100, 10, 3),
    Case("never reached", [100, 99, 98, 97], 100, 4, None),
    Case("no accuracy to lose", [1, 0], 100, 2, None),
    Case("a drop with a fraction", [200, 196, 195], 200, 2.5, 2),
    Case("below a fraction", [1000, 976, 975], 1000, 2.5, 2),
    Case("a fraction that floats miss", [1000, 999, 998, 997], 1000, 0.3, 3),
    Case("a fraction that floats overshoot", [2000, 1840, 1839], 2000, 8.05, 2),
    Case("rises first", [90, 95, 96, 89, 88], 100, 2, 4),
    Case("points, not a share of B's accuracy", [50, 49, 48, 47], 100, 2, 2),
    Case("everything at once", [10, 0], 10, 100, 1),
    Case("the lab at 2 %", [11391, 11391, 11161, 11160], 11547, 2, 3),
    Case("the lab's step 45", [11391] * 45 + [11057], 11547, 2, 45),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_checkpoint(case):
    found = find_checkpoint(case.correct, images=case.images, drop=case.drop)
    assert found == Checkpoint(case.drop, case.step)


def test_numbers_of_channels_are_checkpoints_behind_those_of_the_budgets():
    correct = [100, 98, 95, 90]
    found = find_checkpoints(correct, images=100, drops=(5, 50), channels=(3, 1))
    budgets = [Checkpoint(5, 2), Checkpoint(50, None)]
    assert found == [*budgets, Checkpoint(None, 3), Checkpoint(None, 1)]


@pytest.mark.parametrize("number", [0, -1, 4])
def test_no_more_channels_are_pruned_than_there_are(number):
    with pytest.raises(InputError) as caught:
        find_checkpoints([9, 9, 9, 9], images=9, drops=(), channels=(2, number))
    assert str(caught.value) == (
        f"the pruned layer has 3 channels, expected to prune 1 to 3, not {number}"
    )


def test_a_checkpoint_is_called_by_what_was_asked_for():
    assert describe_checkpoint(2.0, 45) == describe_budget(2) == "budget 2 points"
    assert describe_checkpoint(None, 45) == describe_channels(45) == "45 channels"
    assert [describe_budget(1), describe_channels(1)] == ["budget 1 point", "1 channel"]
    assert describe_budget(2, 2.5) == "budget 2, 2.5 points"
