"""The sim server: owns the socket and the watchdog, and feeds one simulator process.

The simulator carries requests out in the order in which it gets them, so a crash or a hang is charged to the episode whose request is
the oldest that has no answer, and to no other. The server never decodes a simulator's answer: it passes the bytes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import signal
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union

from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed

from ..envs.errors import BadMessageError, VlarigError
from ..envs.messages import (
    BAD_MESSAGE,
    CRASH,
    HANG,
    LOST,
    WIRE_VERSION,
    Failure,
    Hello,
    Start,
    Step,
    Welcome,
    decode,
    encode,
)
from ..envs.wire import MAX_MESSAGE_BYTES
from .framing import read_frame, write_frame
from .simulator import die_with_parent

#: Requests that the simulator holds at a time: one that runs, and one at hand, so that it does not idle while an answer travels.
HANDED_OVER = 2

#: Seconds that a client may take to introduce itself.
HELLO_TIMEOUT = 10.0


@dataclass(frozen=True)
class ServerConfig:
    """What a sim server is told on its standard input.

    Attributes:
        socket: Path of the Unix socket to listen on.
        token: Secret that a client must show.
        adapter: The adapter, as ``module:Class``.
        packages: Modules to take from the driver: name to file.
        load_seconds: Longest that the simulator may take to load and build its first env.
        start_seconds: Longest that the start of an episode may take.
        row_seconds: Longest that one row of a chunk may take.
    """

    socket: str
    token: str
    adapter: str
    packages: dict[str, str]
    load_seconds: float
    start_seconds: float
    row_seconds: float


class SimulatorDiedError(Exception):
    """The simulator's process ended, or was killed, before it could say anything."""


@dataclass
class _Request:
    """A request that the simulator has been handed, and where its encoded answer is awaited."""

    message: Union[Start, Step]
    patience: float
    answered: asyncio.Future[bytes]


class SimulatorProcess:
    """The simulator's process and the line to it; started anew after each death."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._loading = asyncio.Lock()
        self._room = asyncio.Semaphore(HANDED_OVER)
        self._process: subprocess.Popen[bytes] | None = None
        self._handed: deque[_Request] = deque()
        self._live: set[int] = set()
        self._watchdog: asyncio.TimerHandle | None = None
        self._hung = False
        self.welcome: Welcome | None = None

    async def load(self) -> Welcome:
        """Start the process and wait until its adapter stands.

        Raises:
            VlarigError: The adapter cannot be loaded, and says why.
            SimulatorDiedError: The process died on the way.
        """
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("worker.py")), "simulator"],
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            pass_fds=[theirs.fileno()],
        )
        assert self._process.stdin is not None
        told = {"channel": theirs.fileno(), "adapter": self._config.adapter, "packages": self._config.packages}
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        self._process.stdin.close()
        theirs.close()
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=2**20)
        self._watch(self._config.load_seconds)
        try:
            answer = decode(await read_frame(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise SimulatorDiedError(f"{self._config.adapter} did not load: {await self._bury()}") from None
        if isinstance(answer, Failure):
            await self._bury()
            raise VlarigError(answer.message)
        assert isinstance(answer, Welcome)
        self._watch(None)
        self.welcome = answer
        self._listener = asyncio.create_task(self._listen())
        return answer

    async def request(self, message: Union[Start, Step]) -> bytes:
        """Have the simulator carry ``message`` out; always an encoded answer, within a bounded time."""
        async with self._room:
            async with self._loading:
                if self._process is None:
                    try:
                        await self.load()
                    except (VlarigError, SimulatorDiedError) as error:
                        return encode(Failure(message.id, CRASH, str(error)))
            if isinstance(message, Start):
                self._live.add(message.slot)
                patience = self._config.start_seconds
            elif message.slot in self._live:
                patience = self._config.row_seconds * max(1, len(message.actions))
            else:
                return encode(Failure(message.id, LOST, f"no episode is under way in slot {message.slot}; start it again"))
            request = _Request(message, patience, asyncio.get_running_loop().create_future())
            self._handed.append(request)
            if self._handed[0] is request:
                self._watch(patience)
            write_frame(self._writer, encode(message))
            return await request.answered

    def forget(self, slot: int) -> None:
        """No episode is under way in the slot any more."""
        self._live.discard(slot)

    async def _listen(self) -> None:
        """Hand on each answer, and when the process ends say so to all who wait: only the first request was running."""
        try:
            while True:
                answer = await read_frame(self._reader)
                request = self._handed.popleft()
                self._watch(self._handed[0].patience if self._handed else None)
                request.answered.set_result(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            kind = HANG if self._hung else CRASH
            orphans, self._handed = self._handed, deque()
            story = await self._bury()
            for position, request in enumerate(orphans):
                failure = Failure(request.message.id, LOST if position else kind, story)
                request.answered.set_result(encode(failure))

    def _watch(self, patience: float | None) -> None:
        """Kill the process unless it answers within ``patience`` seconds from now; do not with ``None``."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = None if patience is None else asyncio.get_running_loop().call_later(patience, self._kill_hung)

    def _kill_hung(self) -> None:
        assert self._process is not None
        self._hung = True
        self._process.kill()

    async def _bury(self) -> str:
        """End the process, whatever state it is in, and say how it went."""
        assert self._process is not None
        process, hung = self._process, self._hung
        self._process, self._hung = None, False  # before the first await: whoever asks from now on starts another
        self._watch(None)
        self._live.clear()
        self._writer.close()
        try:
            status = await asyncio.to_thread(process.wait, 5)
        except subprocess.TimeoutExpired:
            process.kill()
            status = await asyncio.to_thread(process.wait)
        if hung:
            return "the simulator gave no answer in time and was killed"
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        return f"the simulator's process {how}"


