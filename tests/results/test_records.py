"""Records: which fields have to agree between two runs of an episode."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_runs import make_record

from vlarig.envs.api import Outcome
from vlarig.results.records import Attempt, differing_fields, split_key


def test_timings_and_workers_are_no_part_of_the_result():
    again = make_record(3, seconds={"total": 99.0}, worker="another machine")
    assert again.result() == make_record(3).result()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"success": False}, ["success", "outcome"]),
        ({"outcome": Outcome(first=True)}, ["outcome"]),
        ({"reward": 1e-300}, ["reward"]),
        ({"primitives": 1}, ["primitives"]),
        ({"chunks": (7, 6)}, ["chunks"]),
        ({"metrics": {"distance": 0.0, "angle": 1.0, "height": 0.1}}, ["metrics.angle", "metrics.distance"]),
        ({"state_digest": "0"}, ["state_digest"]),
        ({"image_digest": "0"}, ["image_digest"]),
    ],
)
def test_every_measured_field_is_compared(change, names):
    assert differing_fields(make_record(3), make_record(3, **change)) == names


def test_one_changed_bit_of_an_action_is_a_difference():
    actions = make_record(3).actions.copy()
    actions[2, 5] = np.nextafter(actions[2, 5], np.float32(9))
    assert differing_fields(make_record(3), make_record(3, actions=actions)) == ["actions"]


def test_a_number_that_is_none_equals_itself():
    one = make_record(reward=math.nan, metrics={"angle": math.nan})
    other = make_record(reward=math.nan, metrics={"angle": math.nan})
    assert differing_fields(one, other) == []


def test_a_record_keeps_its_own_actions():
    source = np.zeros((10, 7), np.float32)
    record = make_record(0, actions=source)
    source += 1
    assert not record.actions.any()
    with pytest.raises(ValueError, match="read-only"):
        record.actions[0] = 1


@pytest.mark.parametrize(
    "change", [{"key": "tabletop/standard@1/stack/base/0/1"}, {"actions": np.zeros((9, 7))}, {"chunks": (8,)}]
)
def test_fields_that_contradict_each_other_are_refused(change):
    with pytest.raises(ValueError, match=r"expected|say"):
        make_record(0, **change)


def test_a_record_without_actions_cannot_be_compared():
    light = dataclasses.replace(make_record(), actions=np.zeros((0, 7), np.float32))
    with pytest.raises(ValueError, match="without its actions"):
        light.result()


NAMES = st.text(st.characters(exclude_characters="/@", codec="utf-8"), min_size=1)


@given(NAMES, NAMES, NAMES, NAMES, st.integers(), st.integers(0))
def test_a_key_splits_into_its_parts(suite, protocol, task, variant, initial_state, repeat):
    assert split_key(f"{suite}/{protocol}/{task}/{variant}/{initial_state}/{repeat}") == (
        suite,
        protocol,
        task,
        variant,
        initial_state,
        repeat,
    )


def test_an_attempt_at_no_episode_is_refused():
    with pytest.raises(ValueError, match="no episode key"):
        Attempt("stack 3", 1, "crash", "", "worker 0")
