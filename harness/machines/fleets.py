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
from ...envs.background import run_to_end
from ...envs.errors import VlarigError
from ...envs.messages import Capacity
from ..children.liveness import hang_up
from ..machine import Machine
from ..sizing import Size, choose_size, memory_line
from ..worker_spec import WorkerSpec
from ..workers import Worker, local_workers, standing
from .remote_machines import MachineBusyError, RemoteMachine, find_machines
from .remote_place import RemotePlace

#: Seconds before an env server that is busy when a sweep begins is asked again.
BUSY_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Lease:
    """The workers that a suite's part of a sweep gets: on each machine that many workers, each with as many slots.

    Attributes:
        sizes: One a machine; all have the same number of slots.
        reason: Why these numbers, in one line.
        warnings: What the user should know, a line each.
    """

    sizes: tuple[Size, ...]
    reason: str
    warnings: tuple[str, ...] = ()

    @property
    def workers(self) -> int:
        """Workers on all machines together."""
        return sum(size.workers for size in self.sizes)

    @property
    def slots(self) -> int:
        """Episodes under way in each."""
        return self.sizes[0].slots


class Fleet(Protocol):
    """The machines of a sweep."""

    def for_envs(self, count: int, share: float) -> Fleet:
        """The same for exactly so many envs, or a few more where they do not divide; ``share`` of the cores is theirs."""
        ...

    def lease(self, footprint: Footprint, episodes: Sequence[Episode]) -> Lease:
        """How many workers to start for ``episodes``, at least one of which there is."""
        ...

    def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AbstractAsyncContextManager[list[Worker]]:
        """The workers, started and in the end ended. Raises ``VlarigError`` where one cannot start."""
        ...

    def joining(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[tuple[Worker, int]] | None:
        """Workers that come later, each with its number of slots; ``None`` where there are none."""
        ...


@dataclass(frozen=True)
class LocalFleet:
    """This machine alone.

    Attributes:
        workers: Workers that the user asks for, if he does.
        slots: Slots that the user asks for, if he does.
    """

    workers: int | None = None
    slots: int | None = None

    def for_envs(self, count: int, share: float) -> LocalFleet:
        """Workers for so many envs, on a share of the cores."""
        workers = _workers_for(count, self.workers or Machine.here().cores, share)
        return LocalFleet(workers, math.ceil(count / workers))

    def lease(self, footprint: Footprint, episodes: Sequence[Episode]) -> Lease:
        """As many as cores and memory allow."""
        size = choose_size(footprint, episodes, Machine.here(), self.workers, self.slots)
        return Lease((size,), size.reason, (size.warning,) if size.warning else ())

    def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AbstractAsyncContextManager[list[Worker]]:
        """Processes of ours."""
        (size,) = lease.sizes
        return local_workers(worker_spec, size.workers, logs, size.memory_share)

    def joining(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> None:
        """Nobody joins."""


@dataclass(frozen=True)
class ListedFleet:
    """Machines that the user names, with an env server on each.

    Attributes:
        machines: They.
        capacities: What each has, see :func:`survey`.
        workers: Workers a machine that the user asks for, if he does.
        slots: Slots that the user asks for, if he does.
    """

    machines: tuple[RemoteMachine, ...]
    capacities: tuple[Capacity, ...]
    workers: int | None = None
    slots: int | None = None

    def for_envs(self, count: int, share: float) -> ListedFleet:
        """Workers for so many envs, on a share of each machine's cores."""
        machines = min(len(self.machines), count)
        cores = min(self.workers or min(capacity.cores, capacity.workers) for capacity in self.capacities)
        workers = _workers_for(math.ceil(count / machines), cores, share)
        return replace(self, workers=workers, slots=math.ceil(count / (machines * workers)))

    def lease(self, footprint: Footprint, episodes: Sequence[Episode]) -> Lease:
        """On each machine as many as its cores and memory allow, for an equal share of the episodes."""
        used = min(len(self.machines), len(episodes))
        shares = [episodes[number::used] for number in range(used)]

        def sizes(slots: int | None) -> list[Size]:
            return [
                choose_size(
                    footprint, share, Machine(min(capacity.cores, capacity.workers), capacity.memory), self.workers, slots
                )
                for share, capacity in zip(shares, self.capacities, strict=False)
            ]

        fewest = min(size.slots for size in sizes(self.slots))
        chosen = tuple(sizes(fewest))
        named = list(zip(self.machines, chosen, strict=False))
        reason = f"{sum(size.workers for size in chosen)} workers x {fewest} slots on {used} machines: " + "; ".join(
            f"{machine.name} {size.workers} ({memory_line(size.memory, capacity.memory)})"
            for (machine, size), capacity in zip(named, self.capacities, strict=False)
        )
        warnings = tuple(f"{machine.name}: {size.warning}" for machine, size in named if size.warning)
        return Lease(chosen, reason, warnings)

    @contextlib.asynccontextmanager
    async def launch(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> AsyncIterator[list[Worker]]:
        """Workers ready from the env servers."""
        places = [
            (machine, RemotePlace(machine, worker_spec, size.memory_share))
            for machine, size in zip(self.machines, lease.sizes, strict=False)
            for _ in range(size.workers)
        ]
        hosts = [Worker(number, place, machine.name) for number, (machine, place) in enumerate(places)]
        async with standing(hosts):
            yield hosts

    def joining(self, worker_spec: WorkerSpec, lease: Lease, logs: Path) -> None:
        """Nobody joins; a machine that was away and comes back is awaited by its workers."""


def _workers_for(envs: int, cores: int, share: float) -> int:
    return max(1, min(envs, round(cores * share)))


def listed_fleet(
    hosts: Sequence[str],
    host_file: Path | None = None,
    token_file: Path | None = None,
    ca_file: Path | None = None,
    workers: int | None = None,
    slots: int | None = None,
) -> ListedFleet | None:
    """The fleet of the machines that are named, ``None`` where none is.

    Arguments as for :func:`~.remote_machines.find_machines` and :class:`ListedFleet`.

    Raises:
        VlarigError: One that is named is none, cannot be reached, refuses us, or has no worker to spare.
    """
    machines = find_machines(hosts, host_file, token_file, ca_file)
    return ListedFleet(tuple(machines), run_to_end(survey(machines)), workers, slots) if machines else None


async def survey(machines: Sequence[RemoteMachine]) -> tuple[Capacity, ...]:
    """What each machine has.

    Raises:
        VlarigError: One cannot be reached, refuses us, or has no worker to spare.
    """
    capacities = await asyncio.gather(*map(_ask, machines), return_exceptions=True)
    for capacity in capacities:
        if isinstance(capacity, BaseException):
            raise capacity if isinstance(capacity, VlarigError) else VlarigError(str(capacity))
    return tuple(capacity for capacity in capacities if isinstance(capacity, Capacity))


async def _ask(machine: RemoteMachine) -> Capacity:
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
