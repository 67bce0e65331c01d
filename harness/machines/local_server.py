"""A sim server as a process of ours on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import signal
from pathlib import Path
from typing import NamedTuple

from ...benchmarks.suite import Suite
from ...envs.children import kill_marked, mark
from ...envs.errors import VlarigError
from ...envs.sources import check_unchanged
from ..simulation.config import ServerConfig
from ..simulation.liveness import KEEPALIVE, within
from ..workplace import Workplace
from .client import ServerGone, SimClient
from .worker_log import WorkerLog

#: Seconds after which a server that was told to end is killed, and after which one that was killed, and is still there, is left behind.
END_SECONDS = 0.2
KILL_SECONDS = 10.0


class Address(NamedTuple):
    """Where a sim server listens, and the secret that it wants to see.

    The socket is one of Linux's abstract ones, whose names begin with a zero byte: it is no file, so that nothing is left of it
    whoever is killed. The server turns away other users.
    """

    socket_path: str
    token: str


class LocalServer:
    """A sim server that is started here, and lives until it is ended, or dies.

    Args:
        workplace: What it is made of.
        log: File to which it appends its own and its simulator's output.
        memory_bytes: Most memory that its simulator may take; no bound when ``None``.

    Attributes:
        address: Where the newest one listens.
    """

    address: Address

    def __init__(self, workplace: Workplace, log: Path, memory_bytes: int | None = None) -> None:
        self._workplace = workplace
        self._log = log
        self._memory_bytes = memory_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._copying: asyncio.Task[None] | None = None
        self._mark = mark()

    @property
    def suite(self) -> Suite:
        """Whose simulator it loads."""
        return self._workplace.suite

    @property
    def where(self) -> str:
        """Where its output is."""
        return str(self._log)

    @property
    def pid(self) -> int | None:
        """Process id of the sim server, for as long as it lives."""
        return None if self._process is None else self._process.pid

    async def launch(self) -> SimClient:
        """Start a server and connect. Raises like :meth:`start`."""
        await self.start()
        return await SimClient.connect(*self.address, KEEPALIVE)

    async def start(self) -> None:
        """Start a server, and return when it listens at :attr:`address`. That may take for ever: bound it.

        Raises:
            VlarigError: It says what the user can mend.
            CodeChangedError: The adapter's code is no longer what the run began with.
            ServerGone: It died.
        """
        suite = self.suite
        await asyncio.to_thread(check_unchanged, self._workplace.files.items())
        self.address = Address(f"\0vlarig-{secrets.token_hex(16)}", secrets.token_hex(16))
        told = ServerConfig(
            socket=self.address.socket_path,
            token=self.address.token,
            adapter=suite.adapter,
            packages=self._workplace.packages(),
            files=self._workplace.files,
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

    async def end(self) -> None:
        """End the server, its simulator and all that they started, whatever state they are in."""
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
        kill_marked(self._mark)
        if self._copying is not None:
            await asyncio.wait({self._copying}, timeout=END_SECONDS)
            self._copying.cancel()
            self._copying = None

    async def _spawn(self) -> asyncio.subprocess.Process:
        try:
            log = WorkerLog(self._log)
            with log.written_by_child() as stderr:
                process = await asyncio.create_subprocess_exec(
                    *self._workplace.command("server"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=stderr,
                    env=self._workplace.environment() | self._mark,
                    start_new_session=True,
                )
            self._copying = asyncio.create_task(log.copy())
            return process
        except OSError as error:
            raise ServerGone(f"it cannot be started ({error})") from None


def _check_said(output: bytes) -> None:
    """Make sure that a server's last line, see :func:`.simulation.server.serve`, says that it is ready.

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
        raise VlarigError(said["error"], traceback=said.get("traceback", ""))
    if "died" in said:
        raise ServerGone(said["died"])
