"""The live display shows a sweep's progress, its interval, its rate, and where the time goes."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from toy.policies import ImageReader

from vlarig.harness import Rollouts, evaluate
from vlarig.harness.machines.fleets import LocalFleet
from vlarig.harness.reporting.display import display, line
from vlarig.harness.reporting.events import TimeBreakdown
from vlarig.harness.reporting.progress import Progress
from vlarig.policies.member_queue import Load
from vlarig.results.records import Attempt
from vlarig.results.tables import Tally


@pytest.fixture
def progress(toy_home: Path) -> Progress:
    """A sweep of two tasks of twenty, in which eight envs played eight chunks each."""
    counted = Progress({("toy", name): Tally(20) for name in ("reach_red", "reach_blue")}, workers=1)
    counted.begin("toy", workers=1, num_envs=8)
    with Rollouts({"toy": 8}, ImageReader(8), fleet=LocalFleet(1), sinks=[counted]) as rollouts:
        rollouts.collect(8)
    return counted


def shown(progress: Progress, activities: Counter[str], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(display("a sweep", progress, activities))
    return console.file.getvalue()


def test_it_shows_counts_intervals_rate_envs_and_shares(progress: Progress) -> None:
    text = shown(progress, Counter(simulate=5, policy=2, idle=1))
    assert progress.total().episodes >= 8
    assert f"{progress.tasks['toy', 'reach_red'].finished}/20" in text
    for words in (
        " % [",
        "episodes/min",
        "steps/s",
        "left",
        "7/8 busy: 5 simulating, 2 asking the policy, 1 idle",
        "1 workers",
    ):
        assert words in text
    assert sum(progress.total().shares().values()) == pytest.approx(1.0)
    assert 0 < progress.total().workers_busy <= 1
    assert "failed attempts" not in text


def test_waiting_is_named_by_its_cause(toy_home: Path) -> None:
    """With an instant policy and more envs than workers, envs wait for a worker's turn: the policy has nothing to do with it."""
    counted = Progress({("toy", name): Tally(20) for name in ("reach_red", "reach_blue")}, workers=1)
    breakdown = TimeBreakdown(simulate=9.0, render=1.0, wait=90.0, recovering=5.0, env_seconds=100.0, load=Load(queued=15.0))
    counted.breakdowns["toy"] = breakdown
    for text in (shown(counted, Counter()), line(counted)):
        for words in (
            "simulate 9%",
            "policy 0%",
            "for a worker's turn 70%",
            "for the policy's turn 15%",
            "for failed attempts 5%",
        ):
            assert words in " ".join(text.split())
        assert "wait" not in text
    narrow = shown(counted, Counter(), 80).splitlines()
    for part in breakdown_parts(line(counted)):
        assert any(f"■ {part}" in each for each in narrow), "a part is not broken between two lines"


def breakdown_parts(text: str) -> list[str]:
    return text.partition("; ")[2].split(", ")


def test_faults_and_errors_are_in_plain_sight(progress: Progress) -> None:
    attempt = Attempt("toy/standard@1/reach_red/base/3/0", 1, "hang", "no answer in time", "worker-0")
    left = progress.counts().missing
    asyncio.run(progress.fault(attempt))
    asyncio.run(progress.fault(replace(attempt, number=2, gave_up=True)))
    text = shown(progress, Counter())
    assert "2 failed attempts; the latest: hang in toy/standard@1/reach_red/base/3/0: no answer in time" in " ".join(
        text.split()
    )
    assert "1 errors" in text
    assert progress.counts().missing == left - 1
    assert "1 errors, 2 failed attempts" in line(progress)


def test_envs_are_never_idle_for_longer_than_they_did_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idleness is sampled; what was measured exactly comes first, so the parts add up to the whole."""
    clock = [0.0]
    monkeypatch.setattr("vlarig.harness.reporting.progress.time.monotonic", lambda: clock[0])
    counted = Progress({}, workers=1)
    counted.begin("toy", workers=1, num_envs=2)
    breakdown = counted.breakdowns["toy"]
    breakdown.simulate, breakdown.saving = 1.6, 0.1
    clock[0] = 1.0
    counted.look(workers=1, num_envs=2, resetting=0, without_work=1, occupied=1, died=0)
    breakdown = counted.breakdown()
    assert (breakdown.env_seconds, breakdown.idle, breakdown.rest) == (2.0, pytest.approx(0.3), pytest.approx(0.0))


def test_a_sweep_renders_it_on_a_terminal(toy_home: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    evaluate("toy", ImageReader(), episodes=2, console=console)
    text = console.file.getvalue()
    assert "reach_blue" in text
    assert "2/2" in text
