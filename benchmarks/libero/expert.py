"""The expert of LIBERO's object and spatial suites: it picks one object up and places it, in a closed loop.

It takes the goal's names from the instruction, and the rest from the simulator's truth, all in the world frame: ``pose/<name>``
(``float64[7]``, position and quaternion ``wxyz``) and ``points/<name>`` (``float64[points, 3]``, the eight corners of each box that
collides) of every object and fixture, and ``grip`` (``float64[7]``, position of the grip site, quaternion ``wxyz`` of the hand).
Lengths are in metres; those without a source were found by trying.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...envs.keypoints import Keypoints
from ...policies.api import PolicyError, Request
from ...policies.experts import CLOSE, KEEP, OPEN, EpisodeState, Funnel, ScriptedExpert, Target, panda_row, raised, turn_between
from .grasps import TIP, WIDE, Grasp, boxes, choose

#: Actions are this much larger than the error.
GAIN = 3.0
#: A step moves the fingers by about 1 cm; an opening is kept where it is this near to what it should be.
SPREAD = 0.008

#: An object within this of the straight way, seen from above, has to be passed above it.
CORRIDOR = 0.1
#: Room below the grip site, and below the lowest point of what is carried, on the way; how much of it may be missing while moving on.
APPROACH_ROOM = 0.05
CARRY_ROOM = 0.025
SAGGING = 0.03

FUNNEL = Funnel(floor=0.005, slope=8.0, top=0.07)

NEAR = 0.005
TURNED = 0.06
#: A hand that moves less than ``STUCK`` in this many steps is stuck; no way takes more than ``MOST_STEPS``.
PATIENCE = 12
STUCK = 0.01
MOST_STEPS = 60
#: Steps that the fingers are given to close at least and at most, and to open; they count as still when they move less in a step.
CLOSE_STEPS = (10, 14)
OPEN_STEPS = 7
STILL = 0.0005
#: An object that ends further than this from the grip site, along the world's axes, is lost.
LOST = 0.012
#: How far the hand rises from what it let go.
RISE = 0.1

#: The hand lets an object go where its body is this high above the basket's. The region that counts reaches from -0.008 to 0.141
#: (LIBERO libero/libero/assets/stable_scanned_objects/basket/basket.xml, ``contain_region``, and objects/site_object.py, ``in_box``).
BASKET_DEPTH = 0.1
#: The grip site may come this far below the basket's edge; deeper, the hand meets it.
BASKET_DIP = 0.025
#: An object is placed where it lies within these of the centre, and not higher above it. Upstream allows 0.061 and 0.141 in a basket
#: (as above), and 0.03 on a plate (objects' ``check_ontop``, libero/libero/envs/object_states/base_object_states.py).
BASKET_PLACED = (0.058, 0.135)
PLATE_PLACED = (0.028, 0.03)

_INSTRUCTION = re.compile(r"pick (?:up )?the (?P<object>.+) and place it (?P<place>in the basket|on the plate)")
_PLACES = {"in the basket": "basket_1", "on the plate": "plate_1"}


@dataclass(frozen=True)
class Task:
    """What is to be done: the name of the object to move, and that of the object which it belongs in or on."""

    object: str
    place: str


@dataclass(frozen=True)
class SceneState:
    """What the expert sees in one step.

    Attributes:
        grip: ``float64[3]``, the grip site.
        hand: ``float64[4]``, the hand's quaternion ``wxyz``.
        fingers: Distance between the fingers.
        poses: Name to ``float64[7]``, position and quaternion ``wxyz``.
        points: Name to ``float64[points, 3]``, points that span what collides.
    """

    grip: np.ndarray
    hand: np.ndarray
    fingers: float
    poses: dict[str, np.ndarray]
    points: dict[str, np.ndarray]

    def where(self, name: str) -> np.ndarray:
        """``float64[3]``: the position of an object's body."""
        return self.poses[name][:3]

    def obstacles(self, moved: str) -> np.ndarray:
        """``float64[boxes, 8, 3]``: the boxes of everything but one object."""
        return np.concatenate([boxes(points) for name, points in self.points.items() if name != moved])


