"""Blows: the faults of a storm, their targets and moments; and the schedule of pending ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

#: The driver's activity when a blow falls; ``any`` is every activity.
MOMENTS = ("reset", "step", "policy", "commit", "any")

#: Kinds of blows and what each can hit: processes; the disk, the clock and the ledger's file.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "kill": ("driver", "launcher", "simulator"),
    "stop": ("driver", "launcher", "simulator"),
    "pause": ("driver", "launcher", "simulator", "all"),
    "hang": ("simulator",),
    "grow": ("simulator",),
    "clock": ("all",),
    "fill": ("disk",),
    "cut-journal": ("ledger",),
    "tear-checkpoint": ("ledger",),
    "destroy": ("ledger",),
}

#: Blows that change files which only a dead driver leaves alone: it is killed first.
AFTER_DEATH = ("cut-journal", "tear-checkpoint", "destroy")

#: Blows that need a small disk or a clock that can be moved.
NEEDS_DISK, NEEDS_CLOCK = "fill", "clock"

#: Blows that may cause a failed attempt, by the attempt's kind.
CHARGED = {"kill": "crash", "hang": "hang", "grow": "memory"}

#: How long a blow lasts, in seconds, from and to, where it ends.
LASTS = {"pause": (0.1, 3.0)}


@dataclass(frozen=True)
class Blow:
    """One blow.

    Attributes:
        kind: A key of :data:`TARGETS`.
        target: What it hits.
        moment: One of :data:`MOMENTS`.
        seconds: How long it lasts, where that matters.
        seed: Of everything else that is sampled for it.
    """

    kind: str
    target: str
    moment: str
    seconds: float = 0.0
    seed: int = 0

    @classmethod
    def sample(cls, kind: str, rng: random.Random, target: str | None = None, moment: str | None = None) -> Self:
        """A blow of that kind; what is not given is sampled."""
        return cls(
            kind,
            target or rng.choice(TARGETS[kind]),
            moment or rng.choice(MOMENTS),
            round(rng.uniform(*LASTS.get(kind, (0.0, 0.0))), 3),
            rng.randrange(2**31),
        )

    @classmethod
    def parse(cls, line: str) -> Self:
        """The blow that :meth:`line` gave."""
        kind, target, moment, seconds, seed = line.split()
        return cls(kind, target, moment, float(seconds), int(seed))

    def line(self) -> str:
        """The blow as a line of text."""
        return " ".join(str(value) for value in asdict(self).values())

    @property
    def name(self) -> str:
        """The blow without its moment and its numbers, as reports count it."""
        return f"{self.kind} {self.target}"

    @property
    def ends_driver(self) -> bool:
        """Whether the driver does not survive it."""
        return self.kind in AFTER_DEATH or (self.kind in ("kill", "stop") and self.target == "driver")


def every_kill() -> list[tuple[str, str]]:
    """Every pair of a moment and a target of a kill."""
    return [(moment, target) for moment in MOMENTS for target in TARGETS["kill"]]


class Schedule:
    """The blows of a storm, in a folder: those to come in ``schedule``, those that fell in ``landed``.

    A blow is removed from the schedule on the disk just before it falls, so the next driver continues with the rest.
    """

    def __init__(self, folder: Path) -> None:
        self._to_come, self._landed = folder / "schedule", folder / "landed"

    def write(self, blows: Sequence[Blow]) -> None:
        """Make these the blows to come."""
        draft = self._to_come.with_suffix(".new")
        draft.write_text("".join(f"{blow.line()}\n" for blow in blows))
        draft.replace(self._to_come)

    def to_come(self) -> list[Blow]:
        """The blows to come, the next one first."""
        return _blows(self._to_come)

    def cross_out(self) -> None:
        """The next blow will fall now."""
        self.write(self.to_come()[1:])

    def note_landed(self, blow: Blow) -> None:
        """A blow hit its target."""
        with self._landed.open("a") as file:
            file.write(f"{blow.line()}\n")

    def landed(self) -> list[Blow]:
        """The blows that hit, in order."""
        return _blows(self._landed)

    def missed(self, planned: Iterable[Blow]) -> list[Blow]:
        """Those of the planned blows that fell but hit nothing, as when a process died before it could misbehave."""
        return list((Counter(planned) - Counter(self.landed()) - Counter(self.to_come())).elements())


def _blows(path: Path) -> list[Blow]:
    return [Blow.parse(line) for line in path.read_text().splitlines()] if path.exists() else []
