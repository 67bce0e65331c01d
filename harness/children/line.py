"""The driver's end of a line to a child: a worker, with requests for many envs, or a replica."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Protocol, TypeVar

import numpy as np

from ...envs.api import ChunkResult, Episode, Needs, Snapshot
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
