"""Statistics of success rates, in closed form: intervals, two policies on the same episodes, and how many episodes it takes.

Of two policies on the same episodes, ``gained`` are those in which the second succeeded and the first did not, and ``lost`` those in
which the first succeeded and the second did not: counts of what was played, or the probabilities of either. ``power`` is the
probability to find a difference, and ``level`` that to find one where there is none: the largest p-value that counts as a difference.

Functions that need scipy import it when they are called. Wilson's interval is written out, though scipy has it: the live display and
``vlarig table`` print it without the extra ``results``.
"""

from __future__ import annotations

import importlib
import math
from bisect import bisect_left
from statistics import NormalDist
from typing import Any

from ..envs.errors import VlarigError, not_importable


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a success probability.

    Unlike the textbook interval it stays within [0, 1] and keeps its coverage for few episodes and for rates near 0 or 1. It is
    ``(0.0, 1.0)`` where nothing was measured.
    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927), 209-212.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}, expected 0 to n, which is {n}")
    z = _two_sided(confidence)
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    shrink = 1 + z * z / n
    center = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    lower = 0.0 if successes == 0 else max(0.0, center - half)  # exact at the ends, where rounding would leave 1e-17
    upper = 1.0 if successes == n else min(1.0, center + half)
    return lower, upper


def mcnemar_p_value(gained: int, lost: int) -> float:
    """The exact, two-sided p-value of McNemar's test: two policies that played the same episodes are equally good.

    Only the episodes that flipped count. If the policies were equally good, each would flip either way with probability 1/2.
    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947), 153-157; exact by the binomial distribution.
    """
    if gained + lost == 0:
        return 1.0
    return float(scipy_module("stats").binomtest(gained, gained + lost, 0.5).pvalue)


