"""The suite whose promises are tried, and the processes that try them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...benchmarks.registry import load_suite
from ...benchmarks.suite import Suite
from ...envs.api import Episode, Protocol
from ...results.ledger import Ledger
from ...results.records import EpisodeRecord
from ..commands.envs import PrepareConfig, find_initial_states
from ..film import write_contact_sheet
from ..preparation import with_found
from ..worker_spec import WorkerSpec, encoded, worker_answers
from .digests import play_again
from .storm import KILLS

#: Seconds that a worker or a sweep of the kit may take.
PATIENCE = 900.0

#: Tasks on trial, the first ones, that the kit's sweeps play: enough for four workers, and for processes to be killed at.
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
        """The answers of a worker of the suite to a question, see :mod:`vlarig.harness.simulation.check`."""
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
        return {task: (self.episode(task, 3), self.steps, True) for task in self.trial_tasks}

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
            kills: Targets (``driver``, ``launcher``, ``simulator``), each with the activity of :meth:`.storm.DriverActivity.during`.
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
            "vlarig.harness.contract.storm:RandomStorm",
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
