"""The tabletop suite's expert: parses the instruction, looks up the named objects, and moves the gripper in a closed loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ...envs.keypoints import Keypoints
from ...envs.tabletop import layout
from ...policies.api import Request
from ...policies.experts import (
    CLOSE,
    METRES,
    OPEN,
    EpisodeState,
    Funnel,
    ScriptedExpert,
    Target,
    half_turn,
    panda_row,
    quaternion,
    raised,
    turn_between,
)
from .captions import yaw_of
from .sampler import BESIDE_DISTANCE
from .words import Skill, nearest, parse, program

#: Actions are this much larger than the error: the controller covers about an eighth of the requested way in a step.
GAIN = 2.0

#: Height above the table's top at which the grip site travels: what it holds then passes 6 cm above a standing cylinder.
TRAVEL_HEIGHT = 0.15
#: Height of the grip site above the table's top where it grasps; the finger tips end 1 cm below it. The hand begins 3.1 cm above it
#: and reaches 10 cm to both sides: this height keeps it clear of the cylinders around.
GRASP_HEIGHT = 0.029
#: How far above its final height an object is let go.
DROP = 0.002
#: How far the open hand rises from what it let go: clear of a cylinder.
RISE = 0.08
#: An object that ends further than this from where it was to be set down is fetched again.
SLIP = 0.02
#: How near to ``y`` the fingers' line may come beside another object, so that they do not meet it.
BESIDE_YAW = np.deg2rad(55)

FUNNEL = Funnel(floor=0.004, slope=8.0, top=0.07)

NEAR = 0.006
TURNED = 0.06
#: Steps in which the fingers close on an object or let go of it.
CLOSE_STEPS = 6
OPEN_STEPS = 7

#: A push begins this far behind the object's centre; while it lasts, the grip site is about ``PUSH_CONTACT`` behind it.
PUSH_BEHIND = 0.075
PUSH_CONTACT = 0.034
PUSH_HEIGHT = 0.025
PUSH_SPEED = 0.8
#: Closed fingers touch in one point, so that an object slips aside of a hand that is not behind it. The further aside of the line the
#: hand is, the slower it pushes, down to this share of the speed.
PUSH_ASIDE, PUSH_SLOWEST = 0.015, 0.2
#: A hand that presses down while it pushes clamps the object to the table; this bounds the vertical action.
PUSH_PRESS = 0.1
#: A push that ends further than this from the zone's centre, along a side of it, is made again.
PUSH_ACCEPTED = 0.03
PUSH_DONE = 0.012


#: Height of the tallest object that is on the bare table.
TALLEST = 2 * max(shape.half_size[2] for shape in layout.SHAPES.values())
#: Kinds of skills that motion programs alone have: they set objects down among others.
PROGRAM_KINDS = ("tray", "zone", "near", "on", "spot")


@dataclass(frozen=True)
class SceneState:
    """What the expert sees in one step.

    Attributes:
        grip: ``float64[3]``, the grip site in the world frame, in m.
        turn: ``float64[3]``, rotation vector from straight down, about world axes.
        objects: Name to ``float64[7]``, position and quaternion ``wxyz``.
        places: Name to ``float64[2]``, centres of trays and zones.
    """

    grip: np.ndarray
    turn: np.ndarray
    objects: dict[str, np.ndarray]
    places: dict[str, np.ndarray]


class TabletopExpert(ScriptedExpert[SceneState]):
    """Solves the suites by the poses of objects and the motion program, or else the instruction; it does not read the goal."""

    def _see(self, request: Request) -> SceneState:
        truth: dict[str, dict[str, np.ndarray]] = {"object": {}, "tray": {}, "zone": {}}
        for key, value in request.privileged.items():
            kind, _, name = key.partition("/")
            if kind in truth:
                truth[kind][name] = np.asarray(value, dtype=np.float64)
        places = {name: centre[:2] for kind in ("tray", "zone") for name, centre in truth[kind].items()}
        state = np.asarray(request.observation["state"], dtype=np.float64)
        return SceneState(state[:3], state[3:6], truth["object"], places)

    def keypoints(self, request: Request) -> Keypoints | None:
        """As of the base class: of the first skill that the words request, for objects that are there."""
        scene, skills = self._see(request), parse(request.observation["instruction"])
        names = [name.rstrip("0123456789 ") for name in scene.objects]  # scenes to be looked at number their objects
        alone = {name: pose for name, pose in zip(names, scene.objects.values(), strict=True) if names.count(name) == 1}
        known = replace(scene, objects=alone)
        for skill in skills[:1]:
            if skill.object in alone and skill.place in (scene.places if skill.on_places else alone):
                return _keypoints(known, skill)
        return None

    def _script(self, request: Request, state: EpisodeState[SceneState]) -> Iterator[np.ndarray]:
        if "program" in request.privileged:
            return _perform(state, program(bytes(request.privileged["program"])))
        return _perform(state, parse(request.observation["instruction"]))


def _perform(state: EpisodeState[SceneState], skills: list[Skill]) -> Iterator[np.ndarray]:
    """One skill after the other; an object that is named but not there is replaced by the one whose name resembles it most."""
    for skill in skills:
        moved = nearest(skill.object, state.scene.objects)
        others = [name for name in state.scene.objects if name != moved]
        place = nearest(skill.place, state.scene.places if skill.on_places else others) if skill.kind != "spot" else ""
        if place or skill.kind == "spot":
            found = replace(skill, object=moved, place=place)
            state.keypoints = partial(_keypoints, skill=found)
            if skill.kind == "pushed":
                yield from _push(state, moved, place)
            else:
                yield from _carry(state, moved, found, place)
    state.stage = "wait"
    while True:
        yield _step(state.scene, state.scene.grip, 0.0, OPEN)


def _keypoints(scene: SceneState, skill: Skill) -> Keypoints:
    """The keypoints of a step of a skill; places are flat, and their centres as high as the table."""
    pose = scene.objects[skill.object]
    if skill.kind == "pushed":
        zone = scene.places[skill.place]
        goal, place = raised(zone, layout.TABLE_TOP), raised(zone, pose[2])
        return Keypoints(pose[:3], goal, place, _turn_of(pose, skill.object), quarters=True, pushed=True)
    target = _target(scene, skill, skill.place)
    place = raised(target, layout.TABLE_TOP + _floor(scene, skill, skill.place) + _half_height(skill.object))
    if skill.kind == "spot":
        goal = place
    elif skill.on_places:
        goal = raised(scene.places[skill.place], layout.TABLE_TOP)
    else:
        goal = scene.objects[skill.place][:3]
    return Keypoints(pose[:3], goal, place, _turn_of(pose, skill.object), quarters=True)


def _turn_of(pose: np.ndarray, obj: str) -> float | None:
    """An object's turn about the vertical; ``None`` of a cylinder."""
    return None if obj.endswith("cylinder") else yaw_of(pose)


