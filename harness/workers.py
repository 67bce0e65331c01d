"""Workers of a sweep, on any machine: replaced when they die, awaited where their machine is away."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ..benchmarks.suite import Suite
from ..envs.api import ChunkResult, Episode, Needs, Snapshot
from ..envs.errors import VlarigError
from ..envs.messages import CRASH, LOST
from .children.child import ChildDied, Launcher
from .children.line import SimulatorFault, WorkerLine
from .children.liveness import together, within
from .children.simulator import Simulator
from .children.supervisor import ChildLostError, Supervisor
from .children.worker_log import WorkerLog
from .worker_spec import WorkerSpec

T = TypeVar("T")

#: Seconds that a worker may take to start beside its simulator's loading time; long, for a busy machine.
START_MARGIN = 60.0

#: How often one episode may be lost by deaths that are charged to no episode before it counts as their cause.
MOST_LOSSES = 10


class WorkerFactory(Protocol):
    """Where a worker runs, and how it is started there."""

    @property
    def suite(self) -> Suite:
        """The suite whose simulator it loads."""
        ...

    @property
    def where(self) -> str:
        """Where its output is, for the user."""
        ...

    async def launch(self) -> WorkerLine:
        """Start a worker. This may take for ever: the caller bounds it.

        Raises:
            ChildDied: It died; ``MachineAwayError`` where nothing can be started for now.
        """
        ...


class LocalWorkerFactory:
    """Starts a worker on this machine.

    Args:
        launcher: Starts its process.
        worker_spec: Its recipe.
        log: File that gets its output.
        memory_bytes: Most memory that it may take; no bound when ``None``.
    """

    def __init__(self, launcher: Launcher, worker_spec: WorkerSpec, log: Path, memory_bytes: int | None = None) -> None:
        self._launcher = launcher
        self._worker_spec = worker_spec
        self._log = WorkerLog(log)
        self._memory_bytes = memory_bytes
        self.where = str(log)

    @property
    def suite(self) -> Suite:
        """The suite whose simulator it loads."""
        return self._worker_spec.suite

    async def launch(self) -> WorkerLine:
        """Start a worker. Raises like :meth:`.children.simulator.Simulator.start`."""
        try:
            self._log.open()
        except OSError as error:
            raise ChildDied(LOST, f"it cannot be started ({error})") from None
        simulator = await Simulator.start(self._launcher, self._worker_spec, self._log.add, self._memory_bytes)
        return WorkerLine(simulator, simulator.welcome.embodiment)


class Worker:
    """One worker for as long as the run lasts: the line to it, and its replacements.

    Use it as an asynchronous context manager.

    Args:
        number: Its number among the run's.
        factory: Starts it, where it runs.
        machine: Name of the machine; empty for this one.
    """

    def __init__(self, number: int, factory: WorkerFactory, machine: str = "") -> None:
        self.number = number
        self.name = f"{machine}/worker-{number}" if machine else f"worker-{number}"
        """The worker's name in records."""
        self.factory = factory
        self._supervisor = Supervisor(self.name, self._launch, lambda: self.factory.where)
        self._begun: dict[int, WorkerLine] = {}
        """The line on which each env's episode began."""
        self._losses: dict[int, _Losses] = {}

    @property
    def pid(self) -> int | None:
        """Process id of the worker, for as long as it lives."""
        return self._supervisor.pid

    @property
    def absence(self) -> ChildLostError | None:
        """Why there is no worker; ``None`` while there is one, or will be soon."""
        return self._supervisor.absence

    async def __aenter__(self) -> Worker:
        """Start the worker."""
        try:
            await self._supervisor.running()
        except BaseException:
            await self._supervisor.end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the worker."""
        await self._supervisor.end()

    async def start(self, env: int, episode: Episode, needs: Needs) -> Snapshot:
        """Begin an episode in an env.

        Raises:
            SimulatorFault: It could not be done; ``lost`` where no episode is to blame.
            ChildLostError: The worker is lost; :meth:`found` waits for it.
        """
        if env not in self._losses or self._losses[env].key != episode.key:
            self._losses[env] = _Losses(episode.key)
        line = self._begun[env] = await self._supervisor.running()
        return await self._call(env, line.start(env, episode, needs))

    async def step(self, env: int, actions: np.ndarray) -> ChunkResult:
        """Run a chunk, ``float32[H, A]``, in an env. Raises like :meth:`start`."""
        if self.absence is not None:
            raise self.absence
        return await self._call(env, self._begun[env].step(env, actions))

    async def prepare(self, env: int, episode: Episode) -> dict[str, Any] | None:
        """Try a candidate for an initial state in an env. Raises like :meth:`start`."""
        self._losses.setdefault(env, _Losses(""))
        line = await self._supervisor.running()
        return await self._call(env, line.prepare(env, episode))

    async def found(self) -> bool:
        """Wait until the worker is there; false where it is given up."""
        return await self._supervisor.found()

    async def _call(self, env: int, answer: Awaitable[T]) -> T:
        try:
            result = await answer
        except SimulatorFault as fault:
            raise self._loss(env, str(fault)) if fault.kind == LOST else fault from None
        self._supervisor.succeeded()
        return result

    def _loss(self, env: int, reason: str) -> SimulatorFault:
        """The fault of an episode that was lost: charged to the episode only where the same one is lost again and again."""
        losses = self._losses.setdefault(env, _Losses(""))
        losses.count += 1
        if losses.count <= MOST_LOSSES:
            return SimulatorFault(LOST, reason)
        times, losses.count = losses.count, 0
        return SimulatorFault(CRASH, f"its worker died {times} times while it was under way; the last time: {reason}")

    async def _launch(self) -> WorkerLine:
        """Start the worker. Raises like :meth:`WorkerFactory.launch`."""
        suite = self.factory.suite
        seconds = suite.patience.load + START_MARGIN
        try:
            line = await within(self.factory.launch(), seconds)
        except TimeoutError:
            raise ChildDied(LOST, f"it did not start within {seconds:g} s") from None
        if line.embodiment != suite.embodiment:
            await line.end()
            raise VlarigError(_embodiment_mismatch(suite, line))
        return line


@dataclasses.dataclass
class _Losses:
    """How often an episode was lost."""

    key: str
    count: int = 0


def _embodiment_mismatch(suite: Suite, line: WorkerLine) -> str:
    ours, theirs = suite.embodiment, line.embodiment
    differing = [name for name in vars(ours) if getattr(ours, name) != getattr(theirs, name)]
    first = differing[0]
    return (
        f"suite {suite.name!r} and its adapter disagree on the embodiment's {first}: "
        f"{getattr(ours, first)!r} in the suite, {getattr(theirs, first)!r} in the adapter; make them the same constant"
    )


@contextlib.asynccontextmanager
async def started(workers: Sequence[Worker]) -> AsyncIterator[Sequence[Worker]]:
    """Workers that are started side by side and ended together."""
    try:
        await together([worker.__aenter__() for worker in workers])
        yield workers
    finally:
        await asyncio.gather(*(worker.__aexit__() for worker in workers))


@contextlib.asynccontextmanager
async def local_workers(
    worker_spec: WorkerSpec, count: int, logs: Path, memory_bytes: int | None = None
) -> AsyncIterator[list[Worker]]:
    """``count`` workers on this machine.

    Args:
        worker_spec: The recipe of each.
        count: How many.
        logs: Folder of their log files.
        memory_bytes: Most memory that each one may take; no bound when ``None``.
    """
    name = worker_spec.suite.name
    async with Launcher() as launcher:
        factories = [
            LocalWorkerFactory(launcher, worker_spec, logs / f"{name}-worker-{number}.log", memory_bytes)
            for number in range(count)
        ]
        workers = [Worker(number, factory) for number, factory in enumerate(factories)]
        async with started(workers):
            yield workers
