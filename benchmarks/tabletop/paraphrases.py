"""The protocol ``paraphrased``: the standard one with instructions in other words, which no training of ours reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...envs.api import Protocol

#: The protocol's option, and its value.
OPTION, ON = "instructions", "paraphrased"

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


def paraphrased(protocol: Protocol) -> Protocol:
    """The protocol ``paraphrased`` of the suite whose default one is given."""
    return replace(protocol, name="paraphrased", version=1, options={**protocol.options, OPTION: ON})


def instruction_of(scene: dict[str, Any], initial_state: int, protocol: Protocol) -> str:
    """The scene's instruction under a protocol; the wordings take turns."""
    if protocol.options.get(OPTION) != ON:
        return scene["instruction"]
    goal = scene["goal"]
    wordings = WORDINGS[goal["kind"]]
    return wordings[initial_state % len(wordings)].format(*goal.get("parts", ()), **goal)