def _carry(state: EpisodeState[SceneState], obj: str, skill: Skill, place: str) -> Iterator[np.ndarray]:
    """Grasp an object, bring it to its place, let it go and rise; begin again when it was lost on the way."""
    half = _half_height(obj)
    while True:
        yaw, place_yaw = _grasp_yaw(state.scene, obj, skill.kind)
        if skill.kind in PROGRAM_KINDS:
            place_yaw = _place_yaw(state.scene, skill, yaw)
        travel = TRAVEL_HEIGHT + _towering(state.scene, obj)
        state.stage = f"reach the {obj}"

        def above(height: float) -> np.ndarray:
            return raised(state.scene.objects[obj], height)

        grip_height = layout.TABLE_TOP + GRASP_HEIGHT
        yield from _reach(state, lambda: above(layout.TABLE_TOP + travel - 0.03), yaw, OPEN, near=0.012)
        yield from _reach(state, lambda: FUNNEL.over(above(grip_height), state.scene.grip), yaw, OPEN)
        state.stage = f"grasp the {obj}"
        for _ in range(CLOSE_STEPS):
            yield _step(state.scene, above(grip_height), yaw, CLOSE)

        def carried(height: float) -> np.ndarray:
            """Where the grip site has to be for the object's centre to be over its place, its underside at ``height``."""
            centre = state.scene.objects[obj][:3]
            wanted = np.array([*_target(state.scene, skill, place), layout.TABLE_TOP + height + half])
            return wanted + state.scene.grip - centre

        start = state.scene.grip.copy()
        high = layout.TABLE_TOP + travel
        state.stage = f"lift the {obj}"
        yield from _reach(state, lambda: raised(start, high), yaw, CLOSE, near=0.04)
        if not _holds(state.scene, obj):
            continue
        floor = _floor(state.scene, skill, place)
        state.stage = f"carry the {obj} to the {place or 'table'}"
        yield from _reach(state, lambda: raised(carried(floor), high), place_yaw, CLOSE, near=0.008)
        state.stage = f"place the {obj} {skill.words}"
        yield from _reach(
            state, lambda: FUNNEL.over(carried(floor + DROP), state.scene.grip), place_yaw, CLOSE, near=0.006, steps=40
        )
        if not _holds(state.scene, obj):
            continue
        where = state.scene.grip.copy()
        for _ in range(OPEN_STEPS):
            yield _step(state.scene, where, place_yaw, OPEN)
        state.stage = f"retreat from the {obj}"
        yield from _reach(state, lambda: where + np.array([0.0, 0.0, RISE]), place_yaw, OPEN, near=0.02)
        if _settled(state.scene, obj, skill, place, floor):
            return


