"""Waypoints: their frame and signs, and poses there and back."""

from __future__ import annotations

import numpy as np
import pytest
from waypoints import absolute_poses

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.poses import WAYPOINTS, relative_waypoints, window, wrap_angle


def walk(count=200, seed=0):
    generator = np.random.default_rng(seed)
    poses = np.cumsum(generator.normal(size=(count, 3)), axis=0)
    poses[:, 2] = wrap_angle(poses[:, 2])
    return poses


def test_x_is_forward_y_to_the_left_and_theta_counter_clockwise():
    north = [2.0, 3.0, np.pi / 2]  # the agent looks along the world's y
    poses = np.array([north, [2.0, 4.0, np.pi / 2], [1.0, 4.0, np.pi], [1.0, 4.0, np.pi / 2]])
    expected = [[1, 0, 0], [0, 1, np.pi / 2], [0, 0, -np.pi / 2]]  # forward; sideways to the left, turning left; turning right
    np.testing.assert_allclose(relative_waypoints(poses), expected, atol=1e-15)


def test_each_waypoint_is_in_the_frame_of_the_one_before_it():
    square = np.tile([1.0, 0.0, np.pi / 2], (4, 1))  # a step forward and a left turn, four times: a square
    poses = absolute_poses(np.zeros(3), square)
    np.testing.assert_allclose(poses[:, :2], [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], atol=1e-15)


def test_poses_come_back_from_their_waypoints():
    poses = walk()
    np.testing.assert_allclose(absolute_poses(poses[0], relative_waypoints(poses)), poses, atol=1e-12)


def test_waypoints_come_back_from_their_poses_wherever_the_world_is():
    waypoints = relative_waypoints(walk(seed=1))
    for start in ([0, 0, 0], [100.0, -3.0, 2.0], [0, 0, np.pi]):
        np.testing.assert_allclose(relative_waypoints(absolute_poses(np.array(start), waypoints)), waypoints, atol=1e-11)


def test_turns_across_the_back_are_the_short_way():
    poses = np.array([[0, 0, np.radians(170)], [0, 0, np.radians(-170)], [0, 0, np.radians(175)]])
    np.testing.assert_allclose(np.degrees(relative_waypoints(poses)[:, 2]), [20, -15])


def test_angles_wrap_into_minus_pi_to_pi():
    assert wrap_angle(np.array([np.pi, -np.pi, 3 * np.pi])).tolist() == [np.pi] * 3
    angles = np.random.default_rng(0).uniform(-50, 50, 1000)
    wrapped = wrap_angle(angles)
    assert (wrapped > -np.pi).all() and (wrapped <= np.pi).all()
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angles), atol=1e-13)
    np.testing.assert_array_equal(wrap_angle(wrapped), wrapped)


def test_after_some_waypoints_the_others_still_hold():
    waypoints = relative_waypoints(walk(9, seed=2))
    whole = absolute_poses(np.array([1.0, 2.0, 0.3]), waypoints)
    for passed in range(WAYPOINTS + 1):
        np.testing.assert_allclose(absolute_poses(whole[passed], waypoints[passed:]), whole[passed:], atol=1e-12)


def test_a_window_slides_over_the_trajectory_and_ends_in_standing_still():
    waypoints = relative_waypoints(walk(21, seed=3))
    np.testing.assert_array_equal(window(waypoints, 5), waypoints[5:13])
    np.testing.assert_array_equal(window(waypoints, 17)[:3], waypoints[17:])
    assert window(waypoints, 17).shape == (WAYPOINTS, 3)
    assert not window(waypoints, 17)[3:].any()
    assert not window(waypoints, 20).any()


def test_standing_still_needs_no_waypoint():
    assert relative_waypoints(np.zeros((1, 3))).shape == (0, 3)
    np.testing.assert_array_equal(absolute_poses(np.array([1.0, 2.0, 3.0]), np.zeros((0, 3))), [[1, 2, 3]])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: relative_waypoints(np.zeros((4, 2))), r"poses have the shape \(4, 2\), expected rows of \(x, y, theta\)"),
        (lambda: relative_waypoints(np.zeros((0, 3))), "there are no poses"),
        (lambda: window(np.zeros(3), 0), "waypoints have the shape"),
        (lambda: window(np.zeros((4, 3)), 5), "waypoint 5 of 4, expected 0 to 4"),
    ],
)
def test_what_is_no_path_is_refused_in_a_sentence(make, words):
    with pytest.raises(PolicyError, match=words):
        make()
