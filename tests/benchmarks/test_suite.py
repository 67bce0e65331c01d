"""Suites expand to the same episodes everywhere, and names that do not exist are met with offers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from toy.suite import QUICK, STANDARD, TOY_SUITE, TWO_WAYS_SUITE

from vlarig.benchmarks.registry import load_suite, suite_names
from vlarig.benchmarks.suite import Task
from vlarig.envs.api import Protocol
from vlarig.envs.errors import VlarigError


def test_every_initial_state_once_and_then_repeats() -> None:
    assert len(TOY_SUITE.episodes()) == 40
    keys = [episode.key for episode in TOY_SUITE.episodes(["reach_blue"], per_task=21)]
    assert keys[0] == "toy/standard@1/reach_blue/base/0/0"
    assert keys[-1] == "toy/standard@1/reach_blue/base/0/1"
    assert len(set(keys)) == 21


def keys(protocol, per_task=None, suite=TOY_SUITE):
    return [episode.key.split("/")[-2:] for episode in suite.episodes(["reach_blue"], per_task, protocol)]


def test_a_protocol_says_how_often_each_initial_state_is_played() -> None:
    thrice = replace(STANDARD, name="thrice", repeats=3)
    assert keys(thrice) == [[str(initial_state), str(repeat)] for repeat in range(3) for initial_state in range(20)]


def test_a_number_of_episodes_is_a_number_of_episodes_whatever_the_repeats() -> None:
    thrice = replace(STANDARD, name="thrice", repeats=3)
    assert keys(thrice, 2) == [["0", "0"], ["1", "0"]]
    assert keys(thrice, 61)[-2:] == [["19", "2"], ["0", "3"]]


def test_a_protocol_may_have_initial_states_of_its_own_which_those_derived_from_it_keep() -> None:
    suite = replace(
        TOY_SUITE, protocols=(STANDARD, QUICK), tasks=(Task("reach_blue", (7, 8, 9), initial_states_under={"quick": (4, 5)}),)
    )
    assert keys(STANDARD, suite=suite) == [["7", "0"], ["8", "0"], ["9", "0"]]
    assert keys(QUICK, 3, suite) == [["4", "0"], ["5", "0"], ["4", "1"]]
    assert keys(QUICK.derive(n_action_steps=1), suite=suite) == keys(QUICK, suite=suite)


def test_a_payload_may_depend_on_the_protocol() -> None:
    suite = replace(
        TOY_SUITE, payload=lambda task, initial_state, protocol: {"goal": f"{task.name} {initial_state} {protocol.name}"}
    )
    (episode,) = suite.episodes(["reach_red"], per_task=1, protocol=STANDARD.derive(n_action_steps=3))
    assert episode.payload == {"goal": "reach_red 0 standard-n_action_steps3"}


def test_an_episode_carries_its_payload_and_protocol() -> None:
    protocol = TOY_SUITE.protocols[0].derive(n_action_steps=3)
    (episode,) = TOY_SUITE.episodes(["reach_blue"], per_task=1, protocol=protocol)
    assert episode.payload == {"goal": "blue"}
    assert episode.protocol is protocol


def test_a_protocol_is_found_by_its_name() -> None:
    assert [TWO_WAYS_SUITE.protocol(name) for name in (None, "quick")] == [STANDARD, QUICK]
    with pytest.raises(VlarigError, match="unknown protocol 'slow' in suite 'two_ways'; known are: quick, standard"):
        TWO_WAYS_SUITE.protocol("slow")


def test_suites_of_others_are_found_by_their_entry_point() -> None:
    assert {"tabletop", "toy"} <= set(suite_names())
    assert load_suite("toy") is TOY_SUITE


@pytest.mark.parametrize(("name", "says"), [("tabeltop", "did you mean tabletop"), ("kitchen", "known are: .*tabletop")])
def test_unknown_suites_are_refused_with_an_offer(name: str, says: str) -> None:
    with pytest.raises(VlarigError, match=says):
        load_suite(name)


@pytest.mark.parametrize("error", [SystemExit(0), KeyError("scene"), GeneratorExit()], ids=lambda error: type(error).__name__)
def test_a_payload_that_cannot_be_made_is_reported_with_its_line(error: BaseException) -> None:
    def payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
        raise error

    with pytest.raises(VlarigError, match=r"suite 'toy' (raised|tried to exit).* payload of reach_red 0: .*test_suite.py:"):
        replace(TOY_SUITE, payload=payload).episodes()
