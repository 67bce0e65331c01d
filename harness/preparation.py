"""Initial states that are found beforehand: each is tried in the simulator, once, and the first that will do are kept.

Results are JSON lines in a file below vlarig's home, a line for each that was tried, appended when it is decided, so an interrupted
preparation resumes. The file's name depends on the preparation's, the adapter's code, its runtime and its data files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from ..benchmarks.suite import Preparation, Suite, Task
from ..envs.api import Episode
from ..envs.errors import VlarigError
from ..envs.home import home, unwritable
from ..envs.messages import REFUSED
from ..envs.sources import source_hashes
from .children.liveness import together
from .children.simulator import WorkerSpec
from .children.supervisor import ChildLostError, SimulatorFault
from .durable_env import MOST_ATTEMPTS
from .machines.fleets import Fleet
from .workers import Worker

#: Variation of the episodes as which initial states are tried.
CANDIDATE = "candidate"


class Tried:
    """The results of a suite's initial states so far, and their file.

    Args:
        worker_spec: The recipe of the suite's workers.
    """

    def __init__(self, worker_spec: WorkerSpec) -> None:
        self.suite = worker_spec.suite
        self.preparation = _preparation(self.suite)
        name = self.preparation.name or self.suite.name
        self.file = home() / "prepared" / f"{name}-{_digest(worker_spec)}.jsonl"
        self._tried: dict[str, dict[int, dict[str, Any] | None]] = {task.name: {} for task in self.suite.tasks}
        self.shared: dict[str, Any] = {}
        """What all initial states that will do share."""
        for line in _lines(self.file):
            self._check_shared(line["data"])
            self._tried[line["task"]][line["initial_state"]] = line["data"]

    def note(self, task: Task, initial_state: int, data: dict[str, Any] | None) -> None:
        self._check_shared(data)
        try:
            line = json.dumps({"task": task.name, "initial_state": initial_state, "data": data})
        except (TypeError, ValueError) as error:
            raise VlarigError(f"what was prepared for {task.name} {initial_state} is no plain data ({error})") from None
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.file.parent, error) from None
        self._tried[task.name][initial_state] = data

    def found(self, task: Task) -> dict[int, dict[str, Any]]:
        """The task's initial states that will do, in order, as far as all before them are decided; each with what was found."""
        tried, found = self._tried[task.name], {}
        for initial_state in count(self.preparation.first):
            if initial_state not in tried or len(found) == self.preparation.count:
                return found
            if (data := tried[initial_state]) is not None:
                found[initial_state] = data
        raise AssertionError

    def undecided(self, task: Task, taken: set[int], wanted: int) -> int | None:
        """The initial state to try next.

        Args:
            task: The task.
            taken: Those that are being tried.
            wanted: How many that will do are wanted.

        Returns:
            ``None`` where enough are found, or may be among those that were taken.
        """
        tried, good = self._tried[task.name], 0
        for number in range(self.preparation.most):
            initial_state = self.preparation.first + number
            if initial_state not in tried and initial_state not in taken:
                return initial_state
            good += tried.get(initial_state) is not None
            if good == wanted:
                return None
        raise VlarigError(
            f"{self.preparation.most} initial states of task {task.name!r} were tried, and {good} succeeded; expected {wanted}"
        )

    def _check_shared(self, data: dict[str, Any] | None) -> None:
        if data is None:
            return
        for name in self.preparation.same:
            value = data.get(name)
            known = self.shared.setdefault(name, value)
            if value != known:
                raise VlarigError(
                    f"initial states of {self.suite.name!r} in {self.file} were found with {name} {known!r}, and now with "
                    f"{value!r}; they are not mixed: go on where {known!r} is, or move that file away and prepare again"
                )


async def prepare(
    worker_spec: WorkerSpec,
    tasks: Sequence[Task],
    wanted: int,
    fleet: Fleet,
    logs: Path,
    report: Callable[[Task, int, bool], None],
) -> Tried:
    """Try initial states until tasks of the suite have enough that will do.

    Which worker tries one, and how many workers there are, changes nothing.

    Args:
        worker_spec: The recipe of the suite's workers.
        tasks: The tasks.
        wanted: Initial states of each.
        fleet: Where they run.
        logs: Folder of their logs.
        report: Called with the task and the number of each initial state that was tried, and whether it will do.
    """
    tried = Tried(worker_spec)
    taken: dict[str, set[int]] = {task.name: set() for task in tasks}

    def job() -> tuple[Task, int] | None:
        states = ((task, tried.undecided(task, taken[task.name], wanted)) for task in tasks)
        return next(((task, state) for task, state in states if state is not None), None)

    if job() is None:
        return tried
    episodes = [_episode(worker_spec.suite, task, number) for number in range(wanted) for task in tasks]
    lease = fleet.lease(worker_spec.suite.footprint, episodes)

    async def work(worker: Worker) -> None:
        while (found := job()) is not None:
            task, initial_state = found
            taken[task.name].add(initial_state)
            try:
                data = await _try(worker, _episode(worker_spec.suite, task, initial_state))
            except ChildLostError:
                if not await worker.found():
                    return
                continue
            finally:
                taken[task.name].discard(initial_state)
            tried.note(task, initial_state, data)
            report(task, initial_state, data is not None)

    async with fleet.launch(worker_spec, lease, logs) as workers:
        while job() is not None:
            present = [worker for worker in workers if worker.absence is None]
            if not present:
                raise workers[0].absence or AssertionError
            await together([work(worker) for worker in present])
    return tried


