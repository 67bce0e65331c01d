"""``vlarig data record``: a dataset that holds what was seen, felt and done, whatever workers and kills there were."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from toy.env import ToyEnv
from toy.policies import stages_of
from toy.suite import TOY_SUITE

from vlarig.envs.api import Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.runtimes.runtime import Runtime
from vlarig.harness.cli import main
from vlarig.results.ledger import Ledger
from vlarig.training.data import lerobot_writer
from vlarig.training.data.captions import CaptionDataset
from vlarig.training.data.lerobot import open_lerobot
from vlarig.training.data.recorder import Recorder, RecordingPlan

FINDER = ("--policy", "toy.policies:Finder")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset, by its path."""
    files = [file for name in ("meta", "data", "videos") for file in (folder / name).rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def rows(folder: Path) -> list[dict[str, Any]]:
    """What is known of each episode."""
    return pq.read_table(folder / "meta" / "vlarig_episodes.parquet").to_pylist()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs a recording leaves a copy for those that follow."""
    return tmp_path_factory.mktemp("recorded") / "demos"


@pytest.fixture
def demos(toy_home: Path, cli_here: Any, recorded: Path) -> Path:
    if not recorded.exists():
        done = cli_here("data", "record", "toy", *FINDER, "--episodes", 4, "--to", "demos", "--workers", 1, "--num-envs", 3)
        assert done.returncode == 0, done.stderr
        assert "dataset: demos, 8 episodes" in done.stdout
        shutil.copytree("demos", recorded)
    return shutil.copytree(recorded, Path("demos"), dirs_exist_ok=True)


def test_a_suite_without_images_is_recorded_too(toy_home: Path, cli_here: Any) -> None:
    done = cli_here("data", "record", "seen", *FINDER, "--episodes", "2", "--to", "demos", "--workers", "1")
    assert done.returncode == 0, done.stderr
    sample = open_lerobot(Path("demos"), horizon=8)[0]
    assert sample.observation["images"] == {}
    assert sample.observation["state"].shape == (5,)


def test_a_recording_holds_what_was_seen_felt_and_done(demos: Path) -> None:
    dataset = open_lerobot(demos, horizon=8)
    with Ledger.open_read_only(demos / "run") as ledger:
        records = {record.key: record for record in ledger.records(with_actions=True)}
    kept = rows(demos)
    assert [row["key"].split("/")[2:5] for row in kept] == [
        [task, "training", str(number)] for task in ("reach_red", "reach_blue") for number in range(4)
    ]
    index = 0
    for row in kept:
        record = records[row["key"]]
        task, number = row["key"].split("/")[2], int(row["key"].split("/")[4])
        episode = TOY_SUITE.training_episode(TOY_SUITE.task(task), number, TOY_SUITE.protocols[0])
        assert (row["seed"], row["success"], row["state_digest"]) == (episode.seed, True, record.state_digest)
        env = ToyEnv()
        snapshot = env.open(episode, Needs())
        for action in record.actions:
            sample = dataset[index]
            np.testing.assert_array_equal(sample.actions[0], action)
            np.testing.assert_array_equal(sample.observation["state"], snapshot.state)
            assert sample.observation["instruction"] == snapshot.instruction
            for view, image in snapshot.frames.views.items():
                error = np.abs(sample.observation["images"][view].astype(int) - image)
                assert error.mean() < 4  # what H.264 with halved colours does to the toy's hard edges
            snapshot = env.step_chunk(action[None]).snapshot
            index += 1
        assert len(sample.actions) == 1
    assert index == len(dataset)


def test_recorded_episodes_replay_to_their_digests(demos: Path, cli_here: Any) -> None:
    done = cli_here("runs", "replay", demos / "run", "--all", "--no-video")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal ") == 8


@pytest.mark.slow
def test_episodes_that_fail_are_left_out_unless_wanted(toy_home: Path, cli_here: Any) -> None:
    words = (
        "data",
        "record",
        "toy",
        *FINDER,
        "--policy-options",
        "lost=2",
        "--episodes",
        "4",
        "--workers",
        "1",
        "--tasks",
        "reach_red",
    )
    assert cli_here(*words, "--to", "good").returncode == 0
    assert [int(row["key"].split("/")[4]) for row in rows(Path("good"))] == [1, 3]
    assert cli_here(*words, "--to", "all", "--keep-failures").returncode == 0
    assert [row["success"] for row in rows(Path("all"))] == [False, True, False, True]
    refused = cli_here(*words, "--to", "good", "--keep-failures")
    assert refused.returncode == 2
    assert "was begun with keep_failures=False" in refused.stderr


def test_the_stages_of_a_policy_segment_its_episodes(demos: Path) -> None:
    data = pq.read_table(demos / "data/chunk-000/file-000.parquet").to_pydict()
    subtasks = pq.read_table(demos / "meta/subtasks.parquet").to_pydict()["__index_level_0__"]
    for row in rows(demos):
        segments = [(each["begin"], each["end"], each["subtask"]) for each in row["subtasks"]]
        assert segments[0][0] == 0 and segments[-1][1] == row["steps"]
        assert [begin for begin, _, _ in segments[1:]] == [end for _, end, _ in segments[:-1]]
        actions = [each for each, of in zip(data["action"], data["episode_index"], strict=True) if of == row["episode_index"]]
        named = [
            subtasks[each]
            for each, of in zip(data["subtask_index"], data["episode_index"], strict=True)
            if of == row["episode_index"]
        ]
        assert named == list(stages_of(np.array(actions)))
        assert [label for begin, end, label in segments for _ in range(begin, end)] == named


def test_the_suite_puts_episodes_into_words(demos: Path) -> None:
    descriptions = open_lerobot(demos, horizon=8).descriptions
    for row, description in zip(rows(demos), descriptions, strict=True):
        assert description is not None
        runs = [(each["begin"], each["end"], each["subtask"]) for each in row["subtasks"]]
        assert [(each.begin, each.end, each.label) for each in description.segments] == runs
        assert row["caption"] == description.caption
        task, number = row["key"].split("/")[2], int(row["key"].split("/")[4])
        env = ToyEnv()
        truth = env.open(
            TOY_SUITE.training_episode(TOY_SUITE.task(task), number, TOY_SUITE.protocols[0]), Needs(privileged=True)
        )
        goal, position = (truth.privileged[name].round(2).tolist() for name in ("goal", "position"))
        assert description.segments[0].words == f"{runs[0][2].capitalize()} to {goal} from {position}."


def test_a_policy_without_stages_is_recorded_without_words(toy_home: Path, cli_here: Any) -> None:
    words = ("--policy-options", "speaks=False", "--episodes", "1", "--workers", "1", "--tasks", "reach_red", "--to", "silent")
    done = cli_here("data", "record", "toy", *FINDER, *words)
    assert done.returncode == 0, done.stderr
    assert "caption" not in done.stdout + done.stderr
    (row,) = rows(Path("silent"))
    assert (row["caption"], row["segments"], row["subtasks"]) == (None, None, [])
    assert list(open_lerobot("silent", horizon=8).descriptions) == [None]


def test_nothing_is_played_or_written_again(demos: Path, cli_here: Any) -> None:
    before = contents(demos)
    done = cli_here("data", "record", "toy", *FINDER, "--episodes", "4", "--to", "demos", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "nothing was played" in done.stdout
    assert contents(demos) == before


def test_episodes_that_begin_at_once_keep_their_drafts_where_old_ones_are_left(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f".draft-{number}").mkdir()
        (tmp_path / f".draft-{number}" / "ego.mp4").write_bytes(b"left by a death")
    recorder = Recorder(tmp_path, TOY_SUITE)
    enough_to_write = np.zeros((1, 640, 640, 3), np.uint8)
    observation = {"images": {"ego": enough_to_write}, "state": np.zeros(4, np.float32)}
    frames = SimpleNamespace(steps=(1,), states=np.zeros((1, 4)), views={"ego": enough_to_write})

    def first(env: int) -> Any:
        return SimpleNamespace(
            episode=SimpleNamespace(key=f"episode {env}"),
            request=SimpleNamespace(env=env, chunk=0, observation=observation, privileged={}),
            result=SimpleNamespace(steps=[0], over=False, snapshot=SimpleNamespace(step=1, frames=frames)),
            reply=SimpleNamespace(stages=None, labels=None, keypoints=None),
            actions=np.zeros((1, 3), np.float32),
        )

    async def all_at_once() -> None:
        await asyncio.gather(*(recorder.emit(first(env)) for env in range(8)))

    asyncio.run(all_at_once())
    assert {path.name for path in tmp_path.iterdir()} == {f".draft-{env}" for env in range(8)}
    recorder.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_workers_and_kills_change_no_byte(demos: Path, cli: Any) -> None:
    undisturbed = contents(demos)
    for workers, envs in ((2, 2), (4, 8)):
        words = ("--episodes", "4", "--workers", workers, "--num-envs", envs)
        assert cli("data", "record", "toy", *FINDER, *words, "--to", f"demos{workers}").returncode == 0
        assert contents(Path(f"demos{workers}")) == undisturbed
    words = [
        "data",
        "record",
        "toy",
        *FINDER,
        "--policy-options",
        "seconds=0.3",
        "--episodes",
        "4",
        "--to",
        "killed",
        "--workers",
        "2",
    ]
    kills = 0
    while True:
        command = [sys.executable, "-m", "vlarig.harness", *words, "--num-envs", "2"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        before = _staged(Path("killed"))
        while process.poll() is None and kills < 3 and _staged(Path("killed")) < before + 2:
            time.sleep(0.01)
        if process.poll() is None and kills < 3:
            process.kill()
            kills += 1
            assert not (Path("killed") / "meta").exists()
        output, _ = process.communicate(timeout=100)
        if process.returncode == 0:
            break
        assert process.returncode == -9, output
    assert kills == 3
    others = {"meta/vlarig.json"}  # which has the policy's options
    killed = contents(Path("killed"))
    assert {name: killed[name] for name in killed if name not in others} == {
        name: undisturbed[name] for name in undisturbed if name not in others
    }
    assert not (Path("killed") / "staging").exists()


def _staged(folder: Path) -> int:
    return len([path for path in folder.glob("staging/*") if not path.name.startswith(".")])


def test_a_death_while_episodes_are_joined_leaves_no_half_dataset(
    toy_home: Path, cli_here: Any, demos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = contents(demos)
    words = ("data", "record", "toy", *FINDER, "--episodes", "4", "--to", "again", "--workers", "1")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lerobot_writer, "join_films", die)
        assert main([str(word) for word in words]) == 130
    assert not (Path("again") / "meta").exists()
    assert cli_here(*words).returncode == 0
    assert contents(Path("again")) == undisturbed


@pytest.mark.slow
def test_a_crash_of_the_simulator_loses_no_step(toy_home: Path, cli_here: Any, tmp_path: Path) -> None:
    words = (
        "data",
        "record",
        "faulty",
        *FINDER,
        "--episodes",
        "2",
        "--tasks",
        "reach_red",
        "--workers",
        "1",
        "--num-envs",
        "1",
    )
    assert cli_here(*words, "--to", "calm").returncode == 0
    (tmp_path / "counts").mkdir()
    fault = {"VLARIG_TEST_FAULT": "crash:reach_red/1:1", "VLARIG_TEST_COUNTS": str(tmp_path / "counts")}
    done = cli_here(*words, "--to", "crashed", **fault)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "counts").iterdir())
    assert contents(Path("crashed")) == contents(Path("calm"))


def test_a_folder_with_other_things_is_refused(toy_home: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    with pytest.raises(VlarigError, match=r"mine holds something else \(notes.txt\); give a new or an empty folder"):
        RecordingPlan(Path("mine"), "toy", keep_failures=False).begin()


def test_a_number_of_episodes_is_needed(toy_home: Path, cli_here: Any) -> None:
    done = cli_here("data", "record", "toy", *FINDER, "--to", "demos")
    assert done.returncode == 2
    assert "how many episodes to play is not given" in done.stderr


def test_where_none_succeeds_the_sentence_says_so(toy_home: Path, cli_here: Any) -> None:
    words = ("--policy-options", "lost=1", "--episodes", "1", "--workers", "1", "--to", "none")
    done = cli_here("data", "record", "toy", *FINDER, *words)
    assert done.returncode == 2
    assert "there is no episode to write into none: none succeeded; --keep-failures keeps the others too" in done.stderr


@pytest.mark.slow
def test_the_embedded_suite_is_recorded(tabletop: Runtime, cli: Any, tmp_path: Path) -> None:
    words = ("--policy", "expert", "--episodes", "1", "--tasks", "push_to", "stack", "--workers", "1")
    done = cli("data", "record", "tabletop", *words, "--to", tmp_path / "demos")
    assert done.returncode == 0, done.stderr
    dataset = open_lerobot(tmp_path / "demos", horizon=16)
    assert dataset.embodiments[0].name == "tabletop_panda"
    sample = dataset[0]
    assert sample.observation["images"]["ego"].shape == (1, 128, 128, 3)
    assert sample.actions.shape == (16, 7)
    assert set(dataset.tasks) == {row["instruction"] for row in rows(tmp_path / "demos")}
    stack, push = (description for description in dataset.descriptions if description is not None)
    assert push.caption.startswith("Step 1: Push the ")
    assert [each.dimensions["action primitive"] for each in stack.segments] == ["pick up", "place"]
    assert stack.segments[-1].end == len(dataset.episodes[0])
    questions = CaptionDataset(tmp_path / "demos", frames=2)
    assert [questions[index].name.rpartition("captions/")[2] for index in range(len(questions))] == [
        "0/steps", "0/segment/1", "0/segment/2", "0/next/1", "1/steps", "1/segment/1"
    ]  # fmt: skip
    replayed = cli("runs", "replay", tmp_path / "demos" / "run", "--all", "--no-video")
    assert replayed.returncode == 0
    assert replayed.stdout.count("equal ") == 2


@pytest.mark.slow
def test_a_disturbed_expert_is_recorded_as_it_means_to_act(tabletop: Runtime, cli_here: Any, tmp_path: Path) -> None:
    words = ("--policy", "expert", "--episodes", "1", "--tasks", "pick_into", "--workers", "1")
    for name, options in (("plain", ()), ("pushed", ("--policy-options", "disturbance=1"))):
        done = cli_here("data", "record", "tabletop", *words, *options, "--to", tmp_path / name)
        assert done.returncode == 0, done.stderr
    plain, pushed = (open_lerobot(tmp_path / name, horizon=1) for name in ("plain", "pushed"))
    with Ledger.open_read_only(tmp_path / "pushed" / "run") as ledger:
        (record,) = ledger.records(with_actions=True)
    meant = np.concatenate([pushed[index].actions for index in range(len(pushed))])
    away = np.abs(record.actions - meant)
    assert (away[:, :3].max(axis=1) > 0.3).mean() > 0.05  # bursts
    assert (away[:, :6].max(axis=1) > 0).all()  # and a little of it all the time
    assert set(away[:, 6]) <= {0.0, 2.0}  # the gripper does the opposite, or what it is meant to
    np.testing.assert_array_equal(meant[0], plain[0].actions[0])  # what it does where nothing has pushed it yet
    replayed = cli_here("runs", "replay", tmp_path / "pushed" / "run", "--all", "--no-video")
    assert replayed.returncode == 0


def test_a_disturbance_is_no_negative_number(cli_here: Any, tmp_path: Path) -> None:
    words = ("--policy", "expert", "--policy-options", "disturbance=-1", "--episodes", "1")
    done = cli_here("data", "record", "tabletop", *words, "--to", tmp_path / "demos")
    assert done.returncode != 0
    assert "disturbance=-1.0 of expert is not possible; give 0 or more" in done.stderr
