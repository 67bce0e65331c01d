"""Captions of demonstrations of ``tabletop`` and ``tabletop_tasks``, from the expert's stages and the simulator's truth.

Left and right, near and far are those of the ego view: right is the world's ``y``, near its ``x``. Turns are as seen from above.

Shapes: ``J`` steps of the episode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...envs.embodiments import Embodiment
from ...envs.errors import VlarigError
from ...envs.tabletop import layout
from ..captions import Description, Segment

#: Edges of the table's named parts, in m: a third of where objects lie (benchmarks/tabletop/sampler.py) is the centre.
FAR, NEAR = -0.08, 0.02
LEFT, RIGHT = -0.083, 0.083
#: A way shorter than this in a direction is not named, nor is a smaller turn.
NAMED_WAY = 0.03
NAMED_TURN = np.deg2rad(10)
#: Fingers further apart than this are open: the objects are 4.5 cm across, the open gripper 8 cm.
OPEN_WIDTH = 0.06
#: Centres of objects beside each other are nearer than this, in m: goals accept 13 cm (envs/tabletop/predicates.py).
BESIDE = 0.15

_VERBS = "reach behind|reach|grasp|lift|carry|place|push|retreat"
_STAGE = re.compile(rf"(?P<verb>{_VERBS})(?: from)? the (?P<object>\w+ (?:cube|cylinder))(?: (?P<where>.+))?")
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
class _Truth:
    """What is known of each step.

    Attributes:
        hand: ``float64[J, 3]``, in m.
        yaw: ``float64[J]``, the hand's turn about the vertical, in rad.
        width: ``float64[J]``, between the fingers, in m.
        objects: Name to ``float64[J, 7]``, position and quaternion ``wxyz``.
        places: Name of a tray or zone to its centre, ``float64[2]``.
    """

    hand: np.ndarray
    yaw: np.ndarray
    width: np.ndarray
    objects: Mapping[str, np.ndarray]
    places: Mapping[str, np.ndarray]


@dataclass
class _Part:
    """One subtask, as the stages name it.

    Attributes:
        end: The step after its last.
        kind: ``pick up``, ``place`` or ``push``.
        where: Where the object is to go, with a preposition; empty where the stages do not say.
    """

    begin: int
    end: int
    kind: str
    object: str
    where: str = ""


def describe_episode(
    stages: Sequence[str], truth: Sequence[Mapping[str, np.ndarray]], states: np.ndarray, embodiment: Embodiment
) -> Description | None:
    """An episode in words, see :class:`~..captions.Describer`; ``None`` where no stage names a motion, such as ``reach the red cube``.

    What a stage sets out to do is not taken for done: an object that was not lifted, or that is not where it was to go, is said so.
    ``truth`` is of :meth:`~vlarig.envs.tabletop.env.TabletopEnv.privileged`.
    """
    if not len(stages) == len(truth) == len(states) or not len(stages):
        raise VlarigError(
            f"the episode has {len(stages)} stages, the truth of {len(truth)} steps and {len(states)} states; give as many of "
            "each, one or more"
        )
    known, parts = _known_truth(truth, states), _subtasks(stages)
    segments: list[Segment] = []
    for number, part in enumerate(parts):
        if part.object not in known.objects:
            raise VlarigError(
                f"step {part.begin} is of the stage {stages[part.begin]!r}, but the scene has {', '.join(known.objects)}"
            )
        before = f", after: {segments[-1].label}" if segments else ""
        dimensions = _dimensions(known, embodiment, part)
        dimensions["action sequence"] = f"step {number + 1} of {len(parts)}{before}"
        where = _where(known, part)
        label = f"{part.kind} the {part.object} {where.removeprefix('not ')}".strip()
        segments.append(Segment(part.begin, part.end, label, _sentence(known, dimensions, part, where), dimensions))
    return Description(tuple(segments)) if segments else None


def _known_truth(truth: Sequence[Mapping[str, np.ndarray]], states: np.ndarray) -> _Truth:
    states = np.asarray(states, dtype=np.float64)
    names = [name for name in truth[0] if name.startswith("object/")]
    if not names or states.ndim != 2 or states.shape[1] != 8:
        raise VlarigError(
            f"the truth of step 0 has {', '.join(truth[0]) or 'nothing'}, and states are of shape {list(states.shape)}; give "
            "those of tabletop: object/<name>, and 8 numbers a step"
        )
    objects = {name.partition("/")[2]: np.stack([step[name] for step in truth]) for name in names}
    places = {
        name.partition("/")[2]: np.asarray(centre)[:2]
        for name, centre in truth[0].items()
        if name.startswith(("tray/", "zone/"))
    }
    return _Truth(states[:, :3], states[:, 5], np.abs(states[:, 6:8]).sum(axis=1), objects, places)


def _subtasks(stages: Sequence[str]) -> list[_Part]:
    """The subtasks in their order; waiting belongs to what came before, and a second try to the first."""
    found: list[_Part] = []
    for step, stage in enumerate(stages):
        match = _STAGE.fullmatch(stage)
        if match is not None and match["verb"] != "retreat":
            kind, obj = _PARTS[match["verb"]], match["object"]
            if not found or (found[-1].kind, found[-1].object) != (kind, obj):
                found.append(_Part(step if found else 0, step + 1, kind, obj))
            if match["where"] and match["verb"] in ("place", "push"):
                found[-1].where = match["where"]
        if found:
            found[-1].end = step + 1
    return found


def _dimensions(truth: _Truth, embodiment: Embodiment, part: _Part) -> dict[str, str]:
    """What is known of a subtask, by :data:`~..captions.DIMENSIONS`; its place in the sequence aside."""
    poses = truth.objects[part.object][part.begin : part.end]
    start, end = poses[0], poses[-1]
    others = [name for name in truth.objects if name != part.object]
    turn = float((yaw_of(end) - yaw_of(start) + np.pi) % (2 * np.pi) - np.pi)
    hand = truth.hand[part.begin : part.end]
    taking_part = filter(None, (part.object, _place_of(truth, part)))
    length = float(np.linalg.norm(np.diff(hand, axis=0), axis=1).sum())
    highest = float(hand[:, 2].max()) - layout.TABLE_TOP
    return {
        "action primitive": part.kind,
        "actor identity": f"the {embodiment.arms} of a {embodiment.robot_tag}",
        "object recognition": ", ".join(f"{'an' if name.startswith('orange') else 'a'} {name}" for name in taking_part),
        "object disambiguation": _disambiguation(part.object, others),
        "contact region": _contact(truth, part),
        "source location": f"from the {_part_of_table(start)} of the table",
        "target location": "above where it was" if part.kind == "pick up" else f"at the {_part_of_table(end)} of the table",
        "trajectory": _trajectory(start, end, part.kind, highest),
        "orientation": _turning(turn, part.object),
        "gripper state": _gripper(truth.width[part.begin : part.end]),
        "body motion": f"the base keeps still; the hand travels {100 * length:.0f} cm, at most {100 * highest:.0f} cm above the table",
        "spatial relations": _relation(truth, part.end - 1, part.object, others),
    }


def _sentence(truth: _Truth, known: Mapping[str, str], part: _Part, where: str) -> str:
    """A step of the caption: who does what to which part of what, from where to where, and how."""
    obj, way = f"the {part.object}", known["trajectory"]
    if known["orientation"] != "no turn":
        way += f", {known['orientation']}"
    if part.kind == "pick up":
        done = _lifted(truth, part)
        said = f"{'Pick' if done else 'Try to pick'} up {obj} {known['source location']}, {known['contact region']}"
        return f"{said}, and lift it." if done else f"{said}."
    if part.kind == "push":
        if not where:
            return f"Reach behind {obj}."
        return f"Push {obj} {known['source location']}, {way}, {where}, with closed fingers."
    if not where or truth.width[part.end - 1] < OPEN_WIDTH:
        return f"Carry {obj} {way}."
    if where.startswith("not"):
        return f"Carry {obj} {way}, and let it go {known['target location']}, {where}."
    return f"Carry {obj} {way}, and place it {where}, {known['target location']}."


def _lifted(truth: _Truth, part: _Part) -> bool:
    heights = truth.objects[part.object][part.begin : part.end, 2]
    return bool(heights[-1] - heights[0] > NAMED_WAY)


def _place_of(truth: _Truth, part: _Part) -> str:
    """The tray, zone or other object that an object is brought to; empty where it is none of them."""
    names = (name for name in (*truth.places, *truth.objects) if part.where.endswith(f" the {name}"))
    return next(names, "")


def _where(truth: _Truth, part: _Part) -> str:
    """Where an object is at the end, in the words of the stage that was to bring it there: ``not in the white tray``."""
    place = _place_of(truth, part)
    if not place:
        return part.where
    here, how = truth.objects[part.object][part.end - 1], part.where.removesuffix(f" the {place}")
    if place in truth.places:
        arrived = np.abs(here[:2] - truth.places[place]).max() < layout.TRAY_HALF
        return part.where if arrived else f"not {part.where}"
    other = truth.objects[place][part.end - 1]
    away = here[:2] - other[:2]
    distance = float(np.linalg.norm(away))
    if how == "on":
        arrived = distance < layout.SHAPES["cube"].half_size[0] and here[2] > other[2]
        return part.where if arrived else f"not {part.where}"
    if distance > BESIDE:
        return f"not {part.where}"
    return f"{_side(away)} the {place}" if how == "next to" else part.where


def yaw_of(pose: np.ndarray) -> float:
    """A pose's turn about the vertical, in rad."""
    w, x, y, z = pose[3:]
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def _part_of_table(place: np.ndarray) -> str:
    depth = "far" if place[0] < FAR else "near" if place[0] > NEAR else ""
    side = "left" if place[1] < LEFT else "right" if place[1] > RIGHT else ""
    if depth and side:
        return f"{depth} {side}"
    return side or (f"{depth} middle" if depth else "middle")


def _directions(way: np.ndarray) -> str:
    """``12 cm to the right and 5 cm towards the robot``."""
    named = [
        (abs(way[1]), "to the right" if way[1] > 0 else "to the left"),
        (abs(way[0]), "away from the robot" if way[0] > 0 else "towards the robot"),
    ]
    words = [f"{100 * size:.0f} cm {direction}" for size, direction in named if size >= NAMED_WAY]
    return " and ".join(words) or "a little"


def _trajectory(start: np.ndarray, end: np.ndarray, kind: str, highest: float) -> str:
    if kind == "pick up":
        return "down onto it and straight up"
    way = _directions(end[:2] - start[:2])
    return (
        f"{way}, straight along the table"
        if kind == "push"
        else f"{way}, with the hand up to {100 * highest:.0f} cm above the table"
    )


def _turning(turn: float, obj: str) -> str:
    if abs(turn) < NAMED_TURN:
        return "no turn"
    turned = "the hand" if obj.endswith("cylinder") else "it"  # how a cylinder is turned does not show
    return f"turning {turned} {abs(np.rad2deg(turn)):.0f} degrees {'counter-clockwise' if turn > 0 else 'clockwise'}"


def _disambiguation(obj: str, others: Sequence[str]) -> str:
    colour, shape = obj.split()
    same_shape = [name for name in others if name.endswith(shape)]
    same_colour = [name for name in others if name.startswith(colour)]
    parts = [f"not the {name}" for name in (*same_shape, *same_colour)]
    return f"the {obj}: {', '.join(parts)}" if parts else f"the only {shape}, and the only {colour} thing"


def _contact(truth: _Truth, part: _Part) -> str:
    """Where the fingers touch the object, when they are nearest to it."""
    poses = truth.objects[part.object][part.begin : part.end]
    hand = truth.hand[part.begin : part.end]
    step = int(np.linalg.norm(poses[:, :3] - hand, axis=1).argmin())
    if part.kind == "push":
        away = poses[step, :2] - hand[step, :2]
        side = ("left" if away[1] > 0 else "right") if abs(away[1]) > abs(away[0]) else ("far" if away[0] > 0 else "near")
        return f"at its {side} side"
    yaw = truth.yaw[part.begin + step]
    line = np.abs([np.sin(yaw), np.cos(yaw)])
    sides = (
        "left and right sides" if line[1] > 0.92 else "near and far sides" if line[0] > 0.92 else "opposite sides, diagonally"
    )
    height = (hand[step, 2] - poses[step, 2]) / layout.SHAPES[part.object.split()[1]].half_size[2]
    level = "above its middle" if height > 0.34 else "below its middle" if height < -0.34 else "at half its height"
    return f"by its {sides}, {level}"


def _gripper(width: np.ndarray) -> str:
    """``closed to 4.2 cm, open from step 4 on, closed to 4.5 cm from step 20 on``, by steps of the part."""
    is_open = width > OPEN_WIDTH
    begins = [0, *(np.flatnonzero(np.diff(is_open.astype(int))) + 1)]
    said = []
    for begin, end in zip(begins, [*begins[1:], len(width)], strict=True):
        state = "open" if is_open[begin] else f"closed to {100 * width[end - 1]:.1f} cm"
        said.append(f"{state} from step {begin + 1} on" if begin else state)
    return ", ".join(said)


def _relation(truth: _Truth, last: int, obj: str, others: Sequence[str]) -> str:
    """Where the object is at the end, seen from its nearest neighbour."""
    here = truth.objects[obj][last]
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
    return f"{_side(away)} the {name}, {100 * distance:.0f} cm away"


def _side(away: np.ndarray) -> str:
    """On which side of an object another is that is so far from it, ``[x, y]``."""
    if abs(away[1]) > abs(away[0]):
        return "to the right of" if away[1] > 0 else "to the left of"
    return "in front of" if away[0] > 0 else "behind"
