"""Quantile normalisation and its inverse, statistics as data, gripper conventions, state bins."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.normalization import (
    DatasetStatistics,
    GripperConvention,
    Statistics,
    bounds_statistics,
    denormalize,
    find_statistics,
    normalize,
    parse_gripper,
    state_bins,
    statistics_from_data,
    statistics_of,
    statistics_to_data,
)

RANGE = Statistics((-0.5, 1.0, 3.0), (0.25, 100.0, 3.0), "a test")  # the last channel is constant
EPSILON = np.finfo(np.float64).eps


def test_the_quantiles_are_over_the_steps_of_all_trajectories():
    steps = np.arange(1001, dtype=np.float64)[:, None] * [1.0, -2.0] + [0.0, 5.0]
    steps = np.random.default_rng(0).permutation(steps)
    statistics = statistics_of([steps[:3], steps[3:900], steps[900:]], "ramp")
    assert statistics.q01 == pytest.approx((10.0, 5 - 1980.0))
    assert statistics.q99 == pytest.approx((990.0, 5 - 20.0))
    assert statistics.source == "ramp"


def test_normalize_is_equation_5():
    values = np.array([[-0.5, 1.0, 3.0], [0.25, 100.0, 3.0], [-0.125, 50.5, 3.0], [-0.3125, 25.75, 3.0]])
    expected = [[-1, -1, 0], [1, 1, 0], [0, 0, 0], [-0.5, -0.5, 0]]
    np.testing.assert_allclose(normalize(values, RANGE), expected, atol=1e-15)


def test_what_is_beyond_the_quantiles_is_clipped_both_ways():
    np.testing.assert_array_equal(normalize(np.array([-9.0, 900.0, 4.0]), RANGE), [-1, 1, 0])
    np.testing.assert_array_equal(denormalize(np.array([-9.0, 9.0, 9.0]), RANGE), [-0.5, 100.0, 3.0])


@given(
    low=st.floats(-1e3, 1e3),
    width=st.floats(1e-3, 1e3),
    share=st.floats(0, 1),
)
def test_the_round_trip_is_exact_to_rounding_within_the_quantiles(low, width, share):
    statistics = Statistics((low,), (low + width,), "sampled")
    value = np.clip(low + share * width, low, low + width)
    (back,) = denormalize(normalize(np.array([value]), statistics), statistics)
    assert abs(back - value) <= 4 * EPSILON * (abs(low) + width)
    assert low <= back <= low + width


def test_the_quantiles_themselves_come_back_exactly():
    statistics = Statistics((0.1, -0.3), (0.7, 1.1), "odd numbers")
    for step in (statistics.q01, statistics.q99):
        np.testing.assert_array_equal(denormalize(normalize(np.array(step), statistics), statistics), step)


def test_a_constant_channel_is_0_and_comes_back_as_its_constant():
    statistics = statistics_of([np.array([[0.3, 1.0], [0.3, 2.0]])], "constant")
    assert normalize(np.array([0.3, 1.5]), statistics)[0] == 0
    assert denormalize(np.array([0.8, 0.0]), statistics)[0] == 0.3


def test_float32_stays_float32_and_integers_become_float64():
    assert normalize(np.zeros(3, np.float32), RANGE).dtype == np.float32
    assert denormalize(np.zeros((2, 4, 3), np.float32), RANGE).shape == (2, 4, 3)
    assert normalize(np.zeros(3, np.int64), RANGE).dtype == np.float64


@pytest.mark.parametrize("embodiment", [TABLETOP_PANDA, LIBERO_PANDA, WIDOWX_BRIDGE])
def test_actions_by_channel_bounds_are_always_legal(embodiment):
    statistics = bounds_statistics(embodiment)
    values = np.random.default_rng(0).normal(size=(1000, embodiment.action_size)).astype(np.float32) * 2
    actions = denormalize(values, statistics)
    space = embodiment.action_space()
    assert all(space.contains(action) for action in actions)
    assert (actions == space.low).any(0).all()
    assert (actions == space.high).any(0).all()
    assert embodiment.name in statistics.source


def test_statistics_survive_json_exactly():
    steps = np.random.default_rng(1).normal(size=(100, 5))
    datasets = {
        "libero": DatasetStatistics(statistics_of([steps], "libero"), statistics_of([steps * 3], "libero's state")),
        "bridge": DatasetStatistics(bounds_statistics(WIDOWX_BRIDGE)),
    }
    assert statistics_from_data(json.loads(json.dumps(statistics_to_data(datasets)))) == datasets


def test_a_data_set_is_found_by_its_key_or_the_nearest_is_offered():
    datasets = {"libero": DatasetStatistics(RANGE), "bridge": DatasetStatistics(RANGE)}
    assert find_statistics(datasets, "libero").actions is RANGE
    with pytest.raises(PolicyError, match=r"no normalisation statistics for 'libera'; did you mean libero\?"):
        find_statistics(datasets, "libera")


GOOD = {"q01": [0.0], "q99": [1.0], "source": "good"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "expected an object of data sets"),
        ({"libero": GOOD}, "statistics of 'libero': Object missing required field `actions`"),
        ({"libero": {"actions": GOOD, "stat": GOOD}}, "unknown field `stat`"),
        ({"libero": {"actions": {**GOOD, "mean": [0.0]}}}, "statistics of 'libero': Object contains unknown field `mean`"),
        ({"libero": {"actions": {**GOOD, "q99": [1.0, 2.0]}}}, "1 q01 and 2 q99"),
        ({"libero": {"actions": {**GOOD, "q99": [-1.0]}}}, "range 0.0 to -1.0"),
        ({"libero": {"actions": {**GOOD, "q99": [float("nan")]}}}, "expected finite numbers in order"),
        ({"libero": {"actions": {**GOOD, "q01": "0"}}}, "Expected `array`, got `str` - at `.*q01"),
        ({"libero": {"actions": {**GOOD, "q01": ["low"]}}}, "Expected `float`, got `str` - at `.*q01"),
    ],
)
def test_bad_statistics_are_refused_in_a_sentence(data, words):
    with pytest.raises(PolicyError, match=words) as refused:
        statistics_from_data(data)
    assert "\n" not in str(refused.value)


def test_values_of_another_size_are_refused():
    for function in (normalize, denormalize, state_bins):
        with pytest.raises(PolicyError, match=r"shape \(2,\) do not fit statistics of 'a test' for 3 channels"):
            function(np.zeros(2), RANGE)


def test_an_embodiment_without_bounds_has_no_bounds_statistics():
    boundless = replace(TABLETOP_PANDA.channels[0], high=float("inf"))
    with pytest.raises(PolicyError, match=r"channel 0 the range -1\.0 to inf"):
        bounds_statistics(replace(TABLETOP_PANDA, channels=(boundless,)))


# --- grippers ---

MINUS_OPENS, ONE_OPENS = GripperConvention(open=-1, close=1), GripperConvention(open=1, close=0)


def test_the_wordings_of_the_embodiments_are_read():
    assert parse_gripper("+1 closes, -1 opens") == MINUS_OPENS
    assert parse_gripper("1 opens, 0 closes") == ONE_OPENS
    wordings = {channel.gripper for each in (TABLETOP_PANDA, LIBERO_PANDA, WIDOWX_BRIDGE) for channel in each.channels}
    assert {parse_gripper(words) for words in wordings if words} == {MINUS_OPENS, ONE_OPENS}


@pytest.mark.parametrize("words", ["", "closes", "+1 closes", "1 opens, 1 closes", "1 opens, 0 opens", "open 1, close 0"])
def test_another_wording_is_refused(words):
    with pytest.raises(PolicyError, match="expected wording like"):
        parse_gripper(words)


# --- state bins ---


def test_the_state_falls_into_256_equal_bins():
    statistics = Statistics((0.0, 5.0), (256.0, 5.0), "state")
    states = np.array(
        [[-3.0, 5.0], [0.0, 6.0], [0.99, 4.0], [1.0, 5.0], [127.5, 5.0], [255.5, 5.0], [256.0, 5.0], [999.0, 5.0]]
    )
    bins = state_bins(states, statistics)
    assert bins[:, 0].tolist() == [0, 0, 0, 1, 127, 255, 255, 255]
    assert set(bins[:, 1]) == {128}


def test_the_bins_are_those_of_the_fields_prompts():
    statistics = Statistics((-2.0,), (3.0,), "state")
    states = np.random.default_rng(0).uniform(-2.5, 3.5, (2000, 1))
    edges = np.linspace(-1, 1, 257)[:-1]
    np.testing.assert_array_equal(state_bins(states, statistics), np.digitize(normalize(states, statistics), edges) - 1)


def test_a_state_that_is_not_finite_is_refused():
    with pytest.raises(PolicyError, match="not finite"):
        state_bins(np.array([0.0, np.nan, 0.0]), RANGE)
