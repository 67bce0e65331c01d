"""Any recorded episode can be simulated again from its actions: the digests prove it, a film shows it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from comparing import results
from toy.policies import ImageReader

from vlarig.harness import evaluate
from vlarig.harness.replay import Replay, replay_run

KEY = "toy/standard@1/reach_red/base/0/0"


def replayed(run: Path, *keys: str) -> list[Replay]:
    replays: list[Replay] = []
    replay_run(run, keys, replays.append)
    return replays


@pytest.mark.parametrize("policy", [ImageReader(), "random"])
def test_recorded_episodes_come_out_again(toy_home: Path, policy: object) -> None:
    run = evaluate("toy", policy, episodes=2).run
    for replay in replayed(run, *results(run)):
        assert replay.differences == ()
        assert {view: frames.shape for view, frames in replay.frames.items()} == dict.fromkeys(
            ("ego", "cam_left_wrist"), (replay.record.steps + 1, 64, 64, 3)
        )


@pytest.mark.parametrize(
    ("column", "value"), [("state_digest", "0" * 64), ("image_digest", "1" * 64), ("metrics", '{"distance": 0.125}')]
)
def test_a_record_that_is_not_what_happened_is_found_out(toy_home: Path, cli, column: str, value: str) -> None:
    run = evaluate("toy", ImageReader(), episodes=1, run=Path("run")).run
    with sqlite3.connect(run / "ledger.sqlite") as connection:
        connection.execute(f"UPDATE episodes SET {column} = ? WHERE key = ?", (value, KEY))
    connection.close()
    done = cli("replay", "run", KEY, "--no-video")
    assert done.returncode == 1
    assert f"differs {KEY}: {column}" in done.stdout


def test_failures_are_filmed_and_only_these(toy_home: Path, cli) -> None:
    done = cli("sweep", "toy", "--policy", "toy.policies:ImageReader", "--run", "run", "--video", "failures")
    assert done.returncode == 0, done.stderr
    outcomes = {key: result["success"] for key, result in results(Path("run")).items()}
    assert len(set(outcomes.values())) == 2
    films = {path.stem for path in Path("run/videos").glob("*.mp4")}
    assert films == {key.replace("/", "_") for key, success in outcomes.items() if not success}
    assert Path("run/frames.png").exists()


def test_an_unknown_key_offers_the_nearest(toy_home: Path, cli) -> None:
    evaluate("toy", "random", episodes=1, run=Path("run"))
    done = cli("replay", "run", KEY.replace("red", "rad"))
    assert done.returncode == 2
    assert KEY in done.stderr
