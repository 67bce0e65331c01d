"""One simulator process as its sim server sees it: the line to it, the watch over it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Optional

from ...envs.children import exits, how_it_ended, kill_group
from ...envs.errors import BadMessageError, VlarigError
from ...envs.framing import read_frame, write_frame
from ...envs.messages import CRASH, HANG, MEMORY, Failure, Welcome, decode
from ...envs.sources import check_unchanged
from .config import ServerConfig
from .liveness import TICK
from .memory import MemoryShare
from .worker import die_with_parent

#: Seconds that a process gets to exit once it has closed its end of the line.
EXIT_SECONDS = 5.0

#: Seconds after which a process that was killed, and is still there, is left to the kernel: a driver of the graphics card may hold it.
KILL_SECONDS = 10.0


class SimulatorDiedError(Exception):
    """The simulator's process ended, or was killed; ``kind`` is what it is called as a failure of the request that was running."""

    def __init__(self, kind: str, story: str) -> None:
        super().__init__(story)
        self.kind = kind


class SimulatorProcess:
    """A simulator process: :meth:`load` it, :meth:`send` and :meth:`receive` until that raises ``EOFError``, then :meth:`bury` it."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._verdict: Optional[tuple[str, str]] = None
        self.watch(None)

    async def load(self) -> Welcome:
        """Start the process and wait until its adapter stands.

        Raises:
            VlarigError: The adapter cannot be loaded, and says why; or its code is no longer what the run began with; or its share of
                the memory does not suffice.
            SimulatorDiedError: The process died on the way.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._spawn(theirs.fileno())
            except OSError as error:
                ours.close()
                raise SimulatorDiedError(CRASH, f"no process can be started for the simulator ({error})") from None
        self.memory = MemoryShare(self._process.pid, self._config.memory_bytes)
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=2**20)
        self._watcher = asyncio.create_task(self._keep_watch())
        self.watch(self._config.load_seconds)
        try:
            welcome = await self._receive_welcome()
            await asyncio.to_thread(check_unchanged, self._config.files.items())  # now that it has been read
        except EOFError:
            death = await self.bury()
            story = f"{self._config.adapter} did not load: {death}"
            raise VlarigError(story) if death.kind == MEMORY else SimulatorDiedError(death.kind, story) from None
        except BaseException:
            self.kill(CRASH, "its server does not want it")
            await self.bury()
            raise
        self.watch(None)
        return welcome

    @property
    def alive(self) -> bool:
        """Whether it can still be given something to do, as far as can be told."""
        return self._verdict is None and not self._reader.at_eof() and self._process.poll() is None

    def send(self, data: bytes) -> None:
        """Queue a request for it."""
        write_frame(self._writer, data)

    async def receive(self) -> bytes:
        """Its next answer.

        Raises:
            EOFError: There will be none: the process is dead, or as good as that.
        """
        try:
            if self._verdict is None:
                return await read_frame(self._reader)
        except BadMessageError as error:
            self.kill(CRASH, f"the simulator's process wrote what is no answer ({error}) and was killed")
        except (asyncio.IncompleteReadError, OSError):
            pass
        raise EOFError

    def watch(self, patience: Optional[float]) -> None:
        """Kill the process unless it answers within ``patience`` seconds from now; do not with ``None``."""
        self._patience, self._waited = patience, -TICK  # the tick that has begun does not count

    def kill(self, kind: str, story: str) -> None:
        """End the process at once; the first reason counts.

        Its line is cut here too: a process that the simulator started may hold the other end open.
        """
        self._verdict = self._verdict or (kind, story)
        kill_group(self._process)
        self._writer.transport.abort()

    async def bury(self) -> SimulatorDiedError:
        """End the process and all that it started, whatever state they are in, and say how it went."""
        if self._verdict is None and not await exits(self._process, EXIT_SECONDS):
            self.kill(CRASH, "the simulator's process closed its end of the line and was killed")
        self._watcher.cancel()
        kill_group(self._process)
        self._writer.transport.abort()
        gone = await exits(self._process, KILL_SECONDS)
        kind, story = self._verdict or (CRASH, f"the simulator's process {how_it_ended(self._process.returncode)}")
        return SimulatorDiedError(kind, story if gone else f"{story}, but does not end")

    def _spawn(self, channel: int) -> subprocess.Popen[bytes]:
        """Start the process, in a group of its own; ``channel`` is its end of the line."""
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("worker.py")), "simulator"],
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            pass_fds=[channel],
            start_new_session=True,
            # Before its first instruction, where somebody may stop it, and then kill us. We have one thread.
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
        assert process.stdin is not None
        told = {"channel": channel, "adapter": self._config.adapter, "packages": self._config.packages}
        with contextlib.suppress(OSError), process.stdin:  # it may be dead already, as the line will tell
            process.stdin.write(json.dumps(told).encode() + b"\n")
        return process

    async def _receive_welcome(self) -> Welcome:
        """What it says once its adapter stands. Raises like :meth:`receive`, and ``VlarigError`` where it says why it does not."""
        welcome = decode(await self.receive())
        if isinstance(welcome, Failure):
            raise VlarigError(welcome.message, traceback=welcome.traceback)
        if not isinstance(welcome, Welcome):
            raise BadMessageError(f"{self._config.adapter} said {type(welcome).__name__} instead of Welcome")
        self._check_memory()
        if self._verdict is not None:
            raise EOFError
        return welcome

    async def _keep_watch(self) -> None:
        """Look after the process: is it there, is it too large, does it take too long."""
        while self._process.poll() is None:
            await asyncio.sleep(TICK)
            self._waited += TICK
            self._check_memory()
            if self._patience is not None and self._waited >= self._patience:
                self.kill(HANG, f"the simulator gave no answer within {self._patience:g} s and was killed")
        await asyncio.sleep(TICK)  # what it said last is read meanwhile
        self._writer.transport.abort()

    def _check_memory(self) -> None:
        excess = self.memory.excess()
        if excess is not None:
            self.kill(MEMORY, f"the simulator {excess}")
