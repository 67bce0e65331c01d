"""The doctor names the true cause of a slow run, says what to change, and what that could bring at most."""

from __future__ import annotations

import asyncio
import os
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
from vlarig.harness.engine import Transition
from vlarig.harness.machine import Machine
from vlarig.harness.reporting.account import Account
from vlarig.harness.reporting.diagnosis import Setting, bottleneck, diagnose
from vlarig.harness.sinks import LedgerSink
from vlarig.policies.batching import Load, SizeLoad

CORES = 8


@pytest.fixture
def sweep(toy_home: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., list[str]]:
    """Sweeps on a machine of eight cores that nobody else uses, and gives what the doctor says about it."""
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: cls(CORES, 2**35)))
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 1.0, 1.0))

    def run(suite: str, policy: ImageReader, slow: str = "", **options) -> list[str]:
        monkeypatch.setenv("VLARIG_TEST_SLOW", slow)
        evaluate(suite, policy, run=Path("r"), **options)
        return doctor(capsys)

    return run


def doctor(capsys) -> list[str]:
    """The verdicts, the most weighty first, after checking that the shares add up."""
    capsys.readouterr()
    assert main(["doctor", "r"]) == 0
    said = capsys.readouterr().out
    told = [line.split() for line in said.partition("where the slots' time went")[2].partition("\n\n")[0].splitlines()[1:]]
    assert sum(float(words[1]) for words in told) == pytest.approx(100, abs=0.5 * len(told))
    verdicts = said.partition("why, the most weighty first\n")[2].splitlines()
    assert [verdict.partition(". ")[0] for verdict in verdicts] == [f"{number}" for number in range(1, len(verdicts) + 1)]
    return [verdict.partition(". ")[2] for verdict in verdicts if "Starting the workers" not in verdict]


def test_a_slow_policy(sweep) -> None:
    first, *_ = sweep("toy", SlowImageReader(), workers=2, slots=2, episodes=6)
    assert first.startswith("The policy is the bottleneck")
    assert "It waits for its device or server" in first
    assert "more slots make larger" in first
    assert "--slots 4" in first


def test_a_policy_held_to_small_batches(sweep) -> None:
    first, *_ = sweep("toy", SlowImageReader(), workers=1, slots=4, batch=1, episodes=2)
    assert "Batches are held to 1 while more requests wait: --batch 4." in first


def test_slow_simulators_on_a_machine_with_cores_to_spare(sweep) -> None:
    first, *_ = sweep("slow", ImageReader(), "row=0.02", workers=1, slots=2, episodes=2)
    assert first.startswith("The simulators are the bottleneck: the 1 worker had something to do ")
    assert "--workers 4, one for each episode, would make the sweep at most 4.0 times as fast." in first


def test_slow_drawing(sweep) -> None:
    verdicts = sweep("slow", ImageReader(), "view=0.1", workers=1, slots=2, episodes=2)
    (told,) = (verdict for verdict in verdicts[:2] if verdict.startswith("Drawing pictures takes "))
    assert float(told.split()[3]) > 80
    assert "2 views every 8 rows" in told


def test_simulators_that_are_slow_beside_simulating(sweep) -> None:
    verdicts = sweep("slow", ImageReader(), "state=0.1", workers=1, slots=2, episodes=2)
    assert any(verdict.startswith("The simulators are the bottleneck") for verdict in verdicts[:2])
    (told,) = (verdict for verdict in verdicts if "neither simulated nor drew" in verdict)
    assert float(told.split()[1]) > 60


