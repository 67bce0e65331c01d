"""The suite whose promises are tried, and the processes that try them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.registry import load_suite
from ..benchmarks.suite import Suite
from ..envs.api import Episode, Needs, Protocol
from ..envs.home import appearing
from ..envs.parity import sample_actions
from ..harness import plan
from ..harness.children.simulator import WorkerSpec, encoded, worker_answers
from ..harness.children.supervisor import WorkerLine
from ..harness.commands.envs import PrepareConfig, find_initial_states
from ..harness.film import write_contact_sheet
from ..harness.preparation import with_found
from ..harness.workers import Worker
from ..policies.api import Policy, Reply, Request
from ..results.ledger import Ledger
from ..results.records import EpisodeRecord
from .digests import play_again

#: Environment variable: the file of the kills that are to fall, a target and a driver's activity a line; without it there are none.
KILLS = "VLARIG_CONTRACT_KILLS"

#: Rows of a reply at least, for protocols that combine overlapping chunks.
HORIZON = 16

#: Seconds between two kills; and for which the policy thinks while kills are to come, so that the sweep lasts.
GAP, THINKING = 0.1, 0.03

#: Seconds for which an activity is awaited before any other will do.
LONGEST_WAIT = 10.0


class DriverActivity:
    """The activity of the driver that this is made in, and its workers."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self._active: Counter[str] = Counter()
        self._worker_at: dict[str, Worker] = {}
        self._watch()

    @contextlib.contextmanager
    def during(self, activity: str, worker: Worker | None = None) -> Iterator[None]:
        """Mark the driver's current activity: ``reset``, ``step``, ``policy`` or ``commit``."""
        self._active[activity] += 1
        if worker is not None:
            self._worker_at[activity] = worker
        try:
            yield
        finally:
            self._active[activity] -= 1

    def worker(self, activity: str) -> Worker | None:
        """The worker that is busy with the activity, or was last; any where none was."""
        return self._worker_at.get(activity) or (random.choice(self.workers) if self.workers else None)

    def wait_for(self, activity: str) -> None:
        """Wait until the driver is within the activity; ``any`` is every activity."""
        deadline = time.monotonic() + LONGEST_WAIT
        while activity != "any" and not self._active[activity] and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(random.uniform(0, 0.02 if activity == "reset" else 0.002))

    def began(self, worker: Worker) -> None:
        self.workers.append(worker)

    def _watch(self) -> None:
        begin, start, step, write = Worker.__aenter__, WorkerLine.start, WorkerLine.step, Ledger.write_episode

        async def watched_begin(worker: Worker) -> Worker:
            self.began(worker)
            return await begin(worker)

        async def watched_start(line: WorkerLine, *arguments: Any) -> Any:
            with self.during("reset", self._worker_on(line)):
                return await start(line, *arguments)

        async def watched_step(line: WorkerLine, *arguments: Any) -> Any:
            with self.during("step", self._worker_on(line)):
                return await step(line, *arguments)

        def watched_write(ledger: Ledger, record: Any) -> bool:
            with self.during("commit"):
                return write(ledger, record)

        classes: tuple[Any, Any, Any] = Worker, WorkerLine, Ledger
        classes[0].__aenter__ = watched_begin
        classes[1].start, classes[1].step = watched_start, watched_step
        classes[2].write_episode = watched_write

    def _worker_on(self, line: WorkerLine) -> Worker | None:
        return next((worker for worker in self.workers if worker.line is line), None)


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


def is_launcher(pid: int) -> bool:
    """Whether the process starts a driver's workers."""
    with contextlib.suppress(OSError):
        return b"launcher.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class RandomStorm(Policy):
    """Random steps (:func:`~vlarig.envs.parity.sample_actions`) from the request's own seed, of an observation with images.

    Args:
        steps: Steps after which every suite's episodes end.
    """

    name = "random-storm"
    revision = "2"
    needs = Needs(images=True)
    horizon = HORIZON
    stateful = False

    def __init__(self, steps: int) -> None:
        load = plan.load_suite

        def shortened(name: str) -> Suite:
            suite = load(name)
            cut = [replace(each, step_limit=steps, task_limits={}, repeats=1) for each in suite.protocols]
            return replace(suite, protocols=tuple(cut))

        plan.load_suite = shortened  # a policy is made before the planning
        self._storm = Storm(Path(os.environ[KILLS])) if KILLS in os.environ else None

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        with self._storm.activity.during("policy") if self._storm else contextlib.nullcontext():
            time.sleep(THINKING if self._storm and self._storm.rages else 0.0)
            return [Reply(sample_actions(each.embodiment, np.random.default_rng(each.seed), HORIZON)) for each in requests]


