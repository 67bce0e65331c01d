"""An env of a worker, wherever that runs: its episode survives the simulator, the worker and the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from ..envs.api import ChunkResult, Episode, Needs, Snapshot
from ..envs.errors import VlarigError
from ..envs.messages import ENV_ERROR
from .children.line import SimulatorFault, WorkerLine
from .children.supervisor import ChildLostError
from .losses import GivenUpError, Losses
from .workers import Worker


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
