"""Envs in simulators of this process, for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import atexit
import math
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from ...benchmarks.suite import Suite
from ...envs.api import Needs
from ...envs.background import BackgroundLoop
from ...envs.errors import VlarigError
from ..durable_env import DurableEnv, GivenUpError
from ..sizing import Machine, suite_share
from ..worker_spec import WorkerSpec
from ..workers import local_workers

T = TypeVar("T")


class SimulatorPool:
    """A number of envs, spread over workers that are started at first use.

    Args:
        suite: The simulators' suite.
        needs: What snapshots must contain.
        envs: How many envs.
        workers: Simulator processes; one a core, and no more than envs, when ``None``.

    Attributes:
        envs: The envs, once they have been used; neighbours are in different processes.
    """

    def __init__(self, suite: Suite, needs: Needs, envs: int, workers: int | None = None) -> None:
        if envs < 1 or (workers is not None and workers < 1):
            raise VlarigError(f"{envs} environments on {workers} workers were requested; give 1 or more of each")
        self.envs: list[DurableEnv] = []
        self._suite = suite
        self._needs = needs
        self._size = envs
        self._workers = min(workers or Machine.here().cores, envs)
        self._loop: BackgroundLoop | None = None
        self._stack = AsyncExitStack()

    def run(self, work: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Run ``work(*arguments)``, which may use the envs, and return its result."""
        if self._loop is None:
            self._open()
        assert self._loop is not None
        try:
            return self._loop.run(work(*arguments))
        except GivenUpError as error:
            raise VlarigError(f"{error}; reset to go on with another episode") from None

    def close(self) -> None:
        """End the simulators; a second call does nothing, and :meth:`run` restarts them."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        atexit.unregister(self.close)
        try:
            loop.run(self._stack.aclose())
        finally:
            loop.close()
            self.envs = []

    def _open(self) -> None:
        worker_spec = WorkerSpec.of(self._suite)
        loop = BackgroundLoop("vlarig-engine")
        try:
            loop.run(self._start(worker_spec))
        except BaseException:
            loop.run(self._stack.aclose())
            loop.close()
            raise
        self._loop = loop
        atexit.register(self.close)  # later, at the interpreter's end, the loop's thread would answer no more

    async def _start(self, worker_spec: WorkerSpec) -> None:
        logs = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vlarig-")))
        each = math.ceil(self._size / self._workers)
        share = suite_share(self._suite, self._workers, each)
        workers = await self._stack.enter_async_context(local_workers(worker_spec, self._workers, logs, share))
        places = [(worker, local) for local in range(each) for worker in workers][: self._size]
        self.envs = [DurableEnv(worker, local, self._needs) for worker, local in places]


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side to their ends, also where one raises; then raise the first exception, if there is one."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
