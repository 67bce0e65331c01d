"""The line to a child, and the supervisor that keeps one child running.

A child is a worker, with requests for many envs, or a replica. Where one died the supervisor starts the next, after a pause, or gives
it up.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ...envs.api import ChunkResult, Episode, Needs, Snapshot
from ...envs.backoff import LONGEST_ABSENCE, Backoff
from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError, VlarigError
from ...envs.framing import MOST_ENVS, Frame
from ...envs.messages import (
    ENV_ERROR,
    EPISODE_FAULTS,
    LOST,
    REFUSED,
    Failure,
    Prepare,
    Prepared,
    Start,
    Started,
    Step,
    Stepped,
    decode,
    encode,
)
from ...envs.sources import CodeChangedError
from ...envs.wire import MAX_MESSAGE_BYTES
from .child_config import ChildDied

T = TypeVar("T", Started, Stepped, Prepared)


class SimulatorFault(Exception):
    """A request that the simulator did not carry out; ``kind`` is one of the failures of :mod:`vlarig.envs.messages`.

    ``traceback`` is the adapter's, as text for a log; empty where it raised nothing.
    """

    def __init__(self, kind: str, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.traceback = traceback


class Channel(Protocol):
    """Carries frames to one child's process and back."""

    @property
    def pid(self) -> int:
        """The process's id, on its machine."""
        ...

    async def send(self, frame: Frame) -> None: ...

    async def receive(self) -> Frame:
        """The reply to the oldest request that has none.

        Raises:
            ChildDied: There will be none.
        """
        ...

    async def end(self, seconds: float = 0.0) -> None:
        """End the process, after ``seconds`` in which it may end by itself."""
        ...


class Line:
    """A line to a child's process while it lives: many requests at a time, each with one reply.

    Attributes:
        death: How the process died; ``None`` while it lives, as far as is known.
        charged: Whether its death is charged to the request that was running.
    """

    charges = False
    """Whether a death is charged to the request that was running, where there was one; its caller counts it then."""

    def __init__(self, channel: Channel) -> None:
        self.death: ChildDied | None = None
        self.charged = False
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._listener = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        return self._channel.pid

    async def ask(self, frame: Frame) -> Frame:
        """The reply to a request; the frame gets its number here.

        Raises:
            ChildDied: The process died; ``lost`` where another request was running.
        """
        if self.death is not None:
            raise ChildDied(LOST, str(self.death))
        number = next(self._numbers)
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._channel.send(frame._replace(id=number))
        return await answered

    async def end(self, seconds: float = 0.0) -> None:
        await self._channel.end(seconds)
        self._listener.cancel()
        await asyncio.wait({self._listener})

    async def discard(self, death: ChildDied) -> None:
        """End a process that is of no use any more, and record ``death`` as its end."""
        await self.end()
        self.death = death

    async def _listen(self) -> None:
        """Hand on each reply; when the process dies, fail all pending requests: only one of them was running."""
        try:
            while True:
                frame = await self._channel.receive()
                answered = self._waiting.pop(frame.id, None)
                if answered is not None and not answered.done():  # done: its caller gave up waiting
                    answered.set_result(frame)
        except ChildDied as death:
            self.death = death
        except Exception as error:  # a defect here must not leave a request waiting for ever
            self.death = ChildDied(LOST, f"the line to the process broke ({error})")
        death = self.death
        self.charged = self.charges and death.running in self._waiting and death.kind in EPISODE_FAULTS
        for number, answered in self._waiting.items():
            if not answered.done():
                answered.set_exception(ChildDied(death.kind if number == death.running else LOST, str(death)))
        self._waiting.clear()


class WorkerLine(Line):
    """A line to a worker, whose simulator moves ``embodiment``."""

    charges = True

    def __init__(self, channel: Channel, embodiment: Embodiment) -> None:
        super().__init__(channel)
        self.embodiment = embodiment

    async def start(self, env: int, episode: Episode, needs: Needs) -> Snapshot:
        """Begin an episode in an env.

        Raises:
            SimulatorFault: The simulator could not, or died.
        """
        return (await self._answer(Start(episode, needs), env, episode.protocol.run_steps, Started)).snapshot

    async def step(self, env: int, actions: np.ndarray) -> ChunkResult:
        """Run a chunk, ``float32[H, A]``, in an env. Raises like :meth:`start`."""
        steps = actions.shape[0] if actions.ndim else 0  # the env refuses a wrong shape
        return (await self._answer(Step(actions), env, steps, Stepped)).result

    async def prepare(self, env: int, episode: Episode) -> dict[str, Any] | None:
        """Try a candidate for an initial state in an env, which has no episode then. Raises like :meth:`start`."""
        return (await self._answer(Prepare(episode), env, 1, Prepared)).data

    async def _answer(self, message: Start | Step | Prepare, env: int, steps: int, expected: type[T]) -> T:
        if env >= MOST_ENVS:
            raise VlarigError(f"env {env} of a worker, which has at most {MOST_ENVS}; take more workers")
        try:
            frame = encode(message, 0, env, steps)
        except BadMessageError as error:
            raise VlarigError(f"the request cannot be encoded: {error}") from None
        if len(frame.body) > MAX_MESSAGE_BYTES:
            raise VlarigError(f"a request of {len(frame.body)} bytes; at most {MAX_MESSAGE_BYTES} can be sent")
        try:
            answer = decode(await self.ask(frame))
        except ChildDied as death:
            raise SimulatorFault(death.kind, str(death)) from None
        except BadMessageError as error:
            raise SimulatorFault(ENV_ERROR, f"the env's reply cannot be read ({error})") from None
        if isinstance(answer, Failure):
            if answer.kind == REFUSED:
                raise VlarigError(answer.message)
            raise SimulatorFault(answer.kind, answer.message, answer.traceback)
        if not isinstance(answer, expected):
            raise SimulatorFault(ENV_ERROR, f"the simulator answered {type(message).__name__} with {type(answer).__name__}")
        return answer


