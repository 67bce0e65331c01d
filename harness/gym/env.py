"""Suites as Gymnasium environments: spaces and observations, one env, and the pool of simulators behind any number of envs.

Shapes: ``V`` numbers of the simulator's truth.
"""

from __future__ import annotations

import atexit
import inspect
import math
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces

from ...benchmarks.registry import load_suite, suite_names
from ...benchmarks.suite import Suite
from ...envs.api import ChunkResult, Episode, Needs, Protocol, Snapshot, StepResult, observation_space, observe, snapshot_info
from ...envs.background import BackgroundLoop
from ...envs.errors import VlarigError, refuse_unknown_options
from ..children.simulator import WorkerSpec
from ..durable_env import DurableEnv, GivenUpError
from ..preparation import with_read
from ..sizing import Machine, memory_share
from ..workers import local_workers

#: Makes a vector, ``float32[V]``, of a snapshot, its truth (``snapshot.privileged``) included.
Truth = Callable[[Snapshot], np.ndarray]

#: Gives the reward of a step, from the snapshot before it, the step, and the snapshot after it.
Reward = Callable[[Snapshot, StepResult, Snapshot], float]


def flat_truth(snapshot: Snapshot) -> np.ndarray:
    """The simulator's whole truth as one vector, ``float32[V]``: the arrays of ``snapshot.privileged``, flat, by their names sorted.

    Names are the suite's own, such as ``object/red cube``; where colours change from one initial state to another, so does what is
    first.
    """
    arrays = [np.ravel(snapshot.privileged[name]) for name in sorted(snapshot.privileged)]
    return np.concatenate(arrays, dtype=np.float32) if arrays else np.zeros(0, np.float32)


