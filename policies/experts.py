"""What scripted experts share: scripts, playback of plans, and the geometry of a hand above a table.

Each benchmark's own expert is in its folder. Lengths are in metres, quaternions ``wxyz``.

A plan is the privileged entry :data:`PLAN` at an episode's start, ``float32[steps, A]``; an expert with a recording takes the episode's
from there. VLN-CE's experts ask the simulator anew for the next waypoints, from wherever the agent is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np

from ..envs.api import Needs
from ..envs.keypoints import Keypoints
from .api import Policy, PolicyError, Reply, Request

SceneType = TypeVar("SceneType")

#: Gives a place for the grip site, ``float64[3]``, again in each step.
Target = Callable[[], np.ndarray]

#: What an action of 1 is for a Panda's controller (``output_max`` in robosuite 1.4.0, robosuite/controllers/config/osc_pose.json, and
#: in today's robosuite/controllers/config/default/parts/osc_pose.json).
METRES = 0.05
RADIANS = 0.5
TURN_GAIN = 1.2
#: Faster turning moves the hand off its way: the controller decouples turning from moving only in part.
TURN_LIMIT = 0.6
#: A Panda's gripper.
OPEN, KEEP, CLOSE = -1.0, 0.0, 1.0


@dataclass
class EpisodeState(Generic[SceneType]):
    """An expert's state of an episode.

    Attributes:
        scene: The newest observation, which the script reads.
        script: The script under way.
        stage: What the script is doing, in words; it sets them before the first step of each stage. Empty where it names none.
        keypoints: Gives a step's keypoints from its observation; ``None`` where the script does not say.
    """

    scene: SceneType
    script: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))
    stage: str = ""
    keypoints: Callable[[SceneType], Keypoints] | None = None


class ScriptedExpert(Generic[SceneType]):
    """An expert of one suite, closed loop: it answers each request with the next step of the episode's script, which has no end."""

    def __init__(self) -> None:
        self._states: dict[int, EpisodeState[SceneType]] = {}

    def reply(self, request: Request) -> Reply:
        """The next step, ``float32[1, A]``, its stage and its keypoints."""
        actions = self.act_one(request)
        state = self._states[request.env]
        keypoints = None if state.keypoints is None else state.keypoints(state.scene).numbers()[None]
        return Reply(actions, stages=(state.stage,) if state.stage else None, keypoints=keypoints)

    def act_one(self, request: Request) -> np.ndarray:
        """The next step, ``float32[1, A]``."""
        scene = self._see(request)
        if request.chunk == 0 or request.env not in self._states:
            begun = EpisodeState(scene)
            begun.script = self._script(request, begun)
            self._states[request.env] = begun
        state = self._states[request.env]
        state.scene = scene
        return np.asarray(next(state.script), dtype=np.float32)[None]

    def keypoints(self, request: Request) -> Keypoints | None:
        """The keypoints of a request that begins no episode: of its words, whoever chose them, or of the task that its key names.

        The key of made-up words names the suite alone. ``None`` where the expert does not know what they are about.
        """
        return None

    def _see(self, request: Request) -> SceneType:
        """What the expert sees in a step."""
        raise NotImplementedError

    def _script(self, request: Request, state: EpisodeState[SceneType]) -> Iterator[np.ndarray]:
        """The steps of an episode that begins, ``float64[A]`` each. Raises like :meth:`act_one`."""
        raise NotImplementedError


#: Name of the privileged entry that holds a plan.
PLAN = "plan"


class PlaybackExpert(ScriptedExpert[None]):
    """Plays a plan back, then stays where it ended.

    A subclass may name a recording: a file of ``numpy.savez``, from an episode's key, with ``|`` for ``/``, to its steps.
    """

    recording: ClassVar[Path | None] = None

    def _see(self, request: Request) -> None:
        """Nothing: it is an open loop."""

    def _script(self, request: Request, state: EpisodeState[None]) -> Iterator[np.ndarray]:
        plan = self._plan(request)
        moves = np.array([channel.kind == "delta" for channel in request.embodiment.channels])
        return chain(plan, repeat(np.where(moves, 0.0, plan[-1])))

    def _plan(self, request: Request) -> np.ndarray:
        """The steps of an episode, ``float[steps, A]``."""
        if self.recording is None:
            plan = request.privileged.get(PLAN)
            missing = f"the adapter gave no {PLAN!r}; it has {', '.join(request.privileged) or 'no privileged entries'}"
        else:
            with np.load(self.recording) as recorded:
                plan = recorded.get(request.key.replace("/", "|"))
            missing = f"{self.recording.name} holds no such episode"
        if plan is None:
            raise PolicyError(f"{request.key}: nothing to play back: {missing}")
        size = request.embodiment.action_size
        if plan.ndim != 2 or not len(plan) or plan.shape[1] != size:
            raise PolicyError(
                f"{request.key}: what is to be played back has shape {list(plan.shape)}; expected [steps, {size}]"
            )
        return plan


