"""A suite as Gymnasium sees it: the spaces, the episode that a reset begins, observations, rewards and infos.

Shapes: ``V`` numbers of the simulator's truth.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from ...benchmarks.registry import load_suite
from ...benchmarks.suite import Suite
from ...envs.api import (
    ChunkResult,
    Episode,
    Needs,
    Protocol,
    Snapshot,
    StepResult,
    observation_space,
    observe,
    snapshot_info,
)
from ...envs.errors import VlarigError, refuse_unknown_options
from ..preparation import with_read

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
