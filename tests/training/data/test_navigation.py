"""Walks as waypoint samples: the waypoints lead through the poses, the pictures are those of the way."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from recordings import film, frame_shown, pictures

from vlarig.policies.qwen_vla.embodiments import VLNCE_R2R
from vlarig.policies.qwen_vla.navigation import absolute_poses, wrap_angle
from vlarig.training.data.dataset import Dataset
from vlarig.training.data.errors import DataError
from vlarig.training.data.navigation import (
    NavigationDataset,
    Walk,
    add_walk,
    create_walks,
    frames_shown,
    prepare_walks,
    resample,
)


def walk(name: str, frames: int, rate: float, seed: int = 0, kind: str = "instruction_following") -> Walk:
    """A walk that turns more than once about itself."""
    rng = np.random.default_rng(seed)
    times = 3.0 + np.arange(frames) / rate
    heading = wrap_angle(3.0 + np.cumsum(rng.uniform(0.0, 0.8 / rate, frames)))
    steps = rng.uniform(0.1, 0.5, frames)[:, None] * np.column_stack((np.cos(heading), np.sin(heading))) / rate
    poses = np.column_stack((np.add(np.cumsum(steps, axis=0), (4.0, -2.0)), heading))
    return Walk(name, kind, f"Walk {name}.", tuple(times.tolist()), tuple(map(tuple, poses.tolist())), f"videos/{name}.mp4")


def recorded(folder: Path, *walks: Walk) -> NavigationDataset:
    create_walks(folder, "made_up")
    for each in walks:
        rate = round(1 / (each.times[1] - each.times[0]))
        film(folder / each.frames, len(each.times), rate)
        add_walk(folder, each)
    prepare_walks(folder)
    return NavigationDataset(folder)


def test_the_waypoints_of_successive_samples_lead_through_the_poses(tmp_path):
    given = walk("a", 12, 2.0)
    dataset: Dataset = recorded(tmp_path, given)
    assert len(dataset) == 12 and dataset.hours == pytest.approx(5.5 / 3600)
    for moment in (0, 3, 11):
        sample = dataset[moment]
        assert sample.actions.shape == (8, 3) and sample.embodiment is VLNCE_R2R and sample.name == f"made_up/a/{moment}"
        ahead = np.array(given.poses)[moment : moment + 9]
        led = absolute_poses(ahead[0], sample.actions)
        np.testing.assert_allclose(led[: len(ahead)], ahead, atol=1e-5)
        np.testing.assert_allclose(led[len(ahead) :], np.tile(ahead[-1], (9 - len(ahead), 1)), atol=1e-5)
    assert not dataset[11].actions.any()


def test_a_sample_shows_the_way_so_far(tmp_path):
    dataset = recorded(tmp_path, walk("a", 30, 2.0))
    shown = [[frame_shown(frame) for frame in dataset[moment].observation["images"]["ego"]] for moment in (0, 3, 29)]
    assert shown == [[0], [0, 1, 2, 3], [0, 4, 8, 12, 17, 21, 25, 29]]
    assert frames_shown(29, 1) == [29] and frames_shown(0, 8) == [0]


def test_a_walk_of_another_rate_is_sampled_twice_a_second(tmp_path):
    given = walk("fast", 33, 10.0)
    dataset = recorded(tmp_path, given)
    assert len(dataset) == 8  # 3.2 s: moments at 0, 0.5, ... 3.0 and the end
    assert [frame_shown(frame) for frame in dataset[7].observation["images"]["ego"]] == [0, 5, 10, 15, 20, 25, 30, 32]
    led = absolute_poses(np.array(given.poses[0]), dataset[0].actions[:7])
    np.testing.assert_allclose(led[:7], np.array(given.poses)[:31:5], atol=1e-5)
    np.testing.assert_allclose(led[7], given.poses[-1], atol=1e-5)


def test_poses_between_frames_are_interpolated_by_the_shorter_turn():
    found = resample((0.0, 0.4, 1.2), np.array([(0, 0, 3.0), (0.4, 0, -3.0), (0.4, 0.8, -2.6)]))
    np.testing.assert_allclose(found.poses[1], (0.4, 0.1, 2 * np.pi - 2.95))
    assert found.frames.tolist() == [0, 1, 2, 2]
    np.testing.assert_allclose(found.poses[3, :2], (0.4, 0.8))
    assert resample((5.0,), np.zeros((1, 3))).frames.tolist() == [0]


def test_kinds_are_its_tasks_and_statistics_come_with_the_folder(tmp_path):
    dataset = recorded(tmp_path, walk("a", 6, 2.0), walk("b", 4, 2.0, 1, "object_searching"), walk("c", 5, 2.0, 2))
    tasks = {task: list(indices) for task, indices in dataset.tasks.items()}
    assert tasks == {"instruction_following": [*range(6), *range(10, 15)], "object_searching": [6, 7, 8, 9]}
    statistics = dataset.statistics["vlnce_r2r"].actions
    assert 0 < statistics.q01[0] < statistics.q99[0] < 0.26 and -0.2 < statistics.q01[1] <= statistics.q99[1] < 0.2
    sample = copy.deepcopy(dataset)[7]
    assert sample.name == "made_up/b/1" and sample.observation["instruction"] == "Walk b."
    with pytest.raises(IndexError, match="15 samples"):
        dataset[15]


def test_frames_may_be_pictures_in_a_folder(tmp_path):
    given = walk("a", 5, 2.0)
    dataset = recorded(tmp_path, given)
    (tmp_path / given.frames).unlink()
    pictures(tmp_path / given.frames, 5)
    assert [frame_shown(frame) for frame in dataset[4].observation["images"]["ego"]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 of .*episodes.jsonl is no walk"),
        ("[]", "line 2 of .* is no walk .it is a list"),
        ('{"name": "b"}', "line 2 of .*: a walk has no frames, instruction, kind, poses, times"),
        (
            '{"name": "b", "kind": "dancing", "instruction": "x", "times": [0], "poses": [[0, 0, 0]], "frames": "v"}',
            "'b' is of the kind 'dancing'",
        ),
        (
            '{"name": "b", "kind": "target_tracking", "instruction": "x", "times": [0, 0], "poses": [[0,0,0],[1,0,0]], "frames": "v"}',
            "times that do not increase",
        ),
        (
            '{"name": "b", "kind": "target_tracking", "instruction": "x", "times": [0], "poses": [[0, 0]], "frames": "v"}',
            "line 2 of .* is no walk",
        ),
    ],
)
def test_a_line_that_is_no_walk_is_named(tmp_path, line, sentence):
    recorded(tmp_path, walk("a", 4, 2.0))
    with (tmp_path / "episodes.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=sentence):
        NavigationDataset(tmp_path)


def test_a_video_that_ends_early_is_named(tmp_path):
    given = walk("a", 20, 2.0)
    dataset = recorded(tmp_path, given)
    film(tmp_path / given.frames, 10, 2)
    assert len(dataset[9].observation["images"]["ego"]) == 8
    with pytest.raises(DataError, match=r"made_up/a/15: the video .*a\.mp4 has no frame 11, the last that decodes is 9"):
        dataset[15]
    (tmp_path / given.frames).write_bytes(b"no video")
    with pytest.raises(DataError, match=r"made_up/a/0: the video .*a\.mp4 does not open"):
        dataset[0]


def test_a_folder_of_another_format_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.json is missing"):
        NavigationDataset(tmp_path)
    with pytest.raises(DataError, match="the embodiment 'vlnce_r2', which walks nowhere"):
        create_walks(tmp_path, "x", "vlnce_r2")
    create_walks(tmp_path, "x")
    with pytest.raises(DataError, match="holds a data set already"):
        create_walks(tmp_path, "x")
    with pytest.raises(DataError, match=r"statistics\.json is missing"):
        NavigationDataset(tmp_path)