class LiberoExpert(ScriptedExpert[SceneState]):
    """Solves the suites by pick and place; it fetches again an object that it missed or lost."""

    def _see(self, request: Request) -> SceneState:
        truth: dict[str, dict[str, np.ndarray]] = {"pose": {}, "points": {}}
        for key, value in request.privileged.items():
            kind, _, name = key.partition("/")
            if kind in truth:
                truth[kind][name] = np.asarray(value, dtype=np.float64)
        grip = np.asarray(request.privileged["grip"], dtype=np.float64)
        fingers = np.asarray(request.observation["state"], dtype=np.float64)[6:8]
        return SceneState(grip[:3], grip[3:], float(np.ptp(fingers)), truth["pose"], truth["points"])

    def _script(self, request: Request, state: EpisodeState[SceneState]) -> Iterator[np.ndarray]:
        task, scene = parse(request.observation["instruction"]), state.scene
        for name in (task.object, task.place):
            if name not in scene.poses or name not in scene.points:
                there = ", ".join(sorted(scene.poses))
                raise PolicyError(f"{request.key}: the instruction names {name!r}, but in the scene there are {there}")
        return _perform(state, task)


def parse(instruction: str) -> Task:
    """What an instruction requests, by the names of bodies.

    An object's body is named after it. The spatial suite has two black bowls. Each of its tasks means ``akita_black_bowl_1``, wherever
    the instruction places it (LIBERO libero/libero/bddl_files/libero_spatial, ``obj_of_interest``).
    """
    found = _INSTRUCTION.fullmatch(instruction.lower().strip(" ."))
    if not found:
        raise PolicyError(
            f"the expert does not understand {instruction!r}; "
            "it knows 'pick up the ... and place it in the basket' and 'pick up the ... and place it on the plate'"
        )
    words = found["object"]
    obj = "akita_black_bowl_1" if "black bowl" in words else f"{words.replace(' ', '_')}_1"
    return Task(obj, _PLACES[found["place"]])


def _perform(state: EpisodeState[SceneState], task: Task) -> Iterator[np.ndarray]:
    """Take the object and bring it to its place, again and again until it is there; then rest for as long as it stays."""
    tried: list[Grasp] = []
    while True:
        scene = state.scene
        grasp = choose(scene.points[task.object], scene.obstacles(task.object), scene.where(task.place), tried)
        tried.append(grasp)
        state.keypoints = partial(_keypoints, task=task, grasp=grasp, offset=grasp.place - scene.where(task.object))
        yield from _take(state, task.object, grasp)
        yield from _bring(state, task, grasp.yaw)
        state.stage = "wait"
        while _placed(state.scene, task):
            yield _step(state.scene, state.scene.grip, grasp.yaw, OPEN)


def _keypoints(scene: SceneState, task: Task, grasp: Grasp, offset: np.ndarray) -> Keypoints:
    """The keypoints of a step; in a basket an object comes to lie some way below where it is let go.

    The turn is that of the line along which the fingers close, and the centre where the object is held: at an offset ``float64[3]``
    from its body.
    """
    goal = scene.where(task.place)
    depth = BASKET_DEPTH / 2 if task.place == _PLACES["in the basket"] else 0.0
    return Keypoints(scene.where(task.object) + offset, goal, raised(goal, goal[2] + depth) + offset, grasp.yaw)


def _words(name: str) -> str:
    """A body's name in words: ``the plate`` for ``plate_1``."""
    return f"the {name.rsplit('_', 1)[0].replace('_', ' ')}"


def _take(state: EpisodeState[SceneState], obj: str, grasp: Grasp) -> Iterator[np.ndarray]:
    """Come down on an object, which may be nudged meanwhile, and close the fingers until they are still."""
    offset = grasp.place - state.scene.where(obj)
    state.stage = f"reach {_words(obj)}"

    def place() -> np.ndarray:
        return state.scene.where(obj) + offset

    def above() -> np.ndarray:
        now = state.scene
        return _passing(now.grip, place(), _highest(now, now.grip, place()) + APPROACH_ROOM)

    def down() -> np.ndarray:
        return FUNNEL.over(place(), state.scene.grip)

    for target, near in ((above, 0.02), (down, NEAR)):
        for step in _reach(state, target, grasp.yaw, OPEN, near):
            step[6] = _spread(state.scene.fingers, grasp.opening)
            yield step
    here = place()
    state.stage = f"grasp {_words(obj)}"
    least, most = CLOSE_STEPS
    for count in range(most):
        before = state.scene.fingers
        yield _step(state.scene, here, grasp.yaw, CLOSE)
        if count >= least and abs(before - state.scene.fingers) < STILL:
            return


