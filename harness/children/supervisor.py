"""A supervisor keeps one child running, a worker or a replica: where one died it starts the next, after a pause, or gives it up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ...envs.backoff import LONGEST_ABSENCE, Backoff
from ...envs.errors import VlarigError
from ...envs.messages import LOST
from ...envs.sources import CodeChangedError
from .child_config import ChildDied
from .line import Line

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

    def __init__(self, name: str, launch: Callable[[], Awaitable[L]], where: Callable[[], str] = lambda: "") -> None:
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
            where = self._where()
            raise ChildLostError(
                f"{self._name} died {self._backoff.failures} times without carrying out one request in between "
                f"(the last time: {reason})" + f"; see {where}" * bool(where)
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
