"""Sim servers for as long as a sweep lasts, wherever they run: started anew when they die, awaited where their machine is away."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from ..benchmarks.suite import Suite
from ..envs.api import ChunkResult, Episode, Needs, Snapshot
from ..envs.errors import VlarigError
from ..envs.messages import CRASH, LOST
from ..envs.sources import CodeChangedError
from .machines.client import ServerGone, SimClient, SimulatorFault
from .machines.local_server import LocalServer
from .simulation.liveness import within
from .workplace import Workplace

T = TypeVar("T")

#: Seconds that a server may take to start beside what its simulator takes to load; much, for a machine that is busy.
START_MARGIN = 60.0

#: Deaths in a row after which a server is given up that never carried out a request: it probably cannot.
MOST_DEATHS_AT_FIRST = 5

#: Deaths in a row after which a server is given up that did carry out requests. With the pauses it is tried for five minutes: the
#: machine may be out of memory, or somebody may be killing processes.
MOST_DEATHS_IN_A_ROW = 12

#: Seconds before a server is started anew after its second death in a row, doubled with every further one, and the longest. The same
#: between two looks at a machine that is away.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0

#: Seconds for which a machine that is away is looked for: it may be started anew, or its network mended.
LONGEST_ABSENCE = 3600.0

#: How often one episode may be lost by deaths that are charged to nobody, of servers and of idle simulators, before it is held to
#: cause them.
MOST_LOSSES = 10


class MachineAwayError(ServerGone):
    """The machine on which the sim server is to run cannot be reached now."""


class HostLostError(VlarigError):
    """A sim server cannot be had, for the time being or for good: its episodes are better run elsewhere."""


class Place(Protocol):
    """Where a sim server runs, and how it is started there."""

    @property
    def suite(self) -> Suite:
        """Whose simulator it loads."""
        ...

    @property
    def where(self) -> str:
        """Where its output is, for the user."""
        ...

    @property
    def pid(self) -> int | None:
        """Process id of the sim server, for as long as it lives."""
        ...

    async def launch(self) -> SimClient:
        """Start a server and connect. That may take for ever: it is bounded.

        Raises:
            VlarigError: It says what the user can mend; ``CodeChangedError`` where the code is not what the run began with.
            ServerGone: It died; :class:`MachineAwayError` where nothing can be started for now.
        """
        ...

    async def end(self) -> None:
        """End the server and its simulator, whatever state they are in."""
        ...


class SimHost:
    """One sim server for as long as the run lasts: our connection to it, and its restarts.

    Use it as an asynchronous context manager.

    Args:
        number: Its number among the run's.
        place: Where it runs.
        machine: Name of the machine, if it is not this one.
    """

    def __init__(self, number: int, place: Place, machine: str = "") -> None:
        self.number = number
        self.name = f"{machine}/worker-{number}" if machine else f"worker-{number}"
        """The worker's name in records."""
        self.place = place
        self._client: SimClient | None = None
        self._mending = asyncio.Lock()
        self._stood = False
        self._proven = False
        self._deaths_in_a_row = 0
        self._losses: dict[int, _Losses] = {}
        self.absence: HostLostError | None = None
        """Why it is not there; ``None`` while it is, or will be soon."""
        self._search: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the sim server, for as long as it lives."""
        return self.place.pid

    async def __aenter__(self) -> SimHost:
        """Start the server and connect.

        Raises:
            VlarigError: The server cannot start, or its embodiment is not the suite's.
        """
        try:
            await self._launch()
        except BaseException:
            await self._end()
            raise
        self._stood = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the server and its simulator."""
        await self._end()

    async def start(self, slot: int, episode: Episode, needs: Needs) -> Snapshot:
        """Begin an episode in a slot.

        Raises:
            SimulatorFault: It could not be done; ``lost`` where the server itself died, and stands again.
            HostLostError: The server is gone; :meth:`stands_again` says when it is there.
            VlarigError: The env refused.
        """
        if slot not in self._losses or self._losses[slot].key != episode.key:
            self._losses[slot] = _Losses(episode.key)
        return await self._call(slot, lambda client: client.start(slot, episode, needs))

    async def step(self, slot: int, actions: np.ndarray) -> ChunkResult:
        """Run a chunk, ``float32[H, A]``, in a slot. Raises like :meth:`start`."""
        return await self._call(slot, lambda client: client.step(slot, actions))

    async def stands_again(self) -> bool:
        """Wait until the server is there; false where it is given up."""
        if self._search is not None:
            await asyncio.wait({self._search})
        return self.absence is None

    async def _call(self, slot: int, ask: Callable[[SimClient], Awaitable[T]]) -> T:
        client = self._client
        try:
            if self.absence is not None:
                raise self.absence
            if client is None:
                raise ServerGone("the sim server was being started anew")
            answer = await ask(client)
        except ServerGone as gone:
            await self._mend(client, str(gone))
            raise self._fault(slot, str(gone)) from None
        except SimulatorFault as fault:
            raise self._fault(slot, str(fault)) if fault.kind == LOST else fault from None
        self._proven = True
        self._deaths_in_a_row = 0
        return answer

    def _fault(self, slot: int, story: str) -> SimulatorFault:
        """The fault of an episode that was lost: nobody's, unless that happens to the episode again and again."""
        losses = self._losses.setdefault(slot, _Losses(""))
        losses.count += 1
        if losses.count <= MOST_LOSSES:
            return SimulatorFault(LOST, story)
        times, losses.count = losses.count, 0
        return SimulatorFault(
            CRASH, f"its simulator or sim server died {times} times while it was under way; the last time: {story}"
        )

    async def _mend(self, broken: SimClient | None, story: str) -> None:
        """Start the server anew, once for all who noticed that ``broken`` is gone.

        Raises:
            HostLostError: There is none for now, or it died too often.
        """
        async with self._mending:
            if self.absence is not None:
                raise self.absence
            if self._client is not broken:
                return
            self._client = None
            try:
                await self._count_death(story)
                await self._launch()
            except HostLostError as lost:
                self.absence = lost
                raise

    async def _count_death(self, story: str) -> None:
        """End what is left of the server, and wait a while if it died before.

        Raises:
            HostLostError: It died too often.
        """
        await self.place.end()
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > (MOST_DEATHS_IN_A_ROW if self._proven else MOST_DEATHS_AT_FIRST):
            raise HostLostError(
                f"{self.name} died {self._deaths_in_a_row} times without carrying out one request in between "
                f"(the last time: {story}); see {self.place.where}"
            )
        if self._deaths_in_a_row > 1:
            await asyncio.sleep(_pause(self._deaths_in_a_row - 2))

    async def _launch(self) -> None:
        """Start the server, again if it dies while it starts.

        Raises:
            VlarigError: It says what the user can mend; :class:`HostLostError` where it dies too often, or its machine is away.
        """
        while True:
            try:
                self._client = await self._launch_once()
                return
            except MachineAwayError as away:
                if self._stood:
                    self._search = asyncio.create_task(self._seek())
                raise HostLostError(f"{self.name} is away: {away}") from None
            except ServerGone as gone:
                story = str(gone)
            except VlarigError as error:
                if not self._proven or isinstance(error, CodeChangedError):
                    raise
                story = str(error)  # what stood once may stand again when memory or the like is there again
            await self._count_death(story)

    async def _launch_once(self) -> SimClient:
        """Start the server. Raises like :meth:`Place.launch`."""
        suite = self.place.suite
        seconds = suite.patience.load + START_MARGIN
        try:
            client = await within(self.place.launch(), seconds)
        except TimeoutError:
            raise ServerGone(f"it did not stand after {seconds:g} s") from None
        if client.embodiment != suite.embodiment:
            await client.close()
            raise VlarigError(_embodiment_mismatch(suite, client))
        return client

    async def _seek(self) -> None:
        """Look for a machine that is away, until it is back, or for as long as that makes sense."""
        waited = 0.0
        for count in itertools.count():
            pause = _pause(count)
            await asyncio.sleep(pause)
            waited += pause
            try:
                self._client = await self._launch_once()
            except (ServerGone, VlarigError) as error:
                await self.place.end()
                if waited >= LONGEST_ABSENCE or isinstance(error, CodeChangedError):
                    self.absence = HostLostError(f"{self.name} was away for {waited:.0f} s, and is given up: {error}")
                    return
            else:
                self.absence = None
                return

    async def _end(self) -> None:
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait({self._search})
        if self._client is not None:
            await self._client.close()
            self._client = None
        await self.place.end()


