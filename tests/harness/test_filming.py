"""Films of a run: all that were requested, also after faults, and none that shows something else."""

from __future__ import annotations

import io
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from comparing import results
from rich.console import Console
from toy.policies import ImageReader

from vlarig.envs.errors import VlarigError
from vlarig.harness import evaluate, replay
from vlarig.harness.film import FilmWriter, read_film
from vlarig.harness.replay import film_path, film_run

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

KEY = "toy/standard@1/reach_red/base/0/0"
FAULTY_KEY = "faulty/standard@1/reach_red/base/1/0"


def films(run: Path) -> set[str]:
    """Names of the films; each has its poster beside it, and nothing else is there."""
    found = {path.name for path in (run / "videos").iterdir()}
    posters = {name for name in found if name.endswith(".jpg")}
    assert {name.replace(".mp4", ".jpg") for name in found - posters} <= posters
    return found - posters


def names(run: Path, *keys: str) -> set[str]:
    return {film_path(run, key).name for key in keys or results(run)}


def quiet() -> Console:
    return Console(quiet=True)


@pytest.mark.slow
def test_a_film_has_a_frame_for_the_initial_state_and_for_every_step(toy_home: Path) -> None:
    run = evaluate("toy", ImageReader(), episodes=2, run=Path("run"), video="all").run
    assert films(run) == names(run)
    for key, result in results(run).items():
        with av.open(str(film_path(run, key))) as container:
            stream = container.streams.video[0]
            assert sum(1 for _ in container.decode(stream)) == result["steps"] + 1
            assert stream.average_rate == 10  # toy_point's control frequency
            outcome = "success" if result["success"] else "failure"
            assert container.metadata["title"] == f"{outcome}: move the point to the {key.split('/')[2][6:]} goal"


@pytest.mark.slow
def test_an_episode_that_does_not_replay_gets_no_film_and_stops_no_other(toy_home: Path, cli) -> None:
    run = evaluate("toy", "toy.policies:ImageReader", episodes=2, run=Path("run")).run
    with sqlite3.connect(run / "ledger.sqlite") as connection:
        connection.execute("UPDATE episodes SET state_digest = ? WHERE key = ?", ("0" * 64, KEY))
    connection.close()
    for command in (
        ["sweep", "toy", "--policy", "toy.policies:ImageReader", "--episodes", "2", "--video", "all", "--run", "run"],
        ["runs", "replay", "run", "--all"],
    ):
        done = cli(*command)
        assert done.returncode == 1, done.stderr
        assert "1 episode got no film" in done.stdout
        assert f"differs {KEY}: state_digest" in done.stdout
        assert "'vlarig envs check' finds out" in done.stdout
        assert films(run) == names(run) - names(run, KEY)
    assert evaluate("toy", "toy.policies:ImageReader", episodes=2, run=run, video="all").unfilmed[0].record.key == KEY


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "times"), [("crash", 2), ("hang", 1), ("raise", 1)])
def test_a_simulator_that_fails_while_it_is_filmed_is_replaced(
    toy_home: Path, monkeypatch: pytest.MonkeyPatch, kind: str, times: int
) -> None:
    run = faulty_run(toy_home, monkeypatch, "none:none/0:0")
    assert film_run(run, "all", quiet(), workers=1) == []
    undisturbed = read_film(film_path(run, FAULTY_KEY), 5)[1]
    film_path(run, FAULTY_KEY).unlink()
    monkeypatch.setenv("VLARIG_TEST_FAULT", f"{kind}:reach_red/1:{times}")
    assert film_run(run, "all", quiet(), workers=1) == []
    assert len(list((toy_home / "counts").iterdir())) == times
    assert films(run) == names(run)
    np.testing.assert_array_equal(read_film(film_path(run, FAULTY_KEY), 5)[1], undisturbed)