class SimServer:
    """Answers any number of clients; each has slots of its own."""

    def __init__(self, config: ServerConfig, simulator: SimulatorProcess) -> None:
        self._config = config
        self._simulator = simulator
        self._free: list[int] = []
        self._slot_count = 0

    async def handle(self, connection: ServerConnection) -> None:
        """One client's conversation. A malformed message ends it, and nothing else."""
        slots: dict[int, int] = {}
        running: set[asyncio.Task[None]] = set()
        try:
            await self._greet(connection)
            async for data in connection:
                message = decode(data)
                if not isinstance(message, (Start, Step)):
                    raise BadMessageError(f"{type(message).__name__} out of turn; expected Start or Step")
                slot = self._slot(slots, message.slot)
                task = asyncio.create_task(self._serve(connection, replace(message, slot=slot)))
                running.add(task)
                task.add_done_callback(running.discard)
        except BadMessageError as error:
            with contextlib.suppress(ConnectionClosed):
                await connection.send(encode(Failure(-1, BAD_MESSAGE, str(error))))
                await connection.close(1008)
        except ConnectionClosed:
            pass
        finally:
            if running:
                await asyncio.wait(running)
            for slot in slots.values():
                self._simulator.forget(slot)
            self._free.extend(slots.values())

    def _slot(self, slots: dict[int, int], wanted: int) -> int:
        """The simulator's number for a client's slot."""
        if wanted not in slots:
            if self._free:
                slots[wanted] = self._free.pop()
            else:
                slots[wanted] = self._slot_count
                self._slot_count += 1
        return slots[wanted]

    async def _greet(self, connection: ServerConnection) -> None:
        try:
            hello = decode(await asyncio.wait_for(connection.recv(), HELLO_TIMEOUT))
        except asyncio.TimeoutError:
            raise BadMessageError(f"no Hello within {HELLO_TIMEOUT:.0f} s") from None
        if not isinstance(hello, Hello):
            raise BadMessageError(f"{type(hello).__name__} before Hello")
        if not hmac.compare_digest(hello.token.encode(), self._config.token.encode()):
            raise BadMessageError("the token is wrong")
        if hello.version != WIRE_VERSION:
            raise BadMessageError(f"wire version {hello.version}; this server speaks {WIRE_VERSION}; update the older end")
        assert self._simulator.welcome is not None
        await connection.send(encode(self._simulator.welcome))

    async def _serve(self, connection: ServerConnection, message: Union[Start, Step]) -> None:
        answer = await self._simulator.request(message)
        with contextlib.suppress(ConnectionClosed):
            await connection.send(answer)


async def serve(config: ServerConfig) -> None:
    """Load the simulator, say on standard output that we are ready (or why not), and serve until standard input closes.

    Raises:
        SimulatorDiedError: The simulator died while it was loaded; whoever started us may try again.
    """
    simulator = SimulatorProcess(config)
    try:
        await simulator.load()
    except VlarigError as error:
        _say({"error": str(error)})
        return
    server = SimServer(config, simulator)
    async with unix_serve(
        server.handle, config.socket, max_size=MAX_MESSAGE_BYTES, compression=None, ping_interval=20, ping_timeout=60
    ):
        _say({"ready": True})
        await _standard_input_closed()


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _standard_input_closed() -> None:
    """Return when the driver, which holds the other end of our standard input, is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(1024):
        pass


def main(config: dict[str, Any]) -> None:
    """Run the server that ``config`` (the fields of :class:`ServerConfig`) describes."""
    die_with_parent()
    asyncio.run(serve(ServerConfig(**config)))
