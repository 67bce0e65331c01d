"""How waypoints become steps and turns, on an open floor with one wall: what is tested is the harness's, not a simulator's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from vlarig.envs.errors import VlarigError
from vlarig.envs.vlnce.planner import plan
from vlarig.envs.vlnce.rules import CONTROLS, Rules
from vlarig.envs.vlnce.walking import Walker, compose, heading_of, is_still, primitives, relative
from vlarig.envs.vlnce.world import Surface, Way


class Hall(Surface):
    """An open floor up to a wall at x = 1 (habitat's), along which one slides or stops."""

    def snap(self, point):
        return np.asarray(point, np.float32)

    def move(self, start, end, sliding):
        if end[0] <= 1:
            return np.asarray(end, np.float32)
        if sliding:
            return np.array([1, end[1], end[2]], np.float32)
        share = (1 - start[0]) / (end[0] - start[0])
        return (start + share * (end - start)).astype(np.float32)

    def way(self, start, end):
        return Way(float(np.linalg.norm(end - start)), np.array([start, end], np.float32))

    def floor(self):
        return np.zeros((0, 3, 3), np.float32)


def carry_out(waypoint, rules=None, walker: Walker | None = None) -> tuple[Walker, int]:
    """The agent after a waypoint, and how many moves it made."""
    walker = walker or Walker(Hall(), rules or Rules(), np.zeros(3), 0.0)
    waypoint = np.array(waypoint, np.float64)
    count = 0
    for move in primitives(walker, waypoint, compose(walker.pose, waypoint)):
        walker.move(move)
        count += 1
    return walker, count


@pytest.mark.parametrize(
    ("waypoint", "pose"),
    [
        ((0.25, 0, 0), (0.25, 0, 0)),
        ((0.1, 0, 0), (0.25, 0, 0)),
        ((0, 0, 0.2), (0, 0, math.radians(15))),
        ((0, 0, -0.5), (0, 0, -math.radians(15))),
        ((0.25, 0, 0.1), (0.25, 0, 0)),
        ((0.05, 0, 0.2), (0, 0, math.radians(15))),
    ],
)
def test_the_nearest_primitive_is_the_one_with_the_larger_share(waypoint, pose) -> None:
    walker, count = carry_out(waypoint)
    assert count == 1
    np.testing.assert_allclose(walker.pose, pose, atol=1e-6)


def test_left_is_left() -> None:
    walker, _ = carry_out((0, 0, math.radians(90)), Rules(turn=90))
    walker.move(next(iter(primitives(walker, np.array([0.25, 0, 0]), walker.pose))))
    # habitat's x is to the right of one who looks along -z
    np.testing.assert_allclose(walker.position, [-0.25, 0, 0], atol=1e-6)


def test_continuous_goes_straight_and_counts_what_vln_ces_agent_would_need() -> None:
    walker, count = carry_out((0.3, 0.4, math.radians(40)), Rules(control="continuous"))
    np.testing.assert_allclose(walker.pose, [0.3, 0.4, math.radians(40)], atol=1e-6)
    assert count == 2 + 3  # half a metre, and forty degrees


def test_pursuit_comes_within_reach_and_turns_to_the_heading() -> None:
    rules = Rules(control="pursuit")
    for goal in ((1.0, 0.8, math.radians(90)), (-1.0, 0.5, 0.0), (2.0, -1.0, math.radians(-45))):
        walker, _ = carry_out(goal, rules)
        assert math.dist(walker.pose[:2], goal[:2]) < 0.3
        assert abs(walker.yaw - goal[2]) <= math.radians(7.5) + 1e-6


def test_no_control_goes_on_for_ever_against_a_wall() -> None:
    for control in CONTROLS:
        rules = Rules(control=control, sliding=False)
        walker, count = carry_out((5, 0, 0), rules, Walker(Hall(), rules, np.array([0.9, 0, 0]), -math.pi / 2))
        assert count <= 64 and walker.position[0] == pytest.approx(1)


def test_what_is_in_the_way_is_a_collision() -> None:
    for sliding in (True, False):
        walker = Walker(Hall(), Rules(sliding=sliding), np.array([0.9, 0, 0]), -math.pi / 2)
        (move,) = primitives(walker, np.array([0.25, 0, 0]), walker.pose)
        assert walker.move(move)
    assert not Walker(Hall(), Rules(), np.zeros(3), 0.0).move(move)


def test_poses_compose_and_headings_are_those_of_quaternions() -> None:
    rng = np.random.default_rng(0)
    for pose, other in rng.uniform(-3, 3, (20, 2, 3)):
        np.testing.assert_allclose(compose(pose, relative(pose, other)), other, atol=1e-12)
    for yaw in (0.3, -2.0, 3.0):
        assert heading_of([0, math.sin(yaw / 2), 0, math.cos(yaw / 2)]) == pytest.approx(yaw)


def test_still_is_neither_moving_nor_turning() -> None:
    rules = Rules()
    assert is_still(np.array([0.04, 0, 0.04]), rules)
    assert not is_still(np.array([0.04, 0.04, 0]), rules) and not is_still(np.array([0, 0, -0.06]), rules)


def test_the_follower_arrives_also_without_sliding() -> None:
    for sliding in (True, False):
        walker = Walker(Hall(), Rules(turn=30, sliding=sliding), np.array([0.95, 0, 0]), -math.pi / 2)
        found = plan(walker, [np.array([0.9, 0, -5], np.float32)])
        assert found is not None
        length = np.linalg.norm(np.diff(found.poses[:, 1:3], axis=0), axis=1).sum()
        assert length < 5.0
        middle = walker.copy()
        for move in found.moves[:7]:
            middle.move(move)
        index, ahead = found.waypoints_from(middle, 0)
        assert (index, len(ahead)) == (7, len(found.moves) - 7)
        middle.position = middle.position + np.float32(0.01)
        assert found.waypoints_from(middle, 0) is None


def test_rules_survive_a_protocols_options_and_wrong_ones_are_named() -> None:
    rules = Rules(turn=30, sliding=False, control="pursuit", scale=0.25)
    assert Rules.of(rules.options()) == rules
    for options, says in (
        ({"turn": "many"}, "turn is 'many', expected a number"),
        ({"sliding": "yes"}, "sliding is 'yes', expected true or false"),
        ({"control": "teleport"}, "control is 'teleport', expected one of primitive, pursuit, continuous"),
        ({"step": "0"}, "step is 0.0, expected a number above 0"),
    ):
        with pytest.raises(VlarigError, match=says):
            Rules.of(options)
    assert replace(rules, stop="never").options()["stop"] == "never"
