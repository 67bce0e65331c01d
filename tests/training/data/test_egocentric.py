"""EgoDex's and VITRA's layouts, and the 32 channels made of them and back."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from recordings import film, frame_shown
from rendered_hands import AXES, joint_rotations, write_egodex, write_vitra

from vlarig.policies.qwen_vla.embodiments import REAL_HUMAN
from vlarig.policies.qwen_vla.poses import Eigengrasps, actions_to_hands, rotation_matrix
from vlarig.training.data.cleaning import CleaningReport
from vlarig.training.data.dataset import Dataset
from vlarig.training.data.egocentric import (
    Hand,
    HandDataset,
    HandEpisode,
    Hands,
    chunk_of,
    sample_spans,
)
from vlarig.training.data.egodex import FINGERS, FLAT, EgoDex, flat_hand, joint_pose
from vlarig.training.data.errors import DataError
from vlarig.training.data.mixture import mix
from vlarig.training.data.object_arrays import read_object
from vlarig.training.data.preparation import prepare_hands
from vlarig.training.data.vitra import Vitra

FRAMES = 34


def motion(seed: int, frames: int = FRAMES) -> np.ndarray:
    """A wrist's smooth way, ``float64[T, 4, 4]``."""
    rng = np.random.default_rng([seed, 1])
    time = np.linspace(0, 1, frames)[:, None]
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = rotation_matrix(rng.normal(size=3) + time * rng.normal(size=3))
    poses[:, :3, 3] = rng.normal(size=3) + 0.3 * time * rng.normal(size=3) + 0.05 * np.sin(6 * time)
    return poses


def poses(seed: int, frames: int = FRAMES) -> np.ndarray:
    """Joint poses of 8 modes, ``float64[T, 45]``: ten eigengrasps hold them exactly."""
    modes = np.random.default_rng(5).normal(size=(8, 45)) * 0.2
    rng = np.random.default_rng([seed, 2])
    return 0.1 + np.sin(np.linspace(0, 3, frames)[:, None] * rng.uniform(1, 4, 8) + rng.uniform(0, 6, 8)) @ modes


def write_episode(path: Path, seed: int = 0, frames: int = FRAMES, **attributes: str) -> dict[str, Hand]:
    """An episode in EgoDex's layout, with a video that shows the frames' numbers, and the hands in it in MANO's convention."""
    numbers = {"left": seed * 2, "right": seed * 2 + 1}
    hands = {side: Hand(motion(n, frames), poses(n, frames), np.ones(frames, bool)) for side, n in numbers.items()}
    write_egodex(path, hands, **attributes)
    film(path.with_suffix(".mp4"), frames)
    return hands


def prepared(*datasets: HandDataset) -> list[CleaningReport]:
    return [report for _, report in prepare_hands(datasets, None, lambda name, there, wanted: None)]


def recorded(folder: Path, episodes: int = 3, horizon: int = 8) -> HandDataset:
    for number in range(episodes):
        write_episode(folder / "part1" / ("stack" if number < 2 else "fold") / str(number), number)
    (report,) = prepared(HandDataset(EgoDex(folder), horizon))
    assert report.dropped == 0
    return HandDataset(EgoDex(folder), horizon)


def test_actions_lead_back_to_the_wrists_and_the_fingers_of_the_recording(tmp_path):
    dataset = recorded(tmp_path)
    truth = write_episode(tmp_path / "again", 1)
    start = next(index for index in range(len(dataset)) if dataset[index].name == "egodex/part1/stack/1/5")
    sample = dataset[start]
    assert sample.actions.shape == (8, 32) and sample.actions.dtype == np.float32
    initial = [truth[side].wrist[5] for side in ("left", "right")]
    found = actions_to_hands(sample.actions, *initial, dataset.eigengrasps)
    for hand, side in zip(found, ("left", "right"), strict=True):
        np.testing.assert_allclose(hand.wrist, truth[side].wrist[6:14], atol=1e-5)
        np.testing.assert_allclose(hand.joints, truth[side].joints[6:14], atol=1e-4)
    np.testing.assert_array_equal(sample.observation["state"][[*range(6), *range(16, 22)]], 0)
    np.testing.assert_allclose(
        sample.observation["state"][6:16], dataset.eigengrasps.encode(truth["left"].joints[5:6])[0], atol=1e-4
    )


