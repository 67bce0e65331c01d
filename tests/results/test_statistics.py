"""Intervals, tests and numbers of episodes in closed form: against scipy, the literature, and their exact coverage."""

import math
import subprocess
import sys
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, multinomial

from vlarig.envs.errors import VlarigError
from vlarig.results.statistics import (
    detectable_difference,
    mcnemar_p_value,
    mcnemar_power,
    paired_episodes,
    tango_interval,
    unpaired_episodes,
    wilson_interval,
)

Z = NormalDist().inv_cdf(0.975)


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_equals_scipy(n, share, confidence):
    successes = round(share * n)
    expected = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    assert wilson_interval(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_measured_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_ends_are_exact():
    assert wilson_interval(0, 50)[0] == 0.0
    assert wilson_interval(50, 50)[1] == 1.0


@given(st.integers(1, 1000), st.floats(0, 1))
def test_holds_the_rate_and_stays_a_probability(n, share):
    successes = round(share * n)
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1


@pytest.mark.parametrize(("successes", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0), (1, 5, 0.0)])
def test_impossible_counts_are_refused(successes, n, confidence):
    with pytest.raises(ValueError, match="expected"):
        wilson_interval(successes, n, confidence)


# Two policies on the same episodes.

#: Gained, lost and n. Airway hyper-responsiveness before and after stem cell transplantation (Bentur et al. 2009), and complete
#: response before and after consolidation therapy (Cavo et al. 2012), both from M. W. Fagerland, S. Lydersen and P. Laake,
#: "Recommended tests and confidence intervals for paired binomial proportions", Statistics in Medicine 33 (2014), 2850-2875, and
#: their R package contingencytables.
BENTUR = (1, 7, 21)
CAVO = (6, 16, 161)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_tail_twice(gained, lost):
    flips = gained + lost
    tail = sum(Fraction(math.comb(flips, rarer), 2**flips) for rarer in range(min(gained, lost) + 1))
    assert mcnemar_p_value(gained, lost) == pytest.approx(float(min(1, 2 * tail)), rel=1e-9)
    assert mcnemar_p_value(gained, lost) == mcnemar_p_value(lost, gained)


def test_mcnemar_of_the_literature():
    assert mcnemar_p_value(*CAVO[:2]) == pytest.approx(0.052479, abs=5e-7)
    assert mcnemar_p_value(0, 0) == 1.0


def test_tango_of_the_literature():
    assert tango_interval(*BENTUR) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert tango_interval(*CAVO) == pytest.approx((-0.1240, -0.0054), abs=5e-5)


counts = st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200)).map(lambda c: (c[0], c[1], sum(c)))
confidences = st.sampled_from([0.5, 0.9, 0.95, 0.999])


@settings(deadline=None)
@given(counts, confidences)
def test_tango_holds_the_difference_and_stays_one(tables, confidence):
    gained, lost, n = tables
    low, high = tango_interval(gained, lost, n, confidence)
    assert -1 <= low <= high <= 1
    if n:
        assert low <= (gained - lost) / n <= high
    assert tango_interval(lost, gained, n, confidence) == (-high, -low)


@settings(deadline=None)
@given(counts)
def test_tango_agrees_with_mcnemars_score_test(tables):
    gained, lost, n = tables
    assume(n > 0)
    refused = (gained - lost) ** 2 - Z**2 * (gained + lost)
    assume(abs(refused) > 1e-6)
    low, high = tango_interval(gained, lost, n)
    assert (low > 0 or high < 0) == (refused > 0)


@settings(deadline=None)
@given(st.integers(1, 10_000))
def test_tango_where_all_episodes_are_alike(n):
    """The bounds' equation can then be solved by hand."""
    edge = Z**2 / (n + Z**2)
    assert tango_interval(0, 0, n) == pytest.approx((-edge, edge), rel=1e-6)
    assert tango_interval(n, 0, n) == pytest.approx(((n - Z**2) / (n + Z**2), 1.0), rel=1e-6, abs=1e-9)


def test_tango_of_nothing_says_nothing():
    assert tango_interval(0, 0, 0) == (-1.0, 1.0)


@pytest.mark.parametrize(("gained", "lost", "n"), [(-1, 0, 5), (3, 3, 5)])
def test_impossible_flips_are_refused(gained, lost, n):
    with pytest.raises(ValueError, match="expected counts"):
        tango_interval(gained, lost, n)


# Coverage: how often the interval holds the truth, summed over every outcome that is possible.


def wilson_coverage(n, rate):
    bounds = np.array([wilson_interval(successes, n) for successes in range(n + 1)])
    held = (bounds[:, 0] <= rate[:, None]) & (rate[:, None] <= bounds[:, 1])
    return (binom.pmf(np.arange(n + 1), n, rate[:, None]) * held).sum(axis=1)


@pytest.mark.parametrize("n", [10, 50])
def test_coverage_of_wilson(n):
    found = wilson_coverage(n, np.linspace(0.1, 0.9, 401))
    assert 0.94 < found.mean() < 0.965
    assert found.min() > 0.91


