"""Replicas of a policy: the same policy in several processes of this machine, which act side by side and are restarted when they die.

Every member of a policy works as with the policy in the driver's own process. ``record`` and ``load_weights`` reach each replica, also
one that restarts later; the first one answers ``value``.
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
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..envs.background import BackgroundLoop
from ..envs.errors import BadMessageError
from ..envs.framing import Frame
from ..envs.messages import CRASH
from ..envs.untrusted import one_line
from ..policies.api import SHARED_FILE_VARIABLE, PolicyError, PolicyLost
from ..policies.pool import Member, PolicyPool
from ..policies.replica_messages import (
    MAX_BATCH_BYTES,
    ActReply,
    Description,
    Failed,
    Message,
    Order,
    decode,
    encode,
    join,
    split,
)
from .children.child import Launcher
from .children.child_config import ChildConfig, ChildDied
from .children.liveness import together
from .children.supervisor import ChildLostError, Line, Supervisor

T = TypeVar("T")

#: Seconds of the driver's running time that a replica gets to load its policy, which may have to be downloaded, and to answer a batch,
#: of which the first may include compilation; long, since a slow replica is not broken.
LOAD_SECONDS, ANSWER_SECONDS = 3600.0, 600.0

#: Seconds that a replica gets to close its policy at the end.
EXIT_SECONDS = 5.0

#: The replicas' own output.
output_logger = logging.getLogger("vlarig.policies.replica")
logger = logging.getLogger(__name__)

_DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class ReplicaConfig:
    """The recipe of a replica.

    Attributes:
        policy: The policy's name.
        options: The policy's options.
        environment: The process's environment variables.
        files: Open files that it inherits, by the environment variable that gets the file's path.
    """

    policy: str
    options: Mapping[str, str]
    environment: Mapping[str, str]
    files: Mapping[str, int] = field(default_factory=dict)


class _Output:
    """Passes the output of a policy and its libraries on to ``logging``, and keeps the last line.

    Args:
        number: The replica's number.
    """

    def __init__(self, number: int) -> None:
        self.last_line = ""
        self._number = number
        self._rest = ""

    def __call__(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data.decode(errors="replace")).replace("\r", "\n").split("\n")
        for line in filter(str.strip, lines):
            self.last_line = line
            output_logger.warning("replica %d: %s", self._number, line)
        self._rest = self._rest[-4096:]

    def after(self, death: ChildDied) -> ChildDied:
        """The death, with the process's last line of output."""
        return ChildDied(death.kind, f"{death}; its last output: {one_line(self.last_line)}") if self.last_line else death


