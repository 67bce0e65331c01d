"""The doctor names the true cause of a slow run, what to change, and an upper bound of the gain."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from toy.policies import ImageReader, SlowImageReader

from vlarig.envs.errors import VlarigError
from vlarig.harness import evaluate
from vlarig.harness.cli import main
from vlarig.harness.reporting.diagnosis import Setting, bottleneck, diagnose
from vlarig.harness.reporting.events import TimeBreakdown
from vlarig.harness.sinks import LedgerSink, Transition
from vlarig.harness.sizing import Machine
from vlarig.policies.member_queue import Load, SizeLoad

CORES = 8


@pytest.fixture
def sweep(toy_home: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., list[str]]:
    """Sweeps on an otherwise idle machine of eight cores, and gives the doctor's verdicts."""
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: cls(CORES, 2**35)))
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 1.0, 1.0))

    def run(suite: str, policy: ImageReader, slow: str = "", **options) -> list[str]:
        monkeypatch.setenv("VLARIG_TEST_SLOW", slow)
        evaluate(suite, policy, run=Path("r"), **options)
        return doctor(capsys)

    return run


def doctor(capsys) -> list[str]:
    """The verdicts, the most weighty first, after checking that the shares add up; none on the start, which a busy machine prolongs."""
    capsys.readouterr()
    assert main(["doctor", "r"]) == 0
    output = capsys.readouterr().out
    found = [line.split() for line in output.partition("where the envs' time went")[2].partition("\n\n")[0].splitlines()[1:]]
    assert sum(float(words[1]) for words in found) == pytest.approx(100, abs=0.5 * len(found))
    verdicts = output.partition("why, the most weighty first\n")[2].splitlines()
    assert [verdict.partition(". ")[0] for verdict in verdicts] == [f"{number}" for number in range(1, len(verdicts) + 1)]
    return [verdict.partition(". ")[2] for verdict in verdicts if not re.search("Starting workers|Loading the policy", verdict)]


@pytest.mark.slow
def test_a_slow_policy(sweep) -> None:
    first, *_ = sweep("toy", SlowImageReader(), workers=2, num_envs=4, episodes=6)
    assert first.startswith("The policy is the bottleneck")
    assert "It waits for its device or server" in first
    assert "more envs make larger" in first
    assert "--num-envs 8" in first


def test_a_policy_held_to_small_batches(sweep) -> None:
    first, *_ = sweep("toy", SlowImageReader(), workers=1, num_envs=4, batch=1, episodes=2)
    assert "Batches are held to 1 while more requests wait: --batch 4." in first


@pytest.mark.slow
def test_slow_simulators_on_a_machine_with_cores_to_spare(sweep) -> None:
    first, *_ = sweep("slow", ImageReader(), "step=0.02", workers=1, num_envs=2, episodes=2)
    assert first.startswith("The simulators are the bottleneck: the 1 worker had something to do ")
    assert "--workers 4 would make the sweep at most 4.0 times as fast." in first


@pytest.mark.slow
def test_slow_rendering(sweep) -> None:
    verdicts = sweep("slow", ImageReader(), "view=0.1", workers=1, num_envs=2, episodes=2)
    (found,) = (verdict for verdict in verdicts[:2] if verdict.startswith("Rendering images takes "))
    assert float(found.split()[3]) > 80
    assert "2 views every 8 steps" in found


def test_simulators_that_are_slow_beside_simulating(sweep) -> None:
    verdicts = sweep("slow", ImageReader(), "state=0.1", workers=1, num_envs=2, episodes=2)
    assert any(verdict.startswith("The simulators are the bottleneck") for verdict in verdicts[:2])
    (found,) = (verdict for verdict in verdicts if "neither simulated nor rendered" in verdict)
    assert float(found.split()[1]) > 60


