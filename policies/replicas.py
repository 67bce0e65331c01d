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
from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from .api import SHARED_FILE_VARIABLE, PolicyError, PolicyLost, Reply, Request
from .replica_messages import Act, Acted, Check, Done, Given, Greeting, MakeStrict, Message, Question, Rows
from .replica_process import PATIENCE, Patience, Recipe, ReplicaDied, ReplicaProcess

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Deaths in a row after which a replica is given up that never answered anything: it probably cannot.
MOST_DEATHS_AT_FIRST = 5

#: Deaths in a row after which a replica is given up that did answer. With the pauses it is tried for five minutes: the machine may be
#: out of memory, or somebody may be killing processes.
MOST_DEATHS_IN_A_ROW = 12

#: Seconds before a replica is started anew after its second death in a row, doubled with every further one, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0

_DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"


class _Announced:
    """What a policy says of itself, from a replica's greeting."""

    def _announce(self, greeting: Greeting) -> None:
        self.name = greeting.name
        self.revision = greeting.revision
        self.needs = greeting.needs
        self.horizon = greeting.horizon
        self.rounds_by_batch = greeting.rounds_by_batch
        self.keeps_notes = greeting.keeps_notes
        self.reads_state = greeting.reads_state
        self.embodiments = greeting.embodiments
        self.transport_options = frozenset(greeting.transport_options)


