"""The embedded suites' protocols beside the standard one: ``randomized``, for demonstrations, and ``paraphrased``, in other words.

Section 3.2.3 of the paper randomises lighting, camera poses, backgrounds, table textures, the robot's initial state, objects' initial
poses, and the controller's stiffness and damping, within ranges that it sets by hand and does not print. Those here were set by
looking at images (the light leaves no image black, every camera keeps the workspace in view) and by the expert's success.

No training of ours reads the instructions of ``paraphrased``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...envs.api import Protocol

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

#: By the goal's kind, what is filled with the goal's names. The sampler's own words are "put ... in", "place ... of", "stack ... on",
#: "push ... into" and "first ..., then ...".
WORDINGS = {
    "inside": (
        "drop the {object} into the {tray}",
        "the {object} belongs in the {tray}",
        "move the {object} over to the {tray} and leave it there",
    ),
    "beside": (
        "set the {object} down just {side} of the {reference}",
        "the {object} should stand next to the {reference}, on its {side}",
        "move the {object} so that it is on the {side} side of the {reference}",
    ),
    "stacked": (
        "set the {object} on top of the {base}",
        "the {base} should carry the {object}",
        "lift the {object} onto the {base}",
    ),
    "pushed": (
        "slide the {object} onto the {zone}",
        "shove the {object} over the table to the {zone}",
        "the {object} should end up on the {zone}, without being lifted",
    ),
    "ordered": (
        "drop the {0[object]} into the {0[tray]}, and after that the {1[object]} into the {1[tray]}",
        "the {0[object]} belongs in the {0[tray]}; once it is there, bring the {1[object]} to the {1[tray]}",
        "begin with the {0[object]}, which goes into the {0[tray]}; the {1[object]} goes into the {1[tray]} after it",
    ),
}


def randomized(protocol: Protocol) -> Protocol:
    """The protocol ``randomized`` of a suite whose default one is given."""
    return replace(protocol, name="randomized", version=1, options={**protocol.options, "randomize": "all"})


def ranges_of(protocol: Protocol) -> dict[str, Any]:
    """What a protocol adds to the payload of its episodes: nothing, or the ranges."""
    return {"randomization": RANGES} if protocol.options.get("randomize") == "all" else {}


def paraphrased(protocol: Protocol) -> Protocol:
    """The protocol ``paraphrased`` of the suite whose default one is given."""
    return replace(protocol, name="paraphrased", version=1, options={**protocol.options, "instructions": "paraphrased"})


def instruction_of(scene: dict[str, Any], initial_state: int, protocol: Protocol) -> str:
    """The scene's instruction under a protocol; the wordings take turns."""
    if protocol.options.get("instructions") != "paraphrased":
        return scene["instruction"]
    goal = scene["goal"]
    wordings = WORDINGS[goal["kind"]]
    return wordings[initial_state % len(wordings)].format(*goal.get("parts", ()), **goal)
