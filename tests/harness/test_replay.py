"""Any recorded episode can be simulated again from its actions: the digests prove it, a film shows it."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from comparing import results
from sample_runs import make_record
from toy.learner import Learner
from toy.policies import ImageReader

from vlarig.envs.api import Frames, Needs, Snapshot
from vlarig.harness import evaluate, replay
from vlarig.harness.durable_env import DurableEnv
from vlarig.harness.replay import Replay, replay_run
from vlarig.results.records import EpisodeRecord

KEY = "toy/standard@1/reach_red/base/0/0"


class Watching:
    """Collects a watcher's frames."""

    def __init__(self) -> None:
        self.shots: list[dict[str, np.ndarray]] = []
        self.ended: list[str] = []

    def add(self, frames: dict[str, np.ndarray]) -> None:
        self.shots.append(frames)

    def finish(self) -> None:
        self.ended.append("finish")

    def discard(self) -> None:
        self.ended.append("discard")


@pytest.mark.slow
@pytest.mark.parametrize("policy", [ImageReader(), "random"])
@pytest.mark.parametrize("workers", [1, 3])
def test_recorded_episodes_come_out_again(toy_home: Path, policy: object, workers: int) -> None:
    run = evaluate("toy", policy, episodes=3).run
    replays: list[Replay] = []
    seen: dict[str, Watching] = {}

    def watch(record: EpisodeRecord, instruction: str) -> Watching:
        assert instruction == f"move the point to the {record.task.removeprefix('reach_')} goal"
        return seen.setdefault(record.key, Watching())

    replay_run(run, list(results(run)), replays.append, workers, watch)
    assert [each.verdict for each in replays] == ["equal"] * 6
    assert {each.record.key for each in replays} == seen.keys() == results(run).keys()
    for key, result in results(run).items():
        frames = seen[key]
        assert [len(shot["ego"]) for shot in frames.shots] == [1, *result["chunks"]]
        assert {(view, images.shape[1:]) for shot in frames.shots for view, images in shot.items()} == {
            ("ego", (64, 64, 3)),
            ("cam_left_wrist", (64, 64, 3)),
        }
        assert frames.ended == ["finish", "discard"]


def test_images_that_a_watcher_refuses_fail_only_their_own_episode(toy_home: Path) -> None:
    class Blind(Watching):
        def add(self, frames: dict[str, np.ndarray]) -> None:
            super().add(frames)
            if len(self.shots) > 1:
                raise ValueError("too dark")

    run = evaluate("toy", ImageReader(), episodes=1).run
    replays: list[Replay] = []
    seen: list[Watching] = []

    def watch(record: EpisodeRecord, instruction: str) -> Watching:
        seen.append(Blind() if record.key == KEY else Watching())
        return seen[-1]

    replay_run(run, list(results(run)), replays.append, 1, watch)
    assert {each.record.key: (each.verdict, each.fault) for each in replays} == {
        KEY: ("failed", "too dark"),
        KEY.replace("red", "blue"): ("equal", ""),
    }
    assert sorted(frames.ended for frames in seen) == [["discard"], ["finish", "discard"]]


@pytest.mark.slow
def test_without_a_watcher_only_what_the_policy_saw_is_rendered(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed: list[Needs] = []
    monkeypatch.setattr(
        replay, "DurableEnv", lambda worker, local, needs: needed.append(needs) or DurableEnv(worker, local, needs)
    )
    for policy, images in ((ImageReader(), True), ("random", False)):
        run = evaluate("toy", policy, episodes=1).run
        replays: list[Replay] = []
        replay_run(run, list(results(run)), replays.append)
        assert [each.verdict for each in replays] == ["equal"] * 2
        assert needed[-2:] == [Needs(images=images, every_frame=False)] * 2


@pytest.mark.parametrize(
    ("column", "value"), [("state_digest", "0" * 64), ("image_digest", "1" * 64), ("metrics", '{"distance": 0.125}')]
)
def test_a_false_record_is_detected(toy_home: Path, cli_here, column: str, value: str) -> None:
    run = evaluate("toy", ImageReader(), episodes=1, run=Path("run")).run
    with sqlite3.connect(run / "ledger.sqlite") as connection:
        connection.execute(f"UPDATE episodes SET {column} = ? WHERE key = ?", (value, KEY))
    connection.close()
    done = cli_here("runs", "replay", "run", KEY, "--no-video")
    assert done.returncode == 1
    assert f"differs {KEY}: {column}" in done.stdout


@pytest.mark.slow
def test_failures_are_filmed_and_only_these(toy_home: Path, cli_here) -> None:
    done = cli_here(
        "sweep", "toy", "--policy", "toy.policies:ImageReader", "--episodes", "6", "--run", "run", "--video", "failures"
    )
    assert done.returncode == 0, done.stderr
    outcomes = {key: result["success"] for key, result in results(Path("run")).items()}
    assert len(set(outcomes.values())) == 2
    films = {path.stem for path in Path("run/videos").glob("*.mp4")}
    assert films == {key.replace("/", "_") for key, success in outcomes.items() if not success}
    assert Path("run/frames.png").exists()
    again = cli_here("runs", "replay", "run", "--failures")
    assert f"nothing was filmed: {len(films)} episodes are filmed already\nfilms: run/videos, images" in again.stdout


def test_a_replay_of_nothing_says_so(toy_home: Path, cli_here) -> None:
    reaching = Learner()
    reaching.load_weights(1, {"gain": np.ones(1, np.float32)})
    evaluate("toy", reaching, episodes=1, run=Path("run"))
    assert all(result["success"] for result in results(Path("run")).values())
    assert cli_here("runs", "replay", "run", "--failures").stdout == "nothing was filmed: no finished episode failed\n"
    assert (
        cli_here("runs", "replay", "run", "--failures", "--no-video").stdout
        == "nothing was replayed: no finished episode failed\n"
    )


def test_an_unknown_key_offers_the_nearest(toy_home: Path, cli_here) -> None:
    evaluate("toy", "random", episodes=1, run=Path("run"))
    done = cli_here("runs", "replay", "run", KEY.replace("red", "rad"))
    assert done.returncode == 2
    assert KEY in done.stderr


def test_a_measure_that_is_no_number_both_times_is_no_difference() -> None:
    record = make_record(3, metrics={"angle": math.nan, "height": 1.0})
    shown = {name: getattr(record, name) for name in ("primitives", "outcome", "state_digest", "image_digest")}
    shown["metrics"] = {"angle": float("nan"), "height": 1.0}  # another NaN than the record's, as one from a simulator is
    last = Snapshot("", record.steps, state=np.zeros(1), frames=Frames(), privileged={}, seconds={}, **shown)
    assert replay._differences(record, last) == ()
    other = dataclasses.replace(last, step=last.step + 1, metrics={"angle": math.nan, "height": math.nan})
    assert replay._differences(record, other) == ("metrics", "steps")
