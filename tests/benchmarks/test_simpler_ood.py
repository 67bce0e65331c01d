"""SimplerEnv-OOD: 48 sound starts a task, and goals that the requested outcome fulfils and a near miss does not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.errors import VlarigError
from vlarig.envs.simpler.goals import CONDITIONS, StepState, holds

SUITE = load_suite("simpler_ood")
BASE = load_suite("simpler_widowx")
SCENES = {
    "MoveAway": "put_spoon_on_towel",
    "MoveRight": "put_spoon_on_towel",
    "PlaceNear": "put_carrot_on_plate",
    "PlaceRight": "put_spoon_on_towel",
    "PutFront": "put_carrot_on_plate",
    "StackYellow": "stack_green_on_yellow",
}
#: Sizes of the models' boxes in m: info_bridge_custom_v0.json and info_bridge_custom_baked_tex_v0.json of the assets.
SIZES = {
    "bridge_spoon_generated_modified": (0.14, 0.0346, 0.026),
    "table_cloth_generated_shorter": (0.1, 0.1, 0.01),
    "bridge_carrot_generated_modified": (0.115, 0.032, 0.038),
    "bridge_plate_objaverse_larger": (0.11, 0.11, 0.006),
    "baked_green_cube_3cm": (0.03, 0.03, 0.03),
    "baked_yellow_cube_3cm": (0.03, 0.03, 0.03),
}
TABLE = 0.8695


def payload(task: str, initial_state: int, suite: Any = SUITE) -> dict[str, Any]:
    return suite.payload(suite.task(task), initial_state, suite.protocols[0])


# Starts.


def test_six_tasks_of_48_initial_states_played_once_whatever_the_protocol() -> None:
    assert [task.name for task in SUITE.tasks] == list(SCENES)
    assert [protocol.name for protocol in SUITE.protocols] == [protocol.name for protocol in BASE.protocols]
    for protocol in SUITE.protocols:
        episodes = SUITE.episodes(protocol=protocol)
        assert (len(episodes), {episode.repeat for episode in episodes}) == (6 * 48, {0})
        assert {episode.initial_state for episode in episodes} == set(range(48))


@pytest.mark.parametrize("task", SCENES)
def test_the_first_half_is_the_base_tasks_and_no_initial_state_is_there_twice(task: str) -> None:
    for initial_state in range(24):
        base = payload(SCENES[task], initial_state, BASE)
        assert (payload(task, initial_state)["scene"], payload(task, initial_state)["objects"]) == (
            base["scene"],
            base["objects"],
        )
    assert len({json.dumps(payload(task, initial_state)["objects"]) for initial_state in range(48)}) == 48


def test_the_further_initial_states_turn_what_is_moved_by_half_a_turn() -> None:
    for task in ("MoveAway", "PutFront"):
        for initial_state in range(24):
            (one, target), (other, its_target) = (
                list(payload(task, k)["objects"].values()) for k in (initial_state, initial_state + 24)
            )
            assert (one[:3], target) == (other[:3], its_target)
            assert float(np.dot(one[3:], other[3:])) == pytest.approx(0.0, abs=1e-12)  # quaternions half a turn apart


def test_the_further_cubes_stand_at_the_corners_of_two_rectangles() -> None:
    places = [
        [tuple(np.round(pose[:2], 6)) for pose in payload("StackYellow", initial_state)["objects"].values()]
        for initial_state in (24, 36)
    ]
    assert places == [[(-0.21, -0.1), (-0.21, 0.1)], [(-0.26, -0.05), (-0.26, 0.05)]]


def half_box(model: str, pose: list[float]) -> np.ndarray:
    """Half the sides of the upright box about a model that is turned about z."""
    cosine, sine = pose[3] ** 2 - pose[6] ** 2, 2 * pose[3] * pose[6]
    turn = np.abs([[cosine, -sine], [sine, cosine]])
    return turn @ np.array(SIZES[model][:2]) / 2


@pytest.mark.parametrize("task", SCENES)
def test_objects_stand_clear_of_each_other(task: str) -> None:
    for initial_state in range(48):
        (one, at), (other, there) = payload(task, initial_state)["objects"].items()
        gaps = np.abs(np.subtract(at[:2], there[:2])) - half_box(one, at) - half_box(other, there)
        assert gaps.max() > 0.025, initial_state


def step_state(found: dict[str, Any], **changes: Any) -> StepState:
    """The start of an episode, its objects lying on the table, or what became of it."""
    places = {model: np.array([pose[0], pose[1], TABLE + SIZES[model][2] / 2]) for model, pose in found["objects"].items()}
    halves = {model: np.array(SIZES[model]) / 2 for model in places}
    source, target = found["source"], found["target"]
    still = StepState(
        source=places[source],
        target=places[target],
        settled_source=places[source],
        settled_target=places[target],
        speed=0.0,
        grasped=False,
        touching=False,
        above=places[source] - places[target],
        half_source=halves[source],
        half_target=halves[target],
        reach=float(np.linalg.norm(halves[target][:2])) + 0.003,
        carried=False,
    )
    return replace(still, **changes)


@pytest.mark.parametrize("task", SCENES)
def test_nothing_is_solved_at_an_initial_state_nor_by_a_touch_there(task: str) -> None:
    for initial_state in range(48):
        found = payload(task, initial_state)
        assert not holds(found["goal"], step_state(found)), initial_state
        nudged = step_state(found).source + np.array([0.0, 0.02, 0.0])
        assert not holds(found["goal"], step_state(found, source=nudged, above=nudged - step_state(found).target)), (
            initial_state
        )


# Goals.


def put(task: str, x: float, y: float, z: float = 0.012, initial_state: int = 4, **changes: Any) -> bool:
    """Whether the goal holds with the source's centre there: ``x`` and ``y`` from the target's, ``z`` above the table."""
    found = payload(task, initial_state)
    target = np.asarray(changes.get("target", step_state(found).target))
    source = np.array([target[0] + x, target[1] + y, TABLE + z])
    return holds(found["goal"], step_state(found, **{"source": source, "above": source - target, **changes}))


ON = {"z": 0.024, "touching": True}

#: Start 4 has the source diagonally behind the target: 15 cm further from the robot, and 15 cm to the left.
SOLVED = [
    ("MoveAway", {"x": -0.2, "y": -0.2}),
    ("MoveAway", {"x": 0.2, "y": 0.1}),
    ("MoveRight", {"x": 0.0, "y": 0.12}),
    ("MoveRight", {"x": -0.045, "y": 0.08}),
    ("PlaceNear", {"x": 0.0, "y": 0.08}),
    ("PlaceNear", {"x": -0.12, "y": 0.0}),
    ("PlaceRight", {"x": 0.0, "y": 0.025, **ON}),
    ("PutFront", {"x": 0.12, "y": 0.0}),
    ("PutFront", {"x": 0.09, "y": 0.05}),
    ("StackYellow", {"x": 0.002, "y": -0.001, "z": 0.045, "carried": True}),
]


@pytest.mark.parametrize(("task", "outcome"), SOLVED)
def test_the_requested_outcome_counts(task: str, outcome: dict[str, Any]) -> None:
    assert put(task, **outcome)


@pytest.mark.parametrize(("task", "outcome"), SOLVED)
@pytest.mark.parametrize(
    "spoiled", [{"grasped": True}, {"speed": 0.12}, {"z": 0.09}], ids=["held", "in motion", "in the air"]
)  # fmt: skip
def test_it_does_not_count_before_it_is_done(task: str, outcome: dict[str, Any], spoiled: dict[str, Any]) -> None:
    assert not put(task, **{**outcome, **spoiled})


@pytest.mark.parametrize(("task", "outcome"), [case for case in SOLVED if case[0] != "StackYellow"])
def test_it_does_not_count_where_the_other_thing_was_moved(task: str, outcome: dict[str, Any]) -> None:
    found = payload(task, 4)
    shoved = step_state(found).target + np.array([0.0, 0.05, 0.0])
    assert not put(task, **{**outcome, "target": shoved})
    source = step_state(found).target + np.array([outcome["x"], outcome["y"], 0.0])
    assert not put(task, **outcome, settled_source=source), "moved and brought back"


@pytest.mark.parametrize(
    ("task", "outcome"),
    [
        ("MoveAway", {"x": -0.16, "y": -0.12}),  # moved aside, but nearer
        ("MoveAway", {"x": -0.2, "y": -0.2, "touching": True}),
        ("MoveRight", {"x": 0.0, "y": -0.12}),  # left
        ("MoveRight", {"x": 0.12, "y": 0.0}),  # in front
        ("MoveRight", {"x": 0.1, "y": 0.12}),  # off the strip beside the towel
        ("MoveRight", {"x": 0.0, "y": 0.25}),  # somewhere to the right
        ("MoveRight", {"x": 0.0, "y": 0.06, **ON}),  # half on the towel
        ("PlaceNear", {"x": 0.0, "y": 0.02, **ON}),  # on the plate
        ("PlaceNear", {"x": 0.0, "y": 0.14}),  # too far
        ("PlaceRight", {"x": 0.0, "y": -0.02, **ON}),  # left half
        ("PlaceRight", {"x": 0.0, "y": 0.02}),  # above the towel, not on it
        ("PlaceRight", {"x": 0.0, "y": 0.06, **ON}),  # its centre beyond the edge
        ("PutFront", {"x": -0.12, "y": 0.0}),  # behind
        ("PutFront", {"x": 0.0, "y": 0.12}),  # beside
        ("PutFront", {"x": 0.03, "y": 0.0, **ON}),  # on the plate
        ("StackYellow", {"x": 0.002, "y": 0.0, "z": 0.045}),  # something else carries it
        ("StackYellow", {"x": 0.05, "y": 0.0, "z": 0.015, "carried": True}),  # beside it
        ("StackYellow", {"x": 0.0, "y": 0.0, "z": -0.015, "carried": True}),  # the other way round
    ],
)  # fmt: skip
def test_another_outcome_does_not_count(task: str, outcome: dict[str, Any]) -> None:
    assert not put(task, **outcome)


def test_right_in_the_image_is_right_and_front_is_front() -> None:
    """The camera looks along (-0.63, -0.35) in the table's plane, so the image's directions are the robot's, turned by 29 degrees."""
    right, front = np.array([-0.484, 0.875]), np.array([0.875, 0.484])
    assert put("MoveRight", *(0.1 * right))
    assert put("PlaceRight", *(0.03 * right), **ON)
    assert put("PutFront", *(0.12 * front))
    assert not put("MoveRight", *(-0.1 * right))
    assert not put("PutFront", *(-0.12 * front))


