"""Every mistake of a user gets one clear sentence and a non-zero status, and loses no measured episode."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

import pytest
from comparing import results
from conftest import TESTS

from vlarig.envs.runtimes.runtime import add_runtime
from vlarig.harness.cli import main
from vlarig.results.lock import RunLock

SENTENCES = [
    (["sweep", "tabeltop", "--policy", "random"], "unknown suite 'tabeltop'", "did you mean tabletop"),
    (["sweep", "toy", "--policy", "rnadom"], "unknown policy 'rnadom'", "did you mean random"),
    (["sweep", "toy", "--policy", "random", "--tasks", "reach_rd"], "unknown task 'reach_rd'", "did you mean reach_red"),
    (["sweep", "toy", "--policy", "random", "--protocol", "standrad"], "unknown protocol 'standrad' in suite 'toy'", "standard"),
    (["sweep", "toy", "two_ways", "--policy", "random", "--protocol", "quick"], "unknown protocol 'quick' in suite 'toy'", "standard"),
    (["envs", "list", "toyy"], "unknown suite 'toyy'", "did you mean toy"),
    (["sweep", "toy", "--policy", "expert"], "suite 'toy' has no scripted expert", "tabletop"),
    (["sweep", "toy", "--policy", "toy.policies:ImageReadr"], "no policy 'ImageReadr'", "did you mean ImageReader"),
    (["sweep", "toy", "--policy", "toy_policees:ImageReader"], "cannot be imported", "No module named 'toy_policees'"),
    (["sweep", "toy", "--policy", "toy.env:ToyEnv"], "no subclass of vlarig.policies.api.Policy", "add-a-policy.md"),
    (["sweep", "toy", "--policy", "toy.policies:WrongShape"], "actions have shape [10, 6]", "give [H, 3] for toy_point (dx, dy, grip)"),
    (["sweep", "toy", "--policy", "toy.policies:NotANumber"], "the action 'dy' of step 2 is nan", "finished episodes are kept"),
    (["sweep", "toy", "--policy", "toy.policies:Raising"], "raised KeyError", "ego_view"),
    (["sweep", "toy", "--policy", "toy.policies:Silent"], "gave 0 replies to", "requests"),
    (["sweep", "toy", "--policy", "random", "--num-envs", "0"], "num_envs is 0", "expected 1 or more"),
    (["sweep", "toy", "--policy", "random", "--strict", "--batch", "4"], "batch is 4, but strict sends", "one request at a time"),
    (["sweep", "--policy", "random"], "no suite was named", "vlarig sweep tabletop"),
    (["envs", "check", "toy", "--tasks", "reach_rd"], "unknown task 'reach_rd' in toy", "did you mean reach_red"),
    (["envs", "check", "toyy"], "unknown suite 'toyy'", "did you mean toy"),
    (["runs", "replay", "nowhere", "some/key"], "nowhere", "run"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message", "advice"), SENTENCES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_gets_one_sentence(toy_home: Path, cli_here, words: list[str], message: str, advice: str) -> None:
    done = cli_here(*words)
    assert done.returncode == 2
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("vlarig: ")
    assert message in sentence
    assert advice in sentence


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "toy", "--policy", "random", "--vidoe", "all"], "--vidoe"),
        (["sweep", "toy"], "--policy"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_named(toy_home: Path, cli_here, words: list[str], message: str) -> None:
    done = cli_here(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_policy_that_fails_in_the_middle_loses_nothing(toy_home: Path, cli) -> None:
    words = ["sweep", "toy", "--policy", "toy.policies:NotANumber", "--run", "r", "--workers", "1", "--num-envs", "1"]
    first = cli(*words)
    kept = results(Path("r"))
    assert f"{len(kept)} finished episodes are kept in r" in first.stderr
    assert len(kept) >= 3
    cli(*words)
    again = results(Path("r"))
    assert len(again) > len(kept)
    assert {key: again[key] for key in kept} == kept


@pytest.mark.slow
def test_a_policy_that_exits_is_no_success_and_its_line_and_log_are_named(toy_home: Path, cli) -> None:
    words = ["sweep", "toy", "--policy", "toy.policies:Leaving", "--run", "r", "--workers", "1", "--num-envs", "1"]
    acting = cli(*words)
    assert acting.returncode == 2
    assert "the policy 'image-reader' tried to exit while it acted for toy/" in acting.stderr
    assert f"({TESTS / 'toy' / 'policies.py'}:" in acting.stderr
    assert "traceback is in r/logs/driver.log" in acting.stderr
    assert "in _sample\n    sys.exit(0)" in Path("r/logs/driver.log").read_text()
    making = cli(*words, "--policy-options", "soon=yes")
    assert making.returncode == 2
    assert "the policy 'toy.policies:Leaving' tried to exit while it was made: status 0" in making.stderr
    log = toy_home / "logs" / "error.log"
    assert f"traceback is in {log}" in making.stderr
    assert "in __init__\n    sys.exit(0)" in log.read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sweep", "toy", "--policy", "qwen-vla:nowhere"], "no checkpoint 'nowhere'"),
        (["sweep", "toy", "--policy", "qwen-vla", "--policy-options", "tempo=1"], "qwen-vla has no option 'tempo'"),
        (["sweep", "tabletop", "--policy", "qwen-vla"], "vlarig runtime install tabletop"),
        (["sweep", "toy", "--policy", "qwen-vla", "--track", "trackio"], "trackio is not installed"),
        (["train", "sft", "--run", "run", "--track", "trackio", "--override", "data.source=a:b"], "trackio is not installed"),
        (["train", "sft", "--run", "run", "--override", "data.source=a:b", "model.source=nowhere"], "no checkpoint 'nowhere'"),
        (["train", "ppo", "--run", "run", "--override", "rollout.suites=[tabletop]"], "vlarig runtime install tabletop"),
    ],
)
def test_what_is_missing_is_said_before_pytorch_is_imported(toy_home: Path, cli, words: list[str], sentence: str) -> None:
    Path("torch.py").write_text("raise SystemExit('torch is imported')\n")
    done = cli(*words, PYTHONPATH=f"{TESTS}{os.pathsep}{Path.cwd()}")
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


def test_a_missing_runtime_comes_with_its_command(toy_home: Path, cli_here) -> None:
    done = cli_here("sweep", "tabletop", "--policy", "random")
    assert done.returncode == 2
    assert "vlarig runtime install tabletop" in done.stderr
    assert not Path("runs").exists()


def test_a_missing_system_library_comes_with_its_command(
    toy_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_runtime("tabletop", Path(sys.executable))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    assert main(["sweep", "tabletop", "--policy", "random"]) == 2
    error = capsys.readouterr().err
    assert "apt-get install -y libosmesa6" in error
    assert len(error.splitlines()) == 1


def test_films_without_their_extra_are_refused_before_the_sweep(toy_home: Path, cli, tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("raise ModuleNotFoundError('not installed', name='av')")
    done = cli("sweep", "toy", "--policy", "random", "--video", "all", PYTHONPATH=f"{tmp_path}{os.pathsep}{TESTS}")
    assert done.returncode == 2
    assert "pip install 'vlarig[video]'" in done.stderr
    assert not Path("runs").exists()


def test_a_runtime_without_the_simulator_says_so(toy_home: Path, cli_here) -> None:
    add_runtime("tabletop", Path(sys.executable))
    done = cli_here("sweep", "tabletop", "--policy", "random", "--episodes", "1")
    assert done.returncode == 2
    assert "cannot be imported" in done.stderr
    assert "No module named" in done.stderr
    assert "vlarig doctor" in done.stderr


def test_a_ledger_of_a_newer_version_is_left_alone(toy_home: Path, cli_here) -> None:
    words = ["sweep", "toy", "--policy", "random", "--episodes", "1", "--run", "r"]
    assert cli_here(*words).returncode == 0
    with sqlite3.connect("r/ledger.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = Path("r/ledger.sqlite").read_bytes()
    for command in (words, ["table", "r"], ["runs", "replay", "r", "toy/standard@1/reach_red/base/0/0"]):
        done = cli_here(*command)
        assert done.returncode == 2
        assert "version 99" in done.stderr
        assert "install a newer vlarig" in done.stderr
    assert Path("r/ledger.sqlite").read_bytes() == before


def test_a_run_that_is_being_written_is_not_written_twice(toy_home: Path, cli_here) -> None:
    with RunLock(Path("r")):
        done = cli_here("sweep", "toy", "--policy", "random", "--episodes", "1", "--run", "r")
    assert done.returncode == 2
    assert "is being written by process" in done.stderr