def _push(state: EpisodeState[SceneState], obj: str, zone: str) -> Iterator[np.ndarray]:
    """Come down behind an object, push it along the line to the zone's centre, and step back, with closed fingers throughout.

    Fingers that were closed for some steps and then kept would push as well. But no observation shows the count, and the simulator
    takes a gripper's number by its sign alone, so a policy that learns from it cannot keep them.
    """
    while True:
        centre = state.scene.objects[obj][:2].copy()
        way = state.scene.places[zone] - centre
        along = way / np.linalg.norm(way)
        yaw = half_turn(np.arctan2(along[1], along[0]))
        behind = centre - along * PUSH_BEHIND
        state.stage = f"reach behind the {obj}"
        for height, near in ((TRAVEL_HEIGHT - 0.05, 0.012), (PUSH_HEIGHT, NEAR)):
            target = np.array([*behind, layout.TABLE_TOP + height])
            yield from _reach(state, lambda target=target: target, yaw, CLOSE, near=near)
        state.stage = f"push the {obj} into the {zone}"
        for _ in range(80):
            scene = state.scene
            centre = scene.objects[obj][:2]
            way = scene.places[zone] - centre
            left = float(way @ along)
            if left < PUSH_DONE:
                break
            if left > 0.05:
                along = way / np.linalg.norm(way)
                yaw += half_turn(np.arctan2(along[1], along[0]) - yaw)
            lag = scene.grip[:2] - (centre - along * PUSH_CONTACT)
            sideways = lag - (lag @ along) * along
            aside = float(np.linalg.norm(sideways))
            if aside > 0.03:
                break
            speed = min(PUSH_SPEED, 0.3 + left * 8.0) * max(PUSH_SLOWEST, 1.0 - aside / PUSH_ASIDE)
            step = _step(scene, np.array([*scene.grip[:2], layout.TABLE_TOP + PUSH_HEIGHT]), yaw, CLOSE)
            step[:2] = np.clip(along * speed - sideways / METRES * GAIN, -1.0, 1.0)
            step[2] = np.clip(step[2], -PUSH_PRESS, PUSH_PRESS)
            yield step
        state.stage = f"retreat from the {obj}"
        back = state.scene.grip[:2] - along * 0.06
        yield from _reach(state, lambda: np.array([*back, layout.TABLE_TOP + PUSH_HEIGHT + 0.005]), yaw, CLOSE, near=0.015)
        up = np.array([*back, layout.TABLE_TOP + TRAVEL_HEIGHT - 0.05])
        yield from _reach(state, lambda: up, yaw, CLOSE, near=0.02)
        if np.abs(state.scene.places[zone] - state.scene.objects[obj][:2]).max() < PUSH_ACCEPTED:
            return


def _reach(
    state: EpisodeState[SceneState], target: Target, yaw: float, gripper: float, near: float = NEAR, steps: int = 60
) -> Iterator[np.ndarray]:
    """Steps towards a target, which is computed again in each, until it is near; ``steps`` bounds them."""
    for _ in range(steps):
        error = target() - state.scene.grip
        if np.linalg.norm(error) < near and np.linalg.norm(_turn_error(state.scene.turn, yaw)) < TURNED * max(1.0, near / NEAR):
            return
        yield _step(state.scene, target(), yaw, gripper)


def _step(scene: SceneState, target: np.ndarray, yaw: float, gripper: float) -> np.ndarray:
    """``float64[7]``: the action that moves the grip site towards a target and the hand upright at a yaw."""
    return panda_row(target - scene.grip, _turn_error(scene.turn, yaw), GAIN, gripper)


