"""Initial states that are found beforehand: candidates are tried in the simulator, once, and the first that succeed are kept.

Results are JSON lines in a file below vlarig's home, a line for each candidate, appended when it is decided, so an interrupted
preparation resumes. The file's name depends on the suite, its adapter's code, its runtime and its data files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..benchmarks.suite import Preparation, Suite, Task
from ..envs.api import Episode
from ..envs.errors import VlarigError
from .children.line import SimulatorFault
from .children.liveness import together
from .children.supervisor import ChildLostError
from .durable_env import MOST_ATTEMPTS
from .home import home
from .locking import unwritable
from .machines.fleets import Fleet
from .worker_spec import WorkerSpec
from .workers import Worker

#: Variation of the episodes that candidates are tried as.
CANDIDATE = "candidate"


class Tried:
    """The results of a suite's candidates so far, and their file.

    Args:
        worker_spec: The recipe of the suite's workers.
    """

    def __init__(self, worker_spec: WorkerSpec) -> None:
        self.suite = worker_spec.suite
        self.file = home() / "prepared" / f"{self.suite.name}-{_digest(worker_spec)}.jsonl"
        self._found: dict[str, dict[int, dict[str, Any] | None]] = {task.name: {} for task in self.suite.tasks}
        for line in _lines(self.file):
            self._found[line["task"]][line["number"]] = line["data"]

    def note(self, task: Task, number: int, data: dict[str, Any] | None) -> None:
        """Write a candidate's result.

        Raises:
            VlarigError: It cannot be written, or is no plain data.
        """
        try:
            line = json.dumps({"task": task.name, "number": number, "data": data})
        except (TypeError, ValueError) as error:
            raise VlarigError(f"what was prepared for candidate {number} of {task.name} is no plain data ({error})") from None
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.file.parent, error) from None
        self._found[task.name][number] = data

    def states(self, task: Task) -> list[dict[str, Any]]:
        """The data of episodes at the task's initial states: of the first candidates that succeed, as far as they are decided."""
        preparation = _preparation(self.suite)
        states, found = [], self._found[task.name]
        for number in range(len(found)):
            if number not in found:
                break
            data = found[number]
            if data is not None:
                states.append({**preparation.candidate(task, number), **data})
        return states[: preparation.count]

    def undecided(self, task: Task, taken: set[int]) -> int | None:
        """The next candidate to try; ``None`` where enough are found, or may be among those that were ``taken`` and not yet decided.

        Raises:
            VlarigError: The most candidates were tried, and the task is given up.
        """
        preparation, found = _preparation(self.suite), self._found[task.name]
        number = good = 0
        while number in found or number in taken:
            good += found.get(number) is not None
            number += 1
            if good == preparation.count:
                return None
        if number >= preparation.most:
            raise VlarigError(
                f"{preparation.most} candidates of task {task.name!r} were tried, and {good} succeeded; expected {preparation.count}"
            )
        return number

    @property
    def complete(self) -> bool:
        """Whether every task has all its initial states."""
        return all(len(self.states(task)) == _preparation(self.suite).count for task in self.suite.tasks)


async def prepare(worker_spec: WorkerSpec, fleet: Fleet, logs: Path, report: Callable[[Task, int, bool], None]) -> Tried:
    """Try candidates until every task of the suite has its initial states.

    Which worker tries a candidate, and how many there are, changes nothing.

    Args:
        worker_spec: The recipe of the suite's workers.
        fleet: Where they run.
        logs: Folder of their logs.
        report: Called with each candidate's task and number, and whether it succeeded.

    Raises:
        VlarigError: The adapter cannot prepare, a task has too few candidates that succeed, or no worker is left.
    """
    tried = Tried(worker_spec)
    if tried.complete:
        return tried
    suite = worker_spec.suite
    episodes = [_episode(suite, task, number) for number in range(_preparation(suite).count) for task in suite.tasks]
    lease = fleet.lease(suite.footprint, episodes)
    taken: dict[str, set[int]] = {task.name: set() for task in suite.tasks}

    async def work(worker: Worker) -> None:
        while True:
            job = next(
                ((task, number) for task in suite.tasks if (number := tried.undecided(task, taken[task.name])) is not None),
                None,
            )
            if job is None:
                return
            task, number = job
            taken[task.name].add(number)
            try:
                data = await _try(worker, _episode(suite, task, number))
            except ChildLostError:
                if not await worker.found():
                    return
                continue
            finally:
                taken[task.name].discard(number)
            tried.note(task, number, data)
            report(task, number, data is not None)

    async with fleet.launch(worker_spec, lease, logs) as workers:
        while not tried.complete:
            present = [worker for worker in workers if worker.absence is None]
            if not present:
                raise workers[0].absence or AssertionError
            await together([work(worker) for worker in present])
    return tried


def with_prepared(worker_spec: WorkerSpec) -> Suite:
    """The suite with the initial states that were found for it, where it needs some.

    Raises:
        VlarigError: They were not all found yet; the message has the command that finds them.
    """
    suite = worker_spec.suite
    if suite.preparation is None:
        return suite
    tried = Tried(worker_spec)
    if not tried.complete:
        raise VlarigError(f"the initial states of {suite.name!r} are not all found yet; run: vlarig prepare {suite.name}")
    return replace(suite, prepared={task.name: tried.states(task) for task in suite.tasks})


def prepared_hash(suite: Suite) -> str:
    """SHA-256 of the initial states that were found for a suite."""
    return hashlib.sha256(json.dumps(suite.prepared, sort_keys=True).encode()).hexdigest()


async def _try(worker: Worker, episode: Episode) -> dict[str, Any] | None:
    """A candidate's result; one that fails the simulator again and again does not succeed."""
    for _ in range(MOST_ATTEMPTS):
        try:
            return await worker.prepare(0, episode)
        except SimulatorFault:
            continue
    return None


def _episode(suite: Suite, task: Task, number: int) -> Episode:
    payload = _preparation(suite).candidate(task, number)
    return Episode(suite.name, suite.protocols[0], task.name, CANDIDATE, number, 0, payload)


def _preparation(suite: Suite) -> Preparation:
    """How the suite is prepared.

    Raises:
        VlarigError: It needs no preparation.
    """
    if suite.preparation is None:
        raise VlarigError(f"the initial states of {suite.name!r} are known; there is nothing to prepare")
    return suite.preparation


def _lines(file: Path) -> Sequence[dict[str, Any]]:
    """The file's lines, without a last one that was cut off."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise VlarigError(f"{file} cannot be read ({error}); delete it, and prepare again") from None
    *lines, cut = text.split("\n")
    if cut:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def _digest(worker_spec: WorkerSpec) -> str:
    """A hash, in 16 digits, of what decides which candidates succeed: the code, the runtime, the data files, the first candidates."""
    suite, preparation = worker_spec.suite, _preparation(worker_spec.suite)
    deciding = {
        "code": worker_spec.code(),
        "runtime": worker_spec.runtime.lock_sha256,
        "assets": {bundle.name: bundle.identity for bundle in worker_spec.assets},
        "candidates": [preparation.candidate(task, 0) for task in suite.tasks],
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]
