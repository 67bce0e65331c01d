"""The expert of SimplerEnv's WidowX tasks and of those out of distribution: it picks one object up and places it, in a closed loop.

It reads its task from the episode's key, and the rest from the simulator's truth, all in the world frame: ``hand``, ``commanded``,
``base``, ``pose/source``, ``pose/target`` (``float64[7]``, position and quaternion ``wxyz``), ``settled/source``, ``extent/source`` and
``extent/target`` (``float64[3]``). Lengths are in metres; those without a source were found by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...envs.keypoints import Keypoints
from ...envs.simpler.goals import TABLE_TOP
from ...policies.api import PolicyError, Request
from ...policies.experts import (
    EpisodeState,
    Funnel,
    ScriptedExpert,
    Target,
    half_turn,
    quaternion,
    raised,
    turn_between,
    turned,
)

#: How far above its final height an object is let go.
DROP = 0.003
#: Room below what is carried: a spoon hangs askew.
CARRY_ROOM = 0.05

#: An eggplant is let go so far above the basket's floor, and carried so high that it and the fingers clear the sink's walls, which end
#: at 0.997 (the ``sink`` is at 0.88 and is 0.117 high: models/sink/collision.obj of the assets).
BASKET_DROP = 0.06
BASKET_TRAVEL = 1.06
#: Within this of the basket's centre it counts. Upstream allows 0.079: half the diagonal of the target's box, and 0.003.
BASKET_SLIP = 0.06

#: An object that is put beside the target lies with its long side across the way there. Half its width and half the target's leave a
#: gap of 3 cm then, in which a finger opens; suites allow 0.13 and more (benchmarks/simpler/ood.py).
BESIDE = 0.1
#: From the towel's centre into its right half, which is 0.05 wide.
RIGHT_HALF = 0.025
#: How far an object is moved away: twice what counts as moved.
AWAY = 0.06
#: Places further than this from the robot's base are out of the hand's reach at the height at which objects are carried.
REACH = 0.45

#: A spoon is held by its handle, so far from the centre: fingers slip from the neck, which is narrower and begins there.
HANDLE = 0.02

#: An object that ends further than this from its place, seen from above, is fetched again.
SLIP = 0.025

RIGHT, FRONT = np.array([0.0, 1.0]), np.array([1.0, 0.0])
UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class SceneState:
    """What the expert sees in one step, in the world frame.

    Attributes:
        hand: ``float64[7]``, position between the fingers and quaternion ``wxyz``.
        commanded: ``float64[7]``, where the controller steers the hand to.
        base: ``float64[7]``, the robot's base.
        source: ``float64[7]``, the object to move.
        target: ``float64[7]``, the other object.
        settled: ``float64[3]``, where the source came to rest at the start.
        source_extent: ``float64[3]``, the sides of the source's box along its own axes.
        target_extent: ``float64[3]``, the target's.
    """

    hand: np.ndarray
    commanded: np.ndarray
    base: np.ndarray
    source: np.ndarray
    target: np.ndarray
    settled: np.ndarray
    source_extent: np.ndarray
    target_extent: np.ndarray

    @property
    def yaw(self) -> float:
        """The hand's yaw, where it points down."""
        line = turned(self.hand[3:], np.array([0.0, 1.0, 0.0]))
        return yaw_along(line)


