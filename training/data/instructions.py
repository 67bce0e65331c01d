"""Instructions on a scene, as a suite's own tasks are worded, with marks and keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...envs.api import SceneObject
from ...envs.keypoints import NAMES
from ...policies.qwen_vla.conversation import NOTHING
from .boxes import SCALE, Labelled, box_text, to_thousandths
from .questions import VISIBLE, View, is_unique, naming, one_of

#: Where a place is to be empty, objects are this far away, in thousandths of the image.
EMPTY = 60


class Placed(NamedTuple):
    """An object in an image, as :class:`~vlarig.policies.qwen_vla.conversation.Mark` has it, with its centre in thousandths."""

    name: str
    point: tuple[int, int]
    role: str | None = None


@dataclass(frozen=True)
class Instruction:
    """A task in words on a scene, and the objects of that task in each image of the scene.

    Attributes:
        text: ``put the red cube in the black tray``.
        answer: Where the two objects are in the first image, as boxes.
        marks: View to the objects that it shows clearly. The object to move has the role ``object``, the one where it goes ``goal``. Up
            to two places have no object.
        keypoints: ``float32[14]``, the keypoints of the task (:mod:`vlarig.envs.keypoints`); what is not known is not a number.
    """

    text: str
    answer: str
    marks: dict[str, list[Placed]]
    keypoints: np.ndarray


#: Kinds of objects that others are put on or into, and how; they are never moved.
_GOALS = {
    "basket": "in",
    "cabinet": "on",
    "drawer": "in",
    "plate": "on",
    "stove": "on",
    "towel": "on",
    "tray": "in",
    "zone": "into",
}


#: Wordings of a task by how an object gets to its goal; ``{0}`` is moved, ``{1}`` is the goal. They are those of the suites' own tasks
#: and some more, and none of the protocol ``paraphrased`` of tabletop.
_WORDINGS = {
    "in": ("put {0} in {1}", "place {0} in {1}", "put {0} into {1}", "pick up {0} and place it in {1}", "move {0} into {1}"),
    "on": ("put {0} on {1}", "place {0} on {1}", "pick up {0} and place it on {1}", "move {0} onto {1}"),
    "into": ("push {0} into {1}", "push {0} to {1}", "put {0} on {1}", "move {0} into {1}"),
    "beside": (
        "stack {0} on {1}",
        "stack {0} on {1}",
        "put {0} on {1}",
        "place {0} to the left of {1}",
        "place {0} to the right of {1}",
        "place {0} in front of {1}",
        "place {0} behind {1}",
        "put {0} next to {1}",
        "move {0} beside {1}",
    ),
}


#: What comes first in a token counts.
_ORDER = ("object", "goal", None)


#: Share of the tasks without articles: ``put carrot on plate`` (SimplerEnv).
_BARE = 0.15


#: Least visible share of the pixels of an object that the suite's own task is about: an object in the gripper is hidden by half.
_HELD = 0.2


def instruction(views: Mapping[str, View], rng: np.random.Generator) -> Instruction | None:
    """A task on two objects that the first view shows clearly, each the only one of its name; ``None`` where there are no two."""
    first = next(iter(views.values()))
    known = [each for each in first.clear if is_unique(naming(each), first)]
    movable = [each for each in known if each.kind not in _GOALS]
    if not movable or len(known) < 2:
        return None
    moved = movable[rng.integers(len(movable))]
    goals = [each for each in known if each is not moved]
    goal = goals[rng.integers(len(goals))]
    wording = one_of(rng, _WORDINGS[_GOALS.get(goal.kind, "beside")])
    article = "" if rng.random() < _BARE else "the "
    roles = {naming(moved): "object", naming(goal): "goal"}
    marks = {tag: _marks(view, [(each, roles.get(naming(each))) for each in view.clear], rng) for tag, view in views.items()}
    text = wording.format(*(article + naming(each).words for each in (moved, goal)))
    return Instruction(text, _places(first, (moved, goal)), marks, _keypoints(moved, goal, wording))


def own_task(
    views: Mapping[str, View], text: str, rng: np.random.Generator, keypoints: np.ndarray | None = None
) -> Instruction | None:
    """The suite's own task, in its words, by the roles that the simulator gives; ``None`` where no view shows its objects."""
    first = next(iter(views.values()))
    marked = {
        tag: [(each, each.role or None) for each in view.objects if each.visible >= (_HELD if each.role else VISIBLE)]
        for tag, view in views.items()
    }
    if not any(role for objects in marked.values() for _, role in objects):
        return None
    meant = sorted((each for each in first.clear if each.role), key=lambda each: _ORDER.index(each.role))
    about = np.full(len(NAMES), np.nan, np.float32) if keypoints is None else keypoints
    return Instruction(
        text, _places(first, meant), {tag: _marks(views[tag], objects, rng) for tag, objects in marked.items()}, about
    )


def _keypoints(moved: SceneObject, goal: SceneObject, wording: str) -> np.ndarray:
    """The keypoints of a made-up task, as far as its words say: its expert says where beside an object another one belongs."""
    known = dict.fromkeys(NAMES, np.nan)
    known |= {f"object_{axis}": number for axis, number in zip("xyz", moved.position, strict=True)}
    known |= {f"goal_{axis}": number for axis, number in zip("xyz", goal.position, strict=True)}
    if goal.kind in _GOALS or wording.startswith("stack"):
        known |= {f"place_{axis}": known[f"goal_{axis}"] for axis in "xy"}
    if goal.kind in _GOALS:
        known["goal_z"] = np.nan  # experts take it at the height of the table
    if not wording.startswith("move"):
        known["pushed"] = float(wording.startswith("push"))
    return np.array([known[name] for name in NAMES], np.float32)


def _places(view: View, objects: Sequence[SceneObject]) -> str:
    """Where objects are in an image, as boxes."""
    return box_text([Labelled(to_thousandths(each.box, view.width, view.height), naming(each).words) for each in objects])


def _marks(view: View, objects: Sequence[tuple[SceneObject, str | None]], rng: np.random.Generator) -> list[Placed]:
    """Marks of what a view shows, with their roles, and of two places without an object."""
    marks = [
        Placed(naming(each).words, _thousandths(view.across(each), view.down(each)), role)
        for each, role in sorted(objects, key=lambda obj: _ORDER.index(obj[1]))
    ]
    boxes = [to_thousandths(obj.box, view.width, view.height) for obj in view.objects]
    for x, y in rng.integers(SCALE, size=(2, 2)).tolist():
        if not any(
            left - EMPTY <= x <= right + EMPTY and top - EMPTY <= y <= bottom + EMPTY for left, top, right, bottom in boxes
        ):
            marks.append(Placed(NOTHING, (x, y)))
    return marks


def _thousandths(x: float, y: float) -> tuple[int, int]:
    """A place in shares of an image, in thousandths of it."""
    return min(int(x * SCALE), SCALE - 1), min(int(y * SCALE), SCALE - 1)
