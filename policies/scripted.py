"""Policies that come with the rig: ``zero``, ``random`` and ``expert``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Any

import numpy as np

from ..envs.api import Needs
from ..envs.embodiments import Channel, Embodiment
from ..envs.faults import describe, traceback_of
from ..envs.keypoints import Keypoints
from .api import Policy, PolicyError, Reply, Request
from .experts import ScriptedExpert
from .registry import find_expert


class ZeroPolicy(Policy):
    """Answers with zeros: a benchmark that it solves is broken."""

    name = "zero"
    revision = "1"
    needs = Needs(images=False)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """``n_action_steps`` steps of zeros for each request."""
        return [Reply(np.zeros((request.n_action_steps, request.embodiment.action_size), np.float32)) for request in requests]


class StillPolicy(Policy):
    """Does not move: zeros, and in an absolute channel that the state has too, the state's number. A task solved so solves itself."""

    name = "still"
    revision = "1"
    needs = Needs(images=False)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """``n_action_steps`` steps that stay where the robot is, for each request."""
        still = (request.embodiment.still(request.observation["state"]) for request in requests)
        return [Reply(np.tile(step, (request.n_action_steps, 1))) for step, request in zip(still, requests, strict=True)]


class RandomPolicy(Policy):
    """Samples every action uniformly between the channels' bounds, from the request's own seed."""

    name = "random"
    revision = "1"
    needs = Needs(images=False)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """``n_action_steps`` random steps for each request."""
        return [Reply(self._sample(request)) for request in requests]

    def _sample(self, request: Request) -> np.ndarray:
        space = request.embodiment.action_space()
        rng = np.random.default_rng(request.seed)
        return rng.uniform(space.low, space.high, (request.n_action_steps, len(space.low))).astype(np.float32)


#: Share of steps in which a burst begins, and its least and most steps (the latter excluded). Ours, as are the shares of half a
#: channel's range below: after behaviour cloning from privileged state on 420 episodes that were recorded so, a policy solved 100 of
#: 100 on ``pick_into``.
BURSTS = 0.04
BURST_STEPS = 2, 7
#: Share of bursts in which the gripper does the opposite of what it is meant to: an object falls, or the hand is closed and empty.
BURST_GRIPS = 0.25
#: What a burst adds, and what each step adds, at a disturbance of 1: to places, and to turns, of which a burst changes the last alone.
BURST_PLACE, BURST_TURN = 0.5, 0.15
STEADY_PLACE, STEADY_TURN = 0.05, 0.02


@dataclass(frozen=True)
class Burst:
    """A push that lasts some steps.

    Attributes:
        left: Steps that follow this one.
        push: ``float64[A]``, what it adds to an action; zero outside of a burst.
        grip: -1 where the gripper does the opposite of what it is meant to: its numbers are mirrored in their range. Else 1.
    """

    left: int
    push: np.ndarray
    grip: float = 1.0

    @classmethod
    def sampled(cls, before: Burst | None, embodiment: Embodiment, rng: np.random.Generator) -> Burst:
        """That of a step, after the one of the step before, which the first has not."""
        if before is not None and before.left:
            return replace(before, left=before.left - 1)
        turns = [channel for channel in embodiment.channels if channel.rotation]
        scales = [_scale(each, BURST_PLACE, BURST_TURN if each in turns[-1:] else 0.0) for each in embodiment.channels]
        if rng.random() >= BURSTS:
            return cls(0, np.zeros(len(scales)))
        return cls(
            int(rng.integers(*BURST_STEPS)) - 1,
            rng.normal(size=len(scales)) * scales,
            -1.0 if rng.random() < BURST_GRIPS else 1.0,
        )


def _scale(channel: Channel, place: float, turn: float) -> float:
    """The noise of a channel, for these shares of half its range; the gripper and what is no delta has none."""
    if channel.kind != "delta" or channel.gripper:
        return 0.0
    return (turn if channel.rotation else place) * (channel.high - channel.low) / 2


class ExpertPolicy(Policy):
    """Solves the suites that have a scripted expert, by privileged state; it moves the robot by actions alone."""

    name = "expert"
    revision = "1"
    needs = Needs(images=False, privileged=True)
    horizon = 1

    def __init__(self, disturbance: float = 0.0) -> None:
        """Make the policy.

        Args:
            disturbance: How strongly bursts of noise push the hand off its way, 1 being strong; at any strength above 0 a quarter of
                them turn the gripper round. The reply's labels are the expert's own actions, so that a recording shows how it comes
                back (Laskey et al., DART: noise injection for imitation).
        """
        if not 0 <= disturbance < np.inf:
            raise PolicyError(f"the option disturbance={disturbance} of expert is not possible; give 0 or more, such as 1")
        self._experts: dict[str, ScriptedExpert[Any]] = {}
        self._disturbance = disturbance
        self._bursts: dict[int, Burst] = {}

    def check(self, suite: str, embodiment: Embodiment) -> None:
        self._expert(suite)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._reply(request) for request in requests]

    def keypoints(self, request: Request) -> Keypoints | None:
        """The keypoints of a request that begins no episode, see :meth:`~.experts.ScriptedExpert.keypoints`."""
        return self._expert(request.key.partition("/")[0]).keypoints(request)

    def _reply(self, request: Request) -> Reply:
        reply = self._expert(request.key.partition("/")[0]).reply(request)
        if not self._disturbance:
            return reply
        rng = np.random.default_rng(request.seed)
        before = self._bursts.get(request.env) if request.chunk else None
        burst = self._bursts[request.env] = Burst.sampled(before, request.embodiment, rng)
        channels = request.embodiment.channels
        steady = rng.normal(size=len(channels)) * [_scale(each, STEADY_PLACE, STEADY_TURN) for each in channels]
        low, high = np.array([each.low for each in channels]), np.array([each.high for each in channels])
        mirrored = [burst.grip < 0 and bool(each.gripper) for each in channels]
        done = np.where(mirrored, low + high - reply.actions, reply.actions)
        bounded = np.clip(done + self._disturbance * (burst.push + steady), low, high)
        return replace(reply, actions=bounded.astype(np.float32), labels=reply.actions)

    def _expert(self, suite: str) -> ScriptedExpert[Any]:
        if suite not in self._experts:
            found = find_expert(suite)
            what = f"the expert of suite {suite!r}, {found.place} of the package {found.package},"
            try:
                expert = resolve_name(found.place)()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a module that is a program may exit
                sentence = f"{what} cannot be made ({describe(error)}); mend or uninstall it"
                raise PolicyError(sentence, traceback=traceback_of(error)) from error
            if not isinstance(expert, ScriptedExpert):
                raise PolicyError(f"{what} is of type {type(expert).__name__}; expected a subclass of ScriptedExpert")
            self._experts[suite] = expert
        return self._experts[suite]
