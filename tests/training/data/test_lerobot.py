"""LeRobotDatasets are read to the frame, in any order and process, and what is wrong with one is said in a sentence."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_data import ROBOT, described, make_v21, record_dataset
from lerobot_images import LENGTHS, TASKS, frame_image, numbers, shown

from vlarig.envs.embodiments import Channel
from vlarig.envs.errors import VlarigError
from vlarig.policies.qwen_vla.normalization import statistics_of
from vlarig.training.data import lerobot_robot
from vlarig.training.data.errors import DataError
from vlarig.training.data.lerobot import LeRobotDataset, open_lerobot
from vlarig.training.samples import ActionSample

CAMERAS = {"observation.images.front": "ego", "observation.images.hand": "cam_left_wrist"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    return record_dataset(folder / "demos", folder / "staging")


@pytest.fixture
def copy(recorded: Path, tmp_path: Path) -> Path:
    """The dataset, to be damaged."""
    return Path(shutil.copytree(recorded, tmp_path / "demos"))


@pytest.mark.parametrize("of", [0, 1], ids=["state", "action"])
def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: int) -> None:
    def broken(episode: int) -> tuple[np.ndarray, np.ndarray]:
        found = numbers(episode)
        found[of][3, 1] = np.inf
        return found

    monkeypatch.setattr("lerobot_data.numbers", broken)
    with pytest.raises(VlarigError, match="holds a state or an action that is not finite"):
        record_dataset(tmp_path / "demos", tmp_path / "staging")
    assert not (tmp_path / "demos" / "meta").exists()


@pytest.fixture
def v21(tmp_path: Path) -> Path:
    return make_v21(tmp_path / "old")


def open_v21(folder: Path, **options: Any) -> LeRobotDataset:
    return open_lerobot(folder, **({"horizon": 8, "embodiment": ROBOT, "cameras": CAMERAS} | options))


def check_samples(dataset: LeRobotDataset, horizon: int, error: float) -> None:
    """Every sample is the frame that it says it is, read in an order of its own."""
    begins = np.concatenate([[0], np.cumsum(LENGTHS)])
    assert len(dataset) == begins[-1]
    for index in np.random.default_rng(0).permutation(len(dataset)):
        sample = dataset[int(index)]
        episode = int(np.searchsorted(begins, index, side="right")) - 1
        frame = int(index - begins[episode])
        states, actions = numbers(episode)
        assert sample.name == f"{dataset.name}/{episode}/{frame}"
        assert sample.horizon == horizon
        assert sample.observation["instruction"] == TASKS[episode]
        np.testing.assert_array_equal(sample.actions, actions[frame : frame + horizon])
        np.testing.assert_array_equal(sample.observation["state"], states[frame])
        for view, tag in enumerate(ROBOT.cameras):
            image = sample.observation["images"][tag]
            assert image.shape == (1, 48, 64, 3)
            assert shown(image[0]) == (episode, frame, view)
            assert np.abs(image[0].astype(int) - frame_image(episode, frame, view)).mean() <= error


def same(one: ActionSample, other: ActionSample) -> bool:
    images = one.observation["images"]
    return one.name == other.name and all((other.observation["images"][view] == images[view]).all() for view in images)


def test_what_we_write_we_read(recorded: Path) -> None:
    dataset = open_lerobot(recorded, horizon=8)
    check_samples(dataset, horizon=8, error=1.5)
    assert dataset.embodiments == (ROBOT,)
    assert dataset.hours == pytest.approx(sum(LENGTHS) / 10 / 3600)
    assert {task: len(indices) for task, indices in dataset.tasks.items()} == {"lift the cup": 19, "wipe the table": 30}
    assert dataset[int(dataset.tasks["wipe the table"][0])].observation["instruction"] == "wipe the table"
    actions = statistics_of([numbers(episode)[1] for episode in range(3)], "test")
    assert dataset.statistics["test_arm"].actions == actions
    assert dataset.statistics["test_arm"].state == statistics_of([numbers(episode)[0] for episode in range(3)], "test")


def test_large_recordings_are_of_several_files(tmp_path: Path) -> None:
    folder = record_dataset(tmp_path / "demos", tmp_path / "staging", data_mb=0.001, video_mb=0.005)
    assert len(list(folder.glob("data/*/*.parquet"))) == 3
    assert len(list(folder.glob("videos/observation.images.ego/*/*.mp4"))) > 1
    check_samples(open_lerobot(folder, horizon=5), horizon=5, error=1.5)


def test_v21_with_films_is_read(v21: Path) -> None:
    check_samples(open_v21(v21), horizon=8, error=1.5)


def test_v21_with_images_is_read_exactly(tmp_path: Path) -> None:
    check_samples(open_v21(make_v21(tmp_path / "old", films=False)), horizon=8, error=0)


def test_a_sample_is_the_same_however_it_is_reached(v21: Path) -> None:
    forward = open_v21(v21)
    samples = [forward[index] for index in range(len(forward))]
    backward = open_v21(v21)
    assert all(same(samples[index], backward[index]) for index in reversed(range(len(samples))))
    assert all(same(samples[index], forward[index]) for index in (20, 20, 21, 40, 19, 0))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_it_is_read_in_other_processes(recorded: Path, start: str) -> None:
    dataset = open_lerobot(recorded, horizon=8)
    here = [dataset[index] for index in range(len(dataset))]  # so that films are open while processes begin
    with multiprocessing.get_context(start).Pool(2) as pool:
        there = pool.map(dataset.__getitem__, range(len(dataset)), chunksize=5)
    assert all(same(one, other) for one, other in zip(here, there, strict=True))


def test_subtasks_and_captions_are_kept(tmp_path: Path) -> None:
    folder = record_dataset(tmp_path / "demos", tmp_path / "staging", labels=True)
    rows = pq.read_table(folder / "meta" / "vlarig_episodes.parquet").to_pylist()
    assert rows[2]["subtasks"] == [
        {"subtask": "reach", "begin": 0, "end": 5},
        {"subtask": "grasp", "begin": 5, "end": 7},
    ]
    assert (
        rows[2]["caption"]
        == "Step 1: Reach the red cube from the left of the blue bowl. Step 2: Grasp the red cube at its near side."
    )
    assert list(open_lerobot(folder, horizon=8).descriptions) == [described(length) for length in LENGTHS]
    table = pq.read_table(folder / "data" / "chunk-000" / "file-000.parquet").to_pydict()
    assert table["subtask_index"][:6] == [0, 0, 0, 0, 0, 1]
    check_samples(open_lerobot(folder, horizon=8), horizon=8, error=1.5)


def test_a_segment_is_a_trajectory_with_its_own_instruction(tmp_path: Path) -> None:
    folder = record_dataset(tmp_path / "demos", tmp_path / "staging", labels=True)
    dataset = open_lerobot(folder, horizon=8, segmented=True)
    seen = [dataset[index] for index in range(LENGTHS[0])]
    assert [each.observation["instruction"] for each in seen] == ["reach the red cube"] * 5 + ["grasp the red cube"] * 7
    assert [len(each.actions) for each in seen] == [5, 4, 3, 2, 1, 7, 6, 5, 4, 3, 2, 1]
    assert all(each.horizon == 8 for each in seen)
    whole = open_lerobot(folder, horizon=8)
    assert all(np.array_equal(each.actions, whole[index].actions[: len(each.actions)]) for index, each in enumerate(seen))
    assert {task: len(indices) for task, indices in dataset.tasks.items()} == {
        "reach the red cube": 5 * len(LENGTHS),
        "grasp the red cube": sum(LENGTHS) - 5 * len(LENGTHS),
    }
    assert [dataset[index].observation["instruction"] for index in dataset.tasks["grasp the red cube"][:3]] == [
        "grasp the red cube"
    ] * 3
    silent = record_dataset(tmp_path / "silent", tmp_path / "silent_staging")
    with pytest.raises(DataError, match="silent has no segments of episode 0 and 2 more; record a suite that has a describer"):
        open_lerobot(silent, horizon=8, segmented=True)


def test_every_third_frame_begins_a_sample_with_all_its_actions(v21: Path) -> None:
    whole, some = open_v21(v21), open_v21(v21, every=3)
    assert len(some) == sum(-(-len(samples) // 3) for samples in whole.episodes)
    assert some.hours == whole.hours
    assert some.statistics == whole.statistics
    for all_frames, every_third in zip(whole.episodes, some.episodes, strict=True):
        for frame, index in zip(all_frames[::3], every_third, strict=True):
            assert some[index].name == whole[frame].name
            np.testing.assert_array_equal(some[index].actions, whole[frame].actions)
            np.testing.assert_array_equal(some[index].observation["state"], whole[frame].observation["state"])
    assert {task: [some[index].name for index in indices] for task, indices in some.tasks.items()} == {
        task: [name for samples in whole.episodes for name in [whole[frame].name for frame in samples[::3] if frame in indices]]
        for task, indices in whole.tasks.items()
    }


def test_few_samples_begin_where_an_episode_rests_and_chunks_go_on_to_its_end(v21: Path) -> None:
    file = v21 / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(file)
    actions = table["action"].to_pylist()
    resting = len(actions) - 7
    actions[resting:] = [actions[-1]] * 7
    pq.write_table(
        table.set_column(
            table.schema.get_field_index("action"), "action", [pa.array(actions, table.schema.field("action").type)]
        ),
        file,
    )
    whole, some = open_v21(v21), open_v21(v21, rest=3)
    kept = [list(whole.episodes[0]), list(whole.episodes[1])[: resting + 3], list(whole.episodes[2])]
    assert [[some[index].name for index in episode] for episode in some.episodes] == [
        [whole[index].name for index in episode] for episode in kept
    ]
    assert len(some[some.episodes[1][-1]].actions) == 5
    assert some.statistics == whole.statistics
    assert sum(map(len, some.tasks.values())) == len(some)
    assert len(open_v21(v21, rest=3, every=2).episodes[1]) == -(-(resting + 3) // 2)


def test_quantiles_are_fitted_once(v21: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_v21(v21).statistics["test_arm"]
    assert first.actions == statistics_of([numbers(episode)[1] for episode in range(3)], "old")
    monkeypatch.setattr(lerobot_robot, "fit_statistics", pytest.fail)
    assert open_v21(v21).statistics["test_arm"] == first


def test_quantiles_may_be_kept_elsewhere(v21: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "kept" / "old.json"
    fitted = open_v21(v21, statistics_file=elsewhere).statistics["test_arm"]
    assert not (v21 / "meta" / "vlarig_statistics.json").exists()
    assert json.loads(elsewhere.read_text())["statistics"]["test_arm"]["actions"]["q01"] == list(fitted.actions.q01)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"quantiles cannot be kept in \S+ \(.*\); give statistics_file=FILE elsewhere"):
        open_v21(v21, statistics_file=tmp_path / "file" / "old.json")


def test_channels_may_be_chosen_by_the_datasets_names(v21: Path) -> None:
    robot = replace(ROBOT, channels=tuple(Channel(name, "m", "delta", "base", -1.0, 1.0) for name in ("close", "forward")))
    dataset = open_v21(v21, embodiment=robot, action_names=("grip", "x"))
    np.testing.assert_array_equal(dataset[0].actions, numbers(0)[1][:8][:, [2, 0]])
    assert dataset.statistics["test_arm"].actions == statistics_of([numbers(at)[1][:, [2, 0]] for at in range(3)], "old")


SWAPPED = replace(ROBOT, channels=(ROBOT.channels[1], ROBOT.channels[0], ROBOT.channels[2]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"embodiment": None}, r"old does not say which robot it is of; give embodiment=NAME"),
        ({"embodiment": "test_harm"}, r"test_harm"),
        (
            {"cameras": None},
            r"which of its images \(observation.images.front, .*\) is which view \(ego, cam_left_wrist\); give cameras=",
        ),
        ({"cameras": {"observation.images.top": "ego"}}, r"has no image 'observation.images.top'; it has observation"),
        ({"cameras": {"observation.images.front": "top"}}, r"test_arm has no view 'top' for observation.images.front"),
        ({"cameras": dict.fromkeys(CAMERAS, "ego")}, r"name each view once"),
        (
            {"embodiment": SWAPPED},
            r"action x, y, grip, and those of test_arm are y, x, grip; give action_names=\(the dataset's",
        ),
        (
            {"embodiment": replace(ROBOT, channels=ROBOT.channels[:2])},
            r"action has 3 numbers \(x, y, grip\), and test_arm has 2",
        ),
        (
            {"embodiment": replace(ROBOT, state_layout=("px", "py", "pz"))},
            r"info.json says that observation.state has 2 numbers \(px, py\), and test_arm has 3 \(px, py, pz\)",
        ),
        ({"embodiment": replace(ROBOT, control_frequency=20.0)}, r"10 frames a second, and test_arm acts 20 times a second"),
        ({"action_names": ("x", "y", "z")}, r"action has no 'z'"),
        ({"horizon": 0}, r"the horizon of old is 0"),
        ({"every": 0}, r"the stride 'every' of old is 0"),
        ({"rest": 0}, r"the number 'rest' of old is 0, expected 1 or more"),
    ],
)
def test_what_does_not_fit_is_refused(v21: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as refused:
        open_v21(v21, **options)
    assert "\n" not in str(refused.value)


def change_info(folder: Path, **changes: Any) -> None:
    file = folder / "meta" / "info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def cut_film(folder: Path) -> None:
    film = folder / "videos" / "observation.images.ego" / "chunk-000" / "file-000.mp4"
    film.write_bytes(film.read_bytes()[:-2000])


def change_data(folder: Path, change: Callable[[dict[str, list[Any]]], object]) -> None:
    file = folder / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(file)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), file)


def shorten_state(columns: dict[str, list[Any]]) -> None:
    columns["observation.state"][45] = columns["observation.state"][45][:1]


def slow_down(columns: dict[str, list[Any]]) -> None:
    columns["timestamp"] = [2 * second for second in columns["timestamp"]]


def drop_row(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        del values[20]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            cut_film,
            r"the film \S+/observation.images.ego/chunk-000/file-000.mp4 cannot be read at 4.400 s, which demos/2/2 needs",
        ),
        (lambda folder: shutil.rmtree(folder / "videos"), r"there is no film \S+file-000.mp4, which demos/2/2 needs"),
        (
            lambda folder: (folder / "data/chunk-000/file-000.parquet").unlink(),
            r"there is no \S+data/chunk-000/file-000.parquet, which episode 2 needs",
        ),
        (
            lambda folder: (folder / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1"),
            r"file-000.parquet, episode 2, cannot be read",
        ),
        (
            lambda folder: change_data(folder, slow_down),
            r"file-000.parquet, episode 2, frame 1, is at 0.2000 s; at info.json's 10 frames a second it would be at 0.1000 s",
        ),
        (
            lambda folder: change_data(folder, shorten_state),
            r"file-000.parquet, episode 2, frame 3: observation.state has 1 numbers, and info.json says 2",
        ),
        (lambda folder: change_data(folder, lambda columns: columns.pop("action")), r"episode 2, has no column 'action'"),
    ],
)
def test_damage_is_named_with_its_file_and_sample(copy: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(copy)
    dataset = open_lerobot(copy, horizon=8)
    with pytest.raises(DataError, match=words) as refused:
        dataset[LENGTHS[0] + LENGTHS[1] + 2]
    assert "\n" not in str(refused.value)


def test_a_frame_that_is_missing_is_named(copy: Path) -> None:
    change_data(copy, drop_row)
    with pytest.raises(
        DataError, match=r"episode 1, has 29 frames; meta/ says 30: download it again, or leave the episode out"
    ):
        open_lerobot(copy, horizon=8)[20]


def test_the_other_episodes_of_a_damaged_dataset_are_read(v21: Path) -> None:
    film = v21 / "videos/chunk-000/observation.images.front/episode_000001.mp4"
    film.write_bytes(film.read_bytes()[:1000])
    dataset = open_v21(v21)
    for index in (*range(12), *range(42, 49)):
        assert dataset[index].name == f"old/{0 if index < 12 else 2}/{index if index < 12 else index - 42}"
    with pytest.raises(DataError, match=r"episode_000001.mp4 cannot be read at 0.000 s, which old/1/0 needs"):
        dataset[12]


def test_a_film_that_ends_too_early_is_named(v21: Path) -> None:
    films = v21 / "videos" / "chunk-000" / "observation.images.front"
    shutil.copy(films / "episode_000000.mp4", films / "episode_000001.mp4")
    dataset = open_v21(v21)
    assert dataset[12 + 11].name == "old/1/11"
    with pytest.raises(
        DataError, match=r"episode_000001.mp4 cannot be read at 1.200 s, which old/1/12 needs \(it ends before\)"
    ):
        dataset[12 + 12]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codebase_version": "v4.0"}, r"info.json is of version 'v4.0'; v2.1 and v3.0 are read"),
        ({"data_path": "../../{chunk_index}"}, r"outside of the dataset"),
        ({"data_path": "{nothing}"}, r"names files as '\{nothing\}', which cannot be filled in"),
        ({"features": 3}, r"are not as v3.0 has them"),
    ],
)
def test_bad_meta_is_named(copy: Path, changes: dict[str, Any], words: str) -> None:
    change_info(copy, **changes)
    with pytest.raises(DataError, match=words):
        open_lerobot(copy, horizon=8)[0]


def test_keypoints_of_another_form_are_refused_and_another_column_of_that_name_is_not_ours(copy: Path) -> None:
    features = json.loads((copy / "meta" / "info.json").read_text())["features"]
    for names in (["nose", "left_eye"], None):
        change_info(copy, features=features | {"keypoints": {"dtype": "float32", "shape": [2], "names": names}})
        assert open_lerobot(copy, horizon=8)[0].keypoints is None
    earlier = ["object_x", "object_y", "object_z", "turn_cos", "turn_sin"]
    change_info(copy, features=features | {"keypoints": {"dtype": "float32", "shape": [5], "names": earlier}})
    with pytest.raises(DataError, match=r"demos has keypoints of 5 numbers a step, as another .* expected 14: record it again"):
        open_lerobot(copy, horizon=8)


def test_a_folder_without_a_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no \S+info.json; name the folder of a LeRobotDataset"):
        open_lerobot(tmp_path, horizon=8)
