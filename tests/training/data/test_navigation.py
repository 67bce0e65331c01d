"""Walks as waypoint samples: the waypoints lead through the poses, the images are those of the way."""

from __future__ import annotations

import copy
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from recordings import film, frame_shown, images
from rendered_walks import record_walks, write_walks
from waypoints import absolute_poses

from vlarig.envs.snapshot import frames_shown
from vlarig.envs.vlnce.robot import VLNCE_R2R
from vlarig.policies.qwen_vla.poses import wrap_angle
from vlarig.training.data.cleaning import CleaningReport
from vlarig.training.data.dataset import Dataset
from vlarig.training.data.errors import DataError
from vlarig.training.data.mixture import mix
from vlarig.training.data.navigation import Kind, NavigationDataset, Walk, resample
from vlarig.training.data.preparation import prepare_walks


def walk(name: str, frames: int, rate: float, seed: int = 0, kind: Kind = "instruction_following") -> Walk:
    """A walk that turns more than once about itself."""
    rng = np.random.default_rng(seed)
    times = 3.0 + np.arange(frames) / rate
    heading = wrap_angle(3.0 + np.cumsum(rng.uniform(0.0, 0.8 / rate, frames)))
    steps = rng.uniform(0.1, 0.5, frames)[:, None] * np.column_stack((np.cos(heading), np.sin(heading))) / rate
    poses = np.column_stack((np.add(np.cumsum(steps, axis=0), (4.0, -2.0)), heading))
    return Walk(name, kind, f"Walk {name}.", tuple(times.tolist()), tuple(map(tuple, poses.tolist())), f"videos/{name}.mp4")


def recorded(folder: Path, *walks: Walk) -> NavigationDataset:
    for each in walks:
        film(folder / each.frames, len(each.times), round(1 / (each.times[1] - each.times[0])))
    write_walks(folder, [asdict(each) for each in walks])
    prepared(folder)
    return NavigationDataset(folder)


def prepared(*folders: Path) -> list[CleaningReport]:
    datasets = [NavigationDataset(folder) for folder in folders]
    return [report for _, report in prepare_walks(datasets, lambda name, there, wanted: None)]


def test_the_waypoints_of_successive_samples_lead_through_the_poses(tmp_path):
    given = walk("a", 12, 2.0)
    dataset: Dataset = recorded(tmp_path, given)
    assert len(dataset) == 12 and dataset.hours == pytest.approx(5.5 / 3600)
    for step in (0, 3, 11):
        sample = dataset[step]
        assert sample.actions.shape == (8, 3) and sample.embodiment is VLNCE_R2R and sample.name == f"made_up/a/{step}"
        ahead = np.array(given.poses)[step : step + 9]
        led = absolute_poses(ahead[0], sample.actions)
        np.testing.assert_allclose(led[: len(ahead)], ahead, atol=5e-5)
        np.testing.assert_allclose(led[len(ahead) :], np.tile(ahead[-1], (9 - len(ahead), 1)), atol=5e-5)
    assert not dataset[11].actions.any()


def test_a_sample_shows_the_way_so_far(tmp_path):
    dataset = recorded(tmp_path, walk("a", 30, 2.0))
    shown = [[frame_shown(frame) for frame in dataset[step].observation["images"]["ego"]] for step in (0, 3, 29)]
    assert shown == [[0], [0, 1, 2, 3], [0, 4, 8, 12, 17, 21, 25, 29]]
    assert frames_shown(29, 1) == [29] and frames_shown(0, 8) == [0]


def test_a_walk_of_another_rate_is_sampled_twice_a_second(tmp_path):
    given = walk("fast", 33, 10.0)
    dataset = recorded(tmp_path, given)
    assert len(dataset) == 8  # 3.2 s: steps at 0, 0.5, ... 3.0 and the end
    assert [frame_shown(frame) for frame in dataset[7].observation["images"]["ego"]] == [0, 5, 10, 15, 20, 25, 30, 32]
    led = absolute_poses(np.array(given.poses[0]), dataset[0].actions[:7])
    np.testing.assert_allclose(led[:7], np.array(given.poses)[:31:5], atol=5e-5)
    np.testing.assert_allclose(led[7], given.poses[-1], atol=5e-5)


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


