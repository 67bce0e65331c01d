"""Placement on this machine: sim servers as processes of ours, started anew when they die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ..benchmarks.suite import Suite
from ..envs.api import ChunkResult, Episode, Needs, Snapshot
from ..envs.errors import VlarigError
from ..envs.messages import LOST
from .client import ServerGone, SimClient, SimulatorFault
from .workplace import Workplace

T = TypeVar("T")

#: Deaths of a server, without a single answer in between, after which we give up on it.
MOST_DEATHS_IN_A_ROW = 5


class Address(NamedTuple):
    """Where a sim server listens, and the secret that it wants to see."""

    socket_path: str
    token: str


class SimHost:
    """One sim server for as long as the run lasts: its process, our connection, and its restarts.

    Use it as an asynchronous context manager.
    """

    def __init__(self, number: int, workplace: Workplace, log: Path) -> None:
        self.number = number
        self._workplace = workplace
        self._log = log
        self._folder = tempfile.TemporaryDirectory(prefix="vlarig-")
        self._process: asyncio.subprocess.Process | None = None
        self._client: SimClient | None = None
        self._mending = asyncio.Lock()
        self._deaths_in_a_row = 0
        self._starts = 0

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
        return await self._call(lambda client: client.start(slot, episode, needs))

    async def step(self, slot: int, actions: np.ndarray) -> ChunkResult:
        """Run a chunk, ``float32[H, A]``, in a slot. Raises like :meth:`start`."""
        return await self._call(lambda client: client.step(slot, actions))

    async def _call(self, ask: Callable[[SimClient], Awaitable[T]]) -> T:
        client = self._client
        if client is None:
            await self._mend(client)
            raise SimulatorFault(LOST, "the sim server was being started anew")
        try:
            answer = await ask(client)
        except ServerGone as gone:
            await self._mend(client)
            raise SimulatorFault(LOST, str(gone)) from None
        self._deaths_in_a_row = 0
        return answer

    async def _mend(self, broken: SimClient | None) -> None:
        """Start the server anew, once for all who noticed that ``broken`` is gone."""
        async with self._mending:
            if self._client is not broken:
                return
            self._client = None
            await self._count_death()
            await self._launch()

    async def _count_death(self) -> None:
        self._deaths_in_a_row += 1
        await self._end_process()
        if self._deaths_in_a_row > MOST_DEATHS_IN_A_ROW:
            raise VlarigError(
                f"{self.name} died {self._deaths_in_a_row} times without carrying out one request in between; see {self._log}"
            )

    async def _launch(self) -> None:
        """Start the server, again if it is killed while it starts."""
        while True:
            try:
                self._client = await self._launch_once()
                return
            except ServerGone:
                await self._count_death()

    async def _launch_once(self) -> SimClient:
        self._starts += 1
        suite = self._workplace.suite
        self.address = Address(str(Path(self._folder.name) / f"{self._starts}.sock"), secrets.token_hex(16))
        told = {
            "socket": self.address.socket_path,
            "token": self.address.token,
            "adapter": suite.adapter,
            "packages": self._workplace.packages(),
            "load_seconds": suite.patience.load,
            "start_seconds": suite.patience.start,
            "row_seconds": suite.patience.row,
        }
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._workplace.command("server"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._workplace.environment(),
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(told).encode() + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise ServerGone(f"{self.name} ended while it started")
        said = json.loads(line)
        if "error" in said:
            raise VlarigError(said["error"])
        client = await SimClient.connect(self.address.socket_path, self.address.token)
        if client.embodiment != suite.embodiment:
            await client.close()
            raise VlarigError(_embodiment_mismatch(suite, client))
        return client

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
        await self._end_process()
        self._folder.cleanup()

    async def _end_process(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 0.2)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    self._process.pid, signal.SIGKILL
                )  # Popen's kill would also reap it, under the feet of asyncio, which prints so
            await self._process.wait()
        self._process = None


def _embodiment_mismatch(suite: Suite, client: SimClient) -> str:
    ours, theirs = suite.embodiment, client.embodiment
    differing = [name for name in vars(ours) if getattr(ours, name) != getattr(theirs, name)]
    first = differing[0]
    return (
        f"suite {suite.name!r} and its adapter disagree on the embodiment's {first}: "
        f"{getattr(ours, first)!r} in the suite, {getattr(theirs, first)!r} in the adapter; make them the same constant"
    )


@contextlib.asynccontextmanager
async def local_hosts(workplace: Workplace, count: int, logs: Path) -> AsyncIterator[list[SimHost]]:
    """``count`` sim servers on this machine, started side by side and ended together.

    Args:
        workplace: What each is made of.
        count: How many.
        logs: Folder of the files to which each appends its own and its simulator's output.

    Raises:
        VlarigError: One cannot start.
    """
    name = workplace.suite.name
    hosts = [SimHost(number, workplace, logs / f"{name}-worker-{number}.log") for number in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        outcomes = await asyncio.gather(*(stack.enter_async_context(host) for host in hosts), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        yield hosts
