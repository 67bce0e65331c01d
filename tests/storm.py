"""A storm over a sweep: a policy that, while it plays, kills the driver, sim servers and simulators at chosen kinds of moments.

The schedule is a file of lines ``moment target``; a line is crossed out on the disk just before its kill, so the next driver goes
on with the rest. A moment is ``reset``, ``step``, ``policy`` or ``commit``; a target ``driver``, ``server`` or ``simulator``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comparing import results

from vlarig.envs.api import Needs
from vlarig.harness.placement import SimHost
from vlarig.policies.api import Reply, Request
from vlarig.policies.scripted import ExpertPolicy, RandomPolicy
from vlarig.results.ledger import Ledger

#: Environment variable: the folder with ``schedule``; without it there is no storm.
STORM = "VLARIG_TEST_STORM"

MOMENTS = ("reset", "step", "policy", "commit")
TARGETS = ("driver", "server", "simulator")

#: Workers and slots of the sweeps in a storm, in turn.
PLACEMENTS = ((2, 2), (4, 1), (1, 8))


class InStorm:
    """A policy that is shown images, so that their digests count, and plays in a storm."""

    needs = Needs(images=True, privileged=True)

    def __init__(self) -> None:
        super().__init__()
        self.storm = Storm(Path(os.environ[STORM])) if STORM in os.environ else None

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        with self.storm.during("policy") if self.storm else contextlib.nullcontext():
            return super().act(requests)  # pyright: ignore[reportAttributeAccessIssue]


class StormPolicy(InStorm, ExpertPolicy):
    """The expert in a storm."""

    name = "storm"


class WanderingStormPolicy(InStorm, RandomPolicy):
    """Random actions in a storm."""

    name = "wandering-storm"


class FarsightedStormPolicy(WanderingStormPolicy):
    """Answers with sixteen random rows, however many are carried out."""

    name = "farsighted-storm"
    horizon = 16

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return super().act([replace(request, execute=self.horizon) for request in requests])


class Storm:
    """Watches what the driver is doing, and kills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.active: Counter[str] = Counter()
        self.host: dict[str, SimHost] = {}
        self.random = random.Random(os.getpid())
        self._watch()
        threading.Thread(target=self._rage, daemon=True).start()

    @contextlib.contextmanager
    def during(self, moment: str, host: SimHost | None = None) -> Iterator[None]:
        self.active[moment] += 1
        if host is not None:
            self.host[moment] = host
        try:
            yield
        finally:
            self.active[moment] -= 1

    def _watch(self) -> None:
        start, step, write = SimHost.start, SimHost.step, Ledger.write_episode

        async def watched_start(host, *arguments):
            with self.during("reset", host):
                return await start(host, *arguments)

        async def watched_step(host, *arguments):
            with self.during("step", host):
                return await step(host, *arguments)

        def watched_write(ledger, record):
            with self.during("commit"):
                return write(ledger, record)

        SimHost.start, SimHost.step, Ledger.write_episode = watched_start, watched_step, watched_write

    def _rage(self) -> None:
        schedule = self.folder / "schedule"
        while lines := schedule.read_text().splitlines():
            moment, target = lines[0].split()
            time.sleep(self.random.uniform(0.2, 0.8))
            while not self.active[moment]:
                time.sleep(0.0002)
            time.sleep(self.random.uniform(0, 0.02 if moment == "reset" else 0.002))
            victim = self._find(moment, target)
            if victim is None:
                continue
            with (self.folder / "kills").open("a") as kills:
                kills.write(f"{moment} {target}\n")
            rest = self.folder / "rest"
            rest.write_text("\n".join(lines[1:]))
            rest.replace(schedule)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

    def _find(self, moment: str, target: str) -> int | None:
        if target == "driver":
            return os.getpid()
        host = self.host.get(moment) or self.host.get("step")
        server = None if host is None else host.pid
        if target == "server" or server is None:
            return server
        return next(iter(children(server)), None)


def blow(cli: Callable[..., Any], words: Sequence[object], folder: Path, plan: Sequence[str], expected: Any) -> None:
    """Run a sweep again and again in a storm until the plan's kills are done, and compare every finished run.

    Args:
        cli: Runs the command line.
        words: The sweep's command, without its run and placement.
        folder: An empty folder.
        plan: The kills, as lines ``moment target``.
        expected: The results of an undisturbed run.
    """
    shuffled = list(plan)
    random.Random(0).shuffle(shuffled)
    (folder / "schedule").write_text("\n".join(shuffled))
    placements = itertools.cycle(PLACEMENTS)
    generation = 0
    while (folder / "schedule").read_text():
        # A run that is done while the storm goes on is an undisturbed end; the storm goes on over a further run.
        run = folder / f"run{generation}"
        workers, slots = next(placements)
        done = cli(*words, "--run", run, "--workers", workers, "--slots", slots, timeout=600, **{STORM: str(folder)})
        assert done.returncode in (0, 1, -9), done.stderr
        if done.returncode == 0:
            assert results(run) == expected
            generation += 1
    while cli(*words, "--run", run, timeout=600).returncode == 1:
        pass
    assert results(run) == expected
    assert Counter((folder / "kills").read_text().splitlines()) == Counter(plan)


def children(pid: int) -> list[int]:
    """Living processes that were started by ``pid``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return found