@dataclass(frozen=True)
class SuiteView:
    """An environment's view of a suite; :meth:`of` makes it from a user's options.

    Attributes:
        suite: The suite.
        protocol: The protocol of its episodes.
        task: Only this task; any when ``None``.
        initial_states: Only these initial states; any of a task's own when ``None``.
        images: Whether observations hold images.
        truth: Makes the observation's ``privileged``; it has none when ``None``.
        reward: Replaces the suite's reward; never its success, nor when an episode ends.
        render_mode: ``rgb_array`` or ``None``.
    """

    suite: Suite
    protocol: Protocol
    task: str | None
    initial_states: Sequence[int] | None
    images: bool
    truth: Truth | None
    reward: Reward | None
    render_mode: str | None

    @classmethod
    def of(
        cls,
        suite: str,
        *,
        task: str | None = None,
        initial_state: int | Sequence[int] | None = None,
        images: bool = True,
        privileged: bool | Truth = False,
        reward: Reward | None = None,
        render_mode: Literal["rgb_array"] | None = None,
        protocol: str | None = None,
    ) -> SuiteView:
        """The view of a suite.

        Args:
            suite: Name of the suite.
            task: Only this task; any when ``None``.
            initial_state: Only this initial state, or one of these (a ``range`` for instance); any of the task's own when ``None``.
            images: Whether observations hold ``images``; without them nothing is rendered, unless for ``render_mode``.
            privileged: Whether observations hold ``privileged``, the simulator's truth as :func:`flat_truth` orders it; or a
                function of your own that makes ``float32[V]`` of a snapshot.
            reward: Takes the snapshot before a step, the step and the snapshot after it, and gives a reward in place of the suite's.
                The snapshots hold the simulator's truth. It changes what is learned; success stays the suite's.
            render_mode: ``rgb_array`` or ``None``.
            protocol: Name of one of the suite's protocols; its default when ``None``.
        """
        if render_mode not in (None, "rgb_array"):
            raise VlarigError(f"render_mode is {render_mode!r}; expected 'rgb_array' or None")
        if reward is not None and not callable(reward):
            raise VlarigError(f"reward is {reward!r}; give a function(before, step, after), or None for the suite's own")
        loaded = with_read(load_suite(suite))
        if task is not None:
            loaded.task(task)
        initial_states = [int(initial_state)] if isinstance(initial_state, (int, np.integer)) else initial_state
        if initial_states is not None and len(initial_states) == 0:
            raise VlarigError("initial_state names no initial state; leave it out, or give one or more")
        truth = privileged if callable(privileged) else flat_truth if privileged else None
        return cls(loaded, loaded.protocol(protocol), task, initial_states, images, truth, reward, render_mode)

    @classmethod
    def refuse_unknown_options(cls, suite: str, options: Mapping[str, Any], more: Sequence[str] = ()) -> None:
        """Make sure that :meth:`of` takes every option, unless it is one of ``more``, which the environment itself takes."""
        known = [name for name in inspect.signature(cls.of).parameters if name != "suite"]
        refuse_unknown_options(f"vlarig/{suite}", options, [*known, *more])

    @property
    def needs(self) -> Needs:
        frames = self.images or self.render_mode is not None
        return Needs(images=frames, final_frame=frames, privileged=self.truth is not None or self.reward is not None)

    @property
    def metadata(self) -> dict[str, Any]:
        return {"render_modes": ["rgb_array"], "render_fps": self.suite.embodiment.control_frequency}

    def observation_space(self, truth_size: int | None) -> spaces.Dict:
        """The space of observations; ``truth_size`` is how many numbers ``truth`` makes, if there is one."""
        space = observation_space(self.suite.embodiment, self.protocol.cameras, self.protocol.history)
        assert isinstance(space, spaces.Dict)
        parts = {name: part for name, part in space.items() if self.images or name != "images"}
        if truth_size is not None:
            parts["privileged"] = spaces.Box(-np.inf, np.inf, (truth_size,), np.float32)
        return spaces.Dict(parts)

    def sample(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Episode:
        """The episode that a reset begins: options fix ``episode``, or ``task`` and ``initial_state``; what is left open is sampled."""
        refuse_unknown_options("reset", options, ["episode", "task", "initial_state"])
        if options.get("episode") is not None:
            return options["episode"]
        tasks = self.suite.tasks
        name = options.get("task", self.task)
        task = tasks[int(rng.integers(len(tasks)))] if name is None else self.suite.task(name)
        initial_state = options.get("initial_state")
        if initial_state is None:
            initial_states = task.initial_states_of(self.protocol) if self.initial_states is None else self.initial_states
            initial_state = initial_states[int(rng.integers(len(initial_states)))]
        return self.suite.episode(task, int(initial_state), 0, self.protocol)

    def observation(self, snapshot: Snapshot) -> dict[str, Any]:
        """The observation of a snapshot, an element of the observation space."""
        seen: dict[str, Any] = {**observe(snapshot)}
        if not self.images:
            del seen["images"]
        if self.truth is not None:
            seen["privileged"] = np.asarray(self.truth(snapshot), np.float32)
        return seen

    def info(self, snapshot: Snapshot) -> dict[str, Any]:
        """The info beside an observation; ``is_success`` is success by the protocol's own rule so far."""
        solved = snapshot.outcome.under(self.protocol.success_rule, self.protocol.hold_steps)
        return {**snapshot_info(snapshot), "is_success": bool(solved)}

    def transition(self, before: Snapshot, result: ChunkResult) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """What Gymnasium's ``step`` returns for a chunk of one step."""
        after, (step,) = result.snapshot, result.steps
        reward = step.reward if self.reward is None else float(self.reward(before, step, after))
        return self.observation(after), reward, step.terminated or step.stopped, step.truncated, self.info(after)


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
        expected = self._suite.footprint.worker_bytes(each, min(each, len(self._suite.tasks)))
        share = memory_share(expected, self._workers, Machine.here())
        workers = await self._stack.enter_async_context(local_workers(worker_spec, self._workers, logs, share))
        places = [(worker, local) for local in range(each) for worker in workers][: self._size]
        self.envs = [DurableEnv(worker, local, self._needs) for worker, local in places]


def register_envs() -> None:
    """Make every suite known to :func:`gymnasium.make` and :func:`gymnasium.make_vec`, as ``vlarig/<suite>``.

    :meth:`SuiteView.of` says what can be passed.

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
        options: What :meth:`SuiteView.of` takes: ``task``, ``initial_state``, ``images``, ``privileged``, ``reward``,
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
