"""What a policy is trained from is sampled without end, repeats by its number, and is played by no evaluation."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from toy.suite import TOY_SUITE

from vlarig.benchmarks.registry import load_suite
from vlarig.benchmarks.simpler.scenes import CARROT_AND_PLATE, CUBES, EGGPLANT_AND_BASKET, MANISKILL3_EGGPLANT, SPOON_AND_TOWEL
from vlarig.benchmarks.suite import Suite
from vlarig.benchmarks.tabletop.assorted import assorted
from vlarig.benchmarks.tabletop.sampler import MAKERS, sample
from vlarig.envs.errors import VlarigError

SUITES = ["tabletop", "libero_object", "libero_10", "simpler_widowx", "simpler_ood"]
MANY = 200


def payloads_of_evaluations(suite: Suite) -> set[str]:
    """What the episodes of all protocols begin from, of every task."""
    return {
        json.dumps([task.name, suite.payload(task, initial_state, protocol)], sort_keys=True)
        for task, protocol in itertools.product(suite.tasks, suite.protocols)
        for initial_state in task.initial_states_of(protocol)
    }


@pytest.mark.parametrize("name", SUITES)
def test_no_evaluation_begins_where_training_does(name: str) -> None:
    suite = load_suite(name)
    evaluated, keys = payloads_of_evaluations(suite), set()
    for task, protocol in itertools.product(suite.tasks[:3], suite.protocols[:2]):
        for number in range(MANY if name != "tabletop" else 20):
            episode = suite.training_episode(task, number, protocol)
            assert json.dumps([task.name, episode.payload], sort_keys=True) not in evaluated
            keys.add(episode.key)
    assert keys.isdisjoint(episode.key for protocol in suite.protocols for episode in suite.episodes(protocol=protocol))


@pytest.mark.parametrize("name", SUITES)
def test_a_training_state_repeats_by_its_number_and_differs_from_others(name: str) -> None:
    suite = load_suite(name)
    task, protocol = suite.tasks[0], suite.protocols[0]
    first, again, other = (suite.training_episode(task, number, protocol) for number in (3, 3, 4))
    assert first == again
    assert first.seed != other.seed
    assert name.startswith("libero") or first.payload != other.payload


@pytest.mark.slow
def test_no_scene_for_training_on_the_table_shows_a_purple_cylinder() -> None:
    """It has another colour, one that nothing else there has; the words follow, and everything else stays."""
    replaced = 0
    for task, number in itertools.product(MAKERS, range(60)):
        shown, trained = sample(task, 50 + number), sample(task, 50 + number, training=True)
        names = [[each["name"] for each in scene["objects"]] for scene in (shown, trained)]
        assert len(set(names[1])) == 4
        if "purple cylinder" not in names[0]:
            assert shown == trained
            continue
        (other,) = set(names[1]) - set(names[0])
        assert other.endswith(" cylinder") and other.split()[0] not in {name.split()[0] for name in names[0]}
        text = json.dumps(trained).replace(
            f'"name": "{other}", "shape": "cylinder", "colour": "{other.split()[0]}"', "COLOURED"
        )
        expected = json.dumps(shown).replace('"name": "purple cylinder", "shape": "cylinder", "colour": "purple"', "COLOURED")
        assert text.replace(other, "purple cylinder") == expected
        replaced += 1
    assert replaced == pytest.approx(0.4 * 5 * 60, rel=0.15)
    suite = load_suite("tabletop")
    sampled = [assorted(np.random.default_rng(seed)) for seed in range(200)]
    sampled += [
        suite.training_episode(task, number, suite.protocols[0]).payload for task in suite.tasks for number in range(20)
    ]
    pairs = {(each["colour"], each["shape"]) for scene in sampled for each in scene["objects"]}
    assert ("purple", "cylinder") not in pairs and len(pairs) == 9


def test_paraphrases_say_the_same_of_the_same_scene_in_words_of_their_own() -> None:
    suite = load_suite("tabletop")
    standard, paraphrased = (
        next(each for each in suite.protocols if each.name == name) for name in ("standard", "paraphrased")
    )
    wordings = set()
    for task in suite.tasks:
        for initial_state in task.initial_states:
            plain, other = (suite.payload(task, initial_state, protocol) for protocol in (standard, paraphrased))
            assert {**other, "instruction": plain["instruction"]} == plain
            names = [each["name"] for kind in ("objects", "trays", "zones") for each in plain[kind]]
            said = [[name for name in names if name in scene["instruction"]] for scene in (plain, other)]
            assert said[0] == said[1] and said[0]
            blank = [
                functools.reduce(lambda text, name: text.replace(name, "_"), names, scene["instruction"])
                for scene in (plain, other)
            ]
            assert blank[0] != blank[1]
            wordings.add(blank[1].replace("left", "right"))
    assert len(wordings) == 15


@pytest.mark.parametrize("scene", [SPOON_AND_TOWEL, CARROT_AND_PLATE, CUBES, EGGPLANT_AND_BASKET])
def test_objects_in_simplerenv_stand_between_upstreams_places_and_at_none(scene) -> None:
    numbered = MANISKILL3_EGGPLANT if scene is EGGPLANT_AND_BASKET else scene
    places = np.array(
        [
            np.concatenate([pose[:3] for pose in numbered.poses(initial_state)])
            for initial_state in range(numbered.initial_states)
        ]
    )
    rng = np.random.default_rng(0)
    sampled = np.array([np.concatenate([pose[:3] for pose in scene.sample(rng)]) for _ in range(MANY)])
    assert np.all(sampled >= places.min(0) - 1e-9)
    assert np.all(sampled <= places.max(0) + 1e-9)
    assert np.min(np.abs(sampled[:, None] - places[None]).max(2)) > 1e-5
    for source, target in (scene.sample(rng) for _ in range(MANY)):
        assert np.linalg.norm(np.subtract(source[:2], target[:2])) >= 0.1
        for pose in (source, target):
            assert np.linalg.norm(pose[3:]) == pytest.approx(1, abs=1e-3)


def test_a_suite_without_training_states_says_so() -> None:
    suite = replace(TOY_SUITE, training=None)
    with pytest.raises(
        VlarigError, match="'toy' has no initial states for training, and those of its protocols are for evaluation"
    ):
        suite.training_episode(suite.tasks[0], 0, suite.protocols[0])
