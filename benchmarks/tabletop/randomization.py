"""The protocol under which demonstrations are recorded: the standard one with randomised looks, poses and controller.

Section 3.2.3 of the paper randomises lighting, camera poses, backgrounds, table textures, the robot's initial state, objects' initial
poses, and the controller's stiffness and damping, within ranges that it sets by hand and does not print. Those here were set by
looking at images (the light leaves no image black, every camera keeps the workspace in view) and by the expert's success.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...envs.api import Protocol

#: The protocol's option, and its value, which the payload takes as its cue.
OPTION, ON = "randomize", "all"

#: Ranges: pairs are least and greatest, single numbers are the most to both sides.
RANGES: dict[str, Any] = {
    "sun_height": (35.0, 85.0),  # degrees above the table; from anywhere around it
    "sun": (0.25, 0.65),  # brightness
    "ambient": (0.28, 0.5),
    "lamp": (0.0, 0.2),  # at the camera
    "tint": 0.1,  # relative, of each colour channel
    "backgrounds": True,
    "tables": True,
    "ego_shift": 0.03,  # m
    "ego_turn": 1.5,  # degrees
    "ego_angle": 2.0,  # degrees of the opening angle
    "wrist_shift": 0.006,
    "wrist_turn": 2.0,
    "wrist_angle": 3.0,
    "joints": 4.0,  # degrees, each of the arm's
    "object_shift": 0.006,  # m; where objects are is sampled anew with the initial state
    "object_turn": 20.0,  # degrees
    "stiffness": 1.3,  # factor, and its inverse
    "damping": 1.2,
}


def randomized(protocol: Protocol) -> Protocol:
    """The protocol ``randomized`` of a suite whose default one is given."""
    return replace(protocol, name="randomized", version=1, options={**protocol.options, OPTION: ON})


def ranges_of(protocol: Protocol) -> dict[str, Any]:
    """What a protocol adds to the payload of its episodes: nothing, or the ranges."""
    return {"randomization": RANGES} if protocol.options.get(OPTION) == ON else {}