@dataclass(frozen=True)
class Aim:
    """Where the source belongs.

    Attributes:
        place: ``float64[3]`` for its centre when it is let go.
        travel: Height at which its centre is brought there.
        yaw: The hand's yaw then; ``None``: as it is.
        slip: An object that ends further than this from ``place``, seen from above, is fetched again.
    """

    place: np.ndarray
    travel: float
    yaw: float | None = None
    slip: float = SLIP


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        aim: Where the source belongs, as a function of the observation in which it is held.
        grip: How far from its centre the source is held, along its own x axis.
    """

    aim: Callable[[SceneState], Aim]
    grip: float = 0.0


def closing(yaw: float) -> np.ndarray:
    """``float64[2]``: the line along which the fingers close at a yaw."""
    return np.array([-np.sin(yaw), np.cos(yaw)])


def yaw_along(line: np.ndarray) -> float:
    """The yaw at which the fingers close along a line, of which x and y count."""
    return float(np.arctan2(-line[0], line[1]))


def _upon(scene: SceneState, way: tuple[float, float] = (0.0, 0.0)) -> Aim:
    """On the target, off its centre by an offset along x and y."""
    underside = scene.target[2] + scene.target_extent[2] / 2
    centre = scene.settled[2] - TABLE_TOP  # above the underside of the object that lies
    return Aim(np.array([*(scene.target[:2] + way), underside + centre + DROP]), underside + centre + CARRY_ROOM)


def _in_basket(scene: SceneState) -> Aim:
    """In the basket, whose floor the target is."""
    return Aim(scene.target[:3] + BASKET_DROP * UP, BASKET_TRAVEL, slip=BASKET_SLIP)


def _beside(scene: SceneState, direction: np.ndarray) -> Aim:
    """On the table, in a direction from the target. An object is held by its narrow sides, so that its long one lies across."""
    place = np.array([*(scene.target[:2] + direction * BESIDE), scene.settled[2] + DROP])
    return Aim(place, _upon(scene).travel, yaw_along(direction))


def _near(scene: SceneState) -> Aim:
    """Beside the target, on one of the two sides for which the hand need not turn: the nearer one within reach."""
    sides = [_beside(scene, direction) for direction in (closing(scene.yaw), -closing(scene.yaw))]
    return min(sides, key=lambda aim: (_out_of_reach(scene, aim), np.linalg.norm(aim.place - scene.source[:3])))


def _away(scene: SceneState) -> Aim:
    """A way from the start, in the one of eight directions that leads furthest from the target and stays within reach."""
    x, y, height = scene.settled
    ways = [AWAY * closing(angle) for angle in np.arange(8) * np.pi / 4]
    aims = [Aim(np.array([x + way[0], y + way[1], height + DROP]), _upon(scene).travel) for way in ways]
    return min(aims, key=lambda aim: (_out_of_reach(scene, aim), -np.linalg.norm((aim.place - scene.target[:3])[:2])))


def _out_of_reach(scene: SceneState, aim: Aim) -> bool:
    return bool(np.linalg.norm((aim.place - scene.base[:3])[:2]) > REACH)


#: What the expert can do, by the names of the suites' tasks.
TASKS = {
    "put_spoon_on_towel": Task(_upon, HANDLE),
    "put_carrot_on_plate": Task(_upon),
    "stack_green_on_yellow": Task(_upon),
    "put_eggplant_in_basket": Task(_in_basket),
    "MoveAway": Task(_away, HANDLE),
    "MoveRight": Task(lambda scene: _beside(scene, RIGHT), HANDLE),
    "PlaceNear": Task(_near),
    "PlaceRight": Task(lambda scene: _upon(scene, (0.0, RIGHT_HALF)), HANDLE),
    "PutFront": Task(lambda scene: _beside(scene, FRONT)),
    "StackYellow": Task(_upon),
}


#: Longest way and turn of a step: about as far as BridgeData's steps go, see ``WIDOWX_BRIDGE`` in envs/embodiments.py.
STEP = 0.035
TURN = 0.2
#: In a step the hand covers about half the way to the controller's target, so it is sent this much further.
GAIN = 1.5
OPEN, CLOSED = 1.0, 0.0

#: The hand waits so far above an object until it is turned, and holds the object so far below its centre.
HOVER = 0.06
DEEPER = 0.002
#: The fingers reach 0.0155 below the hand; where an object is low they touch the table, or a spoon slips out from under them.
TIP = 0.0145
#: How far the hand rises from what it let go.
RISE = 0.08
#: What is longer than this many times its width looks the same after half a turn, and not after a quarter.
LONG = 1.2

APPROACH = Funnel(floor=0.02, slope=0.6, top=0.06)
FUNNEL = Funnel(floor=0.006, slope=5.0, top=0.06)

#: How near a hand has to come on its way, to a place where it lets go, and to one where it takes hold.
ROUGHLY = 0.015
NEAR = 0.005
CLOSELY = 0.0025
TURNED = 0.08
#: How much of the height may be missing when it moves on.
SAGGING = 0.02
#: A hand that moves less than ``STUCK`` in this many steps is stuck; no way takes more than ``MOST_STEPS``.
PATIENCE = 3
STUCK = 0.002
MOST_STEPS = 25
#: Steps in which the fingers close on an object, and let go of it.
CLOSE_STEPS = 3
OPEN_STEPS = 2
#: An object whose grip is further than this from the hand is lost.
LOST = 0.03

_NAMES = ("hand", "commanded", "base", "pose/source", "pose/target", "settled/source", "extent/source", "extent/target")


class SimplerExpert(ScriptedExpert[SceneState]):
    """Solves the suites by pick and place; it fetches again an object that it missed or lost."""

    def _see(self, request: Request) -> SceneState:
        return SceneState(*(np.asarray(request.privileged[name], dtype=np.float64) for name in _NAMES))

    def keypoints(self, request: Request) -> Keypoints | None:
        """As of the base class: of the task that the request's key names, whose words are its own."""
        task = TASKS.get(_task_name(request))
        scene = self._see(request)
        return None if task is None else _keypoints(scene, task.aim(scene))

    def _script(self, request: Request, state: EpisodeState[SceneState]) -> Iterator[np.ndarray]:
        name = _task_name(request)
        if name not in TASKS:
            raise PolicyError(f"{request.key}: the expert does not know the task {name!r}; it knows {', '.join(TASKS)}")
        return _perform(state, TASKS[name])