def _target(scene: SceneState, skill: Skill, place: str) -> np.ndarray:
    """``float64[2]``: where the carried object's centre belongs."""
    if skill.kind == "inside":
        return scene.places[place]
    if skill.kind in PROGRAM_KINDS:
        start = np.zeros(2) if skill.kind == "spot" else scene.places[place] if skill.on_places else scene.objects[place][:2]
        return start + skill.offset
    centre = scene.objects[place][:2]
    if skill.kind == "beside":
        return centre + np.array([0.0, -BESIDE_DISTANCE if skill.side == "left" else BESIDE_DISTANCE])
    return centre


def _floor(scene: SceneState, skill: Skill, place: str) -> float:
    """Height above the table's top of what the object is set down on."""
    if skill.kind in ("inside", "tray"):
        return layout.TRAY_FLOOR
    if skill.kind in ("stacked", "on"):
        return float(scene.objects[place][2]) - layout.TABLE_TOP + _half_height(place)
    return 0.0


def _half_height(obj: str) -> float:
    return layout.SHAPES[obj.rsplit(maxsplit=1)[-1]].half_size[2]


def _holds(scene: SceneState, obj: str) -> bool:
    return bool(np.linalg.norm(scene.objects[obj][:3] - scene.grip) < 0.035)


def _settled(scene: SceneState, obj: str, skill: Skill, place: str, floor: float) -> bool:
    """Whether the object ended about where it was set down."""
    centre = scene.objects[obj][:3]
    slip = float(np.linalg.norm(centre[:2] - _target(scene, skill, place)))
    sunk = abs(centre[2] - layout.TABLE_TOP - floor - _half_height(obj))
    return slip < SLIP and (sunk < SLIP or skill.kind in ("inside", "tray"))


def _grasp_yaw(scene: SceneState, obj: str, kind: str) -> tuple[float, float]:
    """The hand's yaw for grasping an object, away from its neighbours, and the yaw for setting it down."""
    if obj.endswith("cylinder"):
        choices = np.deg2rad([-60, -40, -20, 0, 20, 40, 60]) if kind != "beside" else np.deg2rad([-60, 60])
    else:
        own = _turn_of(scene.objects[obj], obj) or 0.0
        choices = np.array([half_turn(own), half_turn(own + np.pi / 2)])

    def worth(yaw: float) -> float:
        return min(_finger_room(scene, obj, yaw), 0.03) - 0.01 * abs(yaw)

    yaw = float(max(choices, key=worth))
    if kind != "beside":
        return yaw, yaw
    return yaw, float(np.sign(yaw or 1.0) * max(abs(yaw), BESIDE_YAW))


def _place_yaw(scene: SceneState, skill: Skill, yaw: float) -> float:
    """The hand's yaw for setting an object down among others: along the walls of a tray, else where the fingers find room."""
    if skill.kind == "tray":
        return 0.0
    target = _target(scene, skill, skill.place)

    def worth(choice: float) -> float:
        return min(_finger_room(scene, skill.object, choice, target), 0.03) - 0.005 * abs(choice - yaw)

    return float(max(np.deg2rad(np.arange(-75.0, 76.0, 15.0)), key=worth))


def _towering(scene: SceneState, obj: str) -> float:
    """How much higher than anything on the bare table the highest other object is, in m; 0 where nothing is stacked."""
    tops = [pose[2] + _half_height(name) for name, pose in scene.objects.items() if name != obj]
    above = max(tops, default=0.0) - layout.TABLE_TOP - TALLEST
    return float(above) if above > 0.01 else 0.0


def _finger_room(scene: SceneState, obj: str, yaw: float, at: np.ndarray | None = None) -> float:
    """Least distance from the open fingers to other objects and to tray walls, with the object in its place or ``at`` another."""
    centre = scene.objects[obj][:2] if at is None else at
    line = np.array([-np.sin(yaw), np.cos(yaw)])
    room = np.inf
    for finger in (centre + 0.05 * line, centre - 0.05 * line):
        for name, pose in scene.objects.items():
            if name != obj:
                room = min(room, float(np.linalg.norm(pose[:2] - finger)) - 0.045)
        for name, place in scene.places.items():
            if name.endswith("tray"):
                outside = np.maximum(np.abs(finger - place) - layout.TRAY_OUTER, 0.0)
                room = min(room, float(np.linalg.norm(outside)) - 0.012)
    return room


def _turn_error(turn: np.ndarray, yaw: float) -> np.ndarray:
    """``float64[3]``: the rotation vector, about world axes, from a rotation vector to the upright yaw."""
    return turn_between(quaternion(turn), quaternion(np.array([0.0, 0.0, yaw])))