def with_prepared(worker_spec: WorkerSpec, tasks: Sequence[str] = (), per_task: int | None = None) -> Suite:
    """The suite with the initial states that were found for it, where it needs some.

    Args:
        worker_spec: The recipe of its workers.
        tasks: Tasks that are to be played; all when empty.
        per_task: Episodes of each; all initial states when ``None``.
    """
    suite = with_found(worker_spec)
    if suite.preparation is None:
        return suite
    wanted = min(per_task or suite.preparation.count, suite.preparation.count)
    found = suite.prepared or {}
    lacking = [name for name in found if (not tasks or name in tasks) and len(found[name]) < wanted]
    if lacking:
        options = [*(["--tasks", *tasks] if tasks else []), *(["--episodes", str(wanted)] if per_task else [])]
        raise VlarigError(
            f"{len(found[lacking[0]])} of the {wanted} initial states of {suite.name!r} {lacking[0]} are found yet"
            f"{f', and {len(lacking) - 1} more tasks lack some' if lacking[1:] else ''}; run: "
            + " ".join(["vlarig envs prepare", suite.name, *options])
        )
    return suite


def with_found(worker_spec: WorkerSpec) -> Suite:
    """The suite with the initial states that its data files have, or that were found for it so far, where it needs some.

    A task without any found keeps its own.
    """
    suite = worker_spec.suite
    if suite.read_states is not None:
        read = suite.read_states({bundle.name: bundle.folder for bundle in worker_spec.assets})
        own = tuple(
            replace(task, initial_states=tuple(states)) for task in suite.tasks if (states := read.states.get(task.name))
        )
        note = "; ".join(filter(None, [suite.note, read.note]))
        return replace(suite, tasks=own, prepared=read.states, training=read.training or suite.training, note=note)
    if suite.preparation is None:
        return suite
    tried = Tried(worker_spec)
    found = {task.name: tried.found(task) for task in suite.tasks}
    known = tuple(replace(task, initial_states=tuple(found[task.name]) or task.initial_states) for task in suite.tasks)
    notes = [suite.note, *(f"initial states found with {name} {value}" for name, value in tried.shared.items())]
    return replace(suite, tasks=known, prepared=found, note="; ".join(filter(None, notes)))


def with_read(suite: Suite) -> Suite:
    """The suite with the initial states of its data files, where only these know them."""
    return suite if suite.read_states is None else with_found(WorkerSpec.of(suite))


def prepared_hash(episodes: Sequence[Episode]) -> str:
    """SHA-256 of the initial states of episodes, with what was found for them."""
    states = sorted((episode.task, episode.initial_state, episode.payload) for episode in episodes if not episode.repeat)
    return hashlib.sha256(json.dumps(states, sort_keys=True).encode()).hexdigest()


async def _try(worker: Worker, episode: Episode) -> dict[str, Any] | None:
    """An initial state's result; one that fails the simulator again and again will not do."""
    for _ in range(MOST_ATTEMPTS):
        try:
            result = await (await worker.running()).prepare(0, episode)
            worker.succeeded()
            return result
        except SimulatorFault as fault:
            if fault.kind == REFUSED:
                raise VlarigError(str(fault)) from None
    return None


def _episode(suite: Suite, task: Task, initial_state: int) -> Episode:
    return replace(suite.episode(task, initial_state, 0, suite.protocols[0]), variant=CANDIDATE)


def _preparation(suite: Suite) -> Preparation:
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
    """A hash, in 16 digits, of what decides which initial states will do: adapter, runtime, data files, the first payloads.

    The rest of vlarig does not: an upgrade does not find again what took days.
    """
    suite, preparation = worker_spec.suite, _preparation(worker_spec.suite)
    deciding = {
        "code": _adapter_code(suite),
        "sources": source_hashes(worker_spec.sources),
        "runtime": worker_spec.runtime.lock_sha256,
        "assets": {bundle.name: bundle.identity for bundle in worker_spec.assets},
        "first": [_episode(suite, task, preparation.first).payload for task in suite.tasks],
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def _adapter_code(suite: Suite) -> str:
    """SHA-256 of the modules beside the adapter."""
    found = importlib.util.find_spec(suite.adapter.partition(":")[0])
    modules = sorted(Path(found.origin).parent.glob("*.py")) if found is not None and found.origin is not None else []
    return hashlib.sha256(b"\0".join(module.name.encode() + b" " + module.read_bytes() for module in modules)).hexdigest()
