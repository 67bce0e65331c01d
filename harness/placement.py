"""Placement on this machine: sim servers as processes of ours, started anew when they die."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ..benchmarks.suite import Suite
from ..envs.api import ChunkResult, Episode, Needs, Snapshot
from ..envs.errors import VlarigError
from ..envs.messages import CRASH, LOST
from .client import ServerGone, SimClient, SimulatorFault
from .sim_config import ServerConfig
from .sim_liveness import KEEPALIVE, within
from .workplace import Workplace

T = TypeVar("T")

#: Seconds that a server may take to start beside what its simulator takes to load; much, for a machine that is busy.
START_MARGIN = 60.0

#: Seconds after which a server that was told to end is killed, and after which one that was killed, and is still there, is left behind.
END_SECONDS = 0.2
KILL_SECONDS = 10.0

#: Deaths in a row after which a server is given up that never carried out a request: it probably cannot.
MOST_DEATHS_AT_FIRST = 5

#: Deaths in a row after which a server is given up that did carry out requests. With the pauses it is tried for five minutes: the
#: machine may be out of memory, or somebody may be killing processes.
MOST_DEATHS_IN_A_ROW = 12

#: Seconds before a server is started anew after its second death in a row, doubled with every further one, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0

#: How often one episode may be lost by deaths that are charged to nobody, of servers and of idle simulators, before it is held to
#: cause them.
MOST_LOSSES = 10


class Address(NamedTuple):
    """Where a sim server listens, and the secret that it wants to see.

    The socket is one of Linux's abstract ones, whose names begin with a zero byte: it is no file, so that nothing is left of it
    whoever is killed. The server turns away other users.
    """

    socket_path: str
    token: str


class SimHost:
    """One sim server for as long as the run lasts: its process, our connection, and its restarts.

    Use it as an asynchronous context manager.

    Args:
        number: Its number among the run's.
        workplace: What it is made of.
        log: File to which it appends its own and its simulator's output.
        memory_bytes: Most memory that its simulator may take; no bound when ``None``.
    """

    def __init__(self, number: int, workplace: Workplace, log: Path, memory_bytes: int | None = None) -> None:
        self.number = number
        self._workplace = workplace
        self._log = log
        self._memory_bytes = memory_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._client: SimClient | None = None
        self._mending = asyncio.Lock()
        self._proven = False
        self._deaths_in_a_row = 0
        self._losses: dict[int, _Losses] = {}

    @property
    def name(self) -> str:
        """The worker's name in records."""
        return f"worker-{self.number}"

    @property
    def pid(self) -> int | None:
        """Process id of the sim server, for as long as it lives."""
        return None if self._process is None else self._process.pid

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
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the server and its simulator."""
        await self._end()

    async def start(self, slot: int, episode: Episode, needs: Needs) -> Snapshot:
        """Begin an episode in a slot.

        Raises:
            SimulatorFault: It could not be done; ``lost`` where the server itself died, and stands again.
            VlarigError: The env refused, or the server dies again and again.
        """
        if slot not in self._losses or self._losses[slot].key != episode.key:
            self._losses[slot] = _Losses(episode.key)
        return await self._call(slot, lambda client: client.start(slot, episode, needs))

    async def step(self, slot: int, actions: np.ndarray) -> ChunkResult:
        """Run a chunk, ``float32[H, A]``, in a slot. Raises like :meth:`start`."""
        return await self._call(slot, lambda client: client.step(slot, actions))

    async def _call(self, slot: int, ask: Callable[[SimClient], Awaitable[T]]) -> T:
        client = self._client
        try:
            if client is None:
                raise ServerGone("the sim server was being started anew")
            answer = await ask(client)
        except ServerGone as gone:
            await self._mend(client, str(gone))
            raise self._lost(slot, str(gone)) from None
        except SimulatorFault as fault:
            raise self._lost(slot, str(fault)) if fault.kind == LOST else fault from None
        self._proven = True
        self._deaths_in_a_row = 0
        return answer

    def _lost(self, slot: int, story: str) -> SimulatorFault:
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
        """Start the server anew, once for all who noticed that ``broken`` is gone."""
        async with self._mending:
            if self._client is not broken:
                return
            self._client = None
            await self._count_death(story)
            await self._launch()

    async def _count_death(self, story: str) -> None:
        """End what is left of the server, and wait a while if it died before.

        Raises:
            VlarigError: It died too often.
        """
        await self._end_process()
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > (MOST_DEATHS_IN_A_ROW if self._proven else MOST_DEATHS_AT_FIRST):
            raise VlarigError(
                f"{self.name} died {self._deaths_in_a_row} times without carrying out one request in between "
                f"(the last time: {story}); see {self._log}"
            )
        if self._deaths_in_a_row > 1:
            await asyncio.sleep(min(FIRST_PAUSE * 2 ** (self._deaths_in_a_row - 2), LONGEST_PAUSE))

    async def _launch(self) -> None:
        """Start the server, again if it dies while it starts.

        Raises:
            VlarigError: It says what the user can mend, or dies too often.
        """
        seconds = self._workplace.suite.patience.load + START_MARGIN
        while True:
            try:
                self._client = await within(self._launch_once(), seconds)
                return
            except ServerGone as gone:
                story = str(gone)
            except TimeoutError:
                story = f"it did not stand after {seconds:g} s"
            except VlarigError as error:
                if not self._proven:
                    raise
                story = str(error)  # what stood once may stand again when memory or the like is there again
            await self._count_death(story)

    async def _launch_once(self) -> SimClient:
        suite = self._workplace.suite
        self.address = Address(f"\0vlarig-{secrets.token_hex(16)}", secrets.token_hex(16))
        told = ServerConfig(
            socket=self.address.socket_path,
            token=self.address.token,
            adapter=suite.adapter,
            packages=self._workplace.packages(),
            load_seconds=suite.patience.load,
            start_seconds=suite.patience.start,
            row_seconds=suite.patience.row,
            memory_bytes=self._memory_bytes,
            ping_seconds=KEEPALIVE.interval,
            pong_seconds=KEEPALIVE.patience,
        )
        self._process = await self._spawn()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(dataclasses.asdict(told)).encode() + b"\n")
            await self._process.stdin.drain()
        _check_said(await self._process.stdout.read())
        client = await SimClient.connect(*self.address, KEEPALIVE)
        if client.embodiment != suite.embodiment:
            await client.close()
            raise VlarigError(_embodiment_mismatch(suite, client))
        return client

    async def _spawn(self) -> asyncio.subprocess.Process:
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                return await asyncio.create_subprocess_exec(
                    *self._workplace.command("server"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    env=self._workplace.environment(),
                    start_new_session=True,
                )
        except OSError as error:
            raise ServerGone(f"it cannot be started ({error})") from None

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
        await self._end_process()

    async def _end_process(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await within(self._process.wait(), END_SECONDS)
        except TimeoutError:
            with contextlib.suppress(
                ProcessLookupError
            ):  # Popen's kill would also reap it, under the feet of asyncio, which prints so
                os.kill(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await within(self._process.wait(), KILL_SECONDS)
        self._process = None


@dataclasses.dataclass
class _Losses:
    """How often an episode was lost."""

    key: str
    count: int = 0


def _check_said(output: bytes) -> None:
    """Make sure that a server's last line, see :func:`.sim_server.serve`, says that it is ready.

    Raises:
        ServerGone: It died.
        VlarigError: It says what the user can mend.
    """
    lines = output.splitlines()
    if not lines:
        raise ServerGone("it ended while it started")
    try:
        said = json.loads(lines[-1])
    except ValueError:
        raise ServerGone(f"it ended while it started, saying {lines[-1][:200]!r}") from None
    if "error" in said:
        raise VlarigError(said["error"])
    if "died" in said:
        raise ServerGone(said["died"])


def _embodiment_mismatch(suite: Suite, client: SimClient) -> str:
    ours, theirs = suite.embodiment, client.embodiment
    differing = [name for name in vars(ours) if getattr(ours, name) != getattr(theirs, name)]
    first = differing[0]
    return (
        f"suite {suite.name!r} and its adapter disagree on the embodiment's {first}: "
        f"{getattr(ours, first)!r} in the suite, {getattr(theirs, first)!r} in the adapter; make them the same constant"
    )


@contextlib.asynccontextmanager
async def local_hosts(
    workplace: Workplace, count: int, logs: Path, memory_bytes: int | None = None
) -> AsyncIterator[list[SimHost]]:
    """``count`` sim servers on this machine, started side by side and ended together.

    Args:
        workplace: What each is made of.
        count: How many.
        logs: Folder of the files to which each appends its own and its simulator's output.
        memory_bytes: Most memory that each one's simulator may take; no bound when ``None``.

    Raises:
        VlarigError: One cannot start.
    """
    name = workplace.suite.name
    hosts = [SimHost(number, workplace, logs / f"{name}-worker-{number}.log", memory_bytes) for number in range(count)]
    try:
        await _start_all(hosts)
        yield hosts
    finally:
        await asyncio.gather(*(host.__aexit__() for host in hosts))


async def _start_all(hosts: list[SimHost]) -> None:
    """Start servers side by side; the first that cannot ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for host in hosts:
                group.create_task(host.__aenter__())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
