"""Statistics of success rates, in closed form."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a success probability.

    Unlike the textbook interval it stays within [0, 1] and remains honest for few episodes and for rates near 0 or 1.
    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927), 209-212.

    Args:
        successes: Episodes that succeeded.
        n: Episodes that finished.
        confidence: Share of such intervals that cover the true probability.

    Returns:
        The lower and the upper bound; ``(0.0, 1.0)`` where nothing was measured.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}, expected 0 to n, which is {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / n
    shrink = 1 + z * z / n
    center = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    lower = 0.0 if successes == 0 else max(0.0, center - half)  # exact at the ends, where rounding would leave 1e-17
    upper = 1.0 if successes == n else min(1.0, center + half)
    return lower, upper
