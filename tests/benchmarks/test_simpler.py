"""SimplerEnv's tasks have upstream's starts, and each protocol holds the numbers of the evaluator that it is named after."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from vlarig.benchmarks.registry import load_suite, suite_names
from vlarig.benchmarks.simpler.widowx import groot_sample, groot_seeds
from vlarig.benchmarks.suite import Suite
from vlarig.envs.api import Camera
from vlarig.envs.episode import Ensemble
from vlarig.envs.errors import VlarigError
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE

SUITE = load_suite("simpler_widowx")
TASKS = ["put_spoon_on_towel", "put_carrot_on_plate", "stack_green_on_yellow", "put_eggplant_in_basket"]
PROTOCOLS = ["starvla", "simplerenv", "maniskill3", "groot", "chunked"]
HALF = math.sqrt(0.5)


def payload(task: str, initial_state: int, protocol: str = "starvla", suite: Suite = SUITE) -> dict[str, Any]:
    return suite.payload(suite.task(task), initial_state, suite.protocol(protocol))


def counts(protocol: str) -> list[int]:
    return [len(SUITE.episodes([task], protocol=SUITE.protocol(protocol))) for task in TASKS]


# Tasks and starts.


def test_the_suites_are_listed() -> None:
    assert {"simpler_widowx", "simpler_ood"} <= set(suite_names())
    assert [task.name for task in SUITE.tasks] == TASKS
    assert (SUITE.runtime, SUITE.assets, SUITE.embodiment) == ("simpler", ("simpler_bridge",), WIDOWX_BRIDGE)
    assert SUITE.adapter == "vlarig.envs.simpler.env:BridgeEnv"


SPOON, TOWEL = "bridge_spoon_generated_modified", "table_cloth_generated_shorter"
CARROT, PLATE = "bridge_carrot_generated_modified", "bridge_plate_objaverse_larger"
GREEN, YELLOW = "baked_green_cube_3cm", "baked_yellow_cube_3cm"


@pytest.mark.parametrize(
    ("task", "instruction", "source", "target", "slack", "contact"),
    [
        ("put_spoon_on_towel", "put the spoon on the towel", SPOON, TOWEL, 0.02, False),
        ("put_carrot_on_plate", "put carrot on plate", CARROT, PLATE, 0.02, True),
        ("stack_green_on_yellow", "stack the green block on the yellow block", GREEN, YELLOW, 0.02, True),
        ("put_eggplant_in_basket", "put eggplant into yellow basket", "eggplant", "dummy_sink_target_plane", 0.06, False),
    ],
)
def test_words_objects_and_goals_are_upstreams(
    task: str, instruction: str, source: str, target: str, slack: float, contact: bool
) -> None:
    found = payload(task, 0)
    assert (found["instruction"], found["source"], found["target"]) == (instruction, source, target)
    assert list(found["objects"]) == [source, target]
    assert found["goal"] == [{"is": "on_target", "slack": slack, "contact": contact}]


@pytest.mark.parametrize(
    ("task", "scene"),
    [
        ("put_spoon_on_towel", "PutSpoonOnTableClothInScene-v1"),
        ("put_carrot_on_plate", "PutCarrotOnPlateInScene-v1"),
        ("stack_green_on_yellow", "StackGreenCubeOnYellowCubeBakedTexInScene-v1"),
        ("put_eggplant_in_basket", "PutEggplantInBasketScene-v1"),
    ],
)  # fmt: skip
def test_a_scene_is_mani_skills(task: str, scene: str) -> None:
    assert payload(task, 0)["scene"] == scene


BASKET = [-0.125, 0.025, 1, 1, 0, 0, 0]

#: Worked out by hand from upstream's loops over corners and turns.
POSES = [
    ("put_spoon_on_towel", "starvla", 0, [-0.235, -0.075, 0.88, 1, 0, 0, 0], [-0.235, 0.075, 0.875, 1, 0, 0, 0]),
    ("put_spoon_on_towel", "starvla", 1, [-0.235, -0.075, 0.88, HALF, 0, 0, HALF], [-0.235, 0.075, 0.875, 1, 0, 0, 0]),
    ("put_spoon_on_towel", "starvla", 23, [-0.085, 0.075, 0.88, HALF, 0, 0, HALF], [-0.085, -0.075, 0.875, 1, 0, 0, 0]),
    ("put_carrot_on_plate", "starvla", 0, [-0.235, -0.075, 0.887529, 0, 0, 0, 1], [-0.235, 0.075, 0.869532, 1, 0, 0, 0]),
    ("put_carrot_on_plate", "starvla", 3, [-0.235, -0.075, 0.887529, HALF, 0, 0, -HALF], [-0.085, -0.075, 0.869532, 1, 0, 0, 0]),
    ("stack_green_on_yellow", "starvla", 0, [-0.21, -0.05, 0.887529, 1, 0, 0, 0], [-0.21, 0.05, 0.887529, 1, 0, 0, 0]),
    ("stack_green_on_yellow", "starvla", 12, [-0.26, -0.1, 0.887529, 1, 0, 0, 0], [-0.26, 0.1, 0.887529, 1, 0, 0, 0]),
    ("stack_green_on_yellow", "starvla", 23, [-0.06, 0.1, 0.887529, 1, 0, 0, 0], [-0.06, -0.1, 0.887529, 1, 0, 0, 0]),
    ("put_eggplant_in_basket", "starvla", 0, [-0.115, 0.191, 0.933, 0.559342, 0.817133, -0.138906, -0.0116353], BASKET),
    ("put_eggplant_in_basket", "starvla", 4, [-0.115, 0.201, 0.933, 0.543729, 0.82549, 0.0746101, 0.131747], BASKET),
    ("put_eggplant_in_basket", "starvla", 23, [-0.095, 0.221, 0.933, 0.543029, 0.789388, -0.267736, -0.101503], BASKET),
    ("put_eggplant_in_basket", "maniskill3", 0, [-0.115, 0.191, 0.933, 0.543729, 0.82549, 0.0746101, 0.131747], BASKET),
    ("put_eggplant_in_basket", "maniskill3", 63, [-0.095, 0.221, 0.933, 0.366114, 0.618434, 0.571457, 0.396152], BASKET),
]  # fmt: skip


@pytest.mark.parametrize(("task", "protocol", "initial_state", "source", "target"), POSES)
def test_an_initial_state_is_upstreams(
    task: str, protocol: str, initial_state: int, source: list[float], target: list[float]
) -> None:
    assert list(payload(task, initial_state, protocol)["objects"].values()) == [pytest.approx(source), pytest.approx(target)]


def test_the_originals_three_eggplants_turn_as_their_yaws_do() -> None:
    """0, 45 and -45 degrees: the second is turned to the left of the first, the third to its right."""

    def heading(initial_state: int) -> float:
        w, x, y, z = payload("put_eggplant_in_basket", initial_state)["objects"]["eggplant"][3:]
        return math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))

    assert heading(1) > heading(0) + 0.3
    assert heading(2) < heading(0) - 0.3


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("task", TASKS)
def test_no_initial_state_is_there_twice(task: str, protocol: str) -> None:
    found = SUITE.task(task)
    initial_states = found.initial_states_of(SUITE.protocol(protocol))
    assert len(set(initial_states)) == len(initial_states)
    if protocol != "groot":
        assert len({json.dumps(payload(task, initial_state, protocol)["objects"]) for initial_state in initial_states}) == len(
            initial_states
        )


@pytest.mark.parametrize(
    ("protocol", "episodes"),
    [
        ("starvla", [96, 96, 96, 96]),
        ("simplerenv", [72, 72, 72, 72]),
        ("maniskill3", [24, 24, 24, 64]),
        ("groot", [200, 200, 200, 200]),
        ("chunked", [96, 96, 96, 96]),
    ],
)
def test_a_sweep_plays_as_many_episodes_as_the_evaluator(protocol: str, episodes: list[int]) -> None:
    assert counts(protocol) == episodes


def test_maniskill3s_hundred_episodes_wrap_around_its_initial_states() -> None:
    episodes = SUITE.episodes(["put_carrot_on_plate"], 100, SUITE.protocol("maniskill3"))
    assert [(episode.initial_state, episode.repeat) for episode in episodes] == [
        (index % 24, index // 24) for index in range(100)
    ]


# GR00T's starts.


def test_groots_seeds_follow_from_each_other() -> None:
    """Seeds of one env as `RandomState(2022).randint(2**32)` and so on give them; what they sample, of 24."""
    assert groot_seeds(4) == (40194941, 2089909345, 891525380, 2559782944)
    assert [groot_sample(seed, 24) for seed in groot_seeds(8)] == [1, 4, 0, 16, 1, 17, 2, 22]
    assert SUITE.task("stack_green_on_yellow").initial_states_of(SUITE.protocol("groot")) == groot_seeds(40)
    assert len({groot_sample(seed, 24) for seed in groot_seeds(40)}) == 21


def test_a_seed_of_groot_is_an_initial_state_of_the_original() -> None:
    for task in TASKS:
        assert payload(task, 2089909345, "groot")["objects"] == payload(task, 4)["objects"]


def test_groots_eggplant_has_other_words() -> None:
    assert payload("put_eggplant_in_basket", 0, "groot")["instruction"] == "put the eggplant in the yellow basket"
    assert payload("put_carrot_on_plate", 0, "groot")["instruction"] == payload("put_carrot_on_plate", 0)["instruction"]


# Protocols.


def camera(size: int, resize: str) -> tuple[Camera]:
    return (Camera("ego", size, size, drawn=(480, 640), resize=resize),)


@pytest.mark.parametrize(
    ("protocol", "limits", "cameras", "ensemble", "n_action_steps", "success_rule", "rotation", "predicates"),
    [
        ("starvla", [120] * 4, camera(224, "cv2_area"), Ensemble("adaptive", 7, 0.1), 1, "final", "fixed_axes", "original"),
        ("simplerenv", [60, 60, 60, 120], camera(256, "lanczos3"), Ensemble("mean", 4), 1, "final", "fixed_axes", "original"),
        ("maniskill3", [60, 60, 60, 120], camera(256, "lanczos3"), Ensemble("mean", 4), 1, "final", "maniskill3", "maniskill3"),
        ("groot", [300] * 4, camera(256, "cv2_linear"), None, 4, "first", "rotation_vector", "original"),
        ("chunked", [120] * 4, camera(224, "cv2_area"), None, 16, "final", "fixed_axes", "original"),
    ],
)
def test_a_protocol_holds_its_evaluators_numbers(
    protocol: str, limits: list[int], cameras: tuple[Camera], ensemble: Ensemble | None, n_action_steps: int,
    success_rule: str, rotation: str, predicates: str,
) -> None:  # fmt: skip
    found = SUITE.protocol(protocol)
    assert [SUITE.episodes([task], 1, found)[0].step_limit for task in TASKS] == limits
    assert (found.cameras, found.ensemble, found.n_action_steps) == (cameras, ensemble, n_action_steps)
    assert (found.success_rule, found.stop_on_success) == (success_rule, success_rule == "first")
    assert found.options == {"rotation": rotation, "predicates": predicates}
    assert (found.gripper, found.version, found.limit_unit, found.wait_steps) == ("half", 1, "steps", 0)


def test_starvla_is_the_default() -> None:
    assert [protocol.name for protocol in SUITE.protocols] == PROTOCOLS


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_derived_protocol_plays_the_same_initial_states(protocol: str) -> None:
    plain = SUITE.protocol(protocol)
    for one, other in zip(SUITE.episodes(protocol=plain), SUITE.episodes(protocol=plain.derive(n_action_steps=3)), strict=True):
        assert (one.task, one.initial_state, one.repeat, one.payload) == (
            other.task,
            other.initial_state,
            other.repeat,
            other.payload,
        )


def test_a_limit_of_ones_own_holds_for_every_task() -> None:
    derived = SUITE.protocol("simplerenv").derive(step_limit=80)
    assert {episode.step_limit for episode in SUITE.episodes(per_task=1, protocol=derived)} == {80}


@pytest.mark.parametrize(
    ("task", "initial_state", "protocol", "says"),
    [
        (
            "put_carrot_on_plate",
            24,
            "starvla",
            "'put_carrot_on_plate' has no initial state 24 under protocol 'starvla'; expected 0 to 23",
        ),
        ("put_eggplant_in_basket", 64, "maniskill3", "no initial state 64 under protocol 'maniskill3'; expected 0 to 63"),
        ("put_eggplant_in_basket", -1, "groot", "no initial state -1 under protocol 'groot'; expected 0 to 4294967295, a seed"),
    ],
)
def test_an_initial_state_that_is_not_there_is_refused(task: str, initial_state: int, protocol: str, says: str) -> None:
    with pytest.raises(VlarigError, match=says):
        payload(task, initial_state, protocol)