@pytest.mark.slow
def test_an_episode_whose_simulator_fails_again_and_again_gets_no_film_and_stops_no_other(
    toy_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = faulty_run(toy_home, monkeypatch, "crash:reach_red/1:3")
    (failed,) = film_run(run, "all", quiet(), workers=2)
    assert str(failed).startswith(f"failed  {FAULTY_KEY}: failed 3 times; the last time: ")
    assert films(run) == names(run) - names(run, FAULTY_KEY)
    assert film_run(run, "all", quiet()) == []  # it has no more faults in store
    assert films(run) == names(run)


def faulty_run(home: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> Path:
    """A run without faults, before which lie some."""
    (home / "counts").mkdir(exist_ok=True)
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(home / "counts"))
    monkeypatch.setenv("VLARIG_TEST_FAULT", "none:none/0:0")
    run = evaluate("faulty", ImageReader(), episodes=2, run=Path("run")).run
    monkeypatch.setenv("VLARIG_TEST_FAULT", fault)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_filming_leaves_whole_films_and_goes_on(toy_home: Path, cli, interrupt: signal.Signals) -> None:
    run = evaluate("toy", ImageReader(), episodes=6, run=Path("run")).run
    words = [sys.executable, "-m", "vlarig.harness", "runs", "replay", "run", "--all", "--workers", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list((run / "videos").glob("[!.]*.mp4"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(interrupt)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + interrupt
    assert "films are kept in run/videos, and the same command resumes there" in error
    assert len(error.splitlines()) == 1
    kept = {name: (run / "videos" / name).stat().st_mtime_ns for name in films(run)}
    assert kept.keys() < names(run)
    done = cli("runs", "replay", "run", "--all")
    assert done.returncode == 0, done.stderr
    assert f"filming {12 - len(kept)} episodes by simulating them again; {len(kept)} are filmed already" in done.stdout
    assert films(run) == names(run)
    assert {name: (run / "videos" / name).stat().st_mtime_ns for name in kept} == kept


@pytest.mark.slow
def test_the_sheet_has_a_row_for_every_task_also_after_interruptions(toy_home: Path) -> None:
    """The first call films one task alone; the sheet of the second shows both."""
    run = evaluate("toy", ImageReader(), episodes=1, tasks=("reach_red",), run=Path("red"), video="all").run
    one = Image.open(run / "frames.png").size
    run = evaluate("toy", ImageReader(), episodes=1, run=Path("run"), video="all").run
    both = Image.open(run / "frames.png").size
    assert both[0] == one[0]
    assert both[1] == 2 * one[1]
    first, second = (np.asarray(Image.open(path / "frames.png"))[: one[1]] for path in (Path("red"), run))
    np.testing.assert_array_equal(first, second)  # reach_red comes first in the suite, though not in the alphabet
    film_path(run, KEY).unlink()
    assert film_run(run, "all", quiet()) == []
    assert Image.open(run / "frames.png").size == both


def test_a_full_disk_ends_the_filming_at_once(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(FilmWriter):
        def finish(self) -> None:
            raise VlarigError("the film cannot be written: no space left on device")

    run = evaluate("toy", ImageReader(), episodes=4, run=Path("run")).run
    monkeypatch.setattr(replay, "FilmWriter", FullDisk)
    with pytest.raises(VlarigError, match=r"no space left on device \(0 films are kept in /.*/run/videos\)"):
        film_run(run, "all", quiet(), workers=1)
    assert films(run) == set()


@pytest.mark.slow
def test_frames_that_the_encoder_refuses_fail_only_their_own_film(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(FilmWriter):
        def add(self, frames: dict[str, np.ndarray]) -> None:
            if "blue" in self._caption:
                raise ValueError("the encoder does not take blue")
            super().add(frames)

    run = evaluate("toy", ImageReader(), episodes=2, run=Path("run")).run
    monkeypatch.setattr(replay, "FilmWriter", Picky)
    failed = film_run(run, "all", quiet())
    assert [(replay.record.task, replay.fault) for replay in failed] == [("reach_blue", "the encoder does not take blue")] * 2
    assert films(run) == {name for name in names(run) if "red" in name}


@pytest.mark.slow
def test_many_unfilmed_episodes_are_listed_in_short(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = evaluate("toy", ImageReader(), episodes=3, run=Path("run")).run
    with sqlite3.connect(run / "ledger.sqlite") as connection:
        connection.execute("UPDATE episodes SET metrics = '{}'")
    connection.close()
    monkeypatch.setattr(replay, "MOST_LISTED", 4)
    console = Console(file=io.StringIO(), width=200, record=True)
    assert len(film_run(run, "all", console)) == 6
    output = console.export_text()
    assert "6 episodes got no film" in output
    assert output.count(": metrics\n") == 4
    assert "and 2 more" in output


@pytest.mark.slow
def test_episodes_are_replayed_without_films_when_requested(toy_home: Path, cli_here) -> None:
    run = evaluate("toy", ImageReader(), episodes=2, run=Path("run")).run
    failures = [key for key, result in results(run).items() if not result["success"]]
    for option, wanted in (("--failures", failures), ("--all", list(results(run)))):
        done = cli_here("runs", "replay", "run", option, "--no-video")
        assert done.returncode == 0, done.stderr
        assert sorted(line.split()[1].rstrip(":") for line in done.stdout.splitlines()) == sorted(wanted)
    assert not (run / "videos").exists()


@pytest.mark.slow
def test_a_named_episode_is_filmed_again_and_alone(toy_home: Path, cli_here) -> None:
    run = evaluate("toy", ImageReader(), episodes=1, run=Path("run"), video="all").run
    before = {name: (run / "videos" / name).stat().st_mtime_ns for name in films(run)}
    done = cli_here("runs", "replay", "run", KEY)
    assert done.returncode == 0, done.stderr
    assert f"equal   {KEY}: " in done.stdout
    assert str(film_path(Path("run"), KEY)) in done.stdout
    changed = {name for name in films(run) if (run / "videos" / name).stat().st_mtime_ns != before[name]}
    assert changed == names(run, KEY)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no episode was named; give the keys of episodes, or --failures, or --all"),
        ([KEY, "--all"], "got keys and --all; give"),
        (["--failures", "--all"], "got --failures and --all; give"),
        (["--all", "--workers", "0"], "workers is 0; expected 1 or more"),
    ],
)
def test_episodes_are_named_in_one_way(toy_home: Path, cli_here, words: list[str], sentence: str) -> None:
    done = cli_here("runs", "replay", "run", *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
