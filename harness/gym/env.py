"""Suites as Gymnasium environments: one env in a simulator process of its own, and the pool of simulators behind any number of envs."""

from __future__ import annotations

import asyncio
import atexit
import math
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import numpy as np

from ...benchmarks.registry import suite_names
from ...benchmarks.suite import Suite
from ...envs.api import ChunkResult, Episode, Needs, Snapshot
from ...envs.background import BackgroundLoop
from ...envs.errors import VlarigError
from ..durable_env import DurableEnv
from ..losses import GivenUpError
from ..sizing import Machine, suite_share
from ..worker_spec import WorkerSpec
from ..workers import local_workers
from .suite_view import SuiteView

T = TypeVar("T")


class SimulatorPool:
    """A number of envs, spread over workers that are started at first use: one a core, and no more than envs, when ``None``.

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


def register_envs() -> None:
    """Make every suite known to :func:`gymnasium.make` and :func:`gymnasium.make_vec`, as ``vlarig/<suite>``.

    :meth:`.gym.suite_view.SuiteView.of` says what can be passed.

    >>> import gymnasium, vlarig.harness
    >>> vlarig.harness.register_envs()
    >>> "vlarig/tabletop" in gymnasium.registry
    True
    """
    for name in suite_names():
        if f"vlarig/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"vlarig/{name}",
                entry_point="vlarig.harness.gym.env:RemoteEnv",
                vector_entry_point="vlarig.harness.gym.vector:RemoteVectorEnv",
                kwargs={"suite": name},
            )


class SuiteEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One env of a pool of simulators, which the pool's owner ends.

    Which episode a reset begins follows Gymnasium's seeding: the same seed gives the same sequence of tasks and initial states. A
    constructor's or reset option's ``task`` and ``initial_state`` fix them; the reset option ``episode`` fixes everything.

    A simulator that crashes in mid-episode is restored to its state; the caller only waits longer.
    The caller's actions are executed as given: a protocol's ``ensemble``, which combines a policy's chunks, does not apply.

    Args:
        view: The view of the suite.
        pool: The simulators.
        number: The env's number in the pool.
        truth_size: The result of :func:`truth_size`.

    Attributes:
        snapshot: The newest snapshot; ``None`` before the first reset.
    """

    def __init__(self, view: SuiteView, pool: SimulatorPool, number: int, truth_size: int | None) -> None:
        self.snapshot: Snapshot | None = None
        self._view = view
        self._pool = pool
        self._number = number
        self.render_mode = view.render_mode
        self.metadata = view.metadata
        self.action_space = view.suite.embodiment.action_space()
        self.observation_space = self._space = view.observation_space(truth_size)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; see the class on which."""
        return self.first(self._pool.run(self.begin, seed, options))

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Run one step, ``float32[A]``."""
        before = self.snapshot
        result = self._pool.run(self.run_chunk, np.asarray(action)[None])
        assert before is not None
        return self._view.transition(before, result)

    def step_chunk(self, actions: np.ndarray) -> ChunkResult:
        """Run up to the protocol's ``run_steps`` steps of ``actions``, ``float32[H, A]``."""
        return self._pool.run(self.run_chunk, actions)

    def render(self) -> np.ndarray | None:
        """The newest image of the first camera, ``uint8[h, w, 3]``."""
        if self.render_mode is None or self.snapshot is None:
            return None
        return self.snapshot.frames.views[self._view.protocol.cameras[0].view][-1]

    async def begin(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Episode, Snapshot]:
        """Begin an episode, in the pool's loop."""
        super().reset(seed=seed)
        episode = self._view.sample(self.np_random, options or {})
        self.snapshot = await self._pool.envs[self._number].begin(episode)
        return episode, self.snapshot

    async def run_chunk(self, actions: np.ndarray) -> ChunkResult:
        """Run a chunk, in the pool's loop."""
        if self.snapshot is None:
            raise VlarigError("the env cannot step: no episode was started; call reset first")
        result = await self._pool.envs[self._number].step(np.asarray(actions, dtype=np.float32))
        self.snapshot = result.snapshot
        return result

    def first(self, begun: tuple[Episode, Snapshot]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What Gymnasium's ``reset`` returns for an episode that has begun.

        Raises:
            VlarigError: The truth of this task does not fit the space: another task's is longer or shorter.
        """
        episode, snapshot = begun
        observation = self._view.observation(snapshot)
        if self._view.truth is not None:
            found, expected = observation["privileged"].shape, self._space["privileged"].shape or ()
            if found != expected:
                raise VlarigError(
                    f"the truth of task {episode.task!r} has shape {list(found)}, the observation space says {list(expected)}: the "
                    f"tasks of {self._view.suite.name!r} differ in what is there; name one task, or give a function as privileged"
                )
        return observation, {**self._view.info(snapshot), "key": episode.key}


class RemoteEnv(SuiteEnv):
    """One env of a suite, simulated in the suite's own runtime.

    Args:
        suite: Name of the suite.
        options: What :meth:`.gym.suite_view.SuiteView.of` takes: ``task``, ``initial_state``, ``images``, ``privileged``, ``reward``,
            ``render_mode``, ``protocol``.
    """

    metadata = {"render_modes": ["rgb_array"]}  # what gymnasium.make reads before there is a suite

    def __init__(self, suite: str, **options: Any) -> None:
        SuiteView.refuse_unknown_options(suite, options)
        view = SuiteView.of(suite, **options)
        pool = SimulatorPool(view.suite, view.needs, envs=1)
        super().__init__(view, pool, 0, truth_size(view, pool))

    def close(self) -> None:
        """End the simulator; a second call does nothing."""
        self._pool.close()


def truth_size(view: SuiteView, pool: SimulatorPool) -> int | None:
    """How many numbers the view's ``truth`` makes, found out from the first snapshot of some episode; ``None`` without one."""
    if view.truth is None:
        return None
    episode = view.sample(np.random.default_rng(0), {})
    try:
        return len(view.truth(pool.run(lambda: pool.envs[0].begin(episode))))
    except BaseException:
        pool.close()
        raise