def _bring(state: EpisodeState[SceneState], task: Task, yaw: float) -> Iterator[np.ndarray]:
    """Carry what is between the fingers above its place, lower it, let go and rise; end at once when it is lost."""

    def keeps() -> bool:
        points = state.scene.points[task.object]
        beyond = np.maximum(points.min(0) - state.scene.grip, state.scene.grip - points.max(0))
        return bool(beyond.max() < LOST)

    def below() -> float:
        """How far the object reaches down below the grip site; it may swing there."""
        return float(state.scene.grip[2] - state.scene.points[task.object][:, 2].min())

    def final() -> np.ndarray:
        now = state.scene
        place = now.where(task.place)[2]
        if task.place != _PLACES["in the basket"]:
            return over(place + below())
        edge = now.points[task.place][:, 2].max()
        return over(max(place + BASKET_DEPTH + now.grip[2] - now.where(task.object)[2], edge - BASKET_DIP))

    def over(height: float) -> np.ndarray:
        """Where the grip site has to be for the object's centre to be over that of its place."""
        now = state.scene
        return raised(now.where(task.place) + now.grip - now.where(task.object), height)

    def across() -> np.ndarray:
        now = state.scene
        passing = _highest(now, now.grip, now.where(task.place), without=task.object) + below() + CARRY_ROOM
        return _passing(now.grip, over(passing), passing)

    state.stage = f"carry {_words(task.object)} to {_words(task.place)}"
    yield from _reach(state, across, yaw, CLOSE, near=0.012, keep=keeps)
    state.stage = f"place {_words(task.object)} {next(words for words, place in _PLACES.items() if place == task.place)}"
    yield from _reach(state, lambda: FUNNEL.over(final(), state.scene.grip), yaw, CLOSE, keep=keeps)
    if not keeps():
        return
    here = state.scene.grip
    for _ in range(OPEN_STEPS):
        yield _step(state.scene, here, yaw, OPEN)
    state.stage = f"retreat from {_words(task.place)}"
    yield from _reach(state, lambda: raised(here, here[2] + RISE), yaw, OPEN, near=0.02)


def _reach(
    state: EpisodeState[SceneState],
    target: Target,
    yaw: float,
    gripper: float,
    near: float = NEAR,
    keep: Callable[[], bool] = lambda: True,
) -> Iterator[np.ndarray]:
    """Steps towards a target, computed again in each, until the hand is near or stuck, or ``keep`` fails."""
    been: list[np.ndarray] = []
    while True:
        now = state.scene
        turned = np.linalg.norm(_turn_error(now.hand, yaw)) < TURNED * max(1.0, near / NEAR)
        if (np.linalg.norm(target() - now.grip) < near and turned) or not keep():
            return
        been.append(np.concatenate([now.grip, now.hand]))
        if (len(been) > PATIENCE and np.linalg.norm(been[-1] - been[-PATIENCE]) < STUCK) or len(been) > MOST_STEPS:
            return
        yield _step(state.scene, target(), yaw, gripper)


def _step(scene: SceneState, target: np.ndarray, yaw: float, gripper: float) -> np.ndarray:
    """``float64[7]``: the action that moves the grip site towards a target and the hand upright at a yaw."""
    return panda_row(target - scene.grip, _turn_error(scene.hand, yaw), GAIN, gripper)


def _spread(fingers: float, opening: float) -> float:
    """The gripper's action that brings the fingers so far apart, or leaves them there."""
    if opening == WIDE or fingers < opening - SPREAD:
        return OPEN
    return CLOSE if fingers > opening + SPREAD else KEEP


def _highest(scene: SceneState, start: np.ndarray, end: np.ndarray, without: str = "") -> float:
    """Height of the highest object along the straight way between two places, ``end`` included."""
    points = np.concatenate([points for name, points in scene.points.items() if name != without])
    way = end[:2] - start[:2]
    part = np.clip((points[:, :2] - start[:2]) @ way / max(float(way @ way), 1e-9), 0.0, 1.0)
    beside = np.linalg.norm(points[:, :2] - start[:2] - part[:, None] * way, axis=1)
    return float(points[beside < CORRIDOR, 2].max(initial=end[2] + TIP))


def _passing(grip: np.ndarray, target: np.ndarray, height: float) -> np.ndarray:
    """A place at a height over the target; straight above the hand while that is too low to move on."""
    return raised(grip if grip[2] < height - SAGGING else target, height)


def _placed(scene: SceneState, task: Task) -> bool:
    beside, height = BASKET_PLACED if task.place == _PLACES["in the basket"] else PLATE_PLACED
    way = scene.where(task.object) - scene.where(task.place)
    return bool(np.linalg.norm(way[:2]) < beside and -0.01 < way[2] < height)


def _turn_error(hand: np.ndarray, yaw: float) -> np.ndarray:
    """``float64[3]``: the rotation vector, about world axes, from a quaternion ``wxyz`` to straight down at a yaw."""
    goal = np.array([0.0, np.cos(yaw / 2), np.sin(yaw / 2), 0.0])
    return turn_between(hand, goal)