class Storm:
    """Kills the driver that it is made in, its launcher and its simulators, each once and during its activity.

    A kill is taken off the file just before it falls, so that the next driver goes on with the rest.
    """

    def __init__(self, kills: Path) -> None:
        self.activity = DriverActivity()
        self.rages = True
        self._kills = kills
        threading.Thread(target=self._rage, name="storm", daemon=True).start()

    def _rage(self) -> None:
        while kills := self._kills.read_text().splitlines():
            time.sleep(GAP)
            target, activity = kills[0].split()
            self.activity.wait_for(activity)
            victim = self._victim(target, activity)
            if victim is not None:
                with appearing(self._kills) as draft:
                    draft.write_text("".join(f"{line}\n" for line in kills[1:]))
                os.kill(victim, signal.SIGKILL)
        self.rages = False

    def _victim(self, target: str, activity: str) -> int | None:
        if target == "driver":
            return os.getpid()
        if target == "launcher":
            return next((pid for pid in children(os.getpid()) if is_launcher(pid)), None)
        worker = self.activity.worker(activity)
        return None if worker is None else worker.pid


#: Seconds that a worker or a sweep of the kit may take.
PATIENCE = 900.0

#: Tasks on trial, the first ones, that are played in several processes: enough for four workers, and for processes to be killed at.
SWEPT = 3