def test_coverage_of_tango():
    n = 20
    tables = [(gained, lost) for gained in range(n + 1) for lost in range(n + 1 - gained)]
    bounds = np.array([tango_interval(*table, n) for table in tables])
    outcomes = np.array([(gained, lost, n - gained - lost) for gained, lost in tables])
    found = []
    for gained in np.arange(0.05, 0.9, 0.1):
        for lost in np.arange(0.05, 0.95 - gained, 0.1):
            chance = multinomial.pmf(outcomes, n, [gained, lost, 1 - gained - lost])
            truth = gained - lost
            found.append(chance[(bounds[:, 0] <= truth) & (truth <= bounds[:, 1])].sum())
    assert 0.94 < np.mean(found) < 0.97
    assert min(found) > 0.91


# How many episodes it takes.


def test_unpaired_episodes_of_the_literature():
    """R's manual: power.prop.test(p1 = .50, p2 = .75, power = .90) gives n = 76.7."""
    assert unpaired_episodes(0.5, 0.75, power=0.9) == 77


def test_unpaired_episodes_are_enough():
    rng = np.random.default_rng(0)
    n = unpaired_episodes(0.6, 0.8)
    first, second = rng.binomial(n, 0.6, 20_000), rng.binomial(n, 0.8, 20_000)
    pooled = (first + second) / (2 * n)
    found = abs(first - second) / n > Z * np.sqrt(2 * pooled * (1 - pooled) / n)
    assert 0.78 < found.mean() < 0.83


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_unpaired_episodes_do_not_depend_on_names(first, second):
    assume(abs(first - second) > 0.001)
    assert unpaired_episodes(first, second) == unpaired_episodes(second, first)
    assert unpaired_episodes(first, second) == pytest.approx(unpaired_episodes(1 - first, 1 - second), abs=1)


def test_paired_power_of_the_literature():
    """R's package MESS, whose tests give S. W. Duffy (1984): 144 pairs, 0.25 against 0.45, one-sided 0.025, exact: 0.80."""
    assert mcnemar_power(144, 0.25, 0.45) == pytest.approx(0.80, abs=0.005)


def test_paired_power_is_that_of_the_p_value():
    """Every outcome that is possible, one by one."""
    n, gained, lost = 12, 0.5, 0.1
    chances = {
        (more, fewer): multinomial.pmf([more, fewer, n - more - fewer], n, [gained, lost, 1 - gained - lost])
        for more in range(n + 1)
        for fewer in range(n + 1 - more)
    }
    found = sum(chance for flips, chance in chances.items() if mcnemar_p_value(*flips) <= 0.05)
    assert mcnemar_power(n, gained, lost) == pytest.approx(found, abs=1e-12)


def test_without_a_difference_the_test_finds_one_in_twenty_at_most():
    assert max(mcnemar_power(n, 0.2, 0.2) for n in (5, 20, 100, 1000)) <= 0.05


@pytest.mark.parametrize(("gained", "lost"), [(0.05, 0.45), (0.1, 0.05), (0.06, 0.03), (1.0, 0.0)])
def test_paired_episodes_are_enough_and_not_far_too_many(gained, lost):
    n = paired_episodes(gained, lost)
    assert mcnemar_power(n, gained, lost) >= 0.8
    assert mcnemar_power(round(0.9 * n) - 1, gained, lost) < 0.8
    assert paired_episodes(lost, gained) == n


def test_the_same_episodes_need_fewer():
    """Two policies of 70 % and 80 %, whose successes go together as often as not."""
    assert paired_episodes(0.15, 0.05) < unpaired_episodes(0.7, 0.8)


@given(st.integers(30, 5000), st.floats(0.02, 0.9))
def test_a_detectable_difference_is_detected(n, flipped):
    difference = detectable_difference(n, flipped)
    assume(difference is not None)
    assert 0 < difference <= flipped
    under_none, under_this = Z * math.sqrt(flipped), NormalDist().inv_cdf(0.8) * math.sqrt(flipped - difference**2)
    assert ((under_none + under_this) / difference) ** 2 == pytest.approx(n, rel=1e-6)


def test_too_few_flips_show_nothing():
    assert detectable_difference(100, 0.0) is None
    assert detectable_difference(0, 0.5) is None
    assert detectable_difference(20, 0.05) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: unpaired_episodes(0.5, 0.5),
        lambda: unpaired_episodes(0.5, 1.5),
        lambda: unpaired_episodes(0.5, 0.6, power=1.0),
        lambda: paired_episodes(0.1, 0.1),
        lambda: paired_episodes(0.9, 0.3),
        lambda: mcnemar_power(10, 0.0, 0.0),
        lambda: detectable_difference(10, 1.5),
    ],
)
def test_impossible_plans_are_refused(call):
    with pytest.raises(ValueError, match=r"expected|equal policies"):
        call()


# scipy is an extra.


def test_what_is_shown_while_a_sweep_runs_needs_no_scipy():
    modules = "sys, vlarig.harness.reporting.display, vlarig.results.tables as tables"
    code = f"import {modules}; tables.Tally(3, 3, 2).interval; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "call", [lambda: mcnemar_p_value(1, 2), lambda: tango_interval(1, 2, 5), lambda: mcnemar_power(5, 0.2, 0.1)]
)
def test_without_scipy_one_sentence_says_what_to_run(call, monkeypatch):
    for name in ("scipy", "scipy.stats", "scipy.optimize"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        VlarigError, match=r"need the package 'scipy', which is not installed; .*pip install 'vlarig\[results\]'$"
    ):
        call()
