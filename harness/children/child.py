"""Child processes, a simulator's worker or a policy's replica: started, watched and ended here.

A child exchanges frames with the driver on a socket pair, one reply to each request, in order. It is killed when it does not reply in
time, or takes more than its share of the memory; :class:`ChildDied` names the failure.

Waiting is counted in ticks of the driver's event loop. A stop of any length (a signal, a debugger, a policy that holds the interpreter,
a suspended machine) counts as one tick at most, and replies that arrived meanwhile are read first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ...envs.errors import BadMessageError
from ...envs.framing import HEAD_BYTES, Frame, read_head
from ...envs.messages import CRASH, HANG, LOST, MEMORY
from . import launcher
from .child_config import ChildConfig, ChildDied, how_it_ended
from .liveness import TICK, exits, is_stopped, within

#: Seconds that the launcher gets to start a child.
START_SECONDS = 20.0

#: Seconds to wait for the rest of a child's output.
LAST_WORDS_SECONDS = 0.2

#: Seconds that the launcher gets to end all children.
END_SECONDS = 5.0

#: Seconds after which a killed process that is still there is left to the kernel: a graphics driver may hold it.
KILL_SECONDS = 10.0

#: Size of a child's send buffer in bytes, where the system allows it. It holds two views of 256 x 256 pixels, so that the child goes on
#: to the next request before the driver reads them.
SEND_BYTES = 2**20


@dataclass
class _Pending:
    """A request without a reply: its number, its timeout in seconds, and whether the child has received it."""

    id: int
    patience: float
    delivered: bool = False


class Launcher:
    """Starts children by a launcher's process, see :mod:`.launcher`. Use it as an asynchronous context manager.

    The kernel ends the launcher's children with the thread that entered the context, or the whole process.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = asyncio.Lock()
        self._numbers = itertools.count()
        self._children: dict[int, Child] = {}

    async def __aenter__(self) -> Self:
        """The launcher starts with the first child."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def start(self, config: ChildConfig) -> Child:
        """Start a child; its first frame is to be received.

        Raises:
            ChildDied: It cannot be started.
        """
        child = Child(self, next(self._numbers), config)
        try:
            async with self._starting:
                if self._process is None or self._process.poll() is not None:
                    await self._end()
                    await self._open()
                await within(child._begin(), START_SECONDS)
        except TimeoutError:
            assert self._process is not None
            self._process.kill()  # it is stopped; the next child restarts it
            await child.end()
            raise ChildDied(LOST, f"its launcher did not start it within {START_SECONDS:g} s") from None
        except OSError as error:
            await child.end()
            raise ChildDied(LOST, f"it cannot be started ({error})") from None
        except BaseException:
            await child.end()
            raise
        return child

    async def _open(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # In the driver's session, so that the kernel wakes it when the driver dies while it is stopped at its very beginning;
                # in a group of its own, so that a terminal's signals do not reach it.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid())],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    process_group=0,
                )
            except OSError:
                ours.close()
                raise
        self._control = ours
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listener = asyncio.create_task(self._listen(reader))

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # another process may hold this end, too
        if not await exits(process, END_SECONDS):
            process.kill()  # the kernel ends its children
            await exits(process, KILL_SECONDS)
        await self._listener
        self._writer.transport.abort()

    async def _order(self, order: Mapping[str, Any], files: list[int]) -> None:
        """Send an order and its files: they travel with a byte that the launcher skips, so that no line is cut in two."""
        self._wake()
        while True:
            with contextlib.suppress(BlockingIOError):
                socket.send_fds(self._control, [b"\0"], files)
                break
            await asyncio.sleep(TICK / 10)
        self._writer.write(json.dumps(order).encode() + b"\n")

    def _kill(self, number: int) -> None:
        if self._process is not None:
            self._wake()
            self._writer.write(json.dumps({"kill": number}).encode() + b"\n")

    def _wake(self) -> None:
        """Continue the launcher where it was stopped."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            async for line in reader:
                report = json.loads(line)
                child = self._children.get(report["child"])
                if child is not None:
                    child._learn(report)
        for child in list(self._children.values()):
            child._learn({"excess": None, "status": -signal.SIGKILL})


