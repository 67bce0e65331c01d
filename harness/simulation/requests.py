"""Requests of all slots on their way through one simulator, which is started anew after each of its deaths.

The simulator carries requests out in the order in which it gets them, so a crash, a hang or a growth beyond its share of the memory is
charged to the episode whose request is the oldest that has no answer, and to no other. Answers are passed on as they are: of each only
the id is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Optional, Union

from ...envs.errors import VlarigError
from ...envs.messages import CRASH, LOST, Failure, Start, Step, Welcome, answered_id, encode
from .config import ServerConfig
from .process import SimulatorDiedError, SimulatorProcess

#: Requests that the simulator holds at a time: one that runs, and one at hand, so that it does not idle while an answer travels.
HANDED_OVER = 2


@dataclass
class _Request:
    """A request that the simulator has been handed, and where its encoded answer is awaited."""

    message: Union[Start, Step]
    patience: float
    answered: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def answer(self, data: bytes) -> None:
        """Hand the answer on, if somebody still waits for it."""
        if not self.answered.done():
            self.answered.set_result(data)


class Simulator:
    """The simulator, whichever process it lives in at the moment.

    Attributes:
        welcome: What it said when it was loaded.
        given_up: Done when the simulator cannot be loaded again; only whoever started the server can still try.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._room = asyncio.Semaphore(HANDED_OVER)
        self._turn = asyncio.Lock()
        self._process: Optional[SimulatorProcess] = None
        self._listener: Optional[asyncio.Task[None]] = None
        self._handed: deque[_Request] = deque()
        self._live: dict[int, int] = {}
        self.welcome: Optional[Welcome] = None
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def load(self) -> None:
        """Start a process and wait until its adapter stands. Raises like :meth:`.simulation.process.SimulatorProcess.load`."""
        process = SimulatorProcess(self._config)
        self.welcome = await process.load()
        self._process = process
        self._listener = asyncio.create_task(self._listen(process))

    async def request(self, message: Union[Start, Step]) -> bytes:
        """Have the simulator carry ``message`` out; always an encoded answer, within a bounded time."""
        async with self._room:
            async with self._turn:
                failure = await self._prepare(message)
                if failure is not None:
                    return encode(failure)
                request = self._hand_over(message)
            return await request.answered

    def forget(self, slot: int) -> None:
        """No episode is under way in the slot any more."""
        self._live.pop(slot, None)

    async def end(self) -> None:
        """End the process; whoever waits for an answer is told that there will be none."""
        self._give_up()
        await self._replace("the sim server ends")

    async def _prepare(self, message: Union[Start, Step]) -> Optional[Failure]:
        """Have a process that can carry ``message`` out, or say why there is none."""
        if self._process is not None and isinstance(message, Start):
            leak = self._process.memory.leak(message.slot)
            if leak is not None:
                while self._handed:
                    await asyncio.wait([request.answered for request in self._handed])
                await self._replace(f"the simulator {leak}")
        if self._listener is not None and (self._process is None or not self._process.alive):
            await self._listener  # so that nothing is handed to a dead process, and there are never two
        if self._process is None:
            try:
                if self.given_up.done():
                    raise SimulatorDiedError(LOST, "the sim server ends")
                await self.load()
            except (VlarigError, SimulatorDiedError) as error:
                _log(str(error))
                self._give_up()
                return Failure(message.id, LOST, str(error))
        if isinstance(message, Step) and message.slot not in self._live:
            return Failure(message.id, LOST, f"no episode is under way in slot {message.slot}; start it again")
        return None

    def _hand_over(self, message: Union[Start, Step]) -> _Request:
        assert self._process is not None
        if isinstance(message, Start):
            self._live[message.slot] = message.episode.protocol.execute
            patience = self._config.start_seconds
        else:
            rows = message.actions.shape[0] if message.actions.ndim else 0  # a shape that is wrong is the env's to refuse
            patience = self._config.row_seconds * max(1, min(rows, self._live[message.slot]))
        request = _Request(message, patience)
        self._handed.append(request)
        if self._handed[0] is request:
            self._process.watch(patience)
        self._process.send(encode(message))
        return request

    async def _listen(self, process: SimulatorProcess) -> None:
        """Hand on each answer, and when the process ends say so to all who wait: only the first request was running."""
        with contextlib.suppress(EOFError):
            while True:
                answer = await process.receive()
                if not self._handed or answered_id(answer) != self._handed[0].message.id:
                    process.kill(CRASH, "the simulator's process wrote what is no answer to its request and was killed")
                    continue
                self._handed.popleft().answer(answer)
                process.watch(self._handed[0].patience if self._handed else None)
        orphans, self._handed = self._handed, deque()
        self._process = None
        self._live.clear()
        death = await process.bury()
        if not self.given_up.done():
            _log(str(death))
        for position, request in enumerate(orphans):
            request.answer(encode(Failure(request.message.id, LOST if position else death.kind, str(death))))

    async def _replace(self, story: str) -> None:
        """End the process in favour of a fresh one; its episodes are lost, and nobody is charged."""
        if self._process is not None:
            self._process.kill(LOST, story)
        if self._listener is not None:
            await self._listener

    def _give_up(self) -> None:
        if not self.given_up.done():
            self.given_up.set_result(None)


def _log(line: str) -> None:
    with contextlib.suppress(OSError):  # the disk is full
        sys.stderr.write(f"sim server: {line}\n")
        sys.stderr.flush()