def test_a_basis_that_is_too_small_errs_by_what_it_leaves_out(tmp_path):
    truth = write_episode(tmp_path / "0")
    hands = EgoDex(tmp_path).read("0")
    joints = np.concatenate((hands.left.joints, hands.right.joints))
    basis = Eigengrasps.fit([joints])
    noisy = {
        side: replace(truth[side], joints=truth[side].joints + 0.01 * np.random.default_rng(3).normal(size=(FRAMES, 45)))
        for side in truth
    }
    actions, _ = chunk_of(Hands(noisy["left"], noisy["right"]), 30.0, 8, basis)
    found, _ = actions_to_hands(actions, noisy["left"].wrist[0], noisy["right"].wrist[0], basis)
    left_out = noisy["left"].joints[1:9] - basis.decode(basis.encode(noisy["left"].joints[1:9]))
    assert 0.003 < np.sqrt(np.mean(left_out**2)) < 0.01
    np.testing.assert_allclose(found.joints - noisy["left"].joints[1:9], -left_out, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_bent_finger_turns_about_the_same_axis_on_both_hands(side):
    """Fingers that curl to the palm turn about +z in MANO's right hand, as they do in VITRA's published example."""
    along, up = np.array([0.0, 1, 0]), np.array([0.0, 0, 1])  # palm down, fingers forward
    sign = 1 if side == "left" else -1
    x, y = (
        sign * along,
        -sign * up,
    )  # ARKit: a left hand's x points to the fingers, its y out of the palm; a right hand's opposite
    frame = np.stack((x, y, np.cross(x, y)), axis=1)
    joints = np.tile(frame, (1, 15, 1, 1))
    joints[0, 1:3] = rotation_matrix(np.cross(along, -up) * 0.4) @ frame
    mano = np.stack((x, up, np.cross(along, up) * sign), axis=1)  # the thumb is on the right of a left hand
    pose = joint_pose(frame[None], joints, frame.T @ mano, side, np.tile(np.eye(3), (15, 1, 1))).reshape(15, 3)
    np.testing.assert_allclose(pose[1], (0, 0, 0.4), atol=1e-12)
    np.testing.assert_allclose(np.delete(pose, 1, axis=0), 0, atol=1e-12)


def test_fingers_that_point_as_on_mano_s_flat_hand_are_not_bent():
    """Each frame's x is along its bone, towards the wrist on a right hand; the thumb bends towards the palm."""
    turns = flat_hand()
    np.testing.assert_allclose(turns @ np.swapaxes(turns, -1, -2), np.tile(np.eye(3), (15, 1, 1)), atol=1e-12)
    for finger, first in zip(FINGERS, range(0, 15, 3), strict=True):
        bone = -turns[first, :, 0]
        np.testing.assert_allclose(bone, FLAT[finger] / np.linalg.norm(FLAT[finger]), atol=1e-12)
        assert (rotation_matrix(turns[first, :, 2] * 0.5) @ bone)[1] < bone[1] - 0.4


@pytest.mark.parametrize("side", ["left", "right"])
def test_another_rest_pose_reads_as_a_flat_hand(side):
    rng = np.random.default_rng(0)
    rest, wrist = rotation_matrix(rng.normal(size=(15, 3))), rotation_matrix(rng.normal(size=(4, 3)))
    basis = AXES[side] @ np.diag([-1, 1, 1]) if side == "left" else AXES[side]
    flat = wrist[:, None] @ basis @ rest @ basis.T
    np.testing.assert_allclose(joint_pose(wrist, flat, AXES[side], side, rest), 0, atol=1e-12)
    pose = 0.5 * rng.normal(size=(4, 45))
    joints = joint_rotations(pose, wrist, AXES[side], side, rest)
    np.testing.assert_allclose(joint_pose(wrist, joints, AXES[side], side, rest), pose, atol=1e-12)


def test_a_sample_shows_the_frame_at_which_it_begins(tmp_path):
    dataset: Dataset = copy.deepcopy(recorded(tmp_path))
    names = [dataset[index].name for index in (0, 32, 33)]
    assert names == ["egodex/part1/fold/2/0", "egodex/part1/fold/2/32", "egodex/part1/stack/0/0"]
    for index in (0, 7, 32, 40):
        sample = dataset[index]
        assert frame_shown(sample.observation["images"]["ego"][0]) == int(sample.name.rpartition("/")[2])
        assert sample.observation["instruction"] == "Stack the cups." and sample.embodiment is REAL_HUMAN
    assert len(dataset[30].actions) == 3 and dataset[30].horizon == 8
    assert {task: len(indices) for task, indices in dataset.tasks.items()} == {"fold": 33, "stack": 66}
    assert len(dataset) == 99 and dataset.hours == pytest.approx(3 * FRAMES / 30 / 3600)
    with pytest.raises(IndexError, match="99 samples"):
        dataset[99]


def test_a_lost_hand_ends_the_chunk_and_an_unseen_one_rests(tmp_path):
    write_episode(tmp_path / "0")
    with h5py.File(tmp_path / "0.hdf5", "a") as file:
        file["confidences/leftHand"][10:] = 0.0
    source = EgoDex(tmp_path)
    hands = source.read("0")
    basis = Eigengrasps.fit([hands.left.joints, hands.right.joints])
    assert len(chunk_of(hands, 30.0, 16, basis)[0]) == 9
    later = source.read("0", 12)
    actions, state = chunk_of(later, 30.0, 16, basis)
    assert len(actions) == 16 and not actions[:, :16].any() and actions[:, 16:].all(1).any() and not state[:16].any()
    assert sample_spans(hands, source.describe("0")) == ((0, 9, "Stack the cups."), (10, 33, "Stack the cups."))


def test_poses_of_another_rate_are_interpolated():
    truth = Hand(motion(3, 61), poses(3, 61), np.ones(61, bool))
    basis = Eigengrasps.fit([truth.joints])
    half = Hand(truth.wrist[::2], truth.joints[::2], truth.tracked[::2])
    at_30, _ = chunk_of(Hands(truth, truth), 30.0, 16, basis)
    at_15, _ = chunk_of(Hands(half, half), 15.0, 16, basis)
    np.testing.assert_allclose(at_15[1::2], at_30[1::2], atol=1e-6)
    np.testing.assert_allclose(at_15, at_30, atol=0.03)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"llm_type": "reversible", "which_llm_description": "2", "llm_description2": "Unstack them."}, "Unstack them."),
        ({"llm_type": "reversible", "which_llm_description": "1", "llm_description2": "Unstack them."}, "Stack the cups."),
        ({"llm_description": "None", "description": "stack cups"}, "stack cups"),
    ],
)
def test_a_reversible_task_says_which_way_it_went(tmp_path, attributes, words):
    write_episode(tmp_path / "0", **attributes)
    assert EgoDex(tmp_path).describe("0").spans == ((0, FRAMES, words),)


