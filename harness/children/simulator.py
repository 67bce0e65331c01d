"""A simulator as its supervisor sees it: one child process in its own environment, its share of the memory, and its log."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ...envs.errors import BadMessageError, VlarigError
from ...envs.framing import Frame
from ...envs.messages import LOST, MEMORY, PREPARE, START, STEP, Failure, Welcome, decode
from ...envs.sources import check_unchanged
from ..worker_spec import WorkerSpec
from .child import Child, Launcher
from .child_config import ChildConfig, ChildDied
from .launcher import excess_of, resident_bytes

#: Part of the room for leaks; the room is the share less the memory of a simulator whose envs all run. When this part is used up, the
#: process is replaced where an episode begins, which costs no episode. The rest is for an episode that needs more memory than others,
#: and for what a leak adds until an episode begins.
ROOM_FOR_LEAKS = 0.5

_GB = 10**9

#: Bytes of the beginning, and of the end, that a log keeps. It may be this much longer before its middle is left out.
KEPT_BYTES = 2 * 2**20

LEFT_OUT = b"\n[the middle of this log is left out; its first and last %d MiB are kept]\n" % (KEPT_BYTES // 2**20)


class MemoryShare:
    """A simulator's share of the machine's memory in bytes: when to replace its process before it exceeds the share and is killed."""

    def __init__(self, pid: int, share: int | None) -> None:
        self._pid = pid
        self._share = share
        self._begun: set[int] = set()
        self._settled: int | None = None

    def leak(self, env: int) -> str | None:
        """Why the process should be replaced before an episode begins in ``env``, in words; ``None`` if it should not.

        Each env takes memory when it begins its first episode in the process. The memory at the first second episode of an env is what
        a fresh process needs too; growth is counted from there. So every process finishes some episodes, also with a small share.
        """
        if self._share is None:
            return None
        if env not in self._begun:
            self._begun.add(env)
            return None
        resident = resident_bytes(self._pid)
        if self._settled is None:
            self._settled = resident
        if resident <= self._settled + ROOM_FOR_LEAKS * (self._share - self._settled):
            return None
        return f"grew from {self._settled / _GB:.1f} to {resident / _GB:.1f} GB, its share of the memory is {self._share / _GB:.1f} GB"


class Simulator:
    """A worker's process that has loaded its adapter, as :meth:`start` makes it. Only the heads of frames are read.

    Attributes:
        first: The frame that it sent when it was loaded.
        welcome: That frame's message.
    """

    first: Frame
    welcome: Welcome

    def __init__(
        self, child: Child, worker_spec: WorkerSpec, output: Callable[[bytes], None], memory_bytes: int | None
    ) -> None:
        self._child = child
        self._output = output
        self._patience = worker_spec.suite.patience
        self._memory = MemoryShare(child.pid, memory_bytes)
        self._steps: dict[int, int] = {}

    @classmethod
    async def start(
        cls, launcher: Launcher, worker_spec: WorkerSpec, output: Callable[[bytes], None], memory_bytes: int | None = None
    ) -> Self:
        """Start the process and wait until its adapter is loaded.

        Raises:
            CodeChangedError: Its code changed since the run began.
            ChildDied: The process died while it loaded.
        """
        adapter = worker_spec.suite.adapter
        await asyncio.to_thread(check_unchanged, worker_spec.files.items())
        config = ChildConfig(
            command=worker_spec.command("simulator"),
            environment=worker_spec.environment(),
            greeting={"adapter": adapter, "packages": worker_spec.packages()},
            load_seconds=worker_spec.suite.patience.load,
            output=output,
            memory_bytes=memory_bytes,
        )
        child = await launcher.start(config)
        simulator = cls(child, worker_spec, output, memory_bytes)
        try:
            simulator.first = await child.receive()
            simulator.welcome = _welcome(simulator.first, adapter)
            excess = excess_of(child.pid, memory_bytes)  # the launcher may check later
            if excess is not None:
                raise ChildDied(MEMORY, f"the simulator {excess}")
            await asyncio.to_thread(check_unchanged, worker_spec.files.items())  # now that it has been read
        except ChildDied as death:
            await child.end()
            reason = f"{adapter} did not load: {death}"
            raise VlarigError(reason) if death.kind == MEMORY else ChildDied(LOST, reason) from None
        except BaseException:
            await child.end()
            raise
        return simulator

    @property
    def pid(self) -> int:
        return self._child.pid

    async def send(self, frame: Frame) -> None:
        """Send it a request.

        Raises:
            BadMessageError: The frame is no request.
        """
        if frame.kind == START:
            leak = self._memory.leak(frame.env)
            if leak is not None:
                self._child.kill(LOST, f"the simulator {leak}")
            self._steps[frame.env] = frame.steps
            await self._child.send(frame, self._patience.reset)
        elif frame.kind == STEP:
            steps = min(frame.steps, self._steps.get(frame.env, 1))
            await self._child.send(frame, self._patience.step * max(1, steps))
        elif frame.kind == PREPARE:
            await self._child.send(frame, self._patience.prepare)
        else:
            raise BadMessageError(f"a message of kind {frame.kind} out of turn; expected Start, Step or Prepare")

    async def sent(self) -> None:
        await self._child.sent()

    async def receive(self) -> Frame:
        try:
            return await self._child.receive()
        except ChildDied as death:
            with contextlib.suppress(OSError):  # the disk is full
                self._output(f"supervisor: {death}\n".encode())
            raise

    async def end(self, seconds: float = 0.0) -> None:
        await self._child.end(seconds)


def _welcome(frame: Frame, adapter: str) -> Welcome:
    """A worker's first message."""
    reply = decode(frame)
    if isinstance(reply, Failure):
        raise VlarigError(reply.message, traceback=reply.traceback)
    if not isinstance(reply, Welcome):
        raise BadMessageError(f"{adapter} sent {type(reply).__name__} instead of Welcome")
    return reply


class WorkerLog:
    """A worker's log, a file of bounded size: the beginning and the end of its output. What is there already stays, and counts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        """Make sure that it can be written.

        Raises:
            OSError: It cannot.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab"):
            pass

    def add(self, data: bytes) -> None:
        """Append to the file, and leave out its middle where it has become too long."""
        with self._path.open("a+b") as file:
            file.write(data)
            file.flush()
            if file.tell() > 3 * KEPT_BYTES:
                file.seek(-KEPT_BYTES, os.SEEK_END)
                last = file.read()
                file.truncate(KEPT_BYTES)
                file.write(LEFT_OUT + last)
