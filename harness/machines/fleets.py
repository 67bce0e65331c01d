"""Fleets: on which machines a sweep's workers run, and how many on each."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ...benchmarks.suite import Footprint
from ...envs.api import Episode
from ...envs.background import all_of, run_to_end
from ...envs.errors import VlarigError
from ...envs.messages import Capacity
from ..children.liveness import hang_up
from ..children.simulator import WorkerSpec
from ..children.supervisor import MachineAwayError
from ..sizing import Machine, Size, choose_size, memory_line, size_in_words
from ..workers import Worker, local_workers, started
from .remote_machines import MachineBusyError, RemoteMachine, RemoteWorker, find_machines

#: Seconds before each retry of an env server that is busy when a sweep begins.
BUSY_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Lease:
    """The workers that a suite's part of a sweep gets on each machine.

    Attributes:
        sizes: Workers and memory, one a machine.
        num_envs: Envs of all workers together, which get equally many of them, or one less.
        reason: Why these numbers, in one line.
        warnings: Warnings for the user, a line each.
    """

    sizes: tuple[Size, ...]
    num_envs: int
    reason: str
    warnings: tuple[str, ...] = ()

    @property
    def workers(self) -> int:
        """Workers on all machines together."""
        return sum(size.workers for size in self.sizes)


class Fleet(Protocol):
    """The machines of a sweep."""

    def for_envs(self, count: int, share: float) -> Fleet:
        """The same fleet for exactly ``count`` envs, on a ``share`` of the cores."""
        ...

    def lease(self, footprint: Footprint, episodes: Sequence[Episode]) -> Lease:
        """How many workers to start for ``episodes``, of which there is at least one."""
        ...

    def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AbstractAsyncContextManager[Sequence[Worker]]:
        """The workers, started on entry and ended on exit. Raises ``VlarigError`` where one cannot start."""
        ...

    def joining(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[tuple[Worker, int]] | None:
        """Workers that join later, each with its number of envs; ``None`` where the fleet does not grow."""
        return None


@dataclass(frozen=True)
class LocalFleet(Fleet):
    """This machine alone.

    Attributes:
        workers: Workers; as many as cores and memory allow when ``None``.
        num_envs: Envs in all; as many as memory allows when ``None``.
    """

    workers: int | None = None
    num_envs: int | None = None

    def for_envs(self, count: int, share: float) -> LocalFleet:
        workers = workers_for(count, self.workers or Machine.here().cores, share)
        return LocalFleet(workers, count)

    def lease(self, footprint: Footprint, episodes: Sequence[Episode]) -> Lease:
        size = choose_size(footprint, episodes, Machine.here(), self.workers, self.num_envs)
        return Lease((size,), size.num_envs, size.reason, (size.warning,) if size.warning else ())

    def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AbstractAsyncContextManager[Sequence[Worker]]:
        """Child processes of the driver."""
        (size,) = lease.sizes
        return local_workers(worker_spec, size.workers, logs, size.memory_share)


@dataclass(frozen=True)
class ListedFleet(Fleet):
    """Machines that the user names, with an env server on each. Workers of one that is away wait for it.

    Attributes:
        machines: The machines.
        capacities: The capacity of each, see :func:`survey`.
        workers: Workers a machine; as many as cores and memory allow when ``None``.
        num_envs: Envs in all; as many as memory allows when ``None``.
    """

    machines: tuple[RemoteMachine, ...]
    capacities: tuple[Capacity, ...]
    workers: int | None = None
    num_envs: int | None = None

    def for_envs(self, count: int, share: float) -> ListedFleet:
        """The same for ``count`` envs, on a share of each machine's cores."""
        machines = min(len(self.machines), count)
        cores = min(self.workers or min(capacity.cores, capacity.workers) for capacity in self.capacities)
        workers = workers_for(math.ceil(count / machines), cores, share)
        return replace(self, workers=workers, num_envs=count)

    def lease(self, footprint: Footprint, episodes: Sequence[Episode]) -> Lease:
        """On each machine as many workers as its cores and memory allow, for an equal share of the episodes."""
        used = min(len(self.machines), len(episodes), self.num_envs or len(episodes))
        parts = [
            (episodes[number::used], Machine(min(capacity.cores, capacity.workers), capacity.memory))
            for number, capacity in enumerate(self.capacities[:used])
        ]
        shares = [len(range(number, self.num_envs, used)) if self.num_envs else None for number in range(used)]
        first = [
            choose_size(footprint, part, machine, self.workers, share)
            for (part, machine), share in zip(parts, shares, strict=True)
        ]
        workers = sum(size.workers for size in first)
        each = math.ceil(self.num_envs / workers) if self.num_envs else min(size.envs_per_worker for size in first)
        chosen = [
            choose_size(footprint, part, machine, size.workers, size.workers * each)
            for (part, machine), size in zip(parts, first, strict=True)
        ]
        named = list(zip(self.machines, chosen, strict=False))
        num_envs = self.num_envs or workers * each
        reason = f"{size_in_words(workers, num_envs)} on {used} machines: " + "; ".join(
            f"{machine.name} {size.workers} ({memory_line(size.memory, capacity.memory)})"
            for (machine, size), capacity in zip(named, self.capacities, strict=False)
        )
        warnings = tuple(f"{machine.name}: {size.warning}" for machine, size in named if size.warning)
        return Lease(tuple(chosen), num_envs, reason, warnings)

    @contextlib.asynccontextmanager
    async def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[Sequence[Worker]]:
        places = [
            (machine, size) for machine, size in zip(self.machines, lease.sizes, strict=False) for _ in range(size.workers)
        ]
        workers = [
            RemoteWorker(number, machine, worker_spec, size.memory_share) for number, (machine, size) in enumerate(places)
        ]
        async with started(workers):
            yield workers


def workers_for(num_envs: int, cores: int, share: float) -> int:
    """A worker for each env, as far as a share of the cores allows."""
    return max(1, min(num_envs, round(cores * share)))


def listed_fleet(
    hosts: Sequence[str],
    host_file: Path | None = None,
    token_file: Path | None = None,
    ca_file: Path | None = None,
    workers: int | None = None,
    num_envs: int | None = None,
) -> ListedFleet | None:
    """The fleet of the machines that are named, ``None`` where none is.

    Arguments as for :func:`~.remote_machines.find_machines` and :class:`ListedFleet`.
    """
    machines = find_machines(hosts, host_file, token_file, ca_file)
    return ListedFleet(tuple(machines), run_to_end(survey(machines)), workers, num_envs) if machines else None


async def survey(machines: Sequence[RemoteMachine]) -> tuple[Capacity, ...]:
    try:
        return tuple(await all_of(map(_capacity_of, machines)))
    except MachineAwayError as away:
        raise VlarigError(str(away)) from None


async def _capacity_of(machine: RemoteMachine) -> Capacity:
    for pause in BUSY_PAUSES:
        with contextlib.suppress(MachineBusyError):
            connection, capacity = await machine.reach()
            break
        await asyncio.sleep(pause)
    else:
        connection, capacity = await machine.reach()
    await hang_up(connection)
    if capacity.workers < 1:
        raise VlarigError(f"all workers of the env server at {machine.url} are in use; wait, or leave it out")
    return capacity