class Child:
    """One child process, as :meth:`Launcher.start` makes it.

    :meth:`send` and :meth:`receive` until that raises, then :meth:`end`.
    """

    def __init__(self, launcher: Launcher, number: int, config: ChildConfig) -> None:
        self._launcher = launcher
        self._pid: int | None = None
        self._number = number
        self._config = config
        self._pending: deque[_Pending] = deque()
        self._verdict: tuple[str, str] | None = None
        self._ended = asyncio.Event()
        self._status: int | None = None
        self._problem = ""
        self._unsent: asyncio.Queue[tuple[_Pending, bytes]] = asyncio.Queue()
        self._channel: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._began: asyncio.Future[None] | None = None

    @property
    def pid(self) -> int:
        assert self._pid is not None, "it has not begun"
        return self._pid

    async def send(self, frame: Frame, patience: float | None = None) -> None:
        """Send a request.

        Args:
            frame: The request.
            patience: Timeout in seconds, counted from the reply to the request before it; the config's when ``None``.
        """
        expected = self._expect(frame.id, self._config.answer_seconds if patience is None else patience)
        self._unsent.put_nowait((expected, frame.encoded()))

    async def sent(self) -> None:
        """Wait until all requests are sent, or the process is dead."""
        await self._unsent.join()

    async def receive(self) -> Frame:
        """The reply to the oldest request that has none.

        Raises:
            ChildDied: There will be none.
        """
        try:
            head = read_head(await self._read(HEAD_BYTES), self._config.most_bytes)
            if not self._pending or head.id != self._pending[0].id:
                raise BadMessageError(f"it has the number {head.id}")
            frame = head.frame(await self._read(head.size))
        except BadMessageError as error:
            self.kill(CRASH, f"{self._config.process} wrote an invalid reply ({error}) and was killed")
        except (EOFError, OSError):
            pass
        else:
            self._pending.popleft()
            self._waited = -TICK
            return frame
        raise await self._death()

    def kill(self, kind: str, reason: str) -> None:
        """End the process at once and discard its unread replies; the first reason counts."""
        self._verdict = self._verdict or (kind, reason)
        self._launcher._kill(self._number)
        self._hang_up(socket.SHUT_RDWR)

    async def end(self, seconds: float = 0.0) -> None:
        """End the process and all that it has started, after ``seconds`` in which it may end by itself."""
        if seconds and self._verdict is None and not self._ended.is_set():
            self._hang_up(socket.SHUT_WR)
            with contextlib.suppress(TimeoutError):
                await within(self._ended.wait(), seconds)
        self.kill(LOST, "it was ended")
        await self._wait_for_end()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=LAST_WORDS_SECONDS)
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        if self._channel is not None:
            self._channel.close()
        self._launcher._children.pop(self._number, None)

    async def _begin(self) -> None:
        """Start the process and its watch.

        Raises:
            ChildDied: The launcher could not start it, or ended.
        """
        config, loop = self._config, asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            self._channel, theirs = socket.socketpair()
            stack.enter_context(theirs)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            self._channel.setblocking(False)
            reading, writing = os.pipe()
            stack.callback(os.close, writing)
            self._tasks.append(asyncio.create_task(self._copy(reading)))
            order = {
                "start": self._number,
                "command": config.command,
                "environment": {**config.environment, launcher.MARK: secrets.token_hex(16)},
                "files": list(config.files),
                "memory": config.memory_bytes,
            }
            self._began = loop.create_future()
            self._launcher._children[self._number] = self
            await self._launcher._order(order, [theirs.fileno(), writing, *config.files.values()])
            greeting = json.dumps(config.greeting).encode() + b"\n"
            self._unsent.put_nowait((self._expect(0, config.load_seconds), greeting))
            self._tasks += [asyncio.create_task(self._watch()), asyncio.create_task(self._transmit())]
            await self._began
        if self._pid is None:
            raise await self._death()

    def _learn(self, report: Mapping[str, Any]) -> None:
        if "pid" in report:
            self._pid = report["pid"]
        if "excess" in report:
            kind, reason = (LOST, "its launcher ended") if report["excess"] is None else (MEMORY, report["excess"])
            self._verdict = self._verdict or (kind, f"{self._config.name} {reason}" if kind == MEMORY else reason)
        if "status" in report:
            self._status, self._problem = report["status"], report.get("error", "")
            self._ended.set()
            self._hang_up(socket.SHUT_RD)  # buffered replies are read, then EOF comes, also where another process holds its end
        if self._began is not None and not self._began.done():
            self._began.set_result(None)

    def _expect(self, number: int, patience: float) -> _Pending:
        if not self._pending:
            self._waited = -TICK  # the tick that has begun does not count
        self._pending.append(_Pending(number, patience))
        return self._pending[-1]

    async def _read(self, count: int) -> bytearray:
        """Read ``count`` bytes from the child; ``EOFError`` where there are fewer."""
        assert self._channel is not None
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            received = await asyncio.get_running_loop().sock_recv_into(self._channel, view)
            if received == 0:
                raise EOFError
            view = view[received:]
        return buffer

    async def _transmit(self) -> None:
        assert self._channel is not None
        while True:
            request, data = await self._unsent.get()
            with contextlib.suppress(OSError):  # it is dead; receive raises
                await asyncio.get_running_loop().sock_sendall(self._channel, data)
                request.delivered = True
            self._unsent.task_done()

    async def _watch(self) -> None:
        """Kill the process where it does not reply in time; continue a stopped launcher, which watches its memory."""
        while not self._ended.is_set():
            await asyncio.sleep(TICK)
            self._launcher._wake()
            self._waited += TICK
            if not self._pending or self._waited < self._pending[0].patience or self._has_spoken():
                continue
            if self._pid is not None and is_stopped(self._pid):
                self.kill(LOST, f"{self._config.process} was stopped by a signal, and was killed")
            else:
                self.kill(HANG, f"{self._config.name} gave no answer within {self._pending[0].patience:g} s and was killed")

    def _has_spoken(self) -> bool:
        """Whether a part of a reply can be read."""
        assert self._channel is not None
        try:
            return bool(self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    async def _copy(self, reading: int) -> None:
        """Pass on its output until no process holds the pipe."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
        )
        with contextlib.closing(transport):
            while data := await reader.read(2**16):
                with contextlib.suppress(OSError):  # the disk is full
                    self._config.output(data)

    async def _death(self) -> ChildDied:
        """How the process ended; waits for its end."""
        if self._verdict is None:
            with contextlib.suppress(TimeoutError):
                await within(self._ended.wait(), END_SECONDS)
            if not self._ended.is_set():
                self.kill(CRASH, f"{self._config.process} closed its end of the line and was killed")
        ended = await self._wait_for_end()
        if self._verdict is not None:
            kind, reason = self._verdict
        elif self._problem:
            kind, reason = LOST, f"it cannot be started ({self._problem})"
        else:
            kind, reason = CRASH, f"{self._config.process} {how_it_ended(self._status)}"
        running = next((request.id for request in self._pending if request.delivered), 0)
        return ChildDied(kind, reason if ended else f"{reason}, but does not end", running)

    async def _wait_for_end(self) -> bool:
        """Wait for the end of a killed process; false where it does not end in time."""
        if self._began is not None:
            with contextlib.suppress(TimeoutError):
                await within(self._ended.wait(), KILL_SECONDS)
        return self._ended.is_set()

    def _hang_up(self, how: int) -> None:
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.shutdown(how)
