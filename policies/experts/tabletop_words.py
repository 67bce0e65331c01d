"""From a tabletop instruction's words to the skills that carry it out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_CARRY = r"(?:put|place|set|drop)"
_PATTERNS = (
    ("beside", re.compile(rf"{_CARRY} the (?P<object>.+) to the (?P<side>left|right) of the (?P<place>.+)")),
    ("inside", re.compile(rf"{_CARRY} the (?P<object>.+) (?:in|into) the (?P<place>.+)")),
    ("stacked", re.compile(r"(?:stack|put|place) the (?P<object>.+) on(?: top of)? the (?P<place>.+)")),
    ("pushed", re.compile(r"(?:push|slide) the (?P<object>.+) (?:to|into) the (?P<place>.+)")),
)


@dataclass(frozen=True)
class Skill:
    """One thing to do with one object.

    Attributes:
        kind: ``inside``, ``beside``, ``stacked`` or ``pushed``.
        thing: The object to move, as the instruction words it.
        place: Where to: a tray, a zone, or another object, as the instruction words it.
        side: ``left`` or ``right`` for ``beside``, else the empty string.
    """

    kind: str
    thing: str
    place: str
    side: str = ""


def parse(instruction: str) -> list[Skill]:
    """The skills that an instruction requests, in order; empty when it contains none."""
    skills = []
    for part in re.split(r",?\s*\bthen\b\s*", instruction.lower().strip(" .")):
        for kind, pattern in _PATTERNS:
            found = pattern.fullmatch(re.sub(r"^first,?\s*", "", part))
            if found:
                words = found.groupdict()
                skills.append(Skill(kind, words["object"], words["place"], words.get("side", "")))
                break
    return skills


def nearest(wording: str, names: Iterable[str]) -> str:
    """The name that shares most words with a wording; a shared noun, the last word, breaks ties. Empty where there are no names."""
    wanted = wording.split()

    def likeness(name: str) -> tuple[int, bool]:
        words = name.split()
        return len(set(words) & set(wanted)), words[-1] == wanted[-1]

    return max(names, key=likeness, default="")
