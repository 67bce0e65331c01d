"""The clustered bootstrap: what it must not depend on, what it must cover, and where it gives no interval."""

import math
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlarig.envs.errors import VlarigError
from vlarig.results import bootstrap
from vlarig.results.bootstrap import clustered_mean, resampled_means
from vlarig.results.statistics import wilson_interval


def key(task: int, initial_state: int = 0, repeat: int = 0, variant: str = "base") -> str:
    return f"suite/standard@1/task{task}/{variant}/{initial_state}/{repeat}"


def table(tasks: int, initial_states: int, rate: float = 0.5, seed: int = 0) -> dict[str, float]:
    """Successes of as many initial states of each task, the tasks of different difficulty."""
    rng = np.random.default_rng(seed)
    rates = rng.beta(4 * rate, 4 * (1 - rate), tasks)
    return {
        key(task, initial_state): float(rng.random() < rates[task])
        for task in range(tasks)
        for initial_state in range(initial_states)
    }


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), min_size=6, max_size=12), st.randoms())
def test_bounds_order_and_repetition(tasks, shuffler):
    values = {
        key(task, initial_state): value for task, inside in enumerate(tasks) for initial_state, value in enumerate(inside)
    }
    mean = clustered_mean(values, resamples=199)
    assert mean.value == pytest.approx(np.mean(list(values.values())), rel=1e-9, abs=1e-6)
    assert (mean.n, mean.clusters, mean.unit) == (len(values), len(tasks), "task")
    if mean.interval:
        means = [np.mean(inside) for inside in tasks]
        low, high = mean.interval
        slack = 1e-9 * max(map(abs, means))
        assert min(means) - slack <= low < high <= max(means) + slack
    shuffled = list(values.items())
    shuffler.shuffle(shuffled)
    assert clustered_mean(dict(shuffled), resamples=199) == mean


@settings(deadline=None)
@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_the_scale_and_the_zero_of_a_metric_do_not_matter(shift, scale):
    values = table(8, 5)
    moved = clustered_mean({name: shift + scale * value for name, value in values.items()}, resamples=199)
    low, high = clustered_mean(values, resamples=199).interval
    assert moved.interval == pytest.approx((shift + scale * low, shift + scale * high), rel=1e-6, abs=1e-6)


def test_it_is_sampled_from_the_episodes_identity():
    """Two policies on the same episodes get the same resamples: what one gained everywhere, its interval gained too."""
    values = {name: value + 0.01 * number for number, (name, value) in enumerate(table(8, 5).items())}
    better = clustered_mean({name: value + 1 for name, value in values.items()})
    low, high = clustered_mean(values).interval
    assert better.interval == pytest.approx((low + 1, high + 1), abs=1e-9)
    others = {name.replace("standard@1", "standard@2"): value for name, value in values.items()}
    assert clustered_mean(others).interval != (low, high)
    assert clustered_mean(others).interval == pytest.approx((low, high), abs=0.03)


def test_the_variance_is_the_samples_own():
    """Of few clusters too: s^2 / m for one stratum, and the sum over strata, weighted by their shares, for several."""
    rng = np.random.default_rng(1)
    strata = [np.column_stack([rng.normal(size=m) * 4, np.full(m, 4.0)]) for m in (3, 5, 12)]
    total = sum(4 * len(clusters) for clusters in strata)
    expected = sum(len(clusters) * np.var(clusters[:, 0], ddof=1) for clusters in strata) / total**2
    found = np.var(resampled_means(strata, rng, 200_000))
    assert found == pytest.approx(expected, rel=0.02)


def test_the_resamples_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    rng = np.random.default_rng(2)
    strata = [np.column_stack([rng.normal(size=m), np.ones(m)]) for m in (3, 40)]
    whole = resampled_means(strata, np.random.default_rng(0), 500)
    for held in (1, 100, 777):
        monkeypatch.setattr(bootstrap, "SAMPLED_AT_ONCE", held)
        np.testing.assert_allclose(resampled_means(strata, np.random.default_rng(0), 500), whole, rtol=1e-12)


