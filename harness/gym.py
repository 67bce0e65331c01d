"""Suites as Gymnasium environments: one slot in a simulator process of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from ..benchmarks.registry import load_suite, suite_names
from ..envs.api import ChunkResult, Episode, Needs, Observation, Snapshot, observation_space, observe, snapshot_info
from ..envs.background import BackgroundLoop
from ..envs.errors import VlarigError
from .client import SimulatorFault
from .placement import SimHost
from .workplace import Workplace


def register_envs() -> None:
    """Make every suite known to :func:`gymnasium.make`, as ``vlarig/<suite>``; :class:`RemoteEnv` says what can be passed.

    >>> import gymnasium, vlarig.harness
    >>> vlarig.harness.register_envs()
    >>> "vlarig/tabletop" in gymnasium.registry
    True
    """
    for name in suite_names():
        if f"vlarig/{name}" not in gymnasium.registry:
            gymnasium.register(f"vlarig/{name}", entry_point="vlarig.harness.gym:RemoteEnv", kwargs={"suite": name})


class RemoteEnv(gymnasium.Env[Observation, np.ndarray]):
    """One slot of a suite, simulated in the suite's own runtime.

    Which episode a reset begins follows Gymnasium's seeding: the same seed gives the same sequence of tasks and starts. A
    constructor's or reset option's ``task`` and ``start`` fix them; the reset option ``episode`` fixes everything.

    What the caller gives is what is carried out: a protocol's ``ensemble``, which is about the answers of a policy, does not apply.

    Args:
        suite: Name of the suite.
        task: Only this task; any when ``None``.
        start: Only this start; any of the task's when ``None``.
        images: Whether observations hold images.
        render_mode: ``rgb_array`` or ``None``.
        protocol: Name of one of the suite's protocols; its default when ``None``.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        suite: str,
        task: str | None = None,
        start: int | None = None,
        images: bool = True,
        render_mode: str | None = None,
        protocol: str | None = None,
    ) -> None:
        self._suite = load_suite(suite)
        self._task, self._start = task, start
        self._protocol = self._suite.protocol(protocol)
        self._needs = Needs(images=images, final_frame=images)
        self.render_mode = render_mode
        self.metadata = self.metadata | {"render_fps": self._suite.embodiment.control_frequency}
        self.action_space = self._suite.embodiment.action_space()
        self.observation_space = observation_space(self._suite.embodiment, self._protocol.cameras if images else ())
        self._snapshot: Snapshot | None = None
        self._loop: BackgroundLoop | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; see the class on which."""
        super().reset(seed=seed)
        episode = (options or {}).get("episode") or self._draw(options or {})
        snapshot: Snapshot = self._ask("start", episode, self._needs)
        self._snapshot = snapshot
        return observe(snapshot), snapshot_info(snapshot) | {"key": episode.key}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Run one row of actions, ``float32[A]``."""
        result = self.step_chunk(np.asarray(action)[None])
        row = result.rows[-1]
        return (
            observe(result.snapshot),
            row.reward,
            row.terminated or row.stopped,
            row.truncated,
            snapshot_info(result.snapshot),
        )

    def step_chunk(self, actions: np.ndarray) -> ChunkResult:
        """Run up to the protocol's ``execute`` rows of ``actions``, ``float32[H, A]``."""
        result = self._ask("step", np.asarray(actions, dtype=np.float32))
        self._snapshot = result.snapshot
        return result

    def render(self) -> np.ndarray | None:
        """The newest image of the first camera, ``uint8[h, w, 3]``."""
        if self.render_mode is None or self._snapshot is None:
            return None
        return self._snapshot.frames.views[self._protocol.cameras[0].view][-1]

    def close(self) -> None:
        """End the simulator; a second call does nothing."""
        if self._loop is not None:
            self._loop.run(self._host.__aexit__())
            self._loop.close()
            self._loop = None
            self._logs.cleanup()

    def _draw(self, options: dict[str, Any]) -> Episode:
        tasks = self._suite.tasks
        name = options.get("task", self._task)
        task = tasks[int(self.np_random.integers(len(tasks)))] if name is None else self._suite.task(name)
        start = options.get("start", self._start)
        if start is None:
            starts = task.starts_of(self._protocol)
            start = starts[int(self.np_random.integers(len(starts)))]
        return self._suite.episode(task, start, 0, self._protocol)

    def _ask(self, what: str, *arguments: Any) -> Any:
        if self._loop is None:
            self._open()
        assert self._loop is not None
        try:
            return self._loop.run(getattr(self._host, what)(0, *arguments))
        except SimulatorFault as fault:
            raise VlarigError(f"the simulator of {self._suite.name!r} failed ({fault.kind}: {fault}); reset to go on") from None

    def _open(self) -> None:
        workplace = Workplace.of(self._suite)
        self._logs = tempfile.TemporaryDirectory(prefix="vlarig-")
        self._host = SimHost(0, workplace, Path(self._logs.name) / "worker.log")
        self._loop = BackgroundLoop("vlarig-engine")
        try:
            self._loop.run(self._host.__aenter__())
        except BaseException:
            self._loop.close()
            self._loop = None
            raise