L = TypeVar("L", bound=Line)


class MachineAwayError(ChildDied):
    """The machine on which the child is to run cannot be reached now."""

    def __init__(self, reason: str) -> None:
        super().__init__(LOST, reason)


class ChildLostError(VlarigError):
    """There is no child, for now or permanently."""


class Supervisor(Generic[L]):
    """Keeps one child running: the line to the child that lives, and its replacements.

    Args:
        name: The child's name in messages.
        launch: Starts a child, in bounded time, and returns the line to it. It raises ``ChildDied`` where the child died,
            :class:`MachineAwayError` where nothing can be started for now, and ``VlarigError`` with what the user can fix.
        where: What a user should read where the child is given up, such as a log's path; empty for nothing.
    """

    def __init__(self, name: str, launch: Callable[[], Awaitable[L]], where: str = "") -> None:
        self.line: L | None = None
        """The line to the last child; ``None`` before the first."""
        self.absence: ChildLostError | None = None
        """Why there is no child; ``None`` while there is one, or will be soon."""
        self._name = name
        self._launch = launch
        self._where = where
        self._backoff = Backoff()
        self._turn = asyncio.Lock()
        self._search: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, for as long as it lives."""
        return None if self.line is None or self.line.death is not None else self.line.pid

    async def running(self) -> L:
        """The line to a child that lives, started once for all that wait for it.

        Raises:
            ChildLostError: It died too often, or its machine is away.
        """
        async with self._turn:
            if self.absence is not None:
                raise self.absence
            if self.line is not None and self.line.death is None:
                return self.line
            try:
                if self.line is not None and not self.line.charged:
                    await self._count_death(str(self.line.death))
                return await self._start()
            except ChildLostError as lost:
                self.absence = lost
                raise

    def succeeded(self) -> None:
        """Record that the child has carried out a request: its deaths before no longer count."""
        self._backoff.succeeded()

    async def found(self) -> bool:
        """Wait while its machine is looked for; false where the child is given up."""
        if self._search is not None:
            await asyncio.wait({self._search})
        return self.absence is None

    async def end(self, seconds: float = 0.0) -> None:
        """End the child, after ``seconds`` in which it may end by itself."""
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait({self._search})
        if self.line is not None:
            await self.line.end(seconds)

    async def _start(self) -> L:
        """Start a child, again if it dies while it starts. Raises like :meth:`running`."""
        while True:
            try:
                return await self._replace()
            except MachineAwayError as away:
                if self.line is not None:
                    self._search = asyncio.create_task(self._seek())
                raise ChildLostError(f"{self._name} is away: {away}") from None
            except ChildDied as death:
                reason = str(death)
            except VlarigError as error:
                if not self._backoff.proven or isinstance(error, CodeChangedError):
                    raise
                reason = str(error)  # it worked once, so it may work again, for example when memory is free
            await self._count_death(reason)

    async def _replace(self) -> L:
        if self.line is not None:
            await self.line.end()
        self.line = await self._launch()
        return self.line

    async def _count_death(self, reason: str) -> None:
        """Count a death; wait if the child died before.

        Raises:
            ChildLostError: It died too often.
        """
        pause = self._backoff.failed()
        if pause is None:
            raise ChildLostError(
                f"{self._name} died {self._backoff.failures} times without carrying out one request in between "
                f"(the last time: {reason})" + f"; see {self._where}" * bool(self._where)
            )
        await asyncio.sleep(pause)

    async def _seek(self) -> None:
        """Retry a machine that is away until it is back, for :data:`~.backoff.LONGEST_ABSENCE` seconds at most."""
        backoff, reason = Backoff(LONGEST_ABSENCE), ""
        backoff.failed()
        while (pause := backoff.failed()) is not None:
            await asyncio.sleep(pause)
            try:
                await self._replace()
            except (ChildDied, VlarigError) as error:
                reason = str(error)
                if isinstance(error, CodeChangedError):
                    break
            else:
                self.absence = None
                return
        self.absence = ChildLostError(f"{self._name} was away for {backoff.paused:.0f} s, and is given up: {reason}")