def test_memory_does_not_grow_with_the_initial_states():
    strata = [np.ones((20_000, 2))]
    tracemalloc.start()
    resampled_means(strata, np.random.default_rng(0), 200)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 24_000_000  # at once it would be 200 x 20,000 counts of 8 bytes, 32 MB, and the same again as floats


def covered(simulate, truth: float, unit: str, simulations: int = 400) -> float:
    """How often the interval contains the true value."""
    held = 0
    for number in range(simulations):
        low, high = clustered_mean(simulate(np.random.default_rng(number)), unit, resamples=999).interval
        held += low <= truth <= high
    return held / simulations


def test_coverage_of_tasks_like_these():
    """Ten tasks whose difficulties differ: the bootstrap covers the mean over all such tasks, single episodes do not."""

    def simulate(rng):
        rates = rng.beta(2, 2, 10)
        outcomes = rng.random((10, 20)) < rates[:, None]
        return {
            key(task, initial_state): float(outcomes[task, initial_state]) for task in range(10) for initial_state in range(20)
        }

    def naive(number):
        values = simulate(np.random.default_rng(number)).values()
        low, high = wilson_interval(int(sum(values)), len(values))
        return low <= 0.5 <= high

    assert 0.91 < covered(simulate, 0.5, "task") < 0.98
    assert np.mean([naive(number) for number in range(400)]) < 0.75


def test_coverage_of_initial_states_like_these():
    """Four tasks of fixed difficulty, whose initial states repeat three times, mostly with the same outcome."""
    difficulty = [0.3, 0.5, 0.7, 0.9]

    def simulate(rng):
        values = {}
        for task, rate in enumerate(difficulty):
            for initial_state in range(15):
                outcome = rng.random() < rate
                for repeat in range(3):
                    other = rng.random() < rate
                    values[key(task, initial_state, repeat)] = float(other if rng.random() < 0.2 else outcome)
        return values

    assert 0.91 < covered(simulate, float(np.mean(difficulty)), "initial_state") < 0.98


def test_repeats_of_a_deterministic_policy_add_nothing():
    once = table(3, 20)
    thrice = {name[:-1] + str(repeat): value for name, value in once.items() for repeat in range(3)}
    alone, repeated = clustered_mean(once, "initial_state"), clustered_mean(thrice, "initial_state")
    assert (repeated.n, repeated.clusters) == (180, 60)
    assert repeated.value == alone.value
    assert repeated.interval == pytest.approx(alone.interval, abs=0.02)


def test_variants_of_a_task_are_one_cluster():
    values = {
        key(task, initial_state, variant=variant): 0.0
        for task in range(7)
        for initial_state in range(2)
        for variant in ("base", "dark")
    }
    assert clustered_mean(values).clusters == 7
    assert clustered_mean(values, "initial_state").clusters == 28


def test_few_or_equal_clusters_cannot_tell():
    assert clustered_mean(table(5, 50)).interval is None
    assert clustered_mean(table(6, 50)).interval is not None
    assert clustered_mean({key(task): 1.0 for task in range(10)}).interval is None
    assert clustered_mean({key(task): 0.1 for task in range(10)}).interval is None
    single = table(2, 10) | {key(9): 1.0}
    assert clustered_mean(single, "initial_state").interval is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=f"the value of {key(3, 1)} is {value}, expected a finite number"):
        clustered_mean(table(6, 2) | {key(3, 1): value})


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no episode"):
        clustered_mean({})


def test_confidence():
    narrow, wide = (clustered_mean(table(10, 10), confidence=confidence).interval for confidence in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    with pytest.raises(ValueError, match=r"confidence is 1\.0"):
        clustered_mean(table(10, 10), confidence=1.0)


def test_without_scipy_one_sentence_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(VlarigError, match=r"pip install 'vlarig\[results\]'$"):
        clustered_mean(table(8, 2))