def tango_interval(gained: int, lost: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's score interval of the difference of two success probabilities, measured on the same episodes.

    The difference is second minus first. One is in the interval when McNemar's score test, generalised to it, does not reject it.
    ``(-1.0, 1.0)`` where nothing was measured.
    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17 (1998), 891-908.
    """
    if min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n} episodes; expected counts whose sum is at most n")
    z = _two_sided(confidence)
    if n == 0:
        return -1.0, 1.0
    return _tango_lower(gained, lost, n, z), -_tango_lower(lost, gained, n, z)


def _tango_lower(gained: int, lost: int, n: int, z: float) -> float:
    """The interval's lower bound; the upper one is this of the policies swapped."""
    if lost == n:
        return -1.0
    estimate = (gained - lost) / n

    def excess(difference: float) -> float:
        """By how much the estimate lies further above ``difference`` than ``z`` standard errors; 0 at the bound."""
        # The likeliest probability of a lost episode, given the difference: the positive root of a quadratic equation.
        linear = (2 * n - gained + lost) * difference - gained - lost
        constant = -lost * difference * (1 - difference)
        losing = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
        variance = max(0.0, 2 * losing + difference * (1 - difference)) / n
        return estimate - difference - z * math.sqrt(variance)

    # At the estimate itself the standard error can be 0, which would be taken for the bound.
    return float(scipy_module("optimize").brentq(excess, -1.0, estimate - 1e-9))


def unpaired_episodes(first: float, second: float, power: float = 0.8, level: float = 0.05) -> int:
    """Episodes that two policies of these success probabilities have to play each to show a difference, where they play different ones.

    Source: J. L. Fleiss, B. Levin and M. C. Paik, "Statistical Methods for Rates and Proportions", 3rd ed. (2003), section 4.2,
    without the correction for continuity; R's ``power.prop.test`` says the same.
    """
    for name, value in (("first", first), ("second", second)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, expected a probability")
    if first == second:
        raise ValueError(f"both success probabilities are {first}; no number of episodes distinguishes equal policies apart")
    pooled = (first + second) / 2
    under_none = _two_sided(1 - level) * math.sqrt(2 * pooled * (1 - pooled))
    under_this = _quantile(power, "power") * math.sqrt(first * (1 - first) + second * (1 - second))
    return math.ceil(((under_none + under_this) / (first - second)) ** 2)


def paired_episodes(gained: float, lost: float, power: float = 0.8, level: float = 0.05) -> int:
    """Episodes that two policies have to play to show a difference by :func:`mcnemar_p_value`, where both play the same ones.

    A search for the first number at which :func:`mcnemar_power` is enough. It begins with the closed form of R. J. Connor, "Sample
    size for testing differences in proportions for the paired-sample design", Biometrics 43 (1987), 207-211, which is for the
    test without its exactness, and therefore a little too small.
    """
    _check_flips(gained, lost)
    if gained == lost:
        raise ValueError(f"as much is gained as lost, {gained}; no number of episodes distinguishes equal policies")
    flipped, difference = gained + lost, gained - lost
    under_none = _two_sided(1 - level) * math.sqrt(flipped)
    under_this = _quantile(power, "power") * math.sqrt(flipped - difference**2)
    closed_form = math.ceil(((under_none + under_this) / difference) ** 2)
    candidates = range(closed_form, 3 * closed_form + 20)
    enough = bisect_left(candidates, True, key=lambda n: mcnemar_power(n, gained, lost, level) >= power)
    return candidates[enough]


def mcnemar_power(n: int, gained: float, lost: float, level: float = 0.05) -> float:
    """The probability that :func:`mcnemar_p_value` of ``n`` episodes is at most ``level``; exact.

    Source: S. W. Duffy, "Asymptotic and exact power for the McNemar test and its analogue with R controls per case", Biometrics 40
    (1984), 1005-1015.
    """
    import numpy as np

    _check_flips(gained, lost)
    binom = scipy_module("stats").binom
    flips = np.arange(n + 1)
    # For each number of flips the most of them that may go the rarer way for the test to find a difference; -1 where none may.
    most = binom.ppf(level / 2, flips, 0.5)
    most = np.where(binom.cdf(most, flips, 0.5) > level / 2, most - 1, most)
    share = gained / (gained + lost)
    found = binom.cdf(most, flips, share) + binom.sf(flips - most - 1, flips, share)
    return float(np.sum(binom.pmf(flips, n, gained + lost) * found))


def detectable_difference(n: int, flipped: float, power: float = 0.8, level: float = 0.05) -> float | None:
    """The smallest difference of two success probabilities that ``n`` episodes, played by both policies, would most likely show.

    Connor's closed form (see :func:`paired_episodes`), solved for the difference. In a share ``flipped`` of the episodes one policy
    succeeds and the other does not. ``None`` where it would take more flips than there are.
    """
    if not 0 <= flipped <= 1:
        raise ValueError(f"flipped is {flipped}, expected a share, from 0 to 1")
    none, this = _two_sided(1 - level), _quantile(power, "power")
    inner = none**2 * n * flipped - (n + this**2) * flipped * (none**2 - this**2)
    if n == 0 or inner < 0:
        return None
    difference = (none * math.sqrt(n * flipped) + math.sqrt(inner)) / (n + this**2)
    return difference if 0 < difference <= flipped else None


def scipy_module(name: str) -> Any:
    """The module ``scipy.<name>``, imported when it is first needed."""
    try:
        return importlib.import_module(f"scipy.{name}")
    except ImportError as error:
        raise VlarigError(not_importable("comparisons and clustered intervals need", error, "results")) from None


def _two_sided(confidence: float) -> float:
    """The number of standard deviations that a normal variable stays within with that probability."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _quantile(probability: float, name: str) -> float:
    """The number of standard deviations that a normal variable stays below with that probability."""
    if not 0 < probability < 1:
        raise ValueError(f"{name} is {probability}, expected a number between 0 and 1")
    return NormalDist().inv_cdf(probability)


def _check_flips(gained: float, lost: float) -> None:
    if min(gained, lost) < 0 or not 0 < gained + lost <= 1:
        raise ValueError(f"gained is {gained} and lost is {lost}; expected probabilities with a sum from above 0 to 1")