@dataclass
class Subject:
    """A suite on trial.

    Attributes:
        name: Name of the suite, or its place, ``module:NAME``.
        folder: An empty folder for runs.
        checked: Tasks on which the env checker is run. Default: all.
        recorded: Recorded actions, a file of ``numpy.savez``: from an episode's key, with ``|`` for ``/``, to steps that solve it.
        sweep: Committed digest of a sweep (:mod:`.digests`) of which a part is played again.
        states: Initial states that are found for each task on trial, where a suite's have to be found. One is enough for a comparison
            with upstream's loop.
    """

    name: str
    folder: Path
    checked: tuple[str, ...] = ()
    recorded: Path | None = None
    sweep: Path | None = None
    states: int = 2
    _runs: Any = field(default_factory=itertools.count)

    @cached_property
    def worker_spec(self) -> WorkerSpec:
        return WorkerSpec.of(load_suite(self.name))

    @cached_property
    def suite(self) -> Suite:
        """The suite; where initial states have to be found, some are, for the tasks on trial."""
        self._prepare(self.trial_tasks, self.states)
        return with_found(self.worker_spec)

    def _prepare(self, tasks: Sequence[str], wanted: int) -> None:
        if self.worker_spec.suite.preparation is not None:
            one = PrepareConfig(self.name, tuple(tasks), wanted, workers=1)  # further ones would try more than are wanted
            assert find_initial_states(one) == 0

    @cached_property
    def trial_tasks(self) -> tuple[str, ...]:
        suite = self.worker_spec.suite
        return suite.trial.tasks or tuple(task.name for task in suite.tasks[:3])

    @property
    def steps(self) -> int:
        """Steps of an episode that is cut short."""
        return self.suite.trial.steps

    def episode(self, task: str, number: int, protocol: Protocol | None = None) -> Episode:
        """An episode of a task, at one of its initial states, by number modulo their count."""
        found, rules = self.suite.task(task), protocol or self.suite.protocols[0]
        states = found.initial_states_of(rules)
        return self.suite.episode(found, states[number % len(states)], 0, rules)

    def ask(self, question: str, **config: Any) -> list[dict[str, Any]]:
        """The answers of a worker of the suite to a question, see :mod:`vlarig.envs.simulation.check`."""
        return list(worker_answers(self.worker_spec, question, **config))

    def play(self, runs: Sequence[Sequence[tuple[Episode, int, bool]]]) -> list[list[list[str]]]:
        """The digests of episodes (each with its steps, and whether it is rendered), each run of them in a process of its own."""
        configs = [[(encoded(episode), steps, rendered) for episode, steps, rendered in run] for run in runs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            answers = list(pool.map(lambda plays: self.ask("plays", plays=plays), configs))
        return [[answer["digests"] for answer in each] for each in answers]

    def play_in_turns(self, plays: Sequence[tuple[Episode, int, bool]]) -> list[list[str]]:
        """The digests of episodes that envs of one process play in turns, then of the first, when the other envs are closed."""
        answers = self.ask("in_turns", plays=[(encoded(episode), steps, rendered) for episode, steps, rendered in plays])
        return [answer["digests"] for answer in answers]

    @cached_property
    def targets(self) -> dict[str, tuple[Episode, int, bool]]:
        """Task on trial to the episode of it that is played in one place and another, with its steps and images."""
        return {task: (self.episode(task, 3), self.steps, True) for task in self.trial_tasks[:SWEPT]}

    @cached_property
    def fresh(self) -> dict[str, list[str]]:
        """Task to the digests of that episode in a fresh process."""
        runs = self.play([[target] for target in self.targets.values()])
        return dict(zip(self.targets, (run[0] for run in runs), strict=True))

    def sweep_again(
        self, workers: int, num_envs: int, kills: Sequence[tuple[str, str]] = (), most: int = 1
    ) -> tuple[list[EpisodeRecord], list[str]]:
        """Sweep two episodes of each of the first tasks on trial, cut short, with random steps, while processes are killed.

        Args:
            workers: Workers.
            num_envs: Envs of all together.
            kills: Targets (``driver``, ``launcher``, ``simulator``), each with the activity of :meth:`DriverActivity.during`.
            most: Drivers after which it is given up.

        Returns:
            Every episode; and the kills that fell on nothing.
        """
        run = self.folder / f"run{next(self._runs)}"
        schedule = self.folder / f"{run.name}.kills"
        schedule.write_text("".join(f"{target} {activity}\n" for target, activity in kills))
        words = [
            "sweep",
            self.name,
            "--policy",
            "vlarig.contract.subject:RandomStorm",
            "--tasks",
            *self.trial_tasks[:SWEPT],
        ]
        words += ["--policy-options", f"steps={self.steps}", "--episodes", "2", "--run", str(run)]
        words += ["--workers", str(workers), "--num-envs", str(num_envs)]
        for _ in range(most):
            if self._drive(words, schedule) == 0:
                break
        else:
            raise AssertionError(f"{self.name}: {most} drivers did not come to the end of a sweep")
        with Ledger.open_read_only(run) as ledger:
            return ledger.records(with_actions=True), schedule.read_text().splitlines()

    def _drive(self, words: Sequence[str], schedule: Path) -> int:
        """Run a driver with what is left of the kills; its exit status."""
        environment = {name: value for name, value in os.environ.items() if name != KILLS}
        if schedule.read_text():
            environment[KILLS] = str(schedule)
        command = [sys.executable, "-m", "vlarig.harness", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
        status = done.returncode
        assert status in (0, -signal.SIGKILL), f"{self.name}: a sweep ended with status {status}: {done.stderr[-2000:]}"
        return status

    def render_sheet(self, records: Sequence[EpisodeRecord]) -> Path:
        """A sheet with a row for each episode: every view at its start, then at its end."""
        file, suite, asked = self.folder / "ends.npz", self.suite, []
        for record in records:
            episode = suite.episode(suite.task(record.task), record.initial_state, record.repeat, suite.protocols[0])
            asked.append((encoded(episode), record.actions.tolist()))
        self.ask("ends", episodes=asked, to=str(file))
        rows = []
        with np.load(file) as images:
            for number, record in enumerate(records):
                shown = [images[name] for name in images.files if name.startswith(f"{number}/")]
                outcome = "success" if record.success else "failure"
                rows.append((f"{record.task} {record.initial_state}\n{outcome} after {record.steps} steps", shown))
        write_contact_sheet(self.folder / "sheet.png", rows)
        return self.folder / "sheet.png"

    @cached_property
    def undisturbed(self) -> list[EpisodeRecord]:
        """The episodes of that sweep by one worker that has one env."""
        return self.sweep_again(1, 1)[0]

    @cached_property
    def again(self) -> list[EpisodeRecord]:
        """The episodes of the part of the committed sweep that is played again."""
        assert self.sweep is not None
        promise = json.loads(self.sweep.read_text())["promises"][self.worker_spec.suite.name]
        self._prepare(promise["tasks"], promise["again"])
        return play_again(self.sweep, self.name, self.folder / "again")
