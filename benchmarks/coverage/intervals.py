"""How often the intervals of vlarig.results contain the true value.

    python benchmarks/coverage/intervals.py --help

The coverage of Wilson's, Tango's and Newcombe's intervals is exact: the probabilities of all outcomes whose interval holds the truth
are summed. That of the clustered bootstrap is simulated. Every table has a row for each number of episodes (or tasks) with the
mean and the lowest coverage over a grid of success rates, the share of the grid that is covered in less than 93 % of all cases, and
the mean width of the interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.special import gammaln
from scipy.stats import binom

from vlarig.results.bootstrap import Unit, clustered_mean
from vlarig.results.statistics import tango_interval, wilson_interval

#: Success rates of two policies, and the correlation of their successes (phi).
RATES = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95)
CORRELATIONS = (0.0, 0.3, 0.6)
LOW = 0.93

Interval = Callable[[int, int, int, int], tuple[float, float]]


@dataclass(frozen=True)
class CoverageConfig:
    """What is computed."""

    episodes: tuple[int, ...] = (10, 20, 50)
    """Numbers of episodes of the closed forms; the time grows with the third power."""
    tasks: tuple[int, ...] = (6, 10, 20, 40)
    """Numbers of tasks of the bootstrap."""
    simulations: int = 1000
    """Suites that are sampled for each row of the bootstrap's table."""
    resamples: int = 999
    """Resamples of the bootstrap; vlarig itself takes more."""


@dataclass(frozen=True)
class Row:
    """One row of a table: coverage and width at each point of a grid."""

    name: str
    size: str
    coverage: np.ndarray
    width: np.ndarray

    def cells(self) -> list[str]:
        """The row as text, in percent."""
        return [
            self.name,
            self.size,
            f"{100 * self.coverage.mean():.1f}",
            f"{100 * self.coverage.min():.1f}",
            f"{100 * (self.coverage < LOW).mean():.0f}",
            f"{100 * self.width.mean():.1f}",
        ]


def newcombe_interval(both: int, gained: int, lost: int, neither: int) -> tuple[float, float]:
    """Newcombe's interval of the difference of two paired rates: Tango's rival.

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17 (1998), 2635-2650, method 10.
    """
    n = both + gained + lost + neither
    first, second = both + lost, both + gained
    margins = math.prod((first, n - first, second, n - second))
    covariance = both * neither - gained * lost
    shrunk = covariance if covariance < 0 else max(0.0, covariance - n / 2)
    phi = shrunk / math.sqrt(margins) if margins else 0.0
    (low_1, high_1), (low_2, high_2) = wilson_interval(first, n), wilson_interval(second, n)
    difference = (second - first) / n
    down, up = second / n - low_2, high_1 - first / n
    below = math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    rise, fall = high_2 - second / n, first / n - low_1
    above = math.sqrt(max(0.0, rise**2 - 2 * phi * rise * fall + fall**2))
    return difference - below, difference + above


def paired_grid() -> list[tuple[np.ndarray, float]]:
    """Probabilities of both, gained, lost and neither, each with the difference that they mean."""
    grid = []
    for first, second, phi in itertools.product(RATES, RATES, CORRELATIONS):
        both = first * second + phi * math.sqrt(first * (1 - first) * second * (1 - second))
        cells = np.array([both, second - both, first - both, 1 - first - second + both])
        if cells.min() > 1e-9:
            grid.append((cells, second - first))
    return grid


def wilson_row(n: int) -> Row:
    """Wilson's interval over 999 success rates."""
    rates = np.linspace(0.001, 0.999, 999)
    bounds = np.array([wilson_interval(successes, n) for successes in range(n + 1)])
    chances = binom.pmf(np.arange(n + 1), n, rates[:, None])
    held = (bounds[:, 0] <= rates[:, None]) & (rates[:, None] <= bounds[:, 1])
    return Row("Wilson", str(n), (chances * held).sum(axis=1), chances @ (bounds[:, 1] - bounds[:, 0]))