def test_episodes_that_do_not_read_are_counted_and_the_rest_goes_on(tmp_path):
    for number in range(9):
        write_episode(tmp_path / "task" / str(number), number)

    def opened(number: int) -> h5py.File:
        return h5py.File(tmp_path / "task" / f"{number}.hdf5", "a")

    (tmp_path / "task" / "1.hdf5").write_bytes(b"half a file")
    with opened(3) as file:
        file["transforms/leftHand"][5, 0, :3] *= 1.5
    with opened(4) as file:
        del file["transforms/rightThumbKnuckle"]
    film(tmp_path / "task" / "5.mp4", 20)
    (tmp_path / "task" / "6.mp4").unlink()
    with opened(7) as file:
        file["confidences/leftHand"][:], file["confidences/rightHand"][:] = 0.0, 0.0
    with opened(8) as file:
        file.attrs["llm_description"] = "None"
    (report,) = prepared(HandDataset(EgoDex(tmp_path)))
    found = {drop.episode: (reason, drop.detail) for reason, drops in report.examples.items() for drop in drops}
    expected = {
        "task/1": ("does not read", "1.hdf5 does not open"),
        "task/3": ("does not read", "a wrist pose is not a rotation"),
        "task/4": ("does not read", "4.hdf5 has no transforms/rightThumbKnuckle; is it an episode of EgoDex?"),
        "task/5": ("missing frames", "5.mp4 has 20 frames, the poses need 34"),
        "task/6": ("missing frames", "6.mp4 is missing"),
        "task/7": ("no tracked hand", "in none of its 34 frames is a hand tracked"),
        "task/8": ("no instruction", "none of its 34 frames has words"),
    }
    assert set(found) == set(expected)
    for episode, (reason, words) in expected.items():
        assert found[episode][0] == reason and words in found[episode][1]
    dataset = HandDataset(EgoDex(tmp_path))
    assert {episode.name for episode in dataset.episodes} == {"task/0", "task/2"}
    assert json.loads((tmp_path / "vlarig" / "cleaning.json").read_text())["kept"] == 2
    assert dataset.cleaning == report
    film(tmp_path / "task" / "0.mp4", 5)  # after it was prepared
    with pytest.raises(DataError, match=r"0\.mp4 has no frame 20, the last that decodes is 4"):
        dataset[20]


