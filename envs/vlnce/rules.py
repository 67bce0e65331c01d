"""The rules of a navigation protocol as typed fields, out of and into a protocol's options.

What the paper leaves open is a field here, and each field says why it has its default.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import msgspec

from ..errors import VlarigError
from .world import Agent, Lens

CONTROLS = ("primitive", "pursuit", "continuous")
STOPS = ("waypoint", "chunk", "never")
DTWS = ("exact", "fast")


@dataclass(frozen=True)
class Rules:
    """How an agent walks, sees and is scored. Defaults are those of R2R in VLN-CE (jacobkrantz/VLN-CE@729d141, vlnce_task.yaml).

    Attributes:
        step: Metres of a step forward.
        turn: Degrees of a turn.
        sliding: Whether an agent slides along a wall, or stops at it.
        height: The agent's, metres; with ``radius`` it decides on the walkable surface (habitat-lab v0.1.7's agent).
        radius: The agent's, metres.
        hfov: Horizontal field of view of the camera, degrees.
        elevation: Metres of the camera above the agent's position.
        success: Metres to the goal below which a stop is a success.
        scale: Metres that 1 of dx and dy is. The paper prints no unit; ours are metres.
        control: How a waypoint is carried out. ``primitive``: as the one step or turn that is nearest to it
            (InternRobotics/InternNav@7a5c624 internnav/model/utils/vln_utils.py, ``chunk_token``). One waypoint is one action of
            VLN-CE then, which leaves the benchmark's action space as it is; so it is the default. ``pursuit``: by steps and turns
            towards it and to its heading, errors carried on within a chunk (after ``traj_to_actions`` there). ``continuous``: straight
            to it, as VLN-CE's action GO_TOWARD_POINT (habitat_extensions/actions.py), by the steps that its length takes, and then a
            turn to its heading.
        reach: Metres within which pursuit holds a waypoint for reached (``traj_to_actions``).
        stop: Which stillness means that the policy stops: the first ``waypoint`` that does not move, a ``chunk`` whose every waypoint
            that is run does not, or ``never``. The paper has no rule. Ours follows its data, in which a walk's end is waypoints that
            do not move; the first of them is the soonest sign, and the default.
        still_metres: A waypoint does not move that is shorter than this, and
        still_radians: turns by less than this (``chunk_token``).
        dtw: Dynamic time warping for nDTW: ``exact``, or VLN-CE's approximation ``fast`` (fastdtw, radius 1; its default ``FDTW``).
            Ours is exact, since the measure's paper defines that (arXiv 1907.05446).
    """

    step: float = 0.25
    turn: float = 15.0
    sliding: bool = True
    height: float = 1.5
    radius: float = 0.1
    hfov: float = 90.0
    elevation: float = 1.25
    success: float = 3.0
    scale: float = 1.0
    control: str = "primitive"
    reach: float = 0.2
    stop: str = "waypoint"
    still_metres: float = 0.05
    still_radians: float = 0.05
    dtw: str = "exact"

    def __post_init__(self) -> None:
        for name, known in (("control", CONTROLS), ("stop", STOPS), ("dtw", DTWS)):
            if getattr(self, name) not in known:
                raise VlarigError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")
        for name in ("step", "turn", "height", "radius", "hfov", "scale"):
            if not 0 < getattr(self, name) < 1000:
                raise VlarigError(f"{name} is {getattr(self, name)}, expected a number above 0")

    @property
    def agent(self) -> Agent:
        return Agent(self.height, self.radius)

    @property
    def lens(self) -> Lens:
        return Lens(self.hfov, self.elevation)

    def options(self) -> dict[str, str]:
        """All fields, as a protocol's options."""
        return {each.name: str(getattr(self, each.name)).lower() for each in fields(self)}

    @classmethod
    def of(cls, options: dict[str, str]) -> Rules:
        """The rules in a protocol's options; those of another's own are left out."""
        values: dict[str, Any] = {}
        for each in fields(cls):
            text, kind = options.get(each.name, str(each.default).lower()), type(each.default)
            try:
                values[each.name] = msgspec.convert(text, kind, strict=False)
            except msgspec.ValidationError:
                raise VlarigError(
                    f"{each.name} is {text!r}, expected {'true or false' if kind is bool else 'a number'}"
                ) from None
        return cls(**values)
