"""Wilson's interval against scipy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from vlarig.results.statistics import wilson_interval


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
