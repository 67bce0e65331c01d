"""Replicas of a policy: the same one in several processes of this machine, which act side by side and are started anew when they die.

Every member of a policy that the rig uses works as with the policy in the driver's own process, but for ``value``: a policy in training
is not replicated.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..envs.background import BackgroundLoop
from ..envs.backoff import Backoff
from ..envs.errors import VlarigError
from ..policies.api import SHARED_FILE_VARIABLE, PolicyError, PolicyLost
from ..policies.pool import MessageMember, PolicyPool
from ..policies.replica_messages import ActReply, Description, Message, Order
from .replica_process import PATIENCE, Patience, ReplicaConfig, ReplicaDied, ReplicaProcess

T = TypeVar("T")

logger = logging.getLogger(__name__)

_DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"


class Replica(MessageMember):
    """One replica for as long as it is wanted: its process, the line to it, and its restarts.

    A :class:`~vlarig.policies.pool.Member`.

    Args:
        number: Its number among its siblings.
        config: What its process is made of.
        loop: Where the process is looked after. Its thread starts the process, and the kernel ends the process with that thread.
    """

    description: Description

    def __init__(self, number: int, config: ReplicaConfig, loop: BackgroundLoop) -> None:
        self.label = f"replica {number} of the policy {config.policy!r}"
        self._number = number
        self._config = config
        self._loop = loop
        self._process: ReplicaProcess | None = None
        self._line = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None
        self._backoff = Backoff()
        self._story = "it never worked"

    @property
    def pid(self) -> int | None:
        """Process id, for as long as it lives."""
        return None if self._process is None else self._process.pid

    async def launch(self, orders: Sequence[Order] = ()) -> None:
        """Start the process, again if it dies while it starts, and have it carry out what its predecessor did.

        Raises:
            VlarigError: It says what the user can mend, or dies too often.
        """
        while True:
            try:
                self._process, self.description = await self._launch_once(orders)
                return
            except ReplicaDied as died:
                self._story = str(died)
            except VlarigError as error:
                if not self._backoff.proven:
                    raise
                self._story = str(error)  # what worked once may work again when memory or the like is there again
            await self._count_death()

    async def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            await process.end()

    def exchange(self, messages: Sequence[Message]) -> list[Message]:
        """Send a request and return its answer.

        Raises:
            PolicyError: The policy failed.
            PolicyLost: The process is gone; :meth:`revive` it.
        """
        answer = self._run(lambda: self._exchange(messages))
        if isinstance(answer[0], ActReply):
            self._backoff.succeeded()
        return answer

    def revive(self, orders: Sequence[Order]) -> None:
        """Start the process anew where it died, after a pause where it keeps dying.

        Raises:
            VlarigError: It dies again and again.
            PolicyLost: :meth:`interrupt` was called meanwhile.
        """
        self._run(lambda: self._revive(orders))

    def interrupt(self) -> None:
        """Have what is under way in another thread end at once, with ``PolicyLost``; the process lives on."""
        self._loop.run(self._interrupt())

    def close(self) -> None:
        """End the process."""
        self._loop.run(self.end())

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something on the line, where one thing is done at a time."""
        try:
            return self._loop.run(self._alone(work))
        except concurrent.futures.CancelledError:
            raise PolicyLost(f"{self.label} was interrupted") from None

    async def _alone(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._line:
            self._task = asyncio.current_task()
            try:
                return await work()
            finally:
                self._task = None

    async def _interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _exchange(self, messages: Sequence[Message]) -> list[Message]:
        if self._process is None:
            raise PolicyLost(f"{self.label} was being started anew")
        try:
            return await self._process.exchange(messages)
        except ReplicaDied as died:
            self._process, self._story = None, str(died)
            logger.warning("%s is gone: %s", self.label, died)
            raise PolicyLost(f"{self.label} is gone: {died}") from None

    async def _revive(self, orders: Sequence[Order]) -> None:
        if self._process is None:
            await self._count_death()
            await self.launch(orders)

    async def _launch_once(self, orders: Sequence[Order]) -> tuple[ReplicaProcess, Description]:
        process = ReplicaProcess(self._number, self._config)
        description = await process.load()
        try:
            for order in orders:
                await process.exchange([order])
        except BaseException:
            await process.end()
            raise
        return process, description

    async def _count_death(self) -> None:
        """Take note of a death, and wait a while if there was another just before.

        Raises:
            VlarigError: It died too often.
        """
        pause = self._backoff.failed()
        if pause is None:
            raise VlarigError(
                f"{self.label} died {self._backoff.failures} times without answering once in between; the last time {self._story}"
            )
        await asyncio.sleep(pause)


def replicated_policy(name: str, options: Mapping[str, str], count: int, patience: Patience = PATIENCE) -> PolicyPool[Replica]:
    """A policy in processes of this machine. Close it after use.

    Args:
        name: The policy's name, as for :func:`~vlarig.policies.registry.load_policy`.
        options: Its options.
        count: How many replicas.
        patience: How long each may take.

    Raises:
        VlarigError: The policy cannot be made, as :func:`~vlarig.policies.registry.load_policy` would say it; or its processes die.
    """
    if count < 1:
        raise PolicyError(f"{count} replicas of the policy {name!r}; expected 1 or more")
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(_shared_file())
        files = () if shared is None else (shared,)
        environments = itertools.cycle(_environments(shared))
        loop = BackgroundLoop("vlarig-replicas")
        stack.callback(loop.close)
        configs = (ReplicaConfig(name, options, environment, files, patience) for environment in environments)
        replicas = [Replica(number, config, loop) for number, config in zip(range(count), configs, strict=False)]
        stack.callback(lambda: loop.run(_end_all(replicas)))
        loop.run(_launch_all(replicas))
        return PolicyPool(
            replicas,
            stack,
            lambda _, __, difference: (
                f"replicas of the policy {name!r} say different things of themselves: {difference}; leave out --replicas"
            ),
        )


async def _launch_all(replicas: Sequence[Replica]) -> None:
    """Start replicas side by side; the first that cannot ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for replica in replicas:
                group.create_task(replica.launch())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _end_all(replicas: Sequence[Replica]) -> None:
    await asyncio.gather(*(replica.end() for replica in replicas))


@contextlib.contextmanager
def _shared_file() -> Iterator[int | None]:
    """A file in memory, gone with its last user; ``None`` where the system has no such. See :data:`~.api.SHARED_FILE_VARIABLE`."""
    if not hasattr(os, "memfd_create"):
        yield None
        return
    number = os.memfd_create("vlarig-replicas")
    try:
        yield number
    finally:
        os.close(number)


def _environments(shared: int | None) -> list[dict[str, str]]:
    """Environment variables for replicas, in turn: one for each GPU where there are several."""
    common = dict(os.environ) if shared is None else os.environ | {SHARED_FILE_VARIABLE: f"/proc/self/fd/{shared}"}
    devices = visible_devices()
    return [common | {_DEVICES_VARIABLE: device} for device in devices] if len(devices) > 1 else [common]


def visible_devices() -> list[str]:
    """The GPUs that a process of ours may use, as :envvar:`CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get(_DEVICES_VARIABLE)
    if named is not None:
        return [device for device in map(str.strip, named.split(",")) if device]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []
