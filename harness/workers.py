"""Workers on any machine: replaced when they die, awaited where their machine is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from ..benchmarks.suite import Suite
from ..envs.errors import VlarigError
from ..envs.messages import LOST
from .children.child import Launcher
from .children.child_config import ChildDied
from .children.liveness import together, within
from .children.simulator import Simulator, WorkerLog, WorkerSpec
from .children.supervisor import Supervisor, WorkerLine

#: Seconds that a worker may take to start beside its simulator's loading time; long, for a busy machine.
START_MARGIN = 60.0


class Worker(Supervisor[WorkerLine]):
    """One worker for as long as the run lasts: the line to it, and its replacements.

    A subclass says how one is started where it runs. Use it as an asynchronous context manager.

    Args:
        number: Its number among the run's.
        worker_spec: The recipe of its process.
        memory_bytes: Most memory that it may take; no bound when ``None``.
        where: Where its output is, for the user.
        machine: Name of the machine; empty for this one.
    """

    def __init__(self, number: int, worker_spec: WorkerSpec, memory_bytes: int | None, where: str, machine: str = "") -> None:
        self.number = number
        self.name = f"{machine}/worker-{number}" if machine else f"worker-{number}"
        """The worker's name in records."""
        self._worker_spec = worker_spec
        self._memory_bytes = memory_bytes
        super().__init__(self.name, self._start_one, where)

    async def launch(self) -> WorkerLine:
        """Start a process. This may take for ever: the caller bounds it.

        Raises:
            ChildDied: It died; ``MachineAwayError`` where nothing can be started for now.
        """
        raise NotImplementedError

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
        suite = self._worker_spec.suite
        seconds = suite.patience.load + START_MARGIN
        try:
            line = await within(self.launch(), seconds)
        except TimeoutError:
            raise ChildDied(LOST, f"it did not start within {seconds:g} s") from None
        if line.embodiment != suite.embodiment:
            await line.end()
            raise VlarigError(_embodiment_mismatch(suite, line))
        return line


class LocalWorker(Worker):
    """A worker on this machine, whose process ``launcher`` starts and whose output the file ``log`` gets."""

    def __init__(
        self, number: int, launcher: Launcher, worker_spec: WorkerSpec, log: Path, memory_bytes: int | None = None
    ) -> None:
        super().__init__(number, worker_spec, memory_bytes, str(log))
        self._launcher = launcher
        self._log = WorkerLog(log)

    async def launch(self) -> WorkerLine:
        try:
            self._log.open()
        except OSError as error:
            raise ChildDied(LOST, f"it cannot be started ({error})") from None
        simulator = await Simulator.start(self._launcher, self._worker_spec, self._log.add, self._memory_bytes)
        return WorkerLine(simulator, simulator.welcome.embodiment)


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
) -> AsyncIterator[list[LocalWorker]]:
    """``count`` workers on this machine.

    Args:
        worker_spec: The recipe of each.
        count: How many.
        logs: Folder of their log files.
        memory_bytes: Most memory that each one may take; no bound when ``None``.
    """
    name = worker_spec.suite.name
    async with Launcher() as launcher:
        workers = [
            LocalWorker(number, launcher, worker_spec, logs / f"{name}-worker-{number}.log", memory_bytes)
            for number in range(count)
        ]
        async with started(workers):
            yield workers
