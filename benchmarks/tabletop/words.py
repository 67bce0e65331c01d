"""From a tabletop instruction's words to the skills that carry it out."""

from __future__ import annotations

import json
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
    """One action on one object.

    Attributes:
        kind: ``inside``, ``beside``, ``stacked`` or ``pushed``; in programs also ``tray`` and ``zone`` (onto a part of it), ``near``
            (at an offset from another object), ``on`` (onto another object, wherever that is) and ``spot`` (onto the bare table).
        object: The object to move, as the instruction words it.
        place: Where to: a tray, a zone, or another object, as the instruction words it; empty for ``spot``.
        side: ``left`` or ``right`` for ``beside``, else the empty string.
        offset: What is aimed at, in m from the place's centre; for ``spot`` in the world frame.
    """

    kind: str
    object: str
    place: str
    side: str = ""
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def on_places(self) -> bool:
        """Whether ``place`` is a tray or a zone."""
        return self.kind in ("inside", "pushed", "tray", "zone")

    @property
    def words(self) -> str:
        """Where the object goes, with a preposition."""
        if self.kind == "beside":
            return f"to the {self.side} of the {self.place}"
        prepositions = {"inside": "in", "tray": "in", "zone": "on", "pushed": "into", "near": "next to"}
        return f"{prepositions.get(self.kind, 'on')} the {self.place or 'table'}"


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


def program(text: bytes) -> list[Skill]:
    """The skills of an episode's motion program, which is JSON; payloads have it, so that its ``thing`` keeps its name."""
    steps = json.loads(text)
    return [Skill(step["kind"], step["thing"], step["place"], offset=tuple(step.get("offset", (0.0, 0.0)))) for step in steps]


def nearest(wording: str, names: Iterable[str]) -> str:
    """The name that shares most words with a wording; a shared noun, the last word, breaks ties. Empty where there are no names."""
    wanted = wording.split()

    def likeness(name: str) -> tuple[int, bool]:
        words = name.split()
        return len(set(words) & set(wanted)), words[-1] == wanted[-1]

    return max(names, key=likeness, default="")
