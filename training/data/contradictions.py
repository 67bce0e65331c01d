"""Instructions that the motion contradicts, where a rule can tell (paper, section 3.2.1, "Language instructions").

The paper drops "trajectories whose language annotations are inconsistent with the observed motion" and prints no method. These
rules are ours. Each needs the motion that it names at some time step of the episode, not in sum: a hand that pushes to the left first
goes to the right of the object. Where the words or the channels leave a doubt, a rule says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ...envs.embodiments import Embodiment
from ...policies.api import PolicyError
from ...policies.qwen_vla.normalization import parse_gripper

_NEGATION = re.compile(r"\b(?:not|no|never|without|avoid|don't|doesn't|instead of)\b")
_GRASP = re.compile(r"\b(?:pick|picks|picking|grasp|grasps|grasping|grab|grabs|grabbing)\b")

#: A verb of pushing, then a direction that ends the clause: "to the left burner", "to the left of the plate" are places.
_PUSH = re.compile(
    r"\b(?:push|pull|slide|drag|shift|sweep|nudge|move)(?:s|es|ing)?\b[^.;,]*?"
    r"\b(?P<way>left|right|forwards?|backwards?|up|down|upwards?|downwards?)(?=\s*(?:$|[.;,]|and\b|then\b|by\b))"
)
_SPATIAL_WORDS = re.compile(r"\b(?:left|right|forwards?|backwards?|up|down|upwards?|downwards?)\b")
_FURNITURE = ("drawer", "door", "microwave", "cabinet", "fridge", "oven", "lid")


def contradiction(
    instruction: str,
    embodiment: Embodiment,
    actions: np.ndarray | None,
    states: np.ndarray | None,
    *,
    moved: float,
    closed: float,
    gripper_moved: float,
    directions: Mapping[str, tuple[float, float, float]],
) -> str | None:
    """What of the motion contradicts the instruction, in words; ``None`` where nothing does, or no rule can tell.

    Args:
        instruction: The task in words.
        embodiment: The robot.
        actions: ``[J, A]``.
        states: ``[J, P]``.
        moved: Least motion that counts as having moved, in m, or a door's own unit.
        closed: How far a gripper has to close, as a share of its way.
        gripper_moved: A gripper that moves by that share may have grasped something thick.
        directions: Words of direction as unit vectors in the frame of the end effector's position; empty where they are not known.
    """
    words = " ".join(instruction.lower().replace("’", "'").split())
    if _NEGATION.search(words):
        return None
    return (
        never_grasps(words, embodiment, actions, closed, gripper_moved)
        or never_goes(words, embodiment, actions, states, moved, directions)
        or never_opens(words, embodiment, states, moved)
    )


def never_grasps(
    words: str, embodiment: Embodiment, actions: np.ndarray | None, closed: float, gripper_moved: float
) -> str | None:
    """The words say pick, grasp or grab, and no gripper ever closes. Commands are judged, of grippers with absolute ones."""
    said = _GRASP.search(words)
    channels = [(index, channel) for index, channel in enumerate(embodiment.channels) if channel.gripper is not None]
    if not said or not channels or actions is None or any(channel.kind != "absolute" for _, channel in channels):
        return None
    for index, channel in channels:
        try:
            convention = parse_gripper(channel.gripper or "")
        except PolicyError:
            return None
        share = (np.asarray(actions[:, index], np.float64) - convention.open) / (convention.close - convention.open)
        if share.max() >= closed or np.ptp(share) >= gripper_moved:
            return None
    return f"the instruction says {said[0]!r}, and no gripper closes"


def never_goes(
    words: str,
    embodiment: Embodiment,
    actions: np.ndarray | None,
    states: np.ndarray | None,
    moved: float,
    directions: Mapping[str, tuple[float, float, float]],
) -> str | None:
    """The words say to push, pull or slide in a direction, and no end effector ever goes that way."""
    found = _PUSH.search(words)
    if not found or not directions or len(set(_SPATIAL_WORDS.findall(words))) != 1:
        return None
    way = re.sub(r"^(forward|backward|up|down)(?:s|wards?)?$", r"\1", found["way"])
    paths = end_effector_paths(embodiment, actions, states)
    if way not in directions or not paths:
        return None
    gone = [_longest_rise(path @ np.asarray(directions[way], np.float64)) for path in paths]
    return f"the instruction says {found['way']!r}, and the hand goes {max(gone):.3f} m that way" if max(gone) < moved else None


def never_opens(words: str, embodiment: Embodiment, states: np.ndarray | None, moved: float) -> str | None:
    """The words say to open or close furniture whose opening is in the state (``drawer_open``, larger is wider), and it never does."""
    if states is None:
        return None
    verbs = set(re.findall(r"\b(open|close|shut)\b", words))
    if len(verbs) != 1:
        return None
    (verb,) = verbs
    for index, name in enumerate(embodiment.state_layout):
        nouns = [noun for noun in _FURNITURE if noun in name and re.search(rf"\b{verb}\b[^.;,]*\b{noun}\b", words)]
        if nouns and re.search(r"_open(?:ing)?$", name):
            opening = np.asarray(states[:, index], np.float64)
            if _longest_rise(opening if verb == "open" else -opening) < moved:
                return f"the instruction says {verb!r}, and {name} goes from {opening[0]:.3g} to {opening[-1]:.3g}"
    return None


def end_effector_paths(embodiment: Embodiment, actions: np.ndarray | None, states: np.ndarray | None) -> list[np.ndarray]:
    """Where each arm's end effector is, ``float64[J, 3]`` in m, from the state or by adding deltas up; empty where neither tells.

    Deltas without a unit of length, or in another frame than the robot's base, tell nothing.
    """
    arms = ("", "left_", "right_")
    if states is not None:
        layout = {name: index for index, name in enumerate(embodiment.state_layout)}
        names = [[f"{arm}position_{axis}" for axis in "xyz"] for arm in arms]
        found = [[layout[name] for name in three] for three in names if all(name in layout for name in three)]
        if found:
            return [np.asarray(states[:, columns], np.float64) for columns in found]
    if actions is None:
        return []
    channels = {channel.name: (index, channel) for index, channel in enumerate(embodiment.channels)}
    paths = []
    for arm in arms:
        three = [channels.get(f"{arm}{axis}") for axis in "xyz"]
        if all(found and found[1].unit == "m" and found[1].frame == "base" for found in three):
            columns = np.asarray(actions, np.float64)[:, [found[0] for found in three if found]]
            delta = channels[f"{arm}x"][1].kind == "delta"
            paths.append(np.concatenate((np.zeros((1, 3)), np.cumsum(columns, axis=0))) if delta else columns)
    return paths


def _longest_rise(values: np.ndarray) -> float:
    """The most that a later value is above an earlier one, 0 at least."""
    return float((values - np.minimum.accumulate(values)).max(initial=0.0))