class Replica(_Announced):
    """One replica for as long as it is wanted: its process, the line to it, and its restarts.

    Args:
        number: Its number among its siblings.
        recipe: What its process is made of.
        loop: Where the process is looked after. Its thread starts the process, and the kernel ends the process with that thread.
        rows: What :meth:`rows` has learnt, by the embodiment's name; siblings share it.
    """

    def __init__(
        self, number: int, recipe: Recipe, loop: BackgroundLoop, rows: dict[str, tuple[Embodiment, int | None]]
    ) -> None:
        self.version = 0
        self.greeting: Greeting | None = None
        self._number = number
        self._recipe = recipe
        self._loop = loop
        self._rows = rows
        self._process: ReplicaProcess | None = None
        self._said: list[Check | MakeStrict] = []
        self._ids = itertools.count()
        self._line = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None
        self._story = "it never stood"
        self._proven = False
        self._deaths_in_a_row = 0

    @property
    def pid(self) -> int | None:
        """Process id, for as long as it lives."""
        return None if self._process is None else self._process.pid

    async def launch(self) -> None:
        """Start the process, again if it dies while it starts, and tell it what it was told before.

        Raises:
            VlarigError: It says what the user can mend, or dies too often.
        """
        while True:
            try:
                process, greeting = await self._launch_once()
                break
            except ReplicaDied as died:
                self._story = str(died)
            except VlarigError as error:
                if not self._proven:
                    raise
                self._story = str(error)  # what stood once may stand again when memory or the like is there again
            await self._count_death()
        if self.greeting not in (None, greeting):
            await process.end()
            raise VlarigError(f"{self._who} says that it is another policy than before; begin a new run for that one")
        self._process, self.greeting = process, greeting
        self._announce(greeting)

    async def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            await process.end()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The policy's reply to each request.

        Raises:
            PolicyError: The policy failed.
            PolicyLost: The process is gone; :meth:`revive` it.
        """
        number = next(self._ids)
        messages = [Act(number, len(requests)), *(Question.of(number, request) for request in requests)]
        head, *replies = self._run(lambda: self._exchange(number, messages))
        assert isinstance(head, Acted), head
        self.version = head.version
        self._proven, self._deaths_in_a_row = True, 0
        return [given.reply() for given in replies if isinstance(given, Given)]

    def rows(self, embodiment: Embodiment) -> int | None:
        """Rows of its answers to this embodiment; ``None``: as many as a request's ``execute``. Raises like :meth:`act`."""
        known, rows = self._rows.get(embodiment.name, (None, None))
        if known != embodiment:
            number = next(self._ids)
            (done,) = self._run(lambda: self._exchange(number, [Rows(number, embodiment)]))
            assert isinstance(done, Done), done
            rows = done.rows
            self._rows[embodiment.name] = embodiment, rows
        return rows

    def check(self, suite: str, embodiment: Embodiment) -> None:
        """Make sure that the policy fits. Raises like :meth:`act`; one that is started anew is asked again."""
        self._tell(Check(next(self._ids), suite, embodiment))

    def make_strict(self) -> None:
        """Compute strictly, as each process that is started anew is told too. Raises like :meth:`act`."""
        self._tell(MakeStrict(next(self._ids)))

    def revive(self) -> None:
        """Start the process anew, after a pause where it keeps dying.

        Raises:
            VlarigError: It dies again and again.
            PolicyLost: :meth:`interrupt` was called meanwhile.
        """
        self._run(self._revive)

    def interrupt(self) -> None:
        """Have what is under way in another thread end at once, with :class:`~.api.PolicyLost`; the process lives on."""
        self._loop.run(self._interrupt())

    def _tell(self, message: Check | MakeStrict) -> None:
        self._run(lambda: self._exchange(message.id, [message]))
        self._said.append(message)

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something on the line, where one thing is done at a time."""
        try:
            return self._loop.run(self._alone(work))
        except concurrent.futures.CancelledError:
            raise PolicyLost(f"{self._who} was interrupted") from None

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

    async def _exchange(self, number: int, messages: Sequence[Message]) -> list[Message]:
        if self._process is None:
            raise PolicyLost(f"{self._who} was being started anew")
        try:
            return await self._process.exchange(number, messages)
        except ReplicaDied as died:
            self._process, self._story = None, str(died)
            logger.warning("%s is gone: %s", self._who, died)
            raise PolicyLost(f"{self._who} is gone: {died}") from None

    async def _revive(self) -> None:
        if self._process is None:
            await self._count_death()
            await self.launch()

    async def _launch_once(self) -> tuple[ReplicaProcess, Greeting]:
        process = ReplicaProcess(self._number, self._recipe)
        greeting = await process.load()
        try:
            for message in self._said:
                await process.exchange(message.id, [message])
        except BaseException:
            await process.end()
            raise
        return process, greeting

    async def _count_death(self) -> None:
        """Take note of a death, and wait a while if there was another just before.

        Raises:
            VlarigError: It died too often.
        """
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > (MOST_DEATHS_IN_A_ROW if self._proven else MOST_DEATHS_AT_FIRST):
            raise VlarigError(
                f"{self._who} died {self._deaths_in_a_row} times without answering once in between; the last time {self._story}"
            )
        if self._deaths_in_a_row > 1:
            await asyncio.sleep(min(FIRST_PAUSE * 2 ** (self._deaths_in_a_row - 2), LONGEST_PAUSE))

    @property
    def _who(self) -> str:
        return f"replica {self._number} of the policy {self._recipe.policy!r}"


class ReplicatedPolicy(_Announced):
    """A policy whose :attr:`replicas` act side by side; a :class:`~.batching.Batcher` asks them. Close it after use.

    Args:
        name: The policy's name, as for :func:`~.registry.load_policy`.
        options: What it is told.
        count: How many replicas.
        patience: How long each may take.

    Raises:
        VlarigError: The policy cannot be made, as :func:`~.registry.load_policy` would say it; or its processes die.
    """

    def __init__(self, name: str, options: Mapping[str, str], count: int, patience: Patience = PATIENCE) -> None:
        if count < 1:
            raise PolicyError(f"{count} replicas of the policy {name!r}; expected 1 or more")
        with contextlib.ExitStack() as stack:
            shared = stack.enter_context(_shared_file())
            files = () if shared is None else (shared,)
            environments = itertools.cycle(_environments(shared))
            self._loop = BackgroundLoop("vlarig-replicas")
            stack.callback(self._loop.close)
            rows: dict[str, tuple[Embodiment, int | None]] = {}
            recipes = (Recipe(name, options, environment, files, patience) for environment in environments)
            self.replicas = tuple(
                Replica(number, recipe, self._loop, rows) for number, recipe in zip(range(count), recipes, strict=False)
            )
            stack.callback(lambda: self._loop.run(_end_all(self.replicas)))
            self._loop.run(_launch_all(self.replicas))
            self._check_greetings(name)
            self._rest = stack.pop_all()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The first replica's replies, for who asks no batcher."""
        return _insist(self.replicas[0], lambda replica: replica.act(requests))

    def check(self, suite: str, embodiment: Embodiment) -> None:
        """Make sure that the policy fits the suite.

        Raises:
            PolicyError: It does not.
        """
        for each in self.replicas:
            _insist(each, lambda replica: replica.check(suite, embodiment))

    def make_strict(self) -> None:
        """Have every replica compute in one thread and in float32.

        Raises:
            PolicyError: It cannot.
        """
        for each in self.replicas:
            _insist(each, Replica.make_strict)

    def rows(self, embodiment: Embodiment) -> int | None:
        """Rows of each answer to this embodiment; ``None``: as many as a request's ``execute``."""
        return _insist(self.replicas[0], lambda replica: replica.rows(embodiment))

    def close(self) -> None:
        """End the replicas; a second call does nothing."""
        self._rest.close()

    def _check_greetings(self, name: str) -> None:
        """Make sure that all replicas are of the same policy, and take over what it says of itself."""
        first, *others = [each.greeting for each in self.replicas]
        assert first is not None
        for other in others:
            for field in first.__struct_fields__:
                mine, theirs = getattr(first, field), getattr(other, field)
                if mine != theirs:
                    raise PolicyError(
                        f"replicas of the policy {name!r} say different things of themselves: {field} is {mine!r} and {theirs!r}; "
                        "leave out --replicas"
                    )
        self._announce(first)


def _insist(replica: Replica, work: Callable[[Replica], T]) -> T:
    """Have a replica do something that needs nothing of what it did before, however often it takes."""
    while True:
        try:
            return work(replica)
        except PolicyLost:
            replica.revive()


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
    told = os.environ.get(_DEVICES_VARIABLE)
    if told is not None:
        return [device for device in map(str.strip, told.split(",")) if device]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []
