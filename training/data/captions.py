"""Subtask segments and fine-grained captions of a demonstration, from the expert's stages and the simulator's truth.

The paper (section 3.2.5, Table 3) puts a step-by-step caption beside the coarse label of an episode, annotated "along 13
dimensions", and names in that sentence: action primitive; actor identity; object recognition and disambiguation; contact region;
source and target location; trajectory and orientation; gripper state; body motion. With each "and" counted as two these are eleven.
The same paragraph names two more things that its stages extract, and :data:`DIMENSIONS` counts them as the twelfth and thirteenth:
the coarse action sequence, and spatial relationships. The simulator of ``tabletop`` knows all thirteen.

Left and right, near and far are those of the ego view: right is the world's ``y``, near its ``x``. Turns are as seen from above.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...envs.embodiments import TABLETOP_PANDA, Embodiment
from ...envs.tabletop import layout
from .errors import DataError

#: The thirteen dimensions of a caption, in the paper's order.
DIMENSIONS = (
    "action_primitive",
    "actor_identity",
    "object_recognition",
    "object_disambiguation",
    "contact_region",
    "source_location",
    "target_location",
    "trajectory",
    "orientation",
    "gripper_state",
    "body_motion",
    "action_sequence",
    "spatial_relations",
)

#: Edges of the table's named parts, in m: a third of where things lie (benchmarks/tabletop/sampler.py) is the middle.
FAR, NEAR = -0.08, 0.02
LEFT, RIGHT = -0.083, 0.083
#: A way shorter than this in a direction is not named, nor is a smaller turn.
NAMED_WAY = 0.03
NAMED_TURN = np.deg2rad(10)
#: Fingers further apart than this are open: the objects are 4.5 cm across, the open gripper 8 cm.
OPEN_WIDTH = 0.06

_VERBS = "reach behind|reach|grasp|lift|carry|place|push|retreat"
_STAGE = re.compile(rf"(?P<verb>{_VERBS})(?: from)? the (?P<thing>\w+ (?:cube|cylinder))(?: (?P<where>.+))?")
#: Verbs of stages to the subtask that they are part of; a retreat ends what came before.
_PARTS = {
    "reach": "pick up",
    "grasp": "pick up",
    "lift": "pick up",
    "carry": "place",
    "place": "place",
    "reach behind": "push",
    "push": "push",
}


@dataclass(frozen=True)
class Segment:
    """One subtask of an episode.

    Attributes:
        first: Its first step.
        last: Its last step, included.
        words: The subtask as an instruction, in detail: ``Pick up the red cube from the far left of the table ...``.
        label: The same coarsely: ``pick up the red cube``.
        dimensions: What is known of it, by :data:`DIMENSIONS`.
    """

    first: int
    last: int
    words: str
    label: str
    dimensions: Mapping[str, str]


@dataclass(frozen=True)
class Description:
    """An episode in words.

    Attributes:
        segments: Its subtasks; together they cover all steps.
        caption: ``Step 1: ... Step 2: ...``.
        dimensions: For each of :data:`DIMENSIONS` a text for each segment.
    """

    segments: tuple[Segment, ...]
    caption: str
    dimensions: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Truth:
    """``float64[steps, ...]`` by step: the hand, its turn about the vertical, finger width, poses of objects, middles of places."""

    hand: np.ndarray
    yaw: np.ndarray
    width: np.ndarray
    objects: Mapping[str, np.ndarray]
    places: Mapping[str, np.ndarray]


def describe_episode(
    stages: Sequence[str],
    privileged: Sequence[Mapping[str, np.ndarray]],
    states: np.ndarray,
    embodiment: Embodiment = TABLETOP_PANDA,
) -> Description:
    """Segments and captions of an episode of ``tabletop`` or ``tabletop_tasks``.

    Args:
        stages: The stage of each of the steps, as the expert's replies name it.
        privileged: The simulator's truth at the request for each step (:meth:`~vlarig.envs.tabletop.env.TabletopEnv.privileged`).
        states: ``float32[steps, 8]``, the observed state of each step.
        embodiment: The robot, which the captions name.

    Raises:
        DataError: The lengths differ, there is no step, the truth is of another simulator, or no stage names a motion.
    """
    if not len(stages) == len(privileged) == len(states) or not len(stages):
        raise DataError(
            f"the episode has {len(stages)} stages, the truth of {len(privileged)} steps and {len(states)} states; give as "
            "many of each, one or more"
        )
    truth = _truth(privileged, states)
    segments: list[Segment] = []
    parts = _subtasks(stages)
    for number, (first, last, part, thing, where) in enumerate(parts):
        if thing not in truth.objects:
            raise DataError(f"step {first} is of the stage {stages[first]!r}, but the scene has {', '.join(truth.objects)}")
        known = _known(truth, embodiment, first, last, part, thing, where)
        before = f", after: {segments[-1].label}" if segments else ""
        known["action_sequence"] = f"step {number + 1} of {len(parts)}{before}"
        label = f"{part} the {thing}{f' {where}' if where else ''}"
        segments.append(
            Segment(first, last, _sentence(known, part, thing, where), label, {name: known[name] for name in DIMENSIONS})
        )
    caption = " ".join(f"Step {number + 1}: {segment.words}" for number, segment in enumerate(segments))
    return Description(
        tuple(segments), caption, {name: tuple(segment.dimensions[name] for segment in segments) for name in DIMENSIONS}
    )


def _truth(privileged: Sequence[Mapping[str, np.ndarray]], states: np.ndarray) -> _Truth:
    states = np.asarray(states, dtype=np.float64)
    names = [name for name in privileged[0] if name.startswith("object/")]
    if not names or states.ndim != 2 or states.shape[1] != 8:
        raise DataError(
            f"the truth of step 0 has {', '.join(privileged[0]) or 'nothing'}, and states are of shape {list(states.shape)}; give "
            "those of tabletop: object/<name>, and 8 numbers a step"
        )
    objects = {name.partition("/")[2]: np.stack([step[name] for step in privileged]) for name in names}
    places = {
        name.partition("/")[2]: np.asarray(middle)[:2]
        for name, middle in privileged[0].items()
        if name.startswith(("tray/", "zone/"))
    }
    return _Truth(states[:, :3], states[:, 5], np.abs(states[:, 6:8]).sum(axis=1), objects, places)


def _subtasks(stages: Sequence[str]) -> list[tuple[int, int, str, str, str]]:
    """First and last step, kind, object and destination of each subtask; waiting belongs to what came before.

    Raises:
        DataError: No stage names a motion.
    """
    found: list[list] = []
    for step, stage in enumerate(stages):
        match = _STAGE.fullmatch(stage)
        if match is None or match["verb"] == "retreat":
            if found:
                found[-1][1] = step
            continue
        part, thing = _PARTS[match["verb"]], match["thing"]
        where = match["where"] or "" if match["verb"] in ("place", "push") else ""
        if found and found[-1][2:4] == [part, thing]:
            found[-1][1] = step
            found[-1][4] = where or found[-1][4]
        else:
            found.append([step if found else 0, step, part, thing, where])
    if not found:
        raise DataError(
            f"no stage names a motion with an object; the first is {stages[0]!r}, expected such as 'reach the red cube'"
        )
    return [tuple(each) for each in found]


def _known(truth: _Truth, embodiment: Embodiment, first: int, last: int, part: str, thing: str, where: str) -> dict[str, str]:
    """What is known of a subtask, by :data:`DIMENSIONS`."""
    poses = truth.objects[thing]
    start, end = poses[first], poses[last]
    others = [name for name in truth.objects if name != thing]
    turn = float((_yaw(end) - _yaw(start) + np.pi) % (2 * np.pi) - np.pi)
    hand = truth.hand[first : last + 1]
    length = float(np.linalg.norm(np.diff(hand, axis=0), axis=1).sum())
    highest = float(hand[:, 2].max()) - layout.TABLE_TOP
    return {
        "action_primitive": part,
        "actor_identity": f"the {embodiment.arms} of a {embodiment.robot_tag}",
        "object_recognition": f"a {thing}",
        "object_disambiguation": _disambiguation(thing, others),
        "contact_region": _contact(truth, first, last, part, thing),
        "source_location": f"the {_part_of_table(start)} of the table",
        "target_location": _target(end, part, where),
        "trajectory": _trajectory(start, end, part, highest),
        "orientation": _turning(turn),
        "gripper_state": _gripper(truth.width[first : last + 1]),
        "body_motion": f"the base keeps still; the hand travels {100 * length:.0f} cm, at most {100 * highest:.0f} cm above the table",
        "spatial_relations": _relation(truth, last, thing, others),
    }


def _sentence(known: Mapping[str, str], part: str, thing: str, where: str) -> str:
    """A step of the caption: who does what to which part of what, from where to where, and how."""
    if part == "pick up":
        return f"Pick up the {thing} from {known['source_location']}, {known['contact_region']}, and lift it."
    turned = "" if known["orientation"] == "no turn" else f", {known['orientation']}"
    if part == "push":
        return f"Push the {thing} from {known['source_location']} {known['trajectory']}{turned}, {where}, with nearly closed fingers."
    return (
        f"Carry the {thing} {known['trajectory']}{turned}, and place it {where or 'on the table'}, {known['target_location']}."
    )


def _yaw(pose: np.ndarray) -> float:
    w, x, y, z = pose[3:]
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def _part_of_table(place: np.ndarray) -> str:
    depth = "far" if place[0] < FAR else "near" if place[0] > NEAR else ""
    side = "left" if place[1] < LEFT else "right" if place[1] > RIGHT else ""
    if depth and side:
        return f"{depth} {side}"
    return side or (f"{depth} middle" if depth else "middle")


def _target(end: np.ndarray, part: str, where: str) -> str:
    if part == "pick up":
        return "above where it was"
    return f"at the {_part_of_table(end)} of the table"


def _directions(way: np.ndarray) -> str:
    """``12 cm to the right and 5 cm towards the robot``."""
    named = [
        (abs(way[1]), "to the right" if way[1] > 0 else "to the left"),
        (abs(way[0]), "away from the robot" if way[0] > 0 else "towards the robot"),
    ]
    words = [f"{100 * size:.0f} cm {direction}" for size, direction in named if size >= NAMED_WAY]
    return " and ".join(words) or "a little"


def _trajectory(start: np.ndarray, end: np.ndarray, part: str, highest: float) -> str:
    if part == "pick up":
        return "down onto it and straight up"
    way = _directions(end[:2] - start[:2])
    return (
        f"{way}, straight along the table"
        if part == "push"
        else f"{way}, with the hand up to {100 * highest:.0f} cm above the table"
    )


def _turning(turn: float) -> str:
    if abs(turn) < NAMED_TURN:
        return "no turn"
    return f"turning it {abs(np.rad2deg(turn)):.0f} degrees {'counter-clockwise' if turn > 0 else 'clockwise'}"


def _disambiguation(thing: str, others: Sequence[str]) -> str:
    colour, shape = thing.split()
    same_shape = [name for name in others if name.endswith(shape)]
    same_colour = [name for name in others if name.startswith(colour)]
    parts = [f"not the {name}" for name in (*same_shape, *same_colour)]
    return f"the {thing}, {', '.join(parts)}" if parts else f"the only {shape}, and the only {colour} thing"


def _contact(truth: _Truth, first: int, last: int, part: str, thing: str) -> str:
    """Where the fingers touch the object, when they are nearest to it."""
    poses = truth.objects[thing][first : last + 1]
    hand = truth.hand[first : last + 1]
    step = int(np.linalg.norm(poses[:, :3] - hand, axis=1).argmin())
    if part == "push":
        away = poses[step, :2] - hand[step, :2]
        side = ("left" if away[1] > 0 else "right") if abs(away[1]) > abs(away[0]) else ("far" if away[0] > 0 else "near")
        return f"at its {side} side"
    yaw = truth.yaw[first + step]
    line = np.abs([np.sin(yaw), np.cos(yaw)])
    sides = (
        "left and right sides" if line[1] > 0.92 else "near and far sides" if line[0] > 0.92 else "opposite sides, diagonally"
    )
    height = (hand[step, 2] - poses[step, 2]) / layout.SHAPES[thing.split()[1]].half_size[2]
    level = "above its middle" if height > 0.34 else "below its middle" if height < -0.34 else "at half its height"
    return f"by its {sides}, {level}"


def _gripper(width: np.ndarray) -> str:
    begin, end = ("open" if width[index] > OPEN_WIDTH else "closed" for index in (0, -1))
    changes = np.flatnonzero(np.diff((width > OPEN_WIDTH).astype(int)))
    if begin == end:
        return f"stays {begin}" if len(changes) == 0 else f"{begin}, changes meanwhile, and is {end} at the end"
    return f"{begin}, then {end} from step {int(changes[-1]) + 2} of this part on, {100 * width[-1]:.1f} cm wide"


def _relation(truth: _Truth, last: int, thing: str, others: Sequence[str]) -> str:
    """Where the object is at the end, seen from its nearest neighbour."""
    here = truth.objects[thing][last]
    near = {name: truth.objects[name][last][:2] for name in others} | dict(truth.places)
    if not near:
        return "alone on the table"
    name = min(near, key=lambda name: float(np.linalg.norm(near[name] - here[:2])))
    away = here[:2] - near[name]
    distance = float(np.linalg.norm(away))
    if name in truth.objects and distance < layout.SHAPES["cube"].half_size[0]:
        return f"above the {name}" if here[2] > truth.objects[name][last][2] else f"below the {name}"
    if name in truth.places and np.abs(away).max() < layout.TRAY_HALF:
        return f"{'in' if name.endswith('tray') else 'on'} the {name}"
    side = (
        ("right of" if away[1] > 0 else "left of")
        if abs(away[1]) > abs(away[0])
        else ("in front of" if away[0] > 0 else "behind")
    )
    return f"{side} the {name}, {100 * distance:.0f} cm away"