def test_goals_are_made_of_the_adapters_conditions() -> None:
    for task in SCENES:
        found = payload(task, 0)
        assert {condition["is"] for condition in found["goal"]} <= set(CONDITIONS)
        json.dumps(found)


def test_the_blocks_change_places_in_stack_yellow() -> None:
    found = payload("StackYellow", 0)
    assert (found["source"], found["target"]) == ("baked_yellow_cube_3cm", "baked_green_cube_3cm")
    assert list(found["objects"]) == ["baked_green_cube_3cm", "baked_yellow_cube_3cm"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("MoveAway", "move the spoon away from the towel"),
        ("MoveRight", "move the spoon to the right side of the towel"),
        ("PlaceNear", "place the carrot next to the plate"),
        ("PlaceRight", "put the spoon on the right half of the towel"),
        ("PutFront", "put the carrot in front of the plate"),
        ("StackYellow", "stack the yellow block on the green block"),
    ],
)
def test_instructions(task: str, words: str) -> None:
    assert payload(task, 0)["instruction"] == words


@pytest.mark.parametrize(
    ("protocol", "limit"), [("starvla", 120), ("simplerenv", 60), ("maniskill3", 60), ("groot", 300), ("chunked", 120)]
)
def test_every_task_has_the_protocols_limit(protocol: str, limit: int) -> None:
    found = SUITE.protocol(protocol)
    assert {episode.step_limit for episode in SUITE.episodes(per_task=1, protocol=found)} == {limit}
    assert found.task_limits == {}
    base = BASE.protocol(protocol)
    own = {name: getattr(base, name) for name in ("task_limits", "repeats", "success_rule", "hold_steps")}
    assert replace(found, **own) == base


@pytest.mark.parametrize("protocol", ["starvla", "simplerenv", "maniskill3", "groot", "chunked"])
def test_a_success_of_a_moment_does_not_count(protocol: str) -> None:
    """What was dropped onto a rim rattles, and for a step now and then touches nothing."""
    found = SUITE.protocol(protocol)
    assert found.success_rule == "final" or (found.success_rule, found.hold_steps) == ("held", 5)


def test_a_payload_can_be_changed_without_changing_the_next() -> None:
    payload("MoveAway", 0)["goal"][0]["by"] = 1.0
    assert payload("MoveAway", 0)["goal"][0]["by"] == 0.03


def test_it_is_said_that_the_definitions_are_ours() -> None:
    assert "our definitions" in SUITE.title
    assert "vlarig's own" in SUITE.note
    assert "ours" in SUITE.source


@pytest.mark.parametrize("initial_state", [48, -1])
def test_an_initial_state_that_is_not_there_is_refused(initial_state: int) -> None:
    with pytest.raises(VlarigError, match=f"'PutFront' has no initial state {initial_state}; expected 0 to 47"):
        payload("PutFront", initial_state)