def test_two_data_sets_of_hands_share_a_basis_and_quantiles(tmp_path):
    write_episode(tmp_path / "egodex" / "task" / "0")
    write_one_hand(tmp_path / "vitra", "Ego4D_kitchen_ep_000000")
    film(tmp_path / "kitchen.mp4", FRAMES + 3)
    sources = (EgoDex(tmp_path / "egodex"), Vitra(tmp_path / "vitra", tmp_path))
    prepared(*(HandDataset(source) for source in sources))
    both = [HandDataset(source) for source in sources]
    mixture = mix(both)
    assert mixture.eigengrasps == both[0].eigengrasps == both[1].eigengrasps
    alone = Eigengrasps.fit([both[0].source.read("task/0").left.joints])
    assert mixture.eigengrasps != alone
    prepared(both[1])
    with pytest.raises(DataError, match=r"vitra and egodex have different eigengrasps.*vlarig data prepare"):
        mix([HandDataset(source) for source in sources])
    with pytest.raises(DataError, match=r"have the horizons \[16, 8\]; give them one"):
        prepared(both[0], HandDataset(sources[1], 8))
    with pytest.raises(DataError, match="prepared for chunks of 16 steps, and the mixture has horizon = 8"):
        len(HandDataset(sources[0], 8))


def test_joints_that_are_not_a_hand_s_are_refused(tmp_path):
    write_episode(tmp_path / "0")
    with h5py.File(tmp_path / "0.hdf5", "a") as file:
        for finger in FINGERS[:3]:
            file["transforms/rightHand"][:, :3, 3] = file[f"transforms/right{finger}Knuckle"][:, :3, 3]
    with pytest.raises(DataError, match=r"0\.hdf5, the right hand: its knuckles are not along an axis"):
        EgoDex(tmp_path).read("0")


def write_one_hand(folder: Path, name: str, **changes: object) -> dict[str, Hand]:
    """An episode in VITRA's layout, whose left hand is never seen."""
    unseen = Hand(np.tile(np.eye(4), (FRAMES, 1, 1)), np.zeros((FRAMES, 45)), np.zeros(FRAMES, bool))
    hands = {"left": unseen, "right": Hand(motion(7), poses(7), np.ones(FRAMES, bool))}
    text = {"left": [("Hold the lid.", (np.int64(20), FRAMES))], "right": [("Pick up the spoon.", (0, np.int64(30)))]}
    write_vitra(folder, name, hands, **{"video_decode_frame": np.arange(3, 3 + FRAMES), "text": text} | changes)
    return hands


