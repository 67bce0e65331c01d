"""An env of a worker, wherever that runs: its episode survives the simulator, the worker and the machine.

What the failures of its env, worker, machine and policy cost an episode is one record, by one rule: :class:`Losses`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from ..envs.api import ChunkResult, Episode, Needs, Snapshot
from ..envs.errors import VlarigError
from ..envs.messages import CRASH, ENV_ERROR, EPISODE_FAULTS, LOST, UNFIT
from ..results.records import Attempt
from .children.supervisor import ChildLostError, SimulatorFault, WorkerLine
from .workers import Worker

#: Failed attempts after which an episode is given up for this session.
MOST_ATTEMPTS = 3

#: How often an episode may be lost by deaths that are charged to no episode before it counts as their cause.
MOST_LOSSES = 10

logger = logging.getLogger(__name__)


class GivenUpError(Exception):
    """An episode failed :data:`MOST_ATTEMPTS` times, or once where its data are unfit, for reasons that are not the policy's."""


class Losses:
    """The failures of the episodes of a run that are not over.

    A failure of the episode itself (its request crashed or hung the simulator, exceeded its memory, or raised) is a failed attempt, and
    data that no simulator can play are the last one. A loss (the process died while another env's request ran; the worker, its machine
    or the policy's process is gone) costs nothing :data:`MOST_LOSSES` times; once more is a failed attempt, since an episode that is
    lost so often may be the cause.

    Args:
        note: Called with each failed attempt.
    """

    def __init__(self, note: Callable[[Attempt], Awaitable[None]] | None = None) -> None:
        self._note = note
        self._attempts: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()

    async def charge(self, key: str, worker: str, kind: str, reason: str, traceback: str = "") -> None:
        """Charge a failure to the episode that it interrupted.

        Args:
            key: The episode's.
            worker: Name of the worker that ran it.
            kind: One of the failures of :mod:`vlarig.envs.messages`.
            reason: The failure in a sentence.
            traceback: The adapter's, for the log; empty where it raised nothing.

        Raises:
            GivenUpError: The episode is given up.
        """
        if kind == LOST:
            self._losses[key] += 1
            if self._losses[key] <= MOST_LOSSES:
                return
            reason = (
                f"it was lost {self._losses.pop(key)} times by deaths that are charged to no episode; the last time: {reason}"
            )
            kind = CRASH
        if kind not in EPISODE_FAULTS:
            return
        self._attempts[key] += 1
        number = self._attempts[key]
        gave_up = kind == UNFIT or number >= MOST_ATTEMPTS
        if gave_up:
            self.forget(key)
        if traceback:
            logger.warning("%s, attempt %d, on %s\n%s", key, number, worker, traceback)
        if self._note is not None:
            await self._note(Attempt(key, number, kind, reason, worker, gave_up))
        if gave_up:
            raise GivenUpError(f"{key} failed {number} times; the last time: {reason}")

    def forget(self, key: str) -> None:
        """Drop the record of an episode that is over."""
        self._attempts.pop(key, None)
        self._losses.pop(key, None)


class DurableEnv:
    """One env of a worker: the episode under way in it, and what restores it after a crash.

    After a simulator's death the same episode is started and the recorded actions are repeated, which an episode's determinism makes
    exact; the digest of the simulator's states proves it. A chunk whose caller was interrupted leaves the simulator in an unknown
    state, and is restored in the same way.

    Args:
        worker: The worker.
        env: The env's number there.
        needs: The needs of the episode's observer.
        losses: The record of failures of all the run's episodes; one of its own for each episode when ``None``.
        waits: Whether an episode waits for a worker whose machine is away, until it is back or given up; if not,
            ``ChildLostError`` is raised.
    """

    def __init__(
        self,
        worker: Worker,
        env: int,
        needs: Needs,
        losses: Losses | None = None,
        waits: bool = False,
    ) -> None:
        self.worker = worker
        self.episode: Episode | None = None
        self.snapshot: Snapshot | None = None
        """The present snapshot of the newest episode."""
        self._env = env
        self._needs = needs
        self._losses = losses
        self._waits = waits
        self._actions: list[np.ndarray] = []
        self._line: WorkerLine | None = None
        """The line on which the episode began; ``None`` where it has to be restored."""

    @property
    def chunks(self) -> int:
        """How many chunks the newest episode has run."""
        return len(self._actions)

    @property
    def actions(self) -> tuple[np.ndarray, ...]:
        """The chunks that the newest episode has run."""
        return tuple(self._actions)

    async def begin(self, episode: Episode, actions: Sequence[np.ndarray] = ()) -> Snapshot:
        """Start an episode, run the chunks that it had run before, and return the snapshot after them.

        Raises:
            GivenUpError: It failed too often, or its own data are unfit.
        """
        self.episode = episode
        self.snapshot = None
        self._actions = list(actions)
        self._record = self._losses or Losses()
        self._line = None
        await self._insist(None)
        assert self.snapshot is not None
        return self.snapshot

    async def step(self, actions: np.ndarray) -> ChunkResult:
        """Run a chunk, ``float32[H, A]``. Raises like :meth:`begin`, and where no episode is under way."""
        if self.episode is None:
            raise VlarigError("the env cannot step: no episode is under way; call reset first")
        result = await self._insist(actions)
        assert result is not None
        self._actions.append(actions)
        self.snapshot = result.snapshot
        if result.over:
            self._record.forget(self.episode.key)
            self.episode = None
        return result

    async def _insist(self, actions: np.ndarray | None) -> ChunkResult | None:
        """Run a chunk (or, without one, just start the episode), as often as it takes up to the bounds."""
        while True:
            try:
                self._line = self._line or await self._restore()
                return None if actions is None else await self._step(self._line, actions)
            except asyncio.CancelledError:
                self._line = None
                raise
            except ChildLostError:
                self._line = None
                if not self._waits or not await self.worker.found():
                    raise
            except SimulatorFault as fault:
                self._line = None
                assert self.episode is not None
                key = self.episode.key
                try:
                    await self._record.charge(key, self.worker.name, fault.kind, str(fault), fault.traceback)
                except GivenUpError:
                    self.episode = None
                    raise

    async def _step(self, line: WorkerLine, actions: np.ndarray) -> ChunkResult:
        if self.worker.absence is not None:
            raise self.worker.absence
        result = await line.step(self._env, actions)
        self.worker.succeeded()
        return result

    async def _restore(self) -> WorkerLine:
        """Restore the episode from its start, by its recorded actions; the line on which that was done."""
        assert self.episode is not None
        line = await self.worker.running()
        snapshot = await line.start(self._env, self.episode, self._needs)
        self.worker.succeeded()
        for actions in self._actions:
            snapshot = (await self._step(line, actions)).snapshot
        if self.snapshot is not None and snapshot.state_digest != self.snapshot.state_digest:
            raise SimulatorFault(
                ENV_ERROR,
                f"the same actions led to another state after {snapshot.step} steps: the env is not deterministic; "
                f"'vlarig envs check {self.episode.suite}' finds out where",
            )
        self.snapshot = snapshot
        return line