def paired_row(name: str, interval: Interval, n: int) -> Row:
    """An interval of the difference of two paired rates, over the grid."""
    cuts = np.array(list(itertools.combinations(range(n + 3), 3)))
    tables = np.diff(np.column_stack([np.full(len(cuts), -1), cuts, np.full(len(cuts), n + 3)])) - 1
    bounds = np.array([interval(*map(int, table)) for table in tables])
    arrangements = gammaln(n + 1) - gammaln(tables + 1).sum(axis=1)
    coverage, width = [], []
    for cells, truth in paired_grid():
        chances = np.exp(arrangements + tables @ np.log(cells))
        held = (bounds[:, 0] - 1e-9 <= truth) & (truth <= bounds[:, 1] + 1e-9)
        coverage.append(chances[held].sum())
        width.append(chances @ (bounds[:, 1] - bounds[:, 0]))
    return Row(name, str(n), np.array(coverage), np.array(width))


def clustered_row(name: str, unit: Unit | None, tasks: int, config: CoverageConfig) -> Row:
    """The bootstrap, or Wilson's interval where ``unit`` is none, over suites whose tasks are sampled, with 20 initial states each."""
    coverage, width = [], []
    for mean, spread in itertools.product((0.3, 0.5, 0.8), (1.0, 4.0, 16.0)):
        rng = np.random.default_rng([tasks, round(10 * mean), round(spread)])
        rates = rng.beta(spread * mean, spread * (1 - mean), (config.simulations, tasks, 1))
        outcomes = rng.random((config.simulations, tasks, 20)) < rates
        found = [_interval(outcome, unit, config.resamples) for outcome in outcomes]
        # By task the truth is the mean of all such tasks, by initial state that of the tasks that were sampled.
        truths = rates.mean(axis=(1, 2)) if unit == "initial_state" else np.full(config.simulations, mean)
        coverage.append(np.mean([low <= truth <= high for (low, high), truth in zip(found, truths, strict=True)]))
        width.append(np.mean([high - low for low, high in found]))
    return Row(name, str(tasks), np.array(coverage), np.array(width))


def _interval(outcome: np.ndarray, unit: Unit | None, resamples: int) -> tuple[float, float]:
    if unit is None:
        return wilson_interval(int(outcome.sum()), outcome.size)
    values = {f"suite/p@1/{task}/base/{state}/0": float(success) for (task, state), success in np.ndenumerate(outcome)}
    mean = clustered_mean(values, unit, resamples=resamples)
    return mean.interval or (mean.value, mean.value)


def table_of(title: str, size: str, rows: Sequence[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for number, name in enumerate(("interval", size, "mean", "lowest", "below 93", "width")):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row.cells())
    return table


def main() -> None:
    config = tyro.cli(CoverageConfig, description=__doc__)
    console = Console()
    one = [wilson_row(n) for n in config.episodes]
    rivals: dict[str, Interval] = {
        "Tango": lambda both, gained, lost, neither: tango_interval(gained, lost, both + gained + lost + neither),
        "Newcombe": newcombe_interval,
    }
    two = [paired_row(name, interval, n) for n in config.episodes for name, interval in rivals.items()]
    console.print(table_of("One success rate, exact", "n", one))
    console.print(table_of(f"Difference of two rates on the same episodes, exact, {len(paired_grid())} cases", "n", two))
    units: dict[str, Unit | None] = {
        "bootstrap by task": "task",
        "Wilson, for tasks like these": None,
        "bootstrap by initial state": "initial_state",
    }
    many = [clustered_row(name, unit, tasks, config) for name, unit in units.items() for tasks in config.tasks]
    console.print(table_of(f"Suites of 20 initial states a task, {config.simulations} simulations in 9 cases", "tasks", many))


if __name__ == "__main__":
    main()