def test_vitra_s_angles_are_mano_s_own(tmp_path):
    truth = write_one_hand(tmp_path, "Ego4D_kitchen_ep_000000")
    film(tmp_path / "videos" / "kitchen.mp4", FRAMES + 3)
    source = Vitra(tmp_path, tmp_path / "videos")
    prepared(HandDataset(source))
    dataset = HandDataset(source)
    assert len(dataset) == 30 and dataset.hours == pytest.approx(FRAMES / 30 / 3600)
    first, later = dataset[4], dataset[20]
    assert frame_shown(first.observation["images"]["ego"][0]) == 7
    assert first.observation["instruction"] == "Pick up the spoon."
    assert later.observation["instruction"] == "Left hand: Hold the lid. Right hand: Pick up the spoon."
    assert len(first.actions) == 16 and len(later.actions) == 13
    assert not first.actions[:, :16].any() and first.actions[:, 16:].any()
    _, right = actions_to_hands(first.actions, np.eye(4), truth["right"].wrist[4], dataset.eigengrasps)
    np.testing.assert_allclose(right.wrist, truth["right"].wrist[5:21], atol=1e-5)
    np.testing.assert_allclose(right.joints, truth["right"].joints[5:21], atol=1e-4)


def test_vitra_s_videos_may_be_cut_into_parts(tmp_path):
    write_one_hand(tmp_path, "epic_kitchen_ep_000000", video_decode_frame=np.arange(2000, 2000 + FRAMES))
    film(tmp_path / "kitchen_part2.mp4", FRAMES, rate=60)
    source = Vitra(tmp_path, tmp_path)
    assert source.describe("epic_kitchen_ep_000000").rate == 60
    assert frame_shown(source.image("epic_kitchen_ep_000000", 9)) == 9
    (tmp_path / "kitchen_part2.mp4").unlink()
    with pytest.raises(DataError, match="the video kitchen is not in"):
        source.image("epic_kitchen_ep_000000", 9)


def test_a_file_that_would_run_a_program_is_refused(tmp_path):
    path = tmp_path / "evil.npy"
    np.save(path, np.array({"a": [np.float32(2.5), (1, "x", None)], "b": np.arange(6).reshape(2, 3)}, dtype=object))
    assert read_object(path)["a"] == [2.5, (1, "x", None)] and read_object(path)["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    header = path.read_bytes()[:128]
    path.write_bytes(header + b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    with pytest.raises(DataError, match="it names 'posix system', which is no data"):
        read_object(path)
    path.write_bytes(header[:60])
    with pytest.raises(DataError, match="is it whole"):
        read_object(path)


def test_a_source_without_words_has_nothing_to_learn_from(tmp_path):
    write_one_hand(tmp_path, "Ego4D_kitchen_ep_000000", text={"left": [], "right": []})
    film(tmp_path / "kitchen.mp4", FRAMES + 3)
    source = Vitra(tmp_path, tmp_path, rate=30.0)
    assert source.describe("Ego4D_kitchen_ep_000000") == HandEpisode("Ego4D_kitchen_ep_000000", "vitra", 30.0, FRAMES, ())
    with pytest.raises(
        DataError, match=r"has no episode to learn from, of 1; the first, Ego4D_kitchen_ep_000000: no instruction, none of"
    ):
        prepared(HandDataset(source))
    with pytest.raises(DataError, match="is missing; run: vlarig data prepare MIXTURE"):
        len(HandDataset(source))


@pytest.mark.parametrize("source", [EgoDex(Path("none")), Vitra(Path("none"), Path("none"))])
def test_a_folder_of_another_layout_is_named(source):
    with pytest.raises(DataError, match=r"none has no .* in it; name"):
        source.names()