def _task_name(request: Request) -> str:
    """The task that the request's key names; empty where it names the suite alone."""
    return [*request.key.split("/"), "", ""][2]


def _keypoints(scene: SceneState, aim: Aim) -> Keypoints:
    """The keypoints of a step, in the frame of the robot's base."""
    to_base = scene.base[3:] * [1, -1, -1, -1]
    source, target, place = (turned(to_base, each - scene.base[:3]) for each in (scene.source[:3], scene.target[:3], aim.place))
    yaw = _grasp_yaw(scene)
    turn = yaw_along(turned(to_base, np.array([*closing(yaw), 0.0])))
    long = _width(scene, yaw + np.pi / 2) > LONG * _width(scene, yaw)
    return Keypoints(source, target, place, turn, quarters=not long)


def _perform(state: EpisodeState[SceneState], task: Task) -> Iterator[np.ndarray]:
    """Take the source and bring it to its place, again and again until it is there; then rest for as long as it stays."""

    def grip() -> np.ndarray:
        """``float64[3]``: where the source is held."""
        return state.scene.source[:3] + turned(state.scene.source[3:], np.array([task.grip, 0.0, 0.0]))

    while True:
        state.keypoints = lambda scene: _keypoints(scene, task.aim(scene))
        yield from _take(state, grip)
        aim = task.aim(state.scene)
        state.keypoints = partial(_keypoints, aim=aim)
        yield from _bring(state, grip, aim)
        state.stage = "wait"
        while np.linalg.norm(state.scene.source[:2] - aim.place[:2]) < aim.slip:
            yield np.array([0.0] * 6 + [OPEN])


def _take(state: EpisodeState[SceneState], grip: Target) -> Iterator[np.ndarray]:
    """Come down on the source, which may be nudged meanwhile, and close the fingers."""
    yaw = _grasp_yaw(state.scene)
    state.stage = "reach the object"

    def place() -> np.ndarray:
        here = grip()
        return raised(here, max(here[2] - DEEPER, TABLE_TOP + TIP))

    def above() -> np.ndarray:
        return APPROACH.over(place() + HOVER * UP, state.scene.hand)

    yield from _reach(state, above, yaw, OPEN, ROUGHLY)
    yield from _reach(state, lambda: FUNNEL.over(place(), state.scene.hand), yaw, OPEN, CLOSELY)
    here = place()
    state.stage = "grasp the object"
    for _ in range(CLOSE_STEPS):
        yield _step(state, here, yaw, CLOSED)