def _pause(count: int) -> float:
    """Seconds to wait before one tries again, after so many tries."""
    return min(FIRST_PAUSE * 2.0**count, LONGEST_PAUSE)


@dataclasses.dataclass
class _Losses:
    """How often an episode was lost."""

    key: str
    count: int = 0


def _embodiment_mismatch(suite: Suite, client: SimClient) -> str:
    ours, theirs = suite.embodiment, client.embodiment
    differing = [name for name in vars(ours) if getattr(ours, name) != getattr(theirs, name)]
    first = differing[0]
    return (
        f"suite {suite.name!r} and its adapter disagree on the embodiment's {first}: "
        f"{getattr(ours, first)!r} in the suite, {getattr(theirs, first)!r} in the adapter; make them the same constant"
    )


@contextlib.asynccontextmanager
async def standing(hosts: Sequence[SimHost]) -> AsyncIterator[Sequence[SimHost]]:
    """Sim servers that are started side by side and ended together.

    Raises:
        VlarigError: One cannot start.
    """
    try:
        await _start_all(hosts)
        yield hosts
    finally:
        await asyncio.gather(*(host.__aexit__() for host in hosts))


@contextlib.asynccontextmanager
async def local_hosts(
    workplace: Workplace, count: int, logs: Path, memory_bytes: int | None = None
) -> AsyncIterator[list[SimHost]]:
    """``count`` sim servers on this machine.

    Args:
        workplace: What each is made of.
        count: How many.
        logs: Folder of the files to which each appends its own and its simulator's output.
        memory_bytes: Most memory that each one's simulator may take; no bound when ``None``.

    Raises:
        VlarigError: One cannot start.
    """
    name = workplace.suite.name
    hosts = [
        SimHost(number, LocalServer(workplace, logs / f"{name}-worker-{number}.log", memory_bytes)) for number in range(count)
    ]
    async with standing(hosts):
        yield hosts


async def _start_all(hosts: Sequence[SimHost]) -> None:
    """Start servers side by side; the first that cannot ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for host in hosts:
                group.create_task(host.__aenter__())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
