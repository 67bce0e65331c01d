"""Success predicates: what it means that an object is in a tray, beside another, on another, pushed into a zone, or done in order.

A goal is plain data from the benchmark (``{"kind": "inside", "object": "red cube", "tray": "white tray"}``); the predicates see the
world through :class:`ObjectState` alone and depend on neither tasks nor simulator. Every predicate requires that objects rest and that
the gripper has let go: a passing or held object is not a placed one. ``all``, ``any`` and ``not`` compose predicates
(:mod:`.predicates`), ``ordered`` wants its parts one after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import layout, predicates
from .world import HEIGHT_SLACK, ObjectState, World

#: Least and greatest distance between the centres of objects that are beside each other: half a centimetre of air at least, two
#: object widths of it at most.
BESIDE = (0.05, 0.13)
#: How far the line between them may lean, as an offset across the named direction.
BESIDE_ACROSS = 0.045

#: A pushed object's centre ends this near to the zone's along both sides: all of the object's width is on the zone.
PUSHED_WITHIN = layout.ZONE_HALF - layout.SHAPES["cube"].half_size[0]
#: A pushed object's lowest point may rise this far above the table; a push tilts or drags it by less, a grasp lifts it by more.
LIFT_LIMIT = 0.01


#: Fields of a goal that name an object or a place, and what it is to the goal.
ROLES = {"object": "object", "tray": "goal", "reference": "goal", "base": "goal", "zone": "goal"}


class Goal:
    """A goal and its state of the episode: parts that were done in order, and a final failure.

    Attributes:
        spec: The goal as data.
        done: How many parts of an ordered goal were done so far; 0 for other goals.
        failed: Whether the episode is lost for good.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.done = 0
        self.failed = False

    def memory(self) -> np.ndarray:
        """``float64[2]``: what the goal's future verdicts depend on besides the world."""
        return np.array([self.done, self.failed], dtype=np.float64)

    def roles(self) -> dict[str, str]:
        """Name to role of what is to be moved now, ``object``, and of where to, ``goal``; empty for goals made of others."""
        spec = self.spec
        if spec["kind"] == "ordered":
            spec = spec["parts"][min(self.done, len(spec["parts"]) - 1)]
        found = {spec[key]: role for key, role in ROLES.items() if key in spec}
        return found if len(found) == 2 else {}

    def update(self, world: World) -> bool:
        """Check the world after a step; return whether the goal is reached now."""
        self.failed = self.failed or any(world.objects[name].lowest > LIFT_LIMIT for name in _pushed(self.spec))
        if self.spec["kind"] == "ordered":
            return self._in_order([holds(part, world) for part in self.spec["parts"]])
        return not self.failed and holds(self.spec, world)

    def _in_order(self, now: list[bool]) -> bool:
        if any(now[self.done + 1 :]):
            self.failed = True
        while not self.failed and self.done < len(now) and now[self.done]:
            self.done += 1
        return not self.failed and all(now)


def holds(spec: dict[str, Any], world: World) -> bool:
    """Whether a goal without memory is fulfilled now."""
    kind = spec["kind"]
    if kind in ("all", "any"):
        return (all if kind == "all" else any)(holds(part, world) for part in spec["parts"])
    if kind == "not":
        return not holds(spec["part"], world)
    if kind in predicates.KINDS:
        return predicates.KINDS[kind](spec, world)
    obj = world.objects[spec["object"]]
    if not obj.placed:
        return False
    if kind == "inside":
        tray = world.places[spec["tray"]]
        return [name for name, other in world.objects.items() if predicates.is_inside(other, tray)] == [spec["object"]]
    if kind == "beside":
        return _beside(obj, world.objects[spec["reference"]], spec["side"])
    if kind == "stacked":
        return predicates.on(spec, world) and world.objects[spec["base"]].lowest < HEIGHT_SLACK
    if kind == "pushed":
        away = np.abs(obj.position[:2] - world.places[spec["zone"]])
        return bool(obj.lowest < HEIGHT_SLACK and away.max() < PUSHED_WITHIN)
    raise ValueError(
        f"goal kind is {kind!r}, expected inside, beside, stacked, pushed, all, any, not, "
        f"{', '.join(predicates.KINDS)}; ordered only outermost"
    )


def _pushed(spec: dict[str, Any]) -> list[str]:
    """Names of the objects that a goal wants pushed, in any of its parts."""
    if spec["kind"] == "pushed":
        return [spec["object"]]
    return [name for part in spec.get("parts", []) for name in _pushed(part)]


def _beside(obj: ObjectState, reference: ObjectState, side: str) -> bool:
    """Both are on the table; left and right are those of the ego image, whose right is the world's ``y``."""
    across, along = (obj.position - reference.position)[:2]
    distance = -along if side == "left" else along
    on_table = max(obj.lowest, reference.lowest) < HEIGHT_SLACK
    return bool(on_table and reference.placed and BESIDE[0] <= distance <= BESIDE[1] and abs(across) < BESIDE_ACROSS)
