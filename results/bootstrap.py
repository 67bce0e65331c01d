"""Means over episodes that are not independent of each other: a bootstrap that resamples whole tasks, or whole initial states.

Episodes of a task resemble each other, and so do repeats of an initial state. Sampled one by one they would pretend to be more than
they are. The question determines what is sampled:

- ``task``: how does the policy perform on tasks like these? Whole tasks are sampled, with all their episodes and variants.
- ``initial_state``: how does it perform on these tasks, from other initial states like these? Within each task whole initial states are
  sampled, with all their repeats. Where initial states do not repeat, an initial state is an episode.

Of the ``m`` clusters of a stratum ``m - 1`` are sampled with replacement, which makes the variance right on average also for few
clusters (J. N. K. Rao and C. F. J. Wu, "Resampling inference with complex survey data", JASA 83 (1988), 231-241). The interval runs
between two percentiles of the sampled means. As in Student's t interval they lie further out the fewer clusters there are (T. C.
Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), 371-386: the expanded percentile
interval).

The generator is seeded with a SHA-256 over the unit and the sorted keys of the episodes. So a table is the same each time that it is
printed, seeds cannot be selected, and two policies on the same episodes get the same resamples. ``scipy.stats.bootstrap`` samples
``m`` of ``m`` clusters, and of several strata other ones where it holds fewer at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from .records import split_key
from .statistics import scipy_module

Unit = Literal["task", "initial_state"]

RESAMPLES = 9_999

#: How many counts are held in memory at once; the resamples are the same whatever it is.
SAMPLED_AT_ONCE = 1_000_000

#: Fewer clusters, less one for each stratum, give no interval. A sampled mean never leaves the range of the clusters' own means; with
#: five clusters that range lies wholly on one side of the true median in 2 x 0.5^5, 6 %, of all cases, with six in 3 %.
MINIMUM_FREEDOM = 5


@dataclass(frozen=True)
class Mean:
    """A mean over episodes.

    Attributes:
        value: The mean; every episode weighs the same.
        interval: Its lower and upper bound. ``None`` where the clusters are too few, or all alike.
        n: Episodes.
        unit: What was sampled as a whole.
        clusters: How many of these there are.
    """

    value: float
    interval: tuple[float, float] | None
    n: int
    unit: Unit
    clusters: int


def clustered_mean(
    values: Mapping[str, float], unit: Unit = "task", confidence: float = 0.95, resamples: int = RESAMPLES
) -> Mean:
    """The mean of a number over episodes, by their keys, with its bootstrap interval.

    The caller makes sure that ``values`` are complete (:mod:`vlarig.results.measures`), and all finite.
    """
    if not values:
        raise ValueError("there is no episode to average over")
    bad = sorted(key for key, value in values.items() if not math.isfinite(value))
    if bad:
        raise ValueError(f"the value of {bad[0]} is {values[bad[0]]}, expected a finite number")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1")
    strata = _strata(values, unit)
    interval = resampled_interval(strata, _generator(values, unit), confidence, resamples)
    mean = math.fsum(values.values()) / len(values)
    return Mean(mean, interval, len(values), unit, sum(map(len, strata)))


def resampled_means(strata: Sequence[np.ndarray], rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Means of sampled clusters: ``float64[resamples]``.

    Each of the strata is ``float64[clusters, 2]``, of two clusters or more: the sum of a cluster's values, and how many these are.
    """
    totals = np.zeros((resamples, 2))
    for clusters in strata:
        count = len(clusters)
        rows = max(1, SAMPLED_AT_ONCE // count)
        for first in range(0, resamples, rows):
            some = totals[first : first + rows]
            sampled = rng.multinomial(count - 1, np.full(count, 1 / count), size=len(some))
            some += count / (count - 1) * (sampled @ clusters)
    return totals[:, 0] / totals[:, 1]


def resampled_interval(
    strata: Sequence[np.ndarray], rng: np.random.Generator, confidence: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """The expanded percentile interval of a mean; ``None`` where the clusters are too few or all alike."""
    freedom = sum(map(len, strata)) - len(strata)
    if freedom < MINIMUM_FREEDOM or min(map(len, strata)) < 2:
        return None
    tail = NormalDist().cdf(-float(scipy_module("stats").t.ppf((1 + confidence) / 2, freedom)))
    low, high = map(float, np.quantile(resampled_means(strata, rng, resamples), [tail, 1 - tail]))
    alike = high - low <= 1e-12 * max(abs(low), abs(high))  # but for rounding
    return None if alike else (low, high)


def _strata(values: Mapping[str, float], unit: Unit) -> list[np.ndarray]:
    """The clusters of each stratum as :func:`resampled_means` takes them, in the order of the keys."""
    strata: dict[tuple[str, ...], dict[tuple[str | int, ...], list[float]]] = {}
    for key in sorted(values):
        suite, protocol, task, variant, initial_state, _ = split_key(key)
        if unit == "task":
            stratum, cluster = (), (suite, protocol, task)
        else:
            stratum, cluster = (suite, protocol, task, variant), (initial_state,)
        strata.setdefault(stratum, {}).setdefault(cluster, []).append(values[key])
    return [
        np.array([(math.fsum(inside), len(inside)) for inside in clusters.values()], dtype=np.float64)
        for clusters in strata.values()
    ]


def _generator(keys: Mapping[str, float], unit: Unit) -> np.random.Generator:
    """A generator that is the same for the same episodes."""
    digest = hashlib.sha256("\n".join([unit, *sorted(keys)]).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
