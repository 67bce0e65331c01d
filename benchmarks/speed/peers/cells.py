"""What is compared: each cell is a peer, driven one way, over the same episodes of a suite's first task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Steps an episode may last: the peers' own limit, but LeRobot's for LIBERO-Spatial, which is 280 and set to 220 here.
STEPS = {"libero_object": 280, "libero_spatial": 220}
SUITES = tuple(STEPS)

#: Episodes of a task that LIBERO's evaluators play.
WHOLE_TASK = 50

#: Of a kill: episodes wanted, steps of each for peers with that option (vlarig plays its whole episodes), and the episode of the kill.
KILLED_EPISODES, KILLED_STEPS, STRUCK = 6, 32, 3


@dataclass(frozen=True)
class Cell:
    """One way to drive one peer.

    Attributes:
        peer: The peer that is measured; a name of :data:`drivers.DRIVERS`.
        way: How it is driven, in words; a name of the driver's own.
        envs: Episodes that it has under way at a time.
        suite: Whose first task is played.
        policy: ``instant`` or ``small``.
        episodes: How many, from the first initial state on.
        steps: Steps of each.
        once: Whether one turn is enough, because it is shown rather than timed.
        killed: Which process is killed in the middle: ``simulator``, ``main``, or empty for none.
    """

    peer: str
    way: str
    envs: int
    suite: str
    policy: str
    episodes: int
    steps: int
    once: bool = False
    killed: str = ""

    @property
    def key(self) -> str:
        """The name of this cell alone."""
        words = [self.policy, self.suite, self.peer, self.way, f"{self.episodes}x{self.steps}"]
        return "/".join([*words, f"kill {self.killed}"] if self.killed else words)


#: Way and envs, for the instant policy; one turn is enough for those that are there for their memory or their failure.
WAYS = (
    ("upstream", "1 process", 1, False),
    ("upstream", "2 processes", 2, False),
    ("vla-eval", "1 shard", 1, False),
    ("vla-eval", "2 shards", 2, False),
    ("lerobot", "1 env", 1, False),
    ("lerobot", "2 envs", 2, True),
    ("rlinf", "2 envs", 2, False),
    ("roboeval", "1 shard", 1, False),
    ("roboeval", "2 shards", 2, False),
    ("vlarig", "1 worker, 1 env", 1, False),
    ("vlarig", "1 worker, 4 envs", 4, True),
    ("vlarig", "defaults", 16, False),
)
BROKEN = ("lerobot", "2 envs, async", 2)

#: Ways for the policy ``small``.
WITH_POLICY = (
    ("upstream", "1 process", 1),
    ("upstream", "2 processes", 2),
    ("vla-eval", "2 shards", 2),
    ("lerobot", "1 env", 1),
    ("vlarig", "1 worker, 1 env", 1),
    ("vlarig", "defaults", 16),
)

#: Ways that are killed, and which of their processes: where one process does all, that one.
KILLED = (
    ("upstream", "1 process", 1, ("main",)),
    ("vla-eval", "1 shard", 1, ("main",)),
    ("vla-eval", "1 shard, named", 1, ("main",)),
    ("vla-eval", "2 shards", 2, ("simulator",)),
    ("lerobot", "1 env", 1, ("main",)),
    ("roboeval", "1 shard", 1, ("main",)),
    ("vlarig", "1 worker, 1 env", 1, ("simulator", "main")),
    ("vlarig", "defaults", 16, ("simulator", "main")),
)


def all_cells(suites: Sequence[str] = SUITES, episodes: int = 4, steps: int | None = None) -> list[Cell]:
    """Every cell, in the order of a turn: so many episodes of those that are timed; ``steps`` of each, for trying the scripts out."""
    cells = []
    for suite in suites:
        cells += [
            Cell(peer, way, envs, suite, "instant", episodes, _steps(peer, suite, steps), once)
            for peer, way, envs, once in WAYS
        ]
        if episodes != WHOLE_TASK:
            cells.append(Cell("vlarig", "defaults", 16, suite, "instant", WHOLE_TASK, STEPS[suite], once=True))
    first = suites[0]
    cells.append(Cell(*BROKEN, first, "instant", 2, _steps("lerobot", first, steps), once=True))
    cells += [Cell(peer, way, envs, first, "small", episodes, _steps(peer, first, steps)) for peer, way, envs in WITH_POLICY]
    cells += [
        Cell(*(peer, way, envs, first, "instant", KILLED_EPISODES, _steps(peer, first, KILLED_STEPS)), once=True, killed=killed)
        for peer, way, envs, victims in KILLED
        for killed in victims
    ]
    return cells


def _steps(peer: str, suite: str, steps: int | None) -> int:
    """Steps of an episode: vlarig cannot run fewer than its protocol's."""
    return STEPS[suite] if steps is None or peer == "vlarig" else steps