def test_frames_may_be_images_in_a_folder(tmp_path):
    given = walk("a", 5, 2.0)
    dataset = recorded(tmp_path, given)
    (tmp_path / given.frames).unlink()
    images(tmp_path / given.frames, 5)
    assert [frame_shown(frame) for frame in dataset[4].observation["images"]["ego"]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 of .*episodes.jsonl is no walk"),
        ("[]", "line 2 of .* is no walk .Expected `object`, got `array`"),
        ('{"name": "b"}', "line 2 of .* is no walk .Object missing required field `kind`"),
        (
            '{"name": "b", "kind": "dancing", "instruction": "x", "times": [0], "poses": [[0, 0, 0]], "frames": "v"}',
            "line 2 of .* is no walk .Invalid enum value 'dancing' - at `..kind`",
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
def test_a_line_that_is_no_walk_is_left_out(tmp_path, line, sentence):
    recorded(tmp_path, walk("a", 4, 2.0))
    with (tmp_path / "episodes.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"has 2 walks, 1 are prepared; run again: vlarig data prepare"):
        len(NavigationDataset(tmp_path))
    (report,) = prepared(tmp_path)
    assert len(NavigationDataset(tmp_path)) == 4 and report.counts == {"does not read": 1}
    (drop,) = report.examples["does not read"]
    assert drop.episode == "line 2" and re.search(sentence, drop.detail)


def test_a_channel_that_never_moves_has_no_quantiles_of_rounding_errors(tmp_path):
    """A walker who turns on the spot and goes ahead: its dy is 1e-17 here and there."""
    record_walks(tmp_path)
    prepared(tmp_path)
    dataset = NavigationDataset(tmp_path)
    statistics = dataset.statistics["vlnce_r2r"].actions
    assert statistics.q01 == (0.0, 0.0, 0.0) and statistics.q99[1] == 0.0
    np.testing.assert_allclose(statistics.q99, (0.25, 0.0, np.pi / 12), atol=1e-5)
    ahead, turning = dataset[0].actions, dataset[14].actions
    np.testing.assert_allclose(ahead, np.tile((0.25, 0.0, 0.0), (8, 1)), atol=1e-5)
    np.testing.assert_allclose(turning[:6], np.tile((0.0, 0.0, np.pi / 12), (6, 1)), atol=1e-5)


def test_walks_in_two_folders_share_quantiles(tmp_path):
    recorded(tmp_path / "a", walk("a", 12, 2.0))
    recorded(tmp_path / "b", walk("b", 12, 2.0, 1))
    with pytest.raises(DataError, match="both have statistics 'vlnce_r2r', which differ"):
        mix([NavigationDataset(tmp_path / name) for name in "ab"])
    prepared(tmp_path / "a", tmp_path / "b")
    assert len(mix([NavigationDataset(tmp_path / name) for name in "ab"]).datasets) == 2


def test_a_video_that_ends_early_is_named(tmp_path):
    given = walk("a", 20, 2.0)
    dataset = recorded(tmp_path, given, walk("b", 5, 2.0))
    film(tmp_path / given.frames, 10, 2)  # after it was prepared
    assert len(dataset[9].observation["images"]["ego"]) == 8
    with pytest.raises(DataError, match=r"made_up/a/15: the video .*a\.mp4 has no frame 11, the last that decodes is 9"):
        dataset[15]
    (report,) = prepared(tmp_path)
    (drop,) = report.examples["missing frames"]
    assert drop.episode == "line 1" and "a.mp4 has 10 frames, the poses need 20; is it whole?" in drop.detail
    (tmp_path / given.frames).write_bytes(b"no video")
    with pytest.raises(DataError, match=r"made_up/a/0: the video .*a\.mp4 does not open"):
        dataset[0]
    (tmp_path / "videos" / "b.mp4").unlink()
    with pytest.raises(
        DataError, match=r"no episode to learn from, of 2; the first, line 1: does not read, the video .*a\.mp4 does"
    ):
        prepared(tmp_path)


def test_a_folder_of_another_format_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.json is missing"):
        NavigationDataset(tmp_path)
    (tmp_path / "dataset.json").write_text(
        '{"format": "vlarig-navigation", "version": 1, "name": "x", "embodiment": "vlnce_r2"}'
    )
    with pytest.raises(DataError, match="unknown embodiment 'vlnce_r2'; did you mean vlnce_r2r or"):
        NavigationDataset(tmp_path)
    head = (tmp_path / "dataset.json").read_text()
    (tmp_path / "dataset.json").write_text(head.replace("vlnce_r2", "libero_panda"))
    with pytest.raises(DataError, match="the embodiment 'libero_panda', which does not walk"):
        NavigationDataset(tmp_path)
    write_walks(tmp_path, [])
    with pytest.raises(DataError, match=r"episodes\.jsonl is missing or empty"):
        prepared(tmp_path)
    write_walks(tmp_path, [asdict(walk("a", 4, 2.0))])
    with pytest.raises(DataError, match=r"statistics\.json is missing; run: vlarig data prepare MIXTURE"):
        len(NavigationDataset(tmp_path))
