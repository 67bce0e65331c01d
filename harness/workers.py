"""Workers of a sweep, on any machine: replaced when they die, awaited where their machine is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from ..benchmarks.suite import Suite
from ..envs.errors import VlarigError
from ..envs.messages import LOST
from .children.child import Launcher
from .children.child_config import ChildDied
from .children.liveness import together, within
from .children.simulator import Simulator, WorkerLog, WorkerSpec
from .children.supervisor import Supervisor, WorkerLine

T = TypeVar("T")

#: Seconds that a worker may take to start beside its simulator's loading time; long, for a busy machine.
START_MARGIN = 60.0


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
        return self._worker_spec.suite

    async def launch(self) -> WorkerLine:
        """Start a worker. Raises like :meth:`.children.simulator.Simulator.start`."""
        try:
            self._log.open()
        except OSError as error:
            raise ChildDied(LOST, f"it cannot be started ({error})") from None
        simulator = await Simulator.start(self._launcher, self._worker_spec, self._log.add, self._memory_bytes)
        return WorkerLine(simulator, simulator.welcome.embodiment)


class Worker(Supervisor[WorkerLine]):
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
        super().__init__(self.name, self._start_one, lambda: self.factory.where)

    async def __aenter__(self) -> Worker:
        try:
            await self.running()
        except BaseException:
            await self.end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def _start_one(self) -> WorkerLine:
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
