"""What the env checks share: the env on test, short episodes played on it in a known order, and failures with advice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn, Optional
from unittest.mock import patch

import numpy as np

from .api import Camera, Env, Episode, Needs, Observation, Snapshot, StepResult
from .embodiments import Embodiment
from .errors import VlarigError

#: Steps of a test episode.
LENGTH = 6

WITHOUT_IMAGES = Needs(images=False)


class BrokenPromiseError(Exception):
    """A check failed; the message contains what was expected, what was seen, why that matters and what to do."""


def broken(expected: str, seen: str, why: str, do: str) -> NoReturn:
    """Fail the running check."""
    raise BrokenPromiseError(f"Expected: {expected}. Seen: {seen}. Why it matters: {why}. What to do: {do}.")


@dataclass
class Take:
    """What one run of an episode showed.

    Attributes:
        shown: The snapshot of the reset, then one for each chunk.
        steps: Every step that was run.
    """

    shown: list[Snapshot]
    steps: list[StepResult] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return bool(self.steps) and self.steps[-1].over

    def run(self, env: Env, actions: np.ndarray) -> None:
        """Run a chunk more, unless the episode has ended."""
        if not self.over:
            result = env.step_chunk(actions)
            self.shown.append(result.snapshot)
            self.steps.extend(result.steps)

    def difference(self, other: Take, images: bool = True) -> Optional[str]:
        """The first digest in which two takes of one episode differ, in words; ``None`` where they are equal."""
        for index, when in ((0, "after the reset"), (-1, f"after {len(self.steps)} steps")):
            if self.shown[index].state_digest != other.shown[index].state_digest:
                return f"the state digest differs {when}"
            if images and self.shown[index].image_digest != other.shown[index].image_digest:
                return f"the state digest is equal but the image digest differs {when}"
        return None


class Bench:
    """An env on test. Episodes are cut to :data:`LENGTH` steps and go on after a success, so that every take has the same shape.

    A take is preceded on the env by a whole take of the other episode. So a fault of one kind (an episode that leaks into
    the next, a reset that is left out) shows in the check that looks for it, and not in all of them.

    Attributes:
        env: The warm env.
        first: The episode that most checks play.
        other: An episode with another initial state, played between the takes.
        episodes: All episodes given, cut like these two.
        payload: The first episode's payload as it was given.
        actions: ``float32[LENGTH, A]``, the steps of every take.
    """

    def __init__(self, make_env: Callable[[], Env], episodes: Sequence[Episode], env: Optional[Env] = None) -> None:
        if len({start_of(episode) for episode in episodes}) < 2:
            raise VlarigError(
                f"the checks compare two initial states, and there is one, of task {episodes[0].task!r}; give the task another one, "
                "or check a further task with it"
            )
        self.make_env = make_env
        self.env = env or make_env()
        self.siblings: list[Env] = []  # closed with the last check
        self.episodes = [_cut(episode) for episode in episodes]
        self.first = self.episodes[0]
        self.other = next(episode for episode in self.episodes if start_of(episode) != start_of(self.first))
        self.payload = copy.deepcopy(self.first.payload)
        self.actions = sample_steps(self.env.embodiment, np.random.default_rng(0), LENGTH)
        self._completed: Optional[str] = None

    @cached_property
    def reference(self) -> Take:
        """The first episode with frames at its start and halfway: the reference of other takes."""
        return self.take(self.first)

    @cached_property
    def other_reference(self) -> Take:
        return self.take(self.other)

    @cached_property
    def without_images(self) -> tuple[Take, Take, list[str]]:
        """An episode that is played without images, its reference, and the views that were rendered all the same."""
        episode, reference = self.due()
        calls: list[str] = []
        render_view = self.env.render_view

        def counting(camera: Camera) -> np.ndarray:
            calls.append(camera.view)
            return render_view(camera)

        with patch.object(self.env, "render_view", counting):
            take = self.play(episode, WITHOUT_IMAGES)
        return take, reference, calls

    @cached_property
    def stepwise(self) -> Take:
        """The first episode, one step a chunk, with frames after each that are described."""
        return self.take(self.first, Needs(final_frame=True, objects=True), chunk=1)

    @cached_property
    def gymnasium_steps(self) -> list[tuple[Observation, float, bool, bool, dict[str, Any]]]:
        """The results of Gymnasium's ``reset`` (as if a step) and ``step`` for the steps of :attr:`stepwise`."""
        steps = self.actions[: len(self.stepwise.steps)].copy()
        self.settle(self.first)
        observation, info = self.env.reset(options={"episode": self.first})
        steps = [(observation, 0.0, False, False, info), *(self.env.step(step) for step in steps)]
        self.finished(self.first)
        return steps

    def due(self) -> tuple[Episode, Take]:
        """The episode whose turn it is on the warm env, and its reference: a take of it costs none in between."""
        pairs = ((self.first, self.reference), (self.other, self.other_reference))
        episode, reference = pairs[1] if self._completed == self.first.key else pairs[0]
        self.settle(episode)
        return episode, reference

    def ended(self) -> tuple[Episode, Take]:
        """The episode that the warm env has just ended, and its reference; where it has ended neither, it plays the first now."""
        if self._completed == self.other.key:
            return self.other, self.other_reference
        if self._completed != self.first.key:
            self.play(self.first, WITHOUT_IMAGES)
        return self.first, self.reference

    def take(self, episode: Episode, needs: Needs = Needs(), chunk: Optional[int] = None) -> Take:  # noqa: B008
        """Play an episode on the warm env, after a whole take of the other one."""
        self.settle(episode)
        return self.play(episode, needs, chunk)

    def settle(self, episode: Episode) -> None:
        """Make sure that the warm env last ran a whole take of another episode."""
        between = self.other if episode.key == self.first.key else self.first
        if self._completed != between.key:
            self.play(between, WITHOUT_IMAGES)

    def finished(self, episode: Episode) -> None:
        """Record that the warm env has just ended this episode."""
        self._completed = episode.key

    def play(
        self,
        episode: Episode,
        needs: Needs = Needs(),  # noqa: B008
        chunk: Optional[int] = None,
        env: Optional[Env] = None,
        actions: Optional[np.ndarray] = None,
    ) -> Take:
        """Play an episode now, on ``env`` (``None``: the warm one), ``chunk`` steps at a time (``None``: in two chunks)."""
        env = env or self.env
        take = Take([self.open(episode, needs, env)])
        for steps in self.chunks(chunk, actions):
            take.run(env, steps)
        if env is self.env:
            self.finished(episode)
        return take

    def open(self, episode: Episode, needs: Needs = Needs(), env: Optional[Env] = None) -> Snapshot:  # noqa: B008
        """Start an episode, and record that the warm env has one under way."""
        if env is None or env is self.env:
            self._completed = None
        return (env or self.env).open(episode, needs)

    def play_in_turns(self, sibling: Env) -> tuple[Take, Take]:
        """Play the first episode on the warm env and the other on its sibling, a chunk each in turn."""
        pairs = ((self.env, self.first), (sibling, self.other))
        takes = [Take([self.open(episode, env=env)]) for env, episode in pairs]
        for steps in self.chunks():
            for take, (env, _) in zip(takes, pairs):
                take.run(env, steps.copy())
        self.finished(self.first)
        return takes[0], takes[1]

    def complete(self, take: Take, episode: Episode) -> None:
        """Run the steps of a take that was opened on the warm env."""
        for steps in self.chunks():
            take.run(self.env, steps)
        self.finished(episode)

    def chunks(self, chunk: Optional[int] = None, actions: Optional[np.ndarray] = None) -> list[np.ndarray]:
        """The take's steps, ``chunk`` at a time."""
        size = chunk or (LENGTH + 1) // 2
        steps = self.actions if actions is None else actions
        return [steps[begin : begin + size].copy() for begin in range(0, len(steps), size)]


