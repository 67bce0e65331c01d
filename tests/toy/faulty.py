"""The toy simulator with faults of real ones: it crashes, hangs, raises, leaks, or samples from generators that it does not own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from toy.env import ToyEnv
from vlarig.envs.api import Episode, StepResult

#: Environment variable: the fault, as ``kind:task/start:times``; ``times`` faults happen, then no more.
FAULT = "VLARIG_TEST_FAULT"
#: Environment variable: folder in which the faults that happened are counted.
COUNTS = "VLARIG_TEST_COUNTS"
#: Step of the episode in which the fault happens.
FAULTY_STEP = 12
#: Bytes of a block of memory, and how many of them a simulator that grows takes.
BLOCK, BLOCKS = 40 * 10**6, 20


def planned_fault() -> tuple[str, str, int]:
    """Kind, place and times of the fault; where there is none, ``times`` is 0."""
    kind, place, times = os.environ.get(FAULT, "none::0").split(":")
    return kind, place, int(times)


def again(times: int) -> bool:
    """Whether a fault is due that happens ``times`` times, whichever processes it happens in."""
    if not times:
        return False
    happened = len(list(Path(os.environ[COUNTS]).iterdir()))
    if happened < times:
        (Path(os.environ[COUNTS]) / str(happened)).touch()
    return happened < times


def hang() -> None:
    time.sleep(3600)


def run_out_of_memory() -> None:
    raise MemoryError("the kernel has nothing left")


def misbehave() -> None:
    raise RuntimeError("the physics exploded")


def close_a_generator() -> None:
    raise GeneratorExit


def be_stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_the_launcher() -> None:
    """Stop the process that watches the memory."""
    os.kill(os.getppid(), signal.SIGSTOP)


def leave_a_child() -> None:
    """Crash, and leave a child behind that holds every file open."""
    if os.fork() == 0:
        hang()
    os.abort()


def scribble(noise: bytes) -> None:
    """Write to the socket to the driver."""
    for entry in Path("/proc/self/fd").iterdir():
        if entry.is_symlink() and str(entry.readlink()).startswith("socket:"):
            os.write(int(entry.name), noise)


FAULTS: dict[str, Callable[[], object]] = {
    "crash": os.abort,
    "exit": sys.exit,
    "close": close_a_generator,
    "hang": hang,
    "raise": misbehave,
    "stopped": be_stopped,
    "launcher-stopped": stop_the_launcher,
    "orphan": leave_a_child,
    "noise": lambda: scribble(b"warning: the physics is tired\n"),
    "false-answer": lambda: scribble((9).to_bytes(4, "big") + b"no answer"),
}
#: After a crash, faults of the next processes while they load.
RELAPSES: dict[str, Callable[[], object]] = {"crash-twice": os.abort, "crash-without-memory": run_out_of_memory}
#: Faults of the env's values, not of its actions.
MEASURES = {"text": "far", "object": object()}


class FaultyEnv(ToyEnv):
    """Misbehaves in one episode."""

    def __init__(self) -> None:
        super().__init__()
        kind, _, times = planned_fault()
        if kind in RELAPSES and any(Path(os.environ[COUNTS]).iterdir()) and again(times):
            RELAPSES[kind]()

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        self.step = 0
        self.shown: dict[str, object] = {}
        return super().begin(episode, rng)

    def apply(self, action: np.ndarray) -> StepResult:
        assert self.episode is not None
        kind, place, times = planned_fault()
        self.step += 1
        if place == f"{self.episode.task}/{self.episode.initial_state}" and self.step == FAULTY_STEP and again(times):
            if kind in MEASURES:
                self.shown = {"distance": MEASURES[kind]}
            elif kind in RELAPSES:
                os.abort()
            else:
                FAULTS[kind]()
        return super().apply(action)

    def metrics(self) -> dict[str, float]:
        return super().metrics() | self.shown


class StumblingEnv(ToyEnv):
    """Its processes are stopped while they start: the fault ``kind`` is ``stopped`` or ``launcher-stopped``, and has no place."""

    def __init__(self) -> None:
        super().__init__()
        kind, _, times = planned_fault()
        if again(times):
            os.kill(os.getpid() if kind == "stopped" else os.getppid(), signal.SIGSTOP)


class HoardingEnv(ToyEnv):
    """Keeps memory: each episode's where the fault ``kind`` is ``leak``, each env's where it is ``large``; or grows in one episode."""

    hoard: list[bytes] = []

    def __init__(self) -> None:
        super().__init__()
        if planned_fault()[0] == "large":
            self.hoard.append(b"\x01" * BLOCK)

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        kind, place, times = planned_fault()
        if kind == "leak":
            self.hoard.append(b"\x01" * BLOCK)
        if kind == "grow" and place == f"{episode.task}/{episode.initial_state}" and again(times):
            self.hoard.extend(b"\x01" * BLOCK for _ in range(BLOCKS))
            hang()
        return super().begin(episode, rng)


class DriftingEnv(ToyEnv):
    """Each process plays it a little differently, and dies when a file says so."""

    def apply(self, action: np.ndarray) -> StepResult:
        die = Path(os.environ[COUNTS], "die")
        if die.exists():
            die.unlink()
            os.abort()
        self.position = self.position + 1e-9 * os.getpid()
        return super().apply(action)


class LeakyEnv(ToyEnv):
    """Begins a little further on each time."""

    begun = 0

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        instruction = super().begin(episode, rng)
        self.begun += 1
        self.position = self.position * 0.99**self.begun
        return instruction


class UnseededEnv(ToyEnv):
    """Samples the initial state of one task without a seed."""

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        return super().begin(episode, np.random.default_rng() if episode.task == "again_red" else rng)


class DetachingEnv(ToyEnv):
    """Prints much, and starts a process in a session of its own, which ``COUNTS`` names."""

    def __init__(self) -> None:
        super().__init__()
        print("first words", "much " * 2**21, "last words", sep="\n", flush=True)
        detached = subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path(os.environ[COUNTS], str(detached.pid)).touch()
