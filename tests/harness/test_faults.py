"""A simulator's fault is an attempt of the episode that was running: never a failure of the policy, never its neighbours'."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparing import results
from rich.console import Console
from toy.env import ToyEnv
from toy.policies import ImageReader
from toy.suite import TOY_SUITE

from vlarig.benchmarks.registry import load_suite
from vlarig.benchmarks.suite import Patience
from vlarig.envs import backoff
from vlarig.envs.api import ChunkResult, Needs, StepResult
from vlarig.envs.messages import Failure, Start, Started, Step
from vlarig.envs.runtimes.runtime import Runtime
from vlarig.envs.simulation.simulator import EnvRack
from vlarig.harness import Rollouts, evaluate, plan
from vlarig.harness.children.supervisor import WorkerLine
from vlarig.harness.machines.fleets import LocalFleet
from vlarig.results.ledger import Ledger
from vlarig.results.records import Attempt

TOYS = Path(__file__).parents[1] / "toy"
FAULTY_KEY = "faulty/standard@1/reach_red/base/1/0"


@pytest.fixture
def counts(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = toy_home / "counts"
    folder.mkdir()
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(folder))
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.01)  # simulators are replaced at once
    return folder


@pytest.fixture(scope="module")
def results_of() -> dict[str, dict]:
    """Undisturbed results by suite, for the whole module."""
    return {}


@pytest.fixture
def undisturbed(results_of: dict[str, dict], counts: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    if "faulty" not in results_of:
        results_of["faulty"], attempts, _ = sweep(monkeypatch, "crash:reach_red/1:0", "undisturbed")
        assert attempts == []
    return results_of["faulty"]


def sweep(monkeypatch: pytest.MonkeyPatch, fault: str, run: str) -> tuple[dict, list[Attempt], bool]:
    monkeypatch.setenv("VLARIG_TEST_FAULT", fault)
    evaluation = evaluate("faulty", ImageReader(), workers=1, num_envs=4, episodes=4, run=Path(run))
    with Ledger.open_read_only(Path(run)) as ledger:
        return results(Path(run)), ledger.attempts(), evaluation.complete


@pytest.mark.slow
def test_a_simulator_that_a_signal_stopped_is_replaced_and_its_episode_is_not_charged(
    undisturbed: dict, counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed, attempts, complete = sweep(monkeypatch, "stopped:reach_red/1:1", "disturbed")
    assert (disturbed, attempts, complete) == (undisturbed, [], True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "times", "charged", "reason"),
    [
        ("crash", 2, "crash", "the simulator's process was ended by SIGABRT"),
        ("exit", 1, "env_error", "SystemExit: status 0"),
        ("close", 1, "env_error", "GeneratorExit: "),
        ("orphan", 1, "crash", "the simulator's process was ended by SIGABRT"),
        ("hang", 2, "hang", "the simulator gave no answer within 2 s and was killed"),
        ("raise", 2, "env_error", "RuntimeError: the physics exploded"),
        ("text", 1, "env_error", "the env's reply cannot be read"),
        ("object", 1, "env_error", "the env's answer cannot be sent"),
        ("noise", 1, "crash", "wrote an invalid reply"),
        ("false-answer", 1, "crash", "wrote an invalid reply"),
    ],
)
def test_a_fault_is_charged_to_its_episode_and_mended(
    undisturbed: dict, counts: Path, monkeypatch: pytest.MonkeyPatch, kind: str, times: int, charged: str, reason: str
) -> None:
    disturbed, attempts, complete = sweep(monkeypatch, f"{kind}:reach_red/1:{times}", "disturbed")
    assert [(attempt.key, attempt.kind, attempt.gave_up) for attempt in attempts] == [(FAULTY_KEY, charged, False)] * times
    assert all(reason in attempt.message for attempt in attempts)
    assert complete
    assert disturbed == undisturbed
    deadline = time.monotonic() + 30
    while (left := living(counts)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def test_the_end_of_a_sweep_says_the_commonest_error_its_line_and_its_log(
    counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLARIG_TEST_FAULT", "raise:reach_red/1:3")
    output = io.StringIO()
    run = Path("run")
    evaluation = evaluate("faulty", ImageReader(), workers=1, episodes=2, run=run, console=Console(file=output, width=500))
    assert (evaluation.complete, evaluation.errors) == (False, 1)
    (last,) = [line for line in output.getvalue().splitlines() if "given up" in line]
    line = last.replace(str(Path.cwd()), "")
    assert line.startswith(
        "1 episode was given up. The commonest error, in 3 of 3 failed attempts: env_error: RuntimeError: the physics"
    )
    assert f"({TOYS / 'faulty.py'}:" in line and line.endswith("in misbehave). See run/logs/driver.log")
    log = (run / "logs" / "driver.log").read_text()
    assert f"{FAULTY_KEY}, attempt 3, on worker-0\nTraceback (most recent call last)" in log
    assert 'raise RuntimeError("the physics exploded")' in log


def living(counts: Path) -> list[int]:
    """Processes that are left of a sweep, found by their environment."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(counts).encode() in environment.read_bytes():
                found.append(int(environment.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def test_a_launcher_that_is_stopped_costs_no_episode_anything(
    undisturbed: dict, counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed, attempts, _ = sweep(monkeypatch, "launcher-stopped:reach_red/1:1", "disturbed")
    assert attempts == []
    assert disturbed == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["crash-twice", "crash-without-memory"])
def test_nobody_is_charged_where_the_next_process_does_not_load(
    undisturbed: dict, counts: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Neither the first nor the second of the processes that replace it."""
    disturbed, attempts, complete = sweep(monkeypatch, f"{kind}:reach_red/1:3", "disturbed")
    assert complete
    assert [(attempt.key, attempt.kind) for attempt in attempts] == [(FAULTY_KEY, "crash")]
    assert disturbed == undisturbed
    assert len(list(counts.iterdir())) == 3


@pytest.mark.slow
def test_an_episode_that_fails_again_and_again_is_an_error_and_owed_again(
    counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, attempts, complete = sweep(monkeypatch, "crash:reach_red/1:3", "run")
    assert not complete
    assert FAULTY_KEY not in finished
    assert len(finished) == 7
    assert [attempt.gave_up for attempt in attempts] == [False, False, True]
    assert "SIGABRT" in attempts[0].message
    finished, attempts, complete = sweep(monkeypatch, "crash:reach_red/1:3", "run")
    assert complete
    assert len(finished) == 8
    assert len(attempts) == 3


def test_an_env_that_comes_back_elsewhere_is_not_believed(counts: Path) -> None:
    with pytest.raises(Exception, match="the env is not deterministic"), Rollouts({"drifting": 1}, ImageReader(8)) as rollouts:
        rollouts.collect(3)
        (counts / "die").touch()
        rollouts.collect(1)


def test_a_crash_does_not_change_what_is_collected(counts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def actions(fault: str) -> list:
        monkeypatch.setenv("VLARIG_TEST_FAULT", fault)
        with Rollouts({"faulty": 4}, ImageReader(8), fleet=LocalFleet(1), seed=3) as rollouts:
            return [[each.result.snapshot.state_digest for each in env] for env in rollouts.collect(12)]

    assert actions("crash:reach_red/1:2") == actions("crash:reach_red/1:0")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_simulator_that_is_stopped_in_mid_chunk_changes_nothing(
    tabletop: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "load_suite", lambda name: replace(load_suite(name), patience=Patience(step=1.0)))
    step, chunks = WorkerLine.step, itertools.count()

    async def stopping_step(line: WorkerLine, env: int, actions: np.ndarray) -> ChunkResult:
        if next(chunks) == 10:
            asyncio.get_running_loop().call_later(0.02, os.kill, line.pid, signal.SIGSTOP)
        return await step(line, env, actions)

    def play(run: str) -> tuple[dict, list[str]]:
        options = {"workers": 1, "num_envs": 2, "tasks": ("stack", "push_to"), "episodes": 1}
        assert evaluate("tabletop", "expert", run=Path(run), **options).complete
        with Ledger.open_read_only(Path(run)) as ledger:
            return results(Path(run)), [attempt.kind for attempt in ledger.attempts()]

    undisturbed, _ = play("undisturbed")
    monkeypatch.setattr(WorkerLine, "step", stopping_step)
    disturbed, charged = play("disturbed")
    assert disturbed == undisturbed
    assert charged == []


@pytest.mark.slow
def test_a_real_env_that_raises_leaves_its_neighbours_alone(
    tabletop: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed while they go on with what they share with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "load_suite", lambda name: replace(load_suite(name), adapter="toy.fragile:FragileTabletopEnv"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    (tmp_path / "counts").mkdir()
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(tmp_path / "counts"))
    found = []
    for times in (0, 1):
        monkeypatch.setenv("VLARIG_TEST_FAULT", f"raise:stack/0:{times}")
        run = Path(f"run{times}")
        options = {"workers": 1, "num_envs": 4, "batch": 4, "tasks": ("stack",), "episodes": 4}
        evaluate("tabletop", ImageReader(16), run=run, **options)
        with Ledger.open_read_only(run) as ledger:
            found.append((results(run), [(attempt.key.split("/", 2)[2], attempt.kind) for attempt in ledger.attempts()]))
    (undisturbed, none), (disturbed, charged) = found
    assert none == []
    assert charged == [("stack/base/0/0", "env_error")]
    assert disturbed == undisturbed


class FragileEnv(ToyEnv):
    """Raises in every step, and where it is stubborn when it is closed too."""

    closed: list[FragileEnv] = []
    stubborn = False

    def apply(self, action: np.ndarray) -> StepResult:
        raise RuntimeError("the physics exploded")

    def close(self) -> None:
        self.closed.append(self)
        if self.stubborn:
            raise RuntimeError("the window is closed already")


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_env_that_raised_is_closed(monkeypatch: pytest.MonkeyPatch, stubborn: bool) -> None:
    monkeypatch.setattr(FragileEnv, "closed", [])
    monkeypatch.setattr(FragileEnv, "stubborn", stubborn)
    rack = EnvRack(FragileEnv, {})
    for env in range(2):
        assert isinstance(rack.answer(env, Start(TOY_SUITE.episodes(per_task=1)[0], Needs())), Started)
    broken, other = rack.envs[0], rack.envs[1]
    failure = rack.answer(0, Step(np.zeros((1, 3), np.float32)))
    assert isinstance(failure, Failure)
    assert failure.kind == "env_error"
    assert failure.message.startswith("RuntimeError: the physics exploded (")
    assert FragileEnv.closed == [broken]
    assert list(rack.envs.values()) == [other]