#: Ways to follow, by name, to the privileged entry that has their waypoints.
WAYS = {"shortest": "waypoints", "reference": "reference_waypoints"}


class ShortestPathFollower(ScriptedExpert[np.ndarray]):
    """Follows the shortest way, a step or turn at a time."""

    def _see(self, request: Request) -> np.ndarray:
        return request.privileged["waypoints"]

    def _script(self, request: Request, state: EpisodeState[np.ndarray]) -> Iterator[np.ndarray]:
        while True:
            yield state.scene[0]


class WaypointOracle(Policy):
    """Answers with a chunk of the waypoints that the simulator gives, as a policy does that predicts eight of them.

    Args:
        way: ``shortest``, or ``reference``: through the points that the instruction leads through, for demonstrations of it (RxR's ways
            are not the shortest).
    """

    name = "waypoint-oracle"
    revision = "1"
    needs = Needs(images=False, privileged=True)
    horizon = 8
    stateful = False

    def __init__(self, way: str = "shortest") -> None:
        if way not in WAYS:
            raise PolicyError(f"way is {way!r}, expected one of {', '.join(WAYS)}")
        self._entry = WAYS[way]

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """The next waypoints of each, ``float32[8, 3]``."""
        return [Reply(request.privileged.get(self._entry, request.privileged["waypoints"])) for request in requests]


@dataclass(frozen=True)
class Funnel:
    """How a hand comes down: from above, or it rises and tries again.

    Attributes:
        floor: How far the hand may be beside its target without being raised.
        slope: How much higher it has to be for each metre further.
        top: How much higher at most.
    """

    floor: float
    slope: float
    top: float

    def over(self, target: np.ndarray, grip: np.ndarray) -> np.ndarray:
        """``float64[3]``: the target, raised where the grip site is still beside it."""
        beside = float(np.linalg.norm(target[:2] - grip[:2]))
        return raised(target, target[2] + min(self.slope * max(beside - self.floor, 0.0), self.top))


def raised(place: np.ndarray, height: float) -> np.ndarray:
    """``float64[3]``: a place at another height."""
    return np.array([place[0], place[1], height])


def half_turn(angle: float) -> float:
    """The angle moved to within a quarter turn of zero; a two-fingered hand looks the same after half a turn."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


def quaternion(turn: np.ndarray) -> np.ndarray:
    """``float64[4]``: the quaternion of a rotation vector in rad."""
    angle = float(np.linalg.norm(turn))
    axis = turn / angle if angle > 1e-9 else turn
    return np.array([np.cos(angle / 2), *(np.sin(angle / 2) * axis)])


def turned(rotation: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``float64[3]``: a vector, turned by a quaternion."""
    twice = 2.0 * np.cross(rotation[1:], vector)
    return vector + rotation[0] * twice + np.cross(rotation[1:], twice)


def turn_between(now: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """``float64[3]``: the rotation vector in rad, about world axes, from one quaternion ``wxyz`` to another."""
    w = goal[0] * now[0] + goal[1:] @ now[1:]
    v = -goal[0] * now[1:] + now[0] * goal[1:] - np.cross(goal[1:], now[1:])
    length = float(np.linalg.norm(v))
    if length < 1e-9:
        return np.zeros(3)
    angle = 2.0 * np.arctan2(length, w)
    return v / length * (angle - 2 * np.pi if angle > np.pi else angle)


def panda_row(move: np.ndarray, turn: np.ndarray, gain: float, gripper: float) -> np.ndarray:
    """``float64[7]``: a Panda's action against errors of place and turn.

    Args:
        move: ``float64[3]``, the way that is left, in the world frame.
        turn: ``float64[3]``, the rotation vector that is left, in rad about world axes.
        gain: Actions are this much larger than the way: the controller covers only a part of it in a step.
        gripper: The gripper's action.
    """
    clipped = np.clip(turn / RADIANS * TURN_GAIN, -TURN_LIMIT, TURN_LIMIT)
    return np.concatenate([np.clip(move / METRES * gain, -1.0, 1.0), clipped, [gripper]])
