"""How sure a measured rate is, and how a rate is printed."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson_interval(successes: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of the rate `successes / total`.

    Unlike the textbook normal interval it stays inside 0..1 and keeps a width when every image is
    right or none is, which is where attack success and detection often sit.
    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.

    Args:
        successes: images counted, 0..total.
        total: images looked at, at least 1.
        confidence: share of such intervals that hold the true rate, between 0 and 1.

    Returns:
        Lower and upper end, fractions 0..1.

    Example:
        >>> low, high = wilson_interval(0, 100)
        >>> print(f"{low:.3f} to {high:.3f}")
        0.000 to 0.037

    Raises:
        ValueError: `successes`, `total` or `confidence` is outside its range.
    """
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f"successes/total is {successes}/{total}, expected 0..total of at least 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / total
    centre = rate + z * z / (2 * total)
    spread = z * sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    # Both ends are exact at 0 and at `total`; floating point would miss them by an ulp.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == total else (centre + spread) / scale
    return low, high


def percent(rate: float | None) -> str:
    """Return a fraction as a percentage with two decimals, None (not measured) as a dash."""
    return "–" if rate is None else f"{points(rate)} %"  # noqa: RUF001


def points(rate: float) -> str:
    """Return a fraction in points, the unit of drops, with two decimals."""
    return f"{100 * rate:.2f}"