def test_a_slow_disk(sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    emit = LedgerSink.emit

    async def wait_for_the_disk(self: LedgerSink, transition: Transition) -> None:
        await asyncio.sleep(0.1)
        await emit(self, transition)

    monkeypatch.setattr(LedgerSink, "emit", wait_for_the_disk)
    first, *_ = sweep("toy", ImageReader(), workers=1, slots=1, episodes=2)
    assert first.startswith("Slots waited ")
    assert "for the ledger: the disk is slow" in first
    assert float(first.split()[2]) > 40


def test_slow_resets(sweep) -> None:
    verdicts = sweep("slow", ImageReader(), "start=0.4", workers=1, slots=1, episodes=4)
    assert any(verdict.startswith("The simulators are the bottleneck") for verdict in verdicts[:2])
    (told,) = (verdict for verdict in verdicts if verdict.startswith("Episodes were being started for about "))
    assert float(told.split()[6]) > 60


def test_too_few_slots_to_keep_anyone_busy(sweep) -> None:
    class AsSlow(ImageReader):
        def act(self, requests):
            time.sleep(0.24)
            return super().act(requests)

    first, *_ = sweep("slow", AsSlow(), "row=0.03", workers=1, slots=1, tasks=("reach_red",), episodes=2)
    assert first.startswith("Nothing is full")
    assert "1 slot a worker cannot keep both at work: --slots 2." in first
    assert "at most 1." in first or "at most 2." in first


def test_too_few_episodes_for_the_slots(sweep) -> None:
    verdicts = sweep("slow", ImageReader(), "start=1", workers=4, slots=1, tasks=("reach_red",), episodes=5)
    assert any(
        verdict.startswith("Slots had no episode left for ") and "5 episodes are few for 4 slots" in verdict
        for verdict in verdicts
    )


def test_a_simulator_that_crashes(sweep, toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = toy_home / "counts"
    counts.mkdir()
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(counts))
    monkeypatch.setenv("VLARIG_TEST_FAULT", "crash:reach_red/1:2")
    verdicts = sweep("faulty", ImageReader(), workers=1, slots=1, tasks=("reach_red",), episodes=2)
    (told,) = (each for each in verdicts if each.startswith("2 attempts at episodes failed (crash 2), all on worker-0"))
    assert "SIGABRT" in told
    assert "faulty-worker-0.log for the cause" in told
    lost = float(told.partition("About ")[2].partition(" %")[0])
    assert 30 < lost <= 100
    assert not any("neither simulated nor drew" in verdict for verdict in verdicts)


def test_sessions_that_asked_for_the_same_are_taken_together_and_others_left_out(sweep, capsys) -> None:
    class Stopping(SlowImageReader):
        def act(self, requests):
            if len(self.batches) > 10:
                raise VlarigError("enough")
            return super().act(requests)

    for workers in (1, 2, 2):
        with pytest.raises(VlarigError):
            sweep("toy", Stopping(), workers=workers, slots=2)
    capsys.readouterr()
    main(["doctor", "r"])
    said = capsys.readouterr().out
    assert "sessions 2, 3 of 3" in said
    assert "left out: 1 session(s) with other workers, slots or batches" in said


def test_a_run_without_a_log_tells_what_its_ledger_knows(sweep, capsys) -> None:
    sweep("toy", SlowImageReader(), workers=1, slots=1, episodes=1)
    shutil.rmtree("r/logs")
    main(["doctor", "r"])
    said = capsys.readouterr().out
    assert "There is no log of where its time went" in said
    assert "most of it is the policy" in said
    assert "not known: how busy" in said


def test_a_run_that_is_running_and_one_that_has_just_begun(sweep, capsys) -> None:
    asked = []

    class Asking(ImageReader):
        def act(self, requests):
            if len(self.batches) == 3:
                time.sleep(3)
                main(["doctor", "r"])
                asked.append(capsys.readouterr().out)
            return super().act(requests)

    sweep("toy", Asking(), workers=1, slots=1, episodes=1)
    assert "being written by process" in asked[0]
    assert "where the slots' time went" in asked[0]


def test_a_run_that_is_not_there_is_one_sentence(toy_home: Path, capsys) -> None:
    assert main(["doctor", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("vlarig: unknown run 'nothing'")


#: A minute of two workers with four slots each on two cores; the policy answered 600 batches.
ACCOUNT = Account(
    playing=60.0, worker_seconds=120.0, slot_seconds=480.0, simulate=10.0, render=5.0, policy=150.0, wait=315.0, occupied=30.0,
    episodes=60, chunks=1200, steps=9600, looks=300, late=0.3, loop_cpu=3.0, driver_cpu=4.0,
    load=Load(600, 1200, 57.0, 100.0, 0, 1.0, {1: SizeLoad(300, 300, 27.0), 4: SizeLoad(299, 890, 29.0)}),
)  # fmt: skip
SETTING = Setting(
    ("toy",), cores=2, workers=2, slots=4, batch=8, episodes=60, protocol={"execute": 8, "cameras": [{}, {}]}, renderer="osmesa"
)
BUSY_WORKERS = replace(ACCOUNT, simulate=70.0, render=45.0, policy=10.0, wait=355.0, occupied=118.0, load=Load(600, 1200, 3.0))


def case(name: str, account: Account, setting: Setting, kind: str, *sentences: str):
    return pytest.param(account, setting, kind, sentences, id=name)


@pytest.mark.parametrize(
    ("account", "setting", "kind", "sentences"),
    [
        case(
            "larger batches are cheaper",
            ACCOUNT,
            SETTING,
            "policy",
            "busy 95 % of the time, in batches of 2.0 on average from 8 slots",
            "Larger batches are cheaper (a request took it 90 ms in batches of 1.0, 32.6 ms in batches of 3.0)",
            "--slots 8",
            "at most 4.0 times as fast",
        ),
        case(
            "larger batches are not cheaper",
            replace(ACCOUNT, load=replace(ACCOUNT.load, sizes={1: SizeLoad(300, 300, 9.0), 4: SizeLoad(299, 890, 26.0)})),
            SETTING,
            "policy",
            "Larger batches are hardly cheaper",
            "so more slots would not help",
        ),
        case(
            "a policy on the CPU",
            replace(ACCOUNT, driver_cpu=63.0),
            SETTING,
            "policy",
            "It computes on this machine's CPU (1.0 of 2 cores",
        ),
        case(
            "batches held small",
            replace(ACCOUNT, load=replace(ACCOUNT.load, held_back=400)),
            replace(SETTING, batch=4),
            "policy",
            "Batches are held to 4 while more requests wait: --batch 8.",
        ),
        case(
            "strict",
            ACCOUNT,
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
            "fill the machine's 2 cores",
            "Drawing pictures takes 38 % of the workers' time",
            "VLARIG_RENDERER=egl",
            "without",
            "Slots waited 74 % of their time",
            "costs memory, not time. --slots 2 would do",
        ),
        case(
            "cores to spare",
            BUSY_WORKERS,
            replace(SETTING, cores=16, asked_for_workers=True),
            "workers",
            "--workers 16, one for each core, would make the sweep at most 8.0 times as fast",
        ),
        case(
            "memory limits",
            BUSY_WORKERS,
            replace(SETTING, cores=16, why="a worker takes 8 GB, so memory is for 2"),
            "workers",
            "memory is what limits them",
        ),
        case(
            "more workers than cores",
            BUSY_WORKERS,
            replace(SETTING, cores=1),
            "workers",
            "They share 1 core; --workers 1 would be as fast in less memory",
        ),
        case(
            "requests that are not simulation",
            replace(BUSY_WORKERS, simulate=30.0, render=10.0),
            SETTING,
            "workers",
            "For 65 % of their time the workers had something to do, but neither simulated nor drew",
            "every 8.0 rows",
        ),
        case(
            "a shared machine",
            BUSY_WORKERS,
            replace(SETTING, load=9.0),
            "workers",
            "Other programs use the machine: its load was 9.0 on average on 2 cores, and the sweep's own part of it 2.0",
        ),
        case(
            "too few slots",
            replace(ACCOUNT, load=Load(600, 1200, 30.0)),
            replace(SETTING, slots=1),
            "turns",
            "Nothing is full",
            "1 slot a worker cannot keep both at work: --slots 2",
            "at most 2.0 times",
        ),
        case(
            "time lost in between",
            replace(ACCOUNT, load=Load(600, 1200, 30.0), late=30.0),
            SETTING,
            "turns",
            "4 slots a worker are enough",
            "came 100 ms late on average",
        ),
        case(
            "the driver",
            replace(ACCOUNT, load=Load(600, 1200, 30.0), loop_cpu=57.0),
            SETTING,
            "driver",
            "The driver is the bottleneck",
            "used 95 % of a core",
            "each with its --shard",
        ),
        case(
            "a slow disk",
            replace(ACCOUNT, saving=48.0),
            SETTING,
            "policy",
            "Slots waited 10 % of their time for the ledger: the disk is slow",
        ),
        case(
            "too few episodes",
            replace(ACCOUNT, idle=240.0, load=Load(600, 1200, 28.0)),
            SETTING,
            "policy",
            "Slots had no episode left for 50 % of their time",
        ),
    ],
)
def test_what_the_numbers_say(account: Account, setting: Setting, kind: str, sentences: tuple[str, ...]) -> None:
    assert bottleneck(account) == kind
    said = " ".join(verdict.text for verdict in diagnose(account, setting))
    for sentence in sentences:
        assert sentence.lower() in said.lower()


def test_the_most_weighty_cause_comes_first() -> None:
    weights = [verdict.seconds for verdict in diagnose(replace(BUSY_WORKERS, saving=100.0, idle=90.0), SETTING)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > 0


def test_nothing_is_said_about_nothing() -> None:
    assert diagnose(Account(), SETTING) == []


def test_accounts_add_up_number_by_number() -> None:
    double = ACCOUNT + ACCOUNT
    assert (double.playing, double.chunks, double.load.batches) == (120.0, 2400, 1200)
    assert double.load.sizes[4] == SizeLoad(598, 1780, 58.0)
    assert double.shares() == pytest.approx(ACCOUNT.shares())
    assert double.policy_busy == pytest.approx(ACCOUNT.policy_busy)
