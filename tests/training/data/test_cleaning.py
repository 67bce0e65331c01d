"""What cleaning drops and what it keeps, and actions made of states."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from rich.console import Console

from vlarig.envs.embodiments import Channel, Embodiment
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.policies.qwen_vla.embodiments import FRANKA_JOINT, REAL_HUMAN
from vlarig.policies.qwen_vla.poses import axis_angle, euler_matrix, rotation_matrix
from vlarig.training.data.cleaning import CleaningReport, Drop, judge, length_bounds
from vlarig.training.data.cleaning_rules import EpisodeArrays, Thresholds
from vlarig.training.data.errors import DataError
from vlarig.training.data.pseudo_actions import euler_angles, pseudo_actions

#: What a data set of robots that look along +x means by its words.
DIRECTIONS = {
    "left": (0.0, 1.0, 0.0), "right": (0.0, -1.0, 0.0), "forward": (1.0, 0.0, 0.0),
    "backward": (-1.0, 0.0, 0.0), "up": (0.0, 0.0, 1.0), "down": (0.0, 0.0, -1.0),
}  # fmt: skip
KNOWN = Thresholds(directions=DIRECTIONS)

GRASPS = ("pick up the red cube", "Pick the spoon and put it on the towel.", "grasp the handle", "grab a carrot from the plate")
PUSHES = ("push the block {}", "Slide the plate to the {}", "move the can {} and stop", "drag the cloth towards the {}")
OTHERS = (
    "stack the cups", "open the drawer", "close the drawer", "wipe the table", "push the button on the left of the stove",
    "move the cup to the left burner", "don't pick up the cube", "put the left bowl on the plate", "turn the knob right",
)  # fmt: skip


@dataclass
class Listed:
    """Episodes of a list, some of which do not read."""

    items: list[EpisodeArrays]
    broken: set[int] = field(default_factory=set)

    def read(self, index: int) -> EpisodeArrays:
        if index in self.broken:
            raise DataError(f"episode {index} of the file is not whole")
        return self.items[index]


def clean(episodes: Listed, thresholds: Thresholds | None = None, shown: int = 5) -> tuple[np.ndarray, CleaningReport]:
    """The indices of the episodes that are kept, and the report on the others."""
    lengths = [(item.task, len(item.timestamps)) for item in episodes.items]
    found = list(judge(lengths, episodes.read, thresholds or Thresholds()))
    kept = [index for index, drop in enumerate(found) if drop is None]
    return np.array(kept, np.int64), CleaningReport.of(len(found), filter(None, found), shown)


def episode(seed: int, instruction: str = "stack the cups", way: tuple[float, ...] = (), grasps: bool = True) -> EpisodeArrays:
    """A WidowX that goes to an object, closes where it grasps, goes on (in a direction, where one is given) and lets go."""
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(25, 60))
    third = steps // 3
    if way:  # the hand first goes past the object, against the direction
        goal = np.asarray(way) * rng.uniform(0.04, 0.2) + 0.01 * rng.normal(size=3)
        approach = -np.asarray(way) * rng.uniform(0, 0.3) + 0.05 * rng.normal(size=3)
    else:
        approach, goal = rng.normal(size=3) * 0.1, rng.normal(size=3) * 0.1
    actions = np.zeros((steps, 7))
    actions[:third, :3], actions[third : 2 * third, :3] = approach / third, goal / third
    actions[:, :3] += rng.normal(size=(steps, 3)) * 5e-4
    actions[:, 3:6] = rng.normal(size=(steps, 3)) * 0.01
    actions[:, 6] = rng.uniform(0.8, 1.0)
    if grasps:
        actions[third : 2 * third, 6] = rng.uniform(0.0, 0.6)  # something thick keeps the fingers apart
    states = np.concatenate((np.cumsum(actions[:, :6], axis=0), actions[:, 6:]), axis=1)
    times = np.arange(steps) / 5 + rng.normal(size=steps) * 0.01
    frames = {"ego": np.ones(steps, bool)}
    return EpisodeArrays(f"made_up/{seed}", "task", instruction, WIDOWX_BRIDGE, actions, states, np.sort(times), frames)


def reasons(item: EpisodeArrays, thresholds: Thresholds = KNOWN) -> list[str]:
    return list(clean(Listed([item]), thresholds)[1].counts)


def test_consistent_episodes_raise_no_alarm():
    items = []
    for seed in range(400):
        if seed % 4 == 0:
            items.append(episode(seed, GRASPS[seed // 4 % len(GRASPS)]))
        elif seed % 4 == 1:
            word = list(DIRECTIONS)[seed // 4 % 4]
            items.append(episode(seed, PUSHES[seed // 16 % len(PUSHES)].format(word), DIRECTIONS[word], grasps=False))
        else:
            items.append(episode(seed, OTHERS[seed % len(OTHERS)], grasps=seed % 8 == 2))
    kept, report = clean(Listed(items), KNOWN)
    assert report.counts == {} and kept.tolist() == list(range(400))


def test_contradictions_are_found():
    opposite = {"left": "right", "right": "left", "forward": "backward", "backward": "forward"}
    items = [episode(seed, GRASPS[seed % len(GRASPS)], grasps=False) for seed in range(100)]
    for seed in range(100, 200):
        word = list(opposite)[seed % 4]
        item = episode(seed, PUSHES[seed % len(PUSHES)].format(word), grasps=False)
        away = -np.asarray(DIRECTIONS[word]) * np.random.default_rng(seed).uniform(0, 0.01, len(item.timestamps))[:, None]
        items.append(replace(item, actions=np.concatenate((away, item.actions[:, 3:]), 1), states=None))
    _, report = clean(Listed(items), replace(KNOWN, length_episodes=1000))
    assert report.counts == {"contradicts instruction": 200}
    details = " ".join(drop.detail for drop in report.examples["contradicts instruction"])
    assert "the instruction says 'pick', and no gripper closes" in details


def test_nothing_is_said_of_directions_whose_point_of_view_is_unknown():
    item = replace(episode(0, "push the block left", DIRECTIONS["right"], grasps=False), states=None)
    item.actions[:, 1] = -0.01
    assert reasons(item) == ["contradicts instruction"] and reasons(item, Thresholds()) == []


def test_two_directions_in_one_instruction_are_not_judged():
    item = replace(episode(0, "push the can right, then left", DIRECTIONS["left"], grasps=False), states=None)
    item.actions[:, 1] = 0.01
    assert reasons(item) == []
    assert reasons(replace(item, instruction="push the can right")) == ["contradicts instruction"]


def test_a_drawer_in_the_state_tells_opening_from_closing():
    robot = replace(WIDOWX_BRIDGE, state_layout=(*WIDOWX_BRIDGE.state_layout, "top_drawer_open"))
    item = episode(1)
    opening = np.linspace(0.0, 0.15, len(item.timestamps))
    for instruction, values, found in (
        ("open the top drawer", opening, []),
        ("close the top drawer", opening, ["contradicts instruction"]),
        ("close the top drawer", opening[::-1], []),
        ("open the drawer, then close the drawer", opening[::-1], []),
        ("put the cup into the drawer", opening[::-1], []),
    ):
        states = np.column_stack((item.states, values))
        assert reasons(replace(item, instruction=instruction, embodiment=robot, states=states)) == found


def test_each_fault_is_dropped_for_its_own_reason():
    good = episode(2)
    steps = len(good.timestamps)
    lost, late, back = np.ones(steps, bool), good.timestamps.copy(), good.timestamps.copy()
    lost[7], late[9:], back[5] = False, late[9:] + 0.5, back[3]
    broken = good.actions.copy()
    broken[4, 2] = np.nan
    still = np.zeros_like(good.actions)
    still[:, 6] = 0.7
    assert reasons(good) == []
    assert reasons(replace(good, frames={"ego": np.ones(steps, bool), "wrist": lost})) == ["missing frames"]
    assert reasons(replace(good, timestamps=late)) == ["odd times"] == reasons(replace(good, timestamps=back))
    assert reasons(replace(good, actions=broken)) == ["broken numbers"]
    assert (
        reasons(replace(good, actions=good.actions[:, :6]))
        == ["broken numbers"]
        == reasons(replace(good, states=good.states[1:]))
    )
    still_robot = replace(
        WIDOWX_BRIDGE, channels=(*WIDOWX_BRIDGE.channels[:6], replace(WIDOWX_BRIDGE.channels[6], kind="delta"))
    )
    assert reasons(replace(good, actions=np.zeros_like(still), embodiment=still_robot)) == ["static"]
    assert reasons(replace(good, actions=still)) == ["static"]
    assert reasons(replace(good, actions=None, states=np.ones((steps, 7)))) == ["static"]
    assert reasons(replace(good, actions=None)) == []


def test_a_constant_motion_is_not_static():
    item = episode(3)
    assert reasons(replace(item, actions=np.tile([0.002, 0, 0, 0, 0, 0, 1.0], (len(item.timestamps), 1)))) == []


def test_lengths_far_from_those_of_their_own_task_are_dropped():
    rng = np.random.default_rng(0)
    items = [replace(episode(seed), task="short" if seed % 2 else "long") for seed in range(60)]
    for index, item in enumerate(items):
        steps = int(rng.integers(20, 30) if item.task == "short" else rng.integers(200, 400))
        if index in (7, 8):
            steps = 250 if index == 7 else 20
        items[index] = replace(
            item, actions=np.resize(item.actions, (steps, 7)), states=None, timestamps=np.arange(steps) / 5, frames={}
        )
    kept, report = clean(Listed(items))
    assert sorted(set(range(60)) - set(kept.tolist())) == [7, 8]
    assert [drop.episode for drop in report.examples["odd length"]] == ["made_up/7", "made_up/8"]


def test_lengths_of_words_that_come_once_are_compared_with_all_others():
    items = [replace(episode(seed), task=f"words {seed}") for seed in range(20)]
    steps = 900
    items[7] = replace(
        items[7], actions=np.resize(items[7].actions, (steps, 7)), states=None, timestamps=np.arange(steps) / 5, frames={}
    )
    _, report = clean(Listed(items))
    assert [drop.episode for drop in report.examples["odd length"]] == ["made_up/7"] and report.dropped == 1


def test_equal_lengths_do_not_make_the_next_one_odd():
    low, high = length_bounds([50] * 20, Thresholds())
    assert (low, high) == (pytest.approx(25), pytest.approx(100))
    assert length_bounds([50, 500, 5000], Thresholds()) == (2, np.inf)


def test_an_episode_that_does_not_read_leaves_the_rest_alone():
    kept, report = clean(Listed([episode(seed) for seed in range(6)], broken={1, 4}), shown=1)
    assert kept.tolist() == [0, 2, 3, 5] and report.counts == {"does not read": 2}
    assert report.examples["does not read"] == (Drop("does not read", "1", "episode 1 of the file is not whole"),)


def test_reports_are_printed_and_stored():
    drops = [*(Drop("static", f"a/{i}", "no channel moves") for i in range(5)), Drop("odd length", "b/1", "7 steps")]
    report = CleaningReport.of(15, drops, shown=3)
    assert (report.total, report.dropped, report.counts) == (15, 6, {"static": 5, "odd length": 1})
    assert [drop.episode for drop in report.examples["static"]] == ["a/0", "a/1", "a/2"]
    assert CleaningReport.from_data(json.loads(json.dumps(report.to_data()))) == report
    screen = Console(file=io.StringIO(), width=100)
    screen.print(report.table())
    printed = screen.file.getvalue()
    assert all(words in printed for words in ("static", "33.3%", "a/0: no channel moves", "kept", "60.0%"))
    with pytest.raises(DataError, match="lacks 'examples'"):
        CleaningReport.from_data({"total": 3})


def test_pseudo_actions_of_a_bridge_arm_lead_from_state_to_state():
    rng = np.random.default_rng(0)
    states = np.cumsum(rng.normal(size=(20, 7)) * 0.1, axis=0)
    actions = pseudo_actions(states, 0.2, WIDOWX_BRIDGE)
    np.testing.assert_allclose(states[:-1, :3] + actions[:, :3], states[1:, :3], atol=1e-12)
    reached = euler_matrix(actions[:, 3:6]) @ euler_matrix(states[:-1, 3:6])
    np.testing.assert_allclose(reached, euler_matrix(states[1:, 3:6]), atol=1e-12)
    np.testing.assert_array_equal(actions[:, 6], states[1:, 6])


def test_pseudo_actions_of_joints_are_the_next_angles():
    states = np.random.default_rng(1).normal(size=(9, 8))
    np.testing.assert_array_equal(pseudo_actions(states, 1 / 15, FRANKA_JOINT), states[1:])


@pytest.mark.parametrize("frame", ["base", "gripper"])
def test_a_turn_is_about_the_base_s_axes_or_the_hand_s(frame):
    robot = Embodiment(
        "made_up", "Made Up", "single arm", 10.0,
        tuple(Channel(f"rotation_{axis}", "rad", "delta", frame, -4, 4, rotation="axis_angle") for axis in "xyz"),
        tuple(f"axis_angle_{axis}" for axis in "xyz"), {}, "made_up",
    )  # fmt: skip
    turn = np.array([0.02, -0.05, 0.03])
    turns = [rotation_matrix([0.4, 0.5, 0.6])]
    for _ in range(5):
        turns.append(turns[-1] @ rotation_matrix(turn) if frame == "gripper" else rotation_matrix(turn) @ turns[-1])
    states = axis_angle(np.array(turns))
    np.testing.assert_allclose(pseudo_actions(states, 0.1, robot), np.tile(turn, (5, 1)), atol=1e-12)
    np.testing.assert_allclose(pseudo_actions(states, 0.2, robot), np.tile(turn / 2, (5, 1)), atol=1e-12)


def test_euler_angles_are_those_of_fixed_axes():
    np.testing.assert_allclose(euler_matrix([0, 0, np.pi / 2]) @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(euler_matrix([np.pi / 2, 0, np.pi / 2]) @ (0, 1, 0), (0, 0, 1), atol=1e-12)
    angles = np.random.default_rng(2).uniform(-1.5, 1.5, (50, 3))
    np.testing.assert_allclose(euler_angles(euler_matrix(angles)), angles, atol=1e-9)


@pytest.mark.parametrize(
    ("robot", "sentence"),
    [
        (LIBERO_PANDA, "channel x is a delta in 'normalized'"),
        (REAL_HUMAN, "channel left_wrist_x is a delta in 'm' and the frame 'first_wrist'"),
        (replace(WIDOWX_BRIDGE, state_layout=("position_x", "position_y", "position_z")), "no rotation for rotation_roll"),
        (replace(WIDOWX_BRIDGE, state_layout=WIDOWX_BRIDGE.state_layout[:6]), "the state has no gripper"),
    ],
)
def test_states_that_do_not_tell_the_actions_are_refused(robot, sentence):
    with pytest.raises(DataError, match=sentence):
        pseudo_actions(np.zeros((5, len(robot.state_layout))), 0.1, robot)
    with pytest.raises(DataError, match="have the shape"):
        pseudo_actions(np.zeros((5, 99)), 0.1, robot)
