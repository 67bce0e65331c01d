"""Hands as 32 channels: rotations near the angles 0 and pi, wrist transforms there and back, eigengrasps."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vlarig.policies.api import PolicyError
from vlarig.policies.conventions import known_embodiments
from vlarig.policies.qwen_vla.poses import (
    Eigengrasps,
    HandMotion,
    actions_to_hands,
    axis_angle,
    eigengrasps_of,
    hands_to_actions,
    rotation_matrix,
    wrist_channels,
    wrist_poses,
)

ANGLES = (0.0, 1e-300, 1e-12, 1e-8, 1e-4, 0.1, 1.0, 2.5, np.pi - 1e-4, np.pi - 1e-8, np.pi - 1e-12)


def axes(count=50, seed=0):
    sampled = np.random.default_rng(seed).normal(size=(count, 3))
    sampled = np.concatenate((sampled, np.eye(3), -np.eye(3), [[1, 1, 0], [0, -1, 1]]))
    return sampled / np.linalg.norm(sampled, axis=1, keepdims=True)


def poses(count, seed=0):
    generator = np.random.default_rng(seed)
    matrices = np.tile(np.eye(4), (count, 1, 1))
    matrices[:, :3, :3] = Rotation.random(count, rng=generator).as_matrix()
    matrices[:, :3, 3] = generator.normal(size=(count, 3))
    return matrices


@pytest.mark.parametrize("angle", ANGLES)
def test_rotations_are_scipys_and_come_back(angle):
    vectors = axes() * angle
    matrices = rotation_matrix(vectors)
    np.testing.assert_allclose(matrices, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-15)
    np.testing.assert_allclose(axis_angle(matrices), vectors, atol=4e-15)


def test_half_a_turn_comes_back_as_the_same_rotation():
    vectors = axes() * np.pi
    back = axis_angle(rotation_matrix(vectors))
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), np.pi, atol=1e-14)
    np.testing.assert_allclose(rotation_matrix(back), rotation_matrix(vectors), atol=1e-14)


def test_more_than_half_a_turn_becomes_the_shorter_way():
    np.testing.assert_allclose(axis_angle(rotation_matrix(np.array([0, 0, 1.5 * np.pi]))), [0, 0, -0.5 * np.pi], atol=1e-15)


def test_random_rotations_agree_with_scipy_and_any_leading_axes_go():
    rotations = Rotation.random(1000, rng=np.random.default_rng(1))
    vectors = axis_angle(rotations.as_matrix().reshape(10, 100, 3, 3))
    np.testing.assert_allclose(vectors.reshape(-1, 3), rotations.as_rotvec(), atol=1e-13)
    assert rotation_matrix(np.zeros(3)).tolist() == np.eye(3).tolist()


def test_the_wrist_moves_in_its_own_first_frame():
    initial = np.eye(4)
    initial[:3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    initial[:3, 3] = (1, 2, 3)
    later = initial.copy()
    later[:3, 3] += (0, 0.1, 0)  # the world's y is the wrist's x
    later[:3, :3] = Rotation.from_euler("z", 120, degrees=True).as_matrix()
    np.testing.assert_allclose(wrist_channels(later[None], initial), [[0.1, 0, 0, 0, 0, np.radians(30)]], atol=1e-15)


def test_wrist_motion_comes_back_and_does_not_depend_on_the_world():
    wrists, initial = poses(100), poses(1, seed=2)[0]
    channels = wrist_channels(wrists, initial)
    expected = np.linalg.inv(initial) @ wrists
    np.testing.assert_allclose(channels[:, :3], expected[:, :3, 3], atol=1e-14)
    np.testing.assert_allclose(wrist_poses(channels, initial), wrists, atol=1e-13)
    world = poses(1, seed=3)[0]
    np.testing.assert_allclose(wrist_channels(world @ wrists, world @ initial), channels, atol=1e-12)
    np.testing.assert_allclose(wrist_channels(initial[None], initial), np.zeros((1, 6)), atol=1e-15)


# --- eigengrasps ---


def hand_poses(rank, count=2000, seed=0, noise=0.0):
    """A generator of hand poses: a mean, and ``rank`` orthonormal directions of falling standard deviation."""
    generator = np.random.default_rng(seed)
    directions = np.linalg.qr(generator.normal(size=(45, rank)))[0].T
    spread = 2.0 ** -np.arange(rank)
    mean = generator.normal(size=45)
    weights = generator.normal(size=(count, rank)) * spread
    return mean + weights @ directions + noise * generator.normal(size=(count, 45)), mean, directions, spread


def test_a_known_low_rank_hand_is_recovered():
    data, mean, directions, spread = hand_poses(rank=4, count=50_000, noise=0.001)
    grasps = Eigengrasps.fit([data])
    assert grasps.components.shape == (10, 45)
    np.testing.assert_allclose(grasps.mean, mean, atol=0.02)
    alike = np.abs(np.sum(grasps.components[:4] * directions, axis=1))
    np.testing.assert_allclose(alike, 1, atol=2e-3)
    np.testing.assert_allclose(grasps.explained[:4], spread**2 / np.sum(spread**2), atol=0.01)
    assert grasps.explained[4:].max() < 1e-5


def test_a_hand_of_ten_modes_comes_back_exactly():
    data, *_ = hand_poses(rank=10)
    grasps = Eigengrasps.fit([data])
    np.testing.assert_allclose(grasps.decode(grasps.encode(data)), data, atol=1e-12)
    assert grasps.explained.sum() == pytest.approx(1)


def test_the_fit_is_that_of_the_covariances_eigenvectors():
    data, *_ = hand_poses(rank=20, noise=0.01)
    grasps = Eigengrasps.fit([data])
    values, vectors = np.linalg.eigh(np.cov(data.T))
    values, vectors = values[::-1], vectors[:, ::-1].T[:10]
    largest = vectors[np.arange(10), np.abs(vectors).argmax(1)]
    np.testing.assert_allclose(grasps.components, vectors * np.sign(largest)[:, None], atol=1e-6)
    np.testing.assert_allclose(grasps.explained, values[:10] / values.sum(), atol=1e-12)
    np.testing.assert_allclose(grasps.components @ grasps.components.T, np.eye(10), atol=1e-12)
    np.testing.assert_allclose(grasps.encode(data).var(0, ddof=1), values[:10], rtol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_poses_that_come_in_parts_give_the_singular_vectors_of_all(offset):
    data = hand_poses(rank=20, noise=0.01)[0] + offset
    cuts = [0, 1, 1, 500, 507]
    grasps = Eigengrasps.fit(iter(np.split(data, cuts)))
    _, singular, rows = np.linalg.svd(data - data.mean(0), full_matrices=False)
    signs = np.sign(rows[np.arange(45), np.abs(rows).argmax(1)])
    tolerance = 1e-10 if offset == 0 else 1e-8  # the data themselves have digits of 1e-12 then
    np.testing.assert_allclose(grasps.mean, data.mean(0), rtol=1e-13)
    np.testing.assert_allclose(grasps.components, (rows * signs[:, None])[:10], atol=tolerance)
    np.testing.assert_allclose(grasps.explained, (singular**2 / (singular**2).sum())[:10], atol=1e-12)


def test_the_sign_is_settled_so_that_mirrored_data_has_the_same_components():
    data, *_ = hand_poses(rank=20)
    mirrored = Eigengrasps.fit([2 * data.mean(0) - data])
    np.testing.assert_allclose(mirrored.components, Eigengrasps.fit([data]).components, atol=1e-9)


def test_eigengrasps_survive_json_exactly():
    grasps = Eigengrasps.fit([hand_poses(rank=20)[0]])
    back = Eigengrasps.from_data(json.loads(json.dumps(grasps.to_data())))
    for name in ("mean", "components", "explained"):
        np.testing.assert_array_equal(getattr(back, name), getattr(grasps, name))
    assert (back, hash(back)) == (grasps, hash(grasps))
    assert back != Eigengrasps(grasps.mean + 1, grasps.components, grasps.explained)


def test_the_eigengrasp_channels_of_human_hands_are_known_by_name():
    assert {name: eigengrasps_of(each) for name, each in known_embodiments()[0].items() if eigengrasps_of(each)} == {
        "real_human": 10
    }


# --- the 32 channels ---


def test_two_hands_become_32_channels_and_come_back():
    joints, *_ = hand_poses(rank=10, count=64)
    grasps = Eigengrasps.fit([joints])
    left, right = HandMotion(poses(16, 1), joints[:16]), HandMotion(poses(16, 2), joints[16:32])
    start_left, start_right = poses(2, 3)
    actions = hands_to_actions(left, right, start_left, start_right, grasps)
    assert actions.shape == (16, 32)
    np.testing.assert_array_equal(actions[:, :6], wrist_channels(left.wrist, start_left))
    np.testing.assert_array_equal(actions[:, 6:16], grasps.encode(left.joints))
    np.testing.assert_array_equal(actions[:, 16:22], wrist_channels(right.wrist, start_right))
    back = actions_to_hands(actions, start_left, start_right, grasps)
    for hand, expected in zip(back, (left, right), strict=True):
        np.testing.assert_allclose(hand.wrist, expected.wrist, atol=1e-13)
        np.testing.assert_allclose(hand.joints, expected.joints, atol=1e-12)


def sheared():
    matrix = np.eye(4)
    matrix[0, 1] = 0.1
    return matrix


def eigengrasps_data(**changed):
    return {"mean": np.zeros(45), "components": np.eye(10, 45), "explained": np.full(10, 0.05)} | changed


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: wrist_channels(sheared()[None], np.eye(4)), "not a rotation and a translation"),
        (lambda: wrist_channels(np.eye(4)[None], np.diag([1.0, 1, -1, 1])), "not a rotation"),
        (lambda: wrist_channels(np.full((1, 4, 4), np.nan), np.eye(4)), "not a rotation"),
        (lambda: wrist_channels(np.zeros((1, 3, 4)), np.eye(4)), r"shape \(1, 3, 4\), expected homogeneous"),
        (lambda: wrist_poses(np.zeros((2, 7)), np.eye(4)), r"shape \(2, 7\), expected rows of 6"),
        (lambda: Eigengrasps.fit([np.zeros((4, 45)), np.zeros((6, 45))]), "10 eigengrasps cannot be fitted to 10 poses"),
        (lambda: Eigengrasps.fit([]), "10 eigengrasps cannot be fitted to 0 poses"),
        (lambda: Eigengrasps.fit([np.zeros((100, 45)), np.zeros((100, 44))]), r"shape \(100, 44\), expected rows of 45"),
        (lambda: Eigengrasps.fit(np.zeros((100, 45))), r"arrays of hand poses have the shape \(45,\), expected rows of 45"),
        (lambda: Eigengrasps.fit([np.full((100, 45), np.nan)]), "a hand pose holds a number that is not finite"),
        (lambda: Eigengrasps.from_data({"mean": [0.0]}), "eigengrasps are expected as"),
        (lambda: Eigengrasps.from_data(eigengrasps_data(mean=np.full(45, np.nan))), "a mean of 45 numbers"),
        (lambda: Eigengrasps.from_data(eigengrasps_data(components=2 * np.eye(10, 45))), "orthonormal components"),
    ],
)
def test_what_is_no_hand_is_refused_in_a_sentence(make, words):
    with pytest.raises(PolicyError, match=words):
        make()
