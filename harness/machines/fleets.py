"""Fleets: on which machines a sweep's workers run, and how many on each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...benchmarks.suite import Footprint
from ...envs.api import Episode
from ...envs.errors import VlarigError
from ...envs.messages import Offer
from ..children.liveness import hang_up
from ..machine import Machine
from ..sizing import Size, choose_size, memory_line
from ..workers import Worker, local_workers, standing
from ..workplace import Workplace
from .remote_machines import MachineBusyError, RemoteMachine
from .remote_place import RemotePlace

#: Seconds before an env server that is busy when a sweep begins is asked again.
BUSY_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Staff:
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

    def staff(self, footprint: Footprint, episodes: Sequence[Episode]) -> Staff:
        """How many workers to start for ``episodes``, at least one of which there is."""
        ...

    def hosts(self, workplace: Workplace, staff: Staff, logs: Path) -> AbstractAsyncContextManager[list[Worker]]:
        """The workers, started and in the end ended. Raises ``VlarigError`` where one cannot start."""
        ...

    def joining(self, workplace: Workplace, staff: Staff, logs: Path) -> AsyncIterator[tuple[Worker, int]] | None:
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

    def staff(self, footprint: Footprint, episodes: Sequence[Episode]) -> Staff:
        """As many as cores and memory allow."""
        size = choose_size(footprint, episodes, Machine.here(), self.workers, self.slots)
        return Staff((size,), size.reason, (size.warning,) if size.warning else ())

    def hosts(self, workplace: Workplace, staff: Staff, logs: Path) -> AbstractAsyncContextManager[list[Worker]]:
        """Processes of ours."""
        (size,) = staff.sizes
        return local_workers(workplace, size.workers, logs, size.memory_share)

    def joining(self, workplace: Workplace, staff: Staff, logs: Path) -> None:
        """Nobody joins."""


@dataclass(frozen=True)
class ListedFleet:
    """Machines that the user names, with an env server on each.

    Attributes:
        machines: They.
        offers: What each has, see :func:`survey`.
        workers: Workers a machine that the user asks for, if he does.
        slots: Slots that the user asks for, if he does.
    """

    machines: tuple[RemoteMachine, ...]
    offers: tuple[Offer, ...]
    workers: int | None = None
    slots: int | None = None

    def staff(self, footprint: Footprint, episodes: Sequence[Episode]) -> Staff:
        """On each machine as many as its cores and memory allow, for an equal share of the episodes."""
        used = min(len(self.machines), len(episodes))
        shares = [episodes[number::used] for number in range(used)]

        def sizes(slots: int | None) -> list[Size]:
            return [
                choose_size(footprint, share, Machine(min(offer.cores, offer.workers), offer.memory), self.workers, slots)
                for share, offer in zip(shares, self.offers, strict=False)
            ]

        fewest = min(size.slots for size in sizes(self.slots))
        chosen = tuple(sizes(fewest))
        named = list(zip(self.machines, chosen, strict=False))
        reason = f"{sum(size.workers for size in chosen)} workers x {fewest} slots on {used} machines: " + "; ".join(
            f"{machine.name} {size.workers} ({memory_line(size.memory, offer.memory)})"
            for (machine, size), offer in zip(named, self.offers, strict=False)
        )
        warnings = tuple(f"{machine.name}: {size.warning}" for machine, size in named if size.warning)
        return Staff(chosen, reason, warnings)

    @contextlib.asynccontextmanager
    async def hosts(self, workplace: Workplace, staff: Staff, logs: Path) -> AsyncIterator[list[Worker]]:
        """Workers hired from the env servers."""
        places = [
            (machine, RemotePlace(machine, workplace, size.memory_share))
            for machine, size in zip(self.machines, staff.sizes, strict=False)
            for _ in range(size.workers)
        ]
        hosts = [Worker(number, place, machine.name) for number, (machine, place) in enumerate(places)]
        async with standing(hosts):
            yield hosts

    def joining(self, workplace: Workplace, staff: Staff, logs: Path) -> None:
        """Nobody joins; a machine that was away and comes back is awaited by its workers."""


async def survey(machines: Sequence[RemoteMachine]) -> tuple[Offer, ...]:
    """What each machine has.

    Raises:
        VlarigError: One cannot be reached, refuses us, or has no worker to spare.
    """
    offers = await asyncio.gather(*map(_ask, machines), return_exceptions=True)
    for offer in offers:
        if isinstance(offer, BaseException):
            raise offer if isinstance(offer, VlarigError) else VlarigError(str(offer))
    return tuple(offer for offer in offers if isinstance(offer, Offer))


async def _ask(machine: RemoteMachine) -> Offer:
    for pause in BUSY_PAUSES:
        with contextlib.suppress(MachineBusyError):
            connection, offer = await machine.reach()
            break
        await asyncio.sleep(pause)
    else:
        connection, offer = await machine.reach()
    await hang_up(connection)
    if offer.workers < 1:
        raise VlarigError(f"all workers of the env server at {machine.url} are in use; wait, or leave it out")
    return offer