class Replica(Member):
    """One replica, restarted when it dies.

    Args:
        number: Its number among its siblings.
        config: Its recipe.
        loop: The event loop that supervises its process.
        launcher: Starts it, in the loop.
    """

    def __init__(self, number: int, config: ReplicaConfig, loop: BackgroundLoop, launcher: Launcher) -> None:
        self.label = f"replica {number} of the policy {config.policy!r}"
        self._number = number
        self._config = config
        self._loop = loop
        self._launcher = launcher
        self._output = _Output(number)
        self._orders: Sequence[Order] = ()
        self._supervisor = Supervisor(self.label, self._launch)
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, for as long as it lives."""
        return self._supervisor.pid

    async def start(self) -> None:
        """Start the process where there is none, after a pause where it keeps dying, and repeat its predecessor's orders."""
        await self._supervisor.running()

    async def end(self) -> None:
        await self._supervisor.end(EXIT_SECONDS)

    def exchange(self, messages: Sequence[Message]) -> list[Message]:
        """Send a request and return its answer.

        Raises:
            PolicyLost: The process is dead; :meth:`revive` it.
        """
        answer = self._run(lambda: self._exchange(messages))
        if isinstance(answer[0], ActReply):
            self._supervisor.succeeded()
        return answer

    def revive(self, orders: Sequence[Order]) -> None:
        """Restart the process where it died, after a pause where it keeps dying.

        Raises:
            PolicyLost: :meth:`interrupt` was called meanwhile.
            PolicyError: It died too often, and is given up.
        """
        self._orders = orders
        try:
            self._run(self.start)
        except ChildLostError as lost:  # no loss of a simulator's, of which another may play the episode
            raise PolicyError(str(lost)) from None

    def interrupt(self) -> None:
        """End at once what is under way in another thread, with ``PolicyLost``; the process lives on."""
        self._loop.run(self._interrupt())

    def close(self) -> None:
        self._loop.run(self.end())

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` on the line, one at a time."""
        try:
            return self._loop.run(self._alone(work))
        except concurrent.futures.CancelledError:
            raise PolicyLost(f"{self.label} was interrupted") from None

    async def _alone(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._turn:
            self._task = asyncio.current_task()
            try:
                return await work()
            finally:
                self._task = None

    async def _interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _exchange(self, messages: Sequence[Message]) -> list[Message]:
        line = self._supervisor.line
        assert line is not None, "it was never started"
        try:
            return await _answer(line, messages)
        except ChildDied as died:
            death = self._output.after(died)
            await line.discard(death)
            logger.warning("%s is dead: %s", self.label, death)
            raise PolicyLost(f"{self.label} is dead: {death}") from None

    async def _launch(self) -> Line:
        """Start the process, and repeat its predecessor's orders.

        Raises:
            ChildDied: The process died.
        """
        try:
            return await self._launch_process()
        except ChildDied as death:
            raise self._output.after(death) from None

    async def _launch_process(self) -> Line:
        config = self._config
        arguments = {"policy": config.policy, "options": dict(config.options), "path": sys.path}
        child = await self._launcher.start(
            ChildConfig(
                command=[sys.executable, "-P", "-u", "-m", "vlarig.policies.replica"],
                environment=config.environment,
                greeting=arguments,
                load_seconds=LOAD_SECONDS,
                answer_seconds=ANSWER_SECONDS,
                output=self._output,
                files=config.files,
                most_bytes=MAX_BATCH_BYTES,
                name="it",
            )
        )
        try:
            (description,) = _messages(await child.receive())
            if not isinstance(description, Description):
                raise ChildDied(CRASH, f"it sent {type(description).__name__} instead of Description and was killed")
        except BaseException:
            await child.end()
            raise
        self.description, line = description, Line(child)
        try:
            for order in self._orders:
                await _answer(line, [order])
        except BaseException:
            await line.end()
            raise
        return line


async def _answer(line: Line, messages: Sequence[Message]) -> list[Message]:
    """A replica's answer to a request.

    Raises:
        ChildDied: The process died, or took too long and was killed.
    """
    try:
        body = join([encode(message) for message in messages])
    except BadMessageError as error:
        raise BadMessageError(f"{error}; show smaller or fewer images, or leave out --replicas") from None
    return _messages(await line.ask(Frame(0, 0, 0, 0, body)))


def _messages(frame: Frame) -> list[Message]:
    """The messages in a replica's reply.

    Raises:
        ChildDied: The frame is no reply; the process must be ended.
    """
    try:
        messages = [decode(part) for part in split(frame.body)]
    except BadMessageError as error:
        raise ChildDied(CRASH, f"it wrote an invalid reply ({error}) and was killed") from None
    if messages and isinstance(messages[0], Failed):
        raise messages[0].error()
    return messages


def replicated_policy(name: str, options: Mapping[str, str], count: int) -> PolicyPool[Replica]:
    """A policy in processes of this machine. Close it after use.

    Args:
        name: The policy's name, as for :func:`~vlarig.policies.registry.load_policy`.
        options: Its options.
        count: How many replicas.
    """
    if count < 1:
        raise PolicyError(f"{count} replicas of the policy {name!r}; expected 1 or more")
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(_shared_file())
        files = {} if shared is None else {SHARED_FILE_VARIABLE: shared}
        environments = itertools.cycle(_environments())
        loop = BackgroundLoop("vlarig-replicas")
        stack.callback(loop.close)
        launcher = Launcher()
        stack.callback(lambda: loop.run(launcher.__aexit__()))
        configs = (ReplicaConfig(name, options, environment, files) for environment in environments)
        replicas = [Replica(number, config, loop, launcher) for number, config in zip(range(count), configs, strict=False)]
        stack.callback(lambda: loop.run(_end_all(replicas)))
        loop.run(together([replica.start() for replica in replicas]))
        return PolicyPool(
            replicas,
            stack,
            lambda _, __, difference: (
                f"replicas of the policy {name!r} describe themselves differently: {difference}; leave out --replicas"
            ),
        )


async def _end_all(replicas: Sequence[Replica]) -> None:
    await asyncio.gather(*(replica.end() for replica in replicas))


@contextlib.contextmanager
def _shared_file() -> Iterator[int | None]:
    """A file in memory, freed with its last user; ``None`` where the system has none. See :data:`~.api.SHARED_FILE_VARIABLE`."""
    if not hasattr(os, "memfd_create"):
        yield None
        return
    number = os.memfd_create("vlarig-replicas")
    try:
        yield number
    finally:
        os.close(number)


def _environments() -> list[dict[str, str]]:
    """Environment variables for replicas, in turn: one for each GPU where there are several."""
    devices = visible_devices()
    return [os.environ | {_DEVICES_VARIABLE: device} for device in devices] if len(devices) > 1 else [dict(os.environ)]


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as :envvar:`CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get(_DEVICES_VARIABLE)
    if named is not None:
        return [device for device in map(str.strip, named.split(",")) if device]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []
