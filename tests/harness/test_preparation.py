"""Initial states that are found beforehand: the same for any number of workers, resumed, and part of a run's identity."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from comparing import results

from vlarig.envs.home import home
from vlarig.harness import evaluate
from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Manifest

SUITE = "toy.prepared:PREPARED_SUITE"


@pytest.fixture
def tried(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with a file for each time that a candidate was tried."""
    folder = toy_home / "tried"
    folder.mkdir()
    monkeypatch.setenv("VLARIG_TEST_TRIED", str(folder))
    return folder


def found() -> str:
    (file,) = (home() / "prepared").glob("prepared-*.jsonl")
    return "\n".join(sorted(file.read_text().splitlines()))


def good_candidates() -> list[int]:
    """The first four that begin on the left and kill no simulator."""
    good = [seed for seed in range(40) if seed != 4 and np.random.default_rng(seed).uniform(-1, 1, 2)[0] < 0]
    return good[:4]


def write_suite(monkeypatch: pytest.MonkeyPatch, module: str, change: str) -> None:
    """A module with the suite of its name in capitals, whose preparation differs."""
    Path(f"{module}.py").write_text(
        "from dataclasses import replace\n"
        "from toy.prepared import PREPARED_SUITE\n"
        f"{module.upper()} = replace(PREPARED_SUITE, preparation=replace(PREPARED_SUITE.preparation, {change}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path.cwd())]))


def hash_of(output: str) -> str:
    return output.rpartition("sha256 ")[2].partition(",")[0]


@pytest.mark.slow
@pytest.mark.usefixtures("tried")
def test_a_suite_that_is_not_prepared_is_not_swept_and_what_is_found_is_played(cli_here) -> None:
    refused = cli_here("sweep", SUITE, "--policy", "random")
    assert refused.returncode == 2
    assert "0 of the 4 initial states of 'prepared' reach_red are found yet, and 1 more tasks lack some;" in refused.stderr
    assert "run: vlarig envs prepare prepared" in refused.stderr
    done = cli_here("envs", "prepare", SUITE, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "reach_red: initial state 4 will not do" in done.stdout
    assert "prepared: 8 initial states, sha256 " in done.stdout
    assert evaluate(SUITE, "random", run=Path("run")).complete
    with Ledger.open_read_only(Path("run")) as ledger:
        assert sorted({record.initial_state for record in ledger.records()}) == good_candidates()
    identity = Manifest.load(Path("run")).identity
    assert identity.prepared == {"prepared": hash_of(done.stdout)}
    again = cli_here("envs", "prepare", SUITE)
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert len(again.stdout.splitlines()) == 1


@pytest.mark.slow
def test_the_first_candidates_that_will_do_are_kept_with_any_number_of_workers(
    cli_here, tried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = set()
    for workers in (1, 2, 3):
        monkeypatch.setenv("VLARIG_HOME", str(tried.parent / f"home-{workers}"))
        assert cli_here("runtime", "add", "toy", "--python", sys.executable).returncode == 0
        done = cli_here("envs", "prepare", SUITE, "--workers", workers)
        assert done.returncode == 0, done.stderr
        hashes.add(hash_of(done.stdout))
        good = [json.loads(line) for line in found().splitlines()]
        numbers = sorted(line["initial_state"] for line in good if line["task"] == "reach_red" and line["data"] is not None)
        assert numbers[:4] == good_candidates()
    assert len(hashes) == 1


@pytest.mark.slow
def test_a_preparation_that_is_killed_goes_on_and_tries_nothing_twice(cli, tried: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vlarig.harness", "envs", "prepare", SUITE, "--workers", "1"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    decided = found().splitlines()
    assert len(decided) >= 3
    with next((home() / "prepared").glob("*.jsonl")).open("a") as file:
        file.write('{"task": "reach_red", "init')  # cut off by a power cut
    assert cli("envs", "prepare", SUITE, "--workers", 1).returncode == 0
    lines = [json.loads(line) for line in found().splitlines()]
    assert max(Counter((line["task"], line["initial_state"]) for line in lines).values()) == 1
    assert all(json.loads(line) in lines for line in decided)
    times = Counter(file.name.rpartition("-")[0] for file in tried.iterdir())
    deadly = {f"{task}-{number}" for task in ("reach_red", "reach_blue") for number in (4,)}
    assert all(count == 1 for name, count in times.items() if name not in deadly and name != f"reach_red-{len(decided)}")


@pytest.mark.slow
@pytest.mark.usefixtures("tried")
def test_a_part_is_prepared_and_played_and_what_is_found_later_changes_no_run(cli_here) -> None:
    part = ("--tasks", "reach_red", "--episodes", 2)
    refused = cli_here("sweep", SUITE, "--policy", "random", *part)
    assert "run: vlarig envs prepare prepared --tasks reach_red --episodes 2" in refused.stderr
    assert cli_here("envs", "prepare", SUITE, *part).returncode == 0
    assert cli_here("sweep", SUITE, "--policy", "random", *part, "--run", "run").returncode == 0
    assert cli_here("sweep", SUITE, "--policy", "random", "--tasks", "reach_blue", "--run", "other").returncode == 2
    assert cli_here("envs", "prepare", SUITE).returncode == 0
    assert cli_here("sweep", SUITE, "--policy", "random", *part, "--run", "run").returncode == 0
    assert cli_here("runs", "replay", "run", "--all").returncode == 0
    with Ledger.open_read_only(Path("run")) as ledger:
        assert sorted(record.initial_state for record in ledger.records()) == good_candidates()[:2]


@pytest.mark.usefixtures("tried")
def test_what_two_planners_found_is_not_mixed(cli_here, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(monkeypatch, "planned", "same=('planner',)")
    monkeypatch.setenv("VLARIG_TEST_PLANNER", "slow")
    assert cli_here("envs", "prepare", "planned:PLANNED", "--episodes", 1).returncode == 0
    monkeypatch.setenv("VLARIG_TEST_PLANNER", "fast")
    mixed = cli_here("envs", "prepare", "planned:PLANNED")
    assert mixed.returncode == 2
    assert "were found with planner 'slow', and now with 'fast'; they are not mixed" in mixed.stderr
    swept = cli_here("sweep", "planned:PLANNED", "--policy", "random", "--episodes", 1)
    assert swept.returncode == 0
    assert "initial states found with planner slow" in " ".join(swept.stdout.split())


@pytest.mark.usefixtures("tried")
def test_suites_of_one_name_find_their_initial_states_once(cli_here, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(monkeypatch, "first", "name='both'")
    with Path("first.py").open("a") as module:
        module.write("SECOND = replace(FIRST, name='second')\n")
    found = cli_here("envs", "prepare", "first:FIRST").stdout.splitlines()
    assert found[-1].startswith("prepared: 8 initial states, sha256 ")
    shared = cli_here("envs", "prepare", "first:SECOND").stdout.splitlines()
    assert shared == [found[-1].replace("prepared:", "second:")]


@pytest.mark.usefixtures("tried")
def test_a_task_with_too_few_candidates_is_given_up_in_a_sentence(cli_here, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(monkeypatch, "hard", "most=6")
    done = cli_here("envs", "prepare", "hard:HARD")
    assert done.returncode == 2
    assert "6 initial states of task 'reach_red' were tried, and" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_suite_whose_states_are_known_needs_no_preparation(toy_home: Path, cli_here) -> None:
    done = cli_here("envs", "prepare", "toy")
    assert done.returncode == 2
    assert "the initial states of 'toy' are known; there is nothing to prepare" in done.stderr


@pytest.mark.slow
def test_results_do_not_depend_on_the_preparing_worker(cli_here, tried: Path) -> None:
    assert cli_here("envs", "prepare", SUITE).returncode == 0
    assert evaluate(SUITE, "random", run=Path("one"), workers=1, num_envs=1).complete
    assert evaluate(SUITE, "random", run=Path("two"), workers=2, num_envs=4).complete
    assert results(Path("one")) == results(Path("two"))