def start_of(episode: Episode) -> tuple[str, str, int]:
    """What decides where an episode starts, but for its repeat."""
    return episode.task, episode.variant, episode.initial_state


def sample_steps(embodiment: Embodiment, rng: np.random.Generator, steps: int) -> np.ndarray:
    """Uniform steps in the central half of each channel's range; an open bound counts as 1 from zero.

    Absolute channels but grippers go on from the centre by up to a tenth of that a step: an env may take the time of a long way.
    """
    low = np.array([channel.low for channel in embodiment.channels], dtype=np.float64)
    high = np.array([channel.high for channel in embodiment.channels], dtype=np.float64)
    low, high = np.where(np.isfinite(low), low, -1.0), np.where(np.isfinite(high), high, 1.0)
    centre, quarter = (low + high) / 2, (high - low) / 4
    walks = np.array([channel.kind == "absolute" and channel.gripper is None for channel in embodiment.channels])
    share = rng.uniform(-1.0, 1.0, (steps, len(low)))
    return (centre + quarter * np.where(walks, np.cumsum(share, axis=0) / 10, share)).astype(np.float32)


def _cut(episode: Episode) -> Episode:
    cut = {"step_limit": LENGTH, "limit_unit": "steps", "n_action_steps": LENGTH + 1, "stop_on_success": False}
    return replace(episode, protocol=episode.protocol.derive(**cut), payload=copy.deepcopy(episode.payload))