def _bring(state: EpisodeState[SceneState], grip: Target, aim: Aim) -> Iterator[np.ndarray]:
    """Carry what is between the fingers above its place, lower it, let go and rise; end at once when it is lost."""
    start, yaw = state.scene.hand, state.scene.yaw
    goal_yaw = yaw if aim.yaw is None else yaw + half_turn(aim.yaw - yaw)

    def keeps() -> bool:
        return bool(np.linalg.norm(grip() - state.scene.hand[:3]) < LOST)

    def carried(height: float) -> np.ndarray:
        """Where the hand has to be for the source's centre to be above its place, at a height."""
        return raised(aim.place, height) + state.scene.hand[:3] - state.scene.source[:3]

    def up() -> np.ndarray:
        return raised(start, carried(aim.travel)[2])

    def down() -> np.ndarray:
        return FUNNEL.over(carried(aim.place[2]), state.scene.hand)

    state.stage = "lift the object"
    yield from _reach(state, up, yaw, CLOSED, SAGGING, keeps)
    state.stage = "carry the object to its place"
    yield from _reach(state, lambda: carried(aim.travel), goal_yaw, CLOSED, ROUGHLY, keeps)
    state.stage = "place the object"
    yield from _reach(state, down, goal_yaw, CLOSED, NEAR, keeps)
    if not keeps():
        return
    here = state.scene.commanded[:3]
    for _ in range(OPEN_STEPS):
        yield _step(state, here, goal_yaw, OPEN)
    state.stage = "retreat from the object"
    yield from _reach(state, lambda: here + RISE * UP, goal_yaw, OPEN, SAGGING)


def _reach(
    state: EpisodeState[SceneState],
    target: Target,
    yaw: float,
    gripper: float,
    near: float,
    keep: Callable[[], bool] = lambda: True,
) -> Iterator[np.ndarray]:
    """Steps towards a target, computed again in each, until the hand is near or stuck, or ``keep`` fails."""
    been: list[np.ndarray] = []
    while keep():
        hand = state.scene.hand
        turn = np.linalg.norm(turn_between(hand[3:], _downwards(yaw)))
        if np.linalg.norm(target() - hand[:3]) < near and turn < TURNED:
            return
        been.append(hand)
        if (len(been) > PATIENCE and np.linalg.norm(been[-1] - been[-PATIENCE]) < STUCK) or len(been) > MOST_STEPS:
            return
        yield _step(state, target(), yaw, gripper)


def _step(state: EpisodeState[SceneState], place: np.ndarray, yaw: float, gripper: float) -> np.ndarray:
    """``float64[7]``: the step that moves the controller's target so that the hand gets nearer to a place, straight down at a yaw."""
    hand, at, rotation = state.scene.hand[:3], state.scene.commanded[:3], state.scene.commanded[3:]
    move = _shortened(hand + GAIN * (place - hand) - at, STEP)
    turn = _shortened(turn_between(rotation, _downwards(yaw)), TURN)
    to_base = state.scene.base[3:] * [1, -1, -1, -1]
    return np.concatenate([turned(to_base, move), _fixed_angles(turned(to_base, turn)), [gripper]])


def _width(scene: SceneState, yaw: float) -> float:
    """Width of the source's box between fingers that close on it at a yaw."""
    axes = np.stack([turned(scene.source[3:], axis) for axis in np.eye(3)])
    return float(np.abs(axes[:, :2] @ closing(yaw)) @ scene.source_extent)


def _grasp_yaw(scene: SceneState) -> float:
    """The yaw for the fingers to close along a level axis of the source's box: a narrow one, and without much turning."""
    axes = np.stack([turned(scene.source[3:], axis) for axis in np.eye(3)])
    now = scene.yaw

    def cost(yaw: float) -> float:
        """The width; a cube's is the same along two axes."""
        return _width(scene, yaw) + 0.005 * abs(yaw - now)

    level = axes[np.abs(axes[:, 2]) < 0.8]
    return min((now + half_turn(yaw_along(axis) - now) for axis in level), key=cost)


def _downwards(yaw: float) -> np.ndarray:
    """``float64[4]``: the hand's quaternion where its x axis points straight down, and y along ``closing(yaw)``."""
    c, s = np.cos(yaw / 2), np.sin(yaw / 2)
    return np.array([c, -s, c, s]) / np.sqrt(2.0)


def _shortened(vector: np.ndarray, most: float) -> np.ndarray:
    return vector * min(1.0, most / max(float(np.linalg.norm(vector)), 1e-9))


def _fixed_angles(turn: np.ndarray) -> np.ndarray:
    """``float64[3]``: roll, pitch and yaw about fixed axes in rad, of a rotation vector of less than a quarter turn."""
    w, x, y, z = quaternion(turn)
    roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = np.arcsin(2 * (w * y - z * x))
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return np.array([roll, pitch, yaw])
