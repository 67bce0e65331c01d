"""Suites expand to the same episodes everywhere, and names that do not exist are met with offers."""

from __future__ import annotations

import pytest
from toy.suite import QUICK, STANDARD, TOY_SUITE, TWO_WAYS_SUITE

from vlarig.benchmarks.registry import load_suite, suite_names
from vlarig.envs.errors import VlarigError


def test_every_start_once_and_then_repeats() -> None:
    assert len(TOY_SUITE.episodes()) == 40
    keys = [episode.key for episode in TOY_SUITE.episodes(["reach_blue"], per_task=21)]
    assert keys[0] == "toy/standard@1/reach_blue/base/0/0"
    assert keys[-1] == "toy/standard@1/reach_blue/base/0/1"
    assert len(set(keys)) == 21


def test_an_episode_carries_its_payload_and_protocol() -> None:
    protocol = TOY_SUITE.protocols[0].derive(execute=3)
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