@pytest.mark.slow
def test_a_slow_disk(sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    emit = LedgerSink.emit

    async def wait_for_the_disk(self: LedgerSink, transition: Transition) -> None:
        await asyncio.sleep(0.1)
        await emit(self, transition)

    monkeypatch.setattr(LedgerSink, "emit", wait_for_the_disk)
    first, *_ = sweep("toy", ImageReader(), workers=1, num_envs=1, episodes=2)
    assert first.startswith("Envs waited ")
    assert "for the ledger: the disk is slow" in first
    assert float(first.split()[2]) > 40


@pytest.mark.slow
def test_slow_resets(sweep) -> None:
    verdicts = sweep("slow", ImageReader(), "reset=0.4", workers=1, num_envs=1, episodes=4)
    assert any(verdict.startswith("The simulators are the bottleneck") for verdict in verdicts[:2])
    (found,) = (verdict for verdict in verdicts if verdict.startswith("Episodes were being started for about "))
    assert float(found.split()[6]) > 60


@pytest.mark.slow
def test_too_few_envs_to_keep_anyone_busy(sweep) -> None:
    class AsSlow(ImageReader):
        def act(self, requests):
            time.sleep(0.24)
            return super().act(requests)

    first, *_ = sweep("slow", AsSlow(), "step=0.03", workers=1, num_envs=1, tasks=("reach_red",), episodes=2)
    assert first.startswith("Nothing is full")
    assert "1 env a worker cannot keep both at work: --num-envs 2." in first
    assert "at most 1." in first or "at most 2." in first


def test_too_few_episodes_for_the_envs(sweep) -> None:
    verdicts = sweep("slow", ImageReader(), "reset=1", workers=4, num_envs=4, tasks=("reach_red",), episodes=5)
    assert any(
        verdict.startswith("Envs had no episode left for ") and "5 episodes are few for 4 envs" in verdict
        for verdict in verdicts
    )


def test_a_simulator_that_crashes(sweep, toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = toy_home / "counts"
    counts.mkdir()
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(counts))
    monkeypatch.setenv("VLARIG_TEST_FAULT", "crash:reach_red/1:2")
    verdicts = sweep("faulty", ImageReader(), workers=1, num_envs=1, tasks=("reach_red",), episodes=2)
    (found,) = (each for each in verdicts if each.startswith("2 attempts at episodes failed (crash 2), 2 of them on worker-0"))
    assert "SIGABRT" in found
    assert "faulty-worker-0.log for the cause" in found
    lost = float(found.partition("About ")[2].partition(" %")[0])
    assert 30 < lost <= 100
    assert not any("neither simulated nor rendered" in verdict for verdict in verdicts)


@pytest.mark.slow
def test_the_latest_session_that_played_is_diagnosed(sweep, capsys) -> None:
    class Stopping(SlowImageReader):
        def act(self, requests):
            if len(self.batches) > 10:
                raise VlarigError("enough")
            return super().act(requests)

    for workers in (1, 2):
        with pytest.raises(VlarigError):
            sweep("toy", Stopping(), workers=workers, num_envs=2 * workers)
    capsys.readouterr()
    main(["doctor", "r"])
    output = capsys.readouterr().out
    assert "session 2 of 2" in output
    assert "4 envs in 2 workers" in output


def test_a_run_without_a_log_is_diagnosed_from_its_ledger(sweep, capsys) -> None:
    sweep("toy", SlowImageReader(), workers=1, num_envs=1, episodes=1)
    shutil.rmtree("r/logs")
    main(["doctor", "r"])
    output = capsys.readouterr().out
    assert "There is no log of where its time went" in output
    assert float(output.partition("  policy")[2].split()[0]) > 50
    assert "not known: how busy" in output
    Path("r/logs").mkdir()
    Path("r/logs/events.jsonl").write_text('{"event":"session_started","time":"","seconds":0.5,"session":1}\n')
    main(["doctor", "r"])
    assert "was written by another version of vlarig" in capsys.readouterr().out


def test_a_run_that_is_running_and_one_that_has_just_begun(sweep, capsys) -> None:
    outputs = []

    class Asking(ImageReader):
        def act(self, requests):
            if len(self.batches) == 3:
                time.sleep(3)
                main(["doctor", "r"])
                outputs.append(capsys.readouterr().out)
            return super().act(requests)

    sweep("toy", Asking(), workers=1, num_envs=1, episodes=1)
    assert "being written by process" in outputs[0]
    assert "where the envs' time went" in outputs[0]


def test_a_run_that_is_not_there_is_one_sentence(toy_home: Path, capsys) -> None:
    assert main(["doctor", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("vlarig: unknown run 'nothing'")


#: A minute of two workers with four envs each on two cores; the policy answered 600 batches.
BREAKDOWN = TimeBreakdown(
    playing=60.0, worker_seconds=120.0, env_seconds=480.0, simulate=10.0, render=5.0, policy=150.0, wait=315.0, occupied=30.0,
    episodes=60, chunks=1200, steps=9600, looks=300, late=0.3, loop_cpu=3.0, driver_cpu=4.0,
    load=Load(600, 1200, 57.0, 100.0, 0, 1.0, {1: SizeLoad(300, 300, 27.0), 4: SizeLoad(299, 890, 29.0)}),
)  # fmt: skip
SETTING = Setting(
    cores=2,
    workers=2,
    num_envs=8,
    batch=8,
    episodes=60,
    protocol={"n_action_steps": 8, "cameras": [{}, {}]},
    renderer="osmesa",
)
BUSY_WORKERS = replace(
    BREAKDOWN, simulate=70.0, render=45.0, policy=10.0, wait=355.0, occupied=118.0, load=Load(600, 1200, 3.0)
)


def case(name: str, breakdown: TimeBreakdown, setting: Setting, kind: str, *sentences: str):
    return pytest.param(breakdown, setting, kind, sentences, id=name)


@pytest.mark.parametrize(
    ("breakdown", "setting", "kind", "sentences"),
    [
        case(
            "larger batches are cheaper",
            BREAKDOWN,
            SETTING,
            "policy",
            "busy 95 % of the time, in batches of 2.0 on average from 8 envs",
            "Larger batches are cheaper (a request took it 90 ms in batches of 1.0, 32.6 ms in batches of 3.0)",
            "--num-envs 16",
            "at most 4.0 times as fast",
        ),
        case(
            "larger batches are not cheaper",
            replace(BREAKDOWN, load=replace(BREAKDOWN.load, sizes={1: SizeLoad(300, 300, 9.0), 4: SizeLoad(299, 890, 26.0)})),
            SETTING,
            "policy",
            "Larger batches are hardly cheaper",
            "so more envs would not help",
        ),
        case(
            "a policy on the CPU",
            replace(BREAKDOWN, driver_cpu=63.0),
            SETTING,
            "policy",
            "It computes on this machine's CPU (1.0 of 2 cores",
        ),
        case(
            "batches held small",
            replace(BREAKDOWN, load=replace(BREAKDOWN.load, held_back=400)),
            replace(SETTING, batch=4),
            "policy",
            "Batches are held to 4 while more requests wait: --batch 8.",
        ),
        case(
            "strict",
            BREAKDOWN,
            replace(SETTING, strict=True, batch=1),
            "policy",
            "--strict has it answer one request at a time",
        ),
        case(
            "workers fill the machine",
            BUSY_WORKERS,
            SETTING,
            "workers",
            "the 2 workers had something to do 98 % of the time, the policy 5.0 %",
            "More machines, each with its --shard",
            "Rendering images takes 38 % of the workers' time",
            "VLARIG_RENDERER=egl",
            "without",
        ),
        case(
            "cores to spare",
            BUSY_WORKERS,
            replace(SETTING, cores=16, workers_given=True),
            "workers",
            "--workers 16 would make the sweep at most 8.0 times as fast",
        ),
        case(
            "requests that are not simulation",
            replace(BUSY_WORKERS, simulate=30.0, render=10.0),
            SETTING,
            "workers",
            "For 65 % of their time the workers had something to do, but neither simulated nor rendered",
            "every 8.0 steps",
        ),
        case(
            "a shared machine",
            BUSY_WORKERS,
            replace(SETTING, load=9.0),
            "workers",
            "Other programs use the machine: its load was 9.0 on average on 2 cores, and the sweep's own part of it 2.0",
        ),
        case(
            "too few envs",
            replace(BREAKDOWN, load=Load(600, 1200, 30.0)),
            replace(SETTING, num_envs=2),
            "turns",
            "Nothing is full",
            "1 env a worker cannot keep both at work: --num-envs 4",
            "at most 2.0 times",
        ),
        case(
            "time lost in between",
            replace(BREAKDOWN, load=Load(600, 1200, 30.0), late=30.0),
            SETTING,
            "turns",
            "4 envs a worker are enough",
            "came 100 ms late on average",
        ),
        case(
            "the driver",
            replace(BREAKDOWN, load=Load(600, 1200, 30.0), loop_cpu=57.0),
            SETTING,
            "turns",
            "used 95 % of a core",
            "each with its --shard",
        ),
        case(
            "a slow disk",
            replace(BREAKDOWN, saving=48.0),
            SETTING,
            "policy",
            "Envs waited 10 % of their time for the ledger: the disk is slow",
        ),
        case(
            "too few episodes",
            replace(BREAKDOWN, idle=240.0, load=Load(600, 1200, 28.0)),
            SETTING,
            "policy",
            "Envs had no episode left for 50 % of their time",
        ),
    ],
)
def test_what_the_numbers_say(breakdown: TimeBreakdown, setting: Setting, kind: str, sentences: tuple[str, ...]) -> None:
    assert bottleneck(breakdown) == kind
    output = " ".join(verdict.text for verdict in diagnose(breakdown, setting))
    for sentence in sentences:
        assert sentence.lower() in output.lower()


def test_the_most_weighty_cause_comes_first() -> None:
    weights = [verdict.seconds for verdict in diagnose(replace(BUSY_WORKERS, saving=100.0, idle=90.0), SETTING)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > 0


def test_an_empty_breakdown_has_no_verdict() -> None:
    assert diagnose(TimeBreakdown(), SETTING) == []


def test_accounts_add_up_number_by_number() -> None:
    double = BREAKDOWN + BREAKDOWN
    assert (double.playing, double.chunks, double.load.batches) == (120.0, 2400, 1200)
    assert double.load.sizes[4] == SizeLoad(598, 1780, 58.0)
    assert double.shares() == pytest.approx(BREAKDOWN.shares())
    assert double.policy_busy == pytest.approx(BREAKDOWN.policy_busy)
