import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodnet.metrics import percent, points, wilson_interval


@pytest.mark.parametrize(
    ("successes", "total", "expected"),
    [
        (0, 10, (0.0, 0.2775328)),
        (10, 10, (0.7224672, 1.0)),
        (5, 10, (0.2365931, 0.7634069)),
        (81, 263, (0.2552532, 0.3662068)),  # Newcombe, Statistics in Medicine 17, 1998: .2553-.3662
    ],
)
def test_wilson_interval_of_known_cases(successes: int, total: int, expected: tuple[float, float]):
    assert wilson_interval(successes, total) == pytest.approx(expected, abs=5e-5)


@given(st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_rate_and_mirrors(counts: tuple[int, int]):
    successes, total = counts
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total <= high <= 1
    assert low < high
    mirrored = wilson_interval(total - successes, total)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_more_confidence_and_fewer_images_widen_the_interval():
    def width(successes: int, total: int, confidence: float = 0.95) -> float:
        low, high = wilson_interval(successes, total, confidence=confidence)
        return high - low

    assert width(40, 50, 0.99) > width(40, 50) > width(40, 50, 0.9)
    assert width(40, 50) > width(400, 500)


@pytest.mark.parametrize(("successes", "total"), [(-1, 4), (5, 4), (0, 0), (0, -1)])
def test_impossible_counts_are_refused(successes: int, total: int):
    with pytest.raises(ValueError, match=f"{successes}/{total}"):
        wilson_interval(successes, total)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_impossible_confidence_is_refused(confidence: float):
    with pytest.raises(ValueError, match="expected a number between 0 and 1"):
        wilson_interval(1, 2, confidence=confidence)


@pytest.mark.parametrize(
    ("rate", "text"), [(0.77210, "77.21 %"), (0.0, "0.00 %"), (1.0, "100.00 %"), (None, "\u2013")]
)
def test_percent(rate: float | None, text: str):
    assert percent(rate) == text


def test_points_are_hundredths_with_two_decimals():
    assert [points(rate) for rate in (0, 0.5975, 1, -0.012)] == ["0.00", "59.75", "100.00", "-1.20"]
