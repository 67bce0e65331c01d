"""The parity kit: an adapter and the benchmark's own evaluation loop play one episode, and everything that can be seen is compared.

The strongest proof of an adapter: the same actions bring both to the same states, rewards, verdicts and images, to the last bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Generic, Optional, TypeVar
from unittest.mock import patch

import numpy as np

from .api import Env, Episode, Needs, StepResult
from .embodiments import Embodiment

EnvType = TypeVar("EnvType", bound=Env)


@dataclass(frozen=True)
class Verdict:
    """What upstream says of a step.

    Attributes:
        reward: Its reward.
        success: Whether the task is solved at the step's end.
        metrics: Those of the env's metrics that upstream has too.
        over: Whether upstream's evaluator ends the episode here, before its limit; ``None`` where it does not say.
    """

    reward: float
    success: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
    over: Optional[bool] = None


class Upstream(ABC, Generic[EnvType]):
    """The benchmark's own evaluation loop over the task of an episode, as its evaluators write it.

    Args:
        episode: An episode of the task; those that are reset to later are of the same task.
        seeing: Whether it renders at all; where not, :meth:`observation` has no images.
    """

    @abstractmethod
    def __init__(self, episode: Episode, seeing: bool = True) -> None: ...

    @abstractmethod
    def reset(self, episode: Episode) -> None:
        """Begin an episode as a process does that has played none before."""

    @abstractmethod
    def step(self, action: np.ndarray, look: bool = True) -> Optional[Verdict]:
        """One control step, ``float32[A]``; ``None`` where upstream judges nothing.

        Without ``look`` no observation of it is read, and nothing need be rendered.
        """

    @abstractmethod
    def state(self) -> list[np.ndarray]:
        """The simulator's whole state."""

    @abstractmethod
    def observation(self) -> dict[str, np.ndarray]:
        """What a policy gets: images by view as the protocol has them, and ``state``, where it has one."""

    def state_of(self, env: EnvType) -> list[np.ndarray]:
        """The state of ours that :meth:`state` is to equal."""
        return [env.simulator_state()]

    def follow(self, env: EnvType) -> None:
        """Take over what upstream has no initial states for, from ours, which has just begun the episode."""

    def begin_again(self, episode: Episode) -> None:
        """The evaluator's own, cheapest reset, for measurements."""
        self.reset(episode)

    def bare_physics(self, env: EnvType) -> Optional[Callable[[], Any]]:
        """One control step's physics alone, from our state, for measurements; ``None`` where it cannot be had."""
        return None

    def close(self) -> None:
        """Free what it holds."""


class NotEqualError(AssertionError):
    """Ours and upstream's differ; the message names the episode, the step and what differs."""


def parity(
    ours: EnvType, upstream: Upstream[EnvType], episode: Episode, actions: np.ndarray, throughout: bool = False
) -> list[StepResult]:
    """Play an episode on both, and compare; our steps.

    States, rewards, success and metrics are compared at every step; observations at the start, at the end of every chunk and at the
    terminal frame. ``actions`` is ``float32[steps, A]``; what follows the episode's end is left out. With ``throughout`` upstream
    renders at every step, as it does for its evaluators, though not every image is compared.

    Raises:
        NotEqualError: Something differs.
    """
    chunk = episode.protocol.n_action_steps
    snapshot = ours.open(episode, Needs(final_frame=True))
    upstream.follow(ours)
    upstream.reset(episode)
    _compare(f"{episode.key}: the state at the start", upstream.state_of(ours), upstream.state())
    _compare_observations(f"{episode.key} at the start", snapshot, upstream)
    steps: list[StepResult] = []
    for first in range(0, len(actions), chunk):
        rows = actions[first : first + chunk]
        with watched(ours, upstream.state_of) as seen:
            result = ours.step_chunk(rows)
        for number, (row, step, (state, metrics)) in enumerate(zip(rows, result.steps, seen), 1):
            verdict = upstream.step(row, look=throughout or number == len(result.steps))
            where = f"{episode.key} after step {first + number}"
            _compare(f"{where}: the state", state, upstream.state())
            mine = verdict and Verdict(
                step.reward,
                step.success_at_end,
                {name: metrics.get(name, np.nan) for name in verdict.metrics},
                None if verdict.over is None else step.terminated,
            )
            if mine != verdict:
                raise NotEqualError(f"{where}: ours says {mine}, upstream {verdict}")
        steps += result.steps
        _compare_observations(f"{episode.key} after step {len(steps)}", result.snapshot, upstream)
        if result.over:
            break
    return steps


@contextmanager
def watched(
    env: EnvType, read: Callable[[EnvType], list[np.ndarray]]
) -> Iterator[list[tuple[list[np.ndarray], dict[str, float]]]]:
    """A list that gets the state and the metrics of the env after each of its steps within."""
    seen: list[tuple[list[np.ndarray], dict[str, float]]] = []
    apply = env.apply

    def watching(action: np.ndarray) -> StepResult:
        step = apply(action)
        seen.append(([np.array(each) for each in read(env)], dict(env.metrics())))
        return step

    with patch.object(env, "apply", watching):
        yield seen


def _compare_observations(where: str, snapshot: Any, upstream: Upstream[Any]) -> None:
    observation = upstream.observation()
    mine = {"state": snapshot.state, **{view: frames[-1] for view, frames in snapshot.frames.views.items()}}
    for name, theirs in observation.items():
        _compare(f"{where}: the observation {name!r}", [mine[name]], [theirs])


def _compare(what: str, mine: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    if len(mine) != len(theirs):
        raise NotEqualError(f"{what} has {len(mine)} parts, upstream's {len(theirs)}")
    for part, (one, other) in enumerate(zip(mine, theirs)):
        if not np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f"):
            same = np.shape(one) == np.shape(other)
            apart = f"by at most {np.abs(np.subtract(one, other, dtype=np.float64)).max():g}" if same else ""
            shapes = "" if same else f"{list(np.shape(one))} against {list(np.shape(other))}"
            raise NotEqualError(f"{what} differs from upstream's in part {part} {apart}{shapes}")


def sample_actions(embodiment: Embodiment, rng: np.random.Generator, steps: int) -> np.ndarray:
    """Strong random actions, ``float32[steps, A]``, that drift one way, so that a hand meets something.

    An absolute channel goes on from the mean of its bounds, by up to a twentieth of their distance a step. Grippers open and close
    every eight steps.
    """
    low, high = (np.array([getattr(each, name) for each in embodiment.channels]) for name in ("low", "high"))
    drift = np.clip(rng.uniform(-0.6, 0.6, len(low)) + rng.uniform(-0.7, 0.7, (steps, len(low))), -1.0, 1.0)
    absolute = np.array([channel.kind == "absolute" for channel in embodiment.channels])
    share = np.where(absolute, np.clip(np.cumsum(drift, axis=0) / 10, -1.0, 1.0), drift)
    actions = (low + high) / 2 + (high - low) / 2 * share
    for index, channel in enumerate(embodiment.channels):
        if channel.gripper:
            actions[:, index] = np.where((np.arange(steps) // 8 + int(rng.integers(2))) % 2, channel.high, channel.low)
    return actions.astype(np.float32)
