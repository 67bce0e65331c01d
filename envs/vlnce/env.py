"""The VLN-CE adapter: one definition of the task on either backend.

Positions are rounded to float32 after each move, as habitat keeps them, and every rule, move and measure is computed here; a backend
answers what its surface and its images say.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..api import Camera, Env, Episode, StepResult
from ..errors import UnfitEpisodeError, VlarigError
from ..scene_pool import ScenePool
from ..upstream import assets_folder
from .maps import FloorMap
from .measures import Measures
from .planner import Plan, plan
from .robot import VLNCE_R2R, VLNCE_RXR
from .rules import Rules
from .tasks import Person, sample_search, sample_tracking
from .walking import Walker, compose, heading_of, is_still, primitives, relative
from .world import Agent, Surface, World

#: Metres of height within which a start is on the walkable surface (habitat-sim@57ee494 src/esp/nav/PathFinder.h, ``isNavigable``).
MOST_CLIMB = 0.5

#: Waypoints that the expert sees ahead: a chunk (paper, section 4.1).
WAYPOINTS = 8


class Worlds:
    """The scenes of a process, on habitat-sim where the interpreter has it, else on packages from PyPI."""

    def __init__(self) -> None:
        self._canvas: Any = None
        self.pool: ScenePool[World] = ScenePool(self._load)

    def _load(self, scene: Path, agent: Agent) -> World:
        if importlib.util.find_spec("habitat_sim") is not None:
            from .habitat import HabitatWorld

            return HabitatWorld(scene, agent)
        from .lite import Canvas, LiteWorld

        self._canvas = self._canvas or Canvas()
        return LiteWorld(scene, agent, self._canvas)


class VlnceEnv(Env):
    """One agent in a house.

    The payload has ``kind`` (``instruction_following``, ``object_searching``, ``target_tracking``), ``bundle``, ``scene`` (the path of
    its ``.glb`` below the bundle's ``data/scene_datasets``) and ``instruction``. Of the first kind it has ``position``, ``rotation`` (a
    quaternion x, y, z, w), ``goals``, ``reference`` (the way that nDTW compares with; ``None`` where there is none), ``nodes`` (the few
    points that the instruction leads through) and ``surface`` (what changes with the walkable surface, for a run's identity). Of the
    second it has ``objects``, where what is looked for is. The protocol's options are :class:`~vlarig.envs.vlnce.rules.Rules`.
    """

    embodiment = VLNCE_R2R

    def __init__(self, worlds: Optional[Worlds] = None) -> None:
        super().__init__()
        self._worlds = worlds or Worlds()
        self._borrowed: Optional[tuple[Path, Agent]] = None

    def sibling(self) -> VlnceEnv:
        return type(self)(self._worlds)

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        payload = episode.payload
        self.person: Optional[Person] = None
        try:
            self.rules = Rules.of(episode.protocol.options)
            surface = self._enter(payload["bundle"], payload["scene"]).surface
            if payload["kind"] == "instruction_following":
                position, yaw = np.array(payload["position"], np.float32), heading_of(payload["rotation"])
                self._goals = [np.array(goal, np.float32) for goal in payload["goals"]]
                _check_start(surface, position)
            elif payload["kind"] == "object_searching":
                position, yaw, self._goals = sample_search(surface, payload["objects"], rng)
            else:
                position, yaw, self.person = sample_tracking(surface, rng)
                self._goals = [self.person.route[-1]]
        except VlarigError as error:  # what is wrong with an episode's data concerns that episode alone
            raise UnfitEpisodeError(str(error)) from error
        reference = payload.get("reference")
        self.walker = Walker(surface, self.rules, position, yaw)
        self._trail = [self.walker.position]
        way, fast = np.array(reference, np.float64) if reference else None, self.rules.dtw == "fast"
        self.measures = Measures(self._distance, self.walker.position, self.rules.success, way, fast)
        self._nodes = [np.array(node, np.float32) for node in payload.get("nodes") or ()]
        self._plans: dict[str, tuple[Optional[Plan], int]] = {}
        self._map: Optional[FloorMap] = None
        self._goal = self._begun = self.walker.pose
        self._tracked = self._still = 0
        return payload["instruction"]

    def step_chunk(self, actions: np.ndarray) -> Any:
        """As the base class; a chunk's waypoints follow each other from where it begins."""
        if self.episode is not None:
            self._goal, self._still = self.walker.pose, 0
            self._chunk = min(len(actions), self.episode.protocol.n_action_steps)
        return super().step_chunk(actions)

    def apply(self, action: np.ndarray) -> StepResult:
        """Carry out a waypoint by steps and turns, or stop."""
        waypoint = action.astype(np.float64) * [self.rules.scale, self.rules.scale, 1.0]
        if is_still(waypoint, self.rules):
            self._still += 1
            if self.rules.stop == "waypoint" or (self.rules.stop == "chunk" and self._still == self._chunk):
                self.measures.stop()
                return StepResult(0.0, self.measures.success, self.measures.success, stopped=True)
            self._moved(False)
            return self._result(1)
        self._goal = compose(self._goal, waypoint)
        assert self.episode is not None
        left, used = self.episode.step_limit - self._primitives, 0
        for primitive in primitives(self.walker, waypoint, self._goal):
            if used == left or self._walk_is_over:
                break
            self._moved(self.walker.move(primitive))
            used += 1
        return self._result(max(used, 1))

    def _moved(self, collided: bool) -> None:
        """Count a move, in which the person walks on."""
        self.measures.move(self.walker.position, collided)
        self._trail.append(self.walker.position)
        if self.person is not None:
            self.person.walk()
            self._tracked += self._follows

    def _result(self, used: int) -> StepResult:
        """What a waypoint did; a walk to be followed ends the episode."""
        success = self._walk_is_over and self._follows
        return StepResult(0.0, success, success, primitives=used, terminated=self._walk_is_over)

    @property
    def _person_at(self) -> Optional[np.ndarray]:
        return None if self.person is None else self.person.position

    @property
    def _walk_is_over(self) -> bool:
        return self.person is not None and self.person.arrived

    @property
    def _follows(self) -> bool:
        """Whether the person is near and ahead."""
        return self.person is not None and self.person.is_followed(self.walker)

    def state(self) -> np.ndarray:
        """Nothing: ``float32[0]``."""
        return np.zeros(0, np.float32)

    def recorded_state(self) -> np.ndarray:
        """The agent's pose in the plane from where it began, ``float32[3]``: metres and radians."""
        return relative(self._begun, self.walker.pose).astype(np.float32)

    def render_view(self, camera: Camera) -> np.ndarray:
        walker, size = self.walker, (camera.height, camera.width)
        return self._world.render(walker.position, walker.yaw, self.rules.lens, *size, self._person_at)

    def film_views(self) -> dict[str, np.ndarray]:
        """A map with the way that the instruction describes, and the agent's."""
        if self._map is None:
            assert self.episode is not None
            way = self.episode.payload.get("reference") or self.walker.surface.way(self._trail[0], self._goals[0]).points
            if self.person is not None:
                way = self.person.route
            self._map = FloorMap(self.walker.surface.floor(), np.asarray(way, np.float64))
        return {"map": self._map.render(np.array(self._trail), self.walker.yaw, self._person_at)}

    def simulator_state(self) -> np.ndarray:
        """The agent's pose, the person's place, and the pose that is pursued."""
        more = [] if self.person is None else [*self.person.position, self.person.walked]
        more += self._goal.tolist() if self.rules.control == "pursuit" else []
        return np.array([*self.walker.position, self.walker.yaw, *more], np.float64)

    def metrics(self) -> dict[str, float]:
        """VLN-CE's measures; of tracking, the share of moves in which the person was near and ahead."""
        if self.person is None:
            return self.measures.report()
        moves = max(self.measures.steps, 1)
        return {
            "tracking_rate": self._tracked / moves,
            "collisions": float(self.measures.collisions),
            "steps_taken": float(moves),
        }

    def privileged(self) -> dict[str, np.ndarray]:
        """``waypoints``, the shortest way's next ones, and ``reference_waypoints``, those along the way of the instruction.

        Each is ``float32[waypoints, 3]``; no motion follows the last, nor where no way leads on.
        """
        if self.person is not None:
            return {"waypoints": self._chunk_of(self.person.chase(self.walker, WAYPOINTS))}
        goal = min(self._goals, key=lambda each: self.walker.surface.way(self.walker.position, each).length)
        ahead = {"waypoints": self._ahead("shortest", [goal])}
        if self._nodes:
            ahead["reference_waypoints"] = self._ahead("reference", [*self._nodes[1:-1], goal])
        return ahead

    def _ahead(self, name: str, goals: list[np.ndarray]) -> np.ndarray:
        """The next waypoints of a plan, made anew where the agent has left it."""
        made, first = self._plans.get(name, (None, 0))
        found = None if made is None else made.waypoints_from(self.walker, first)
        if found is None:
            made = plan(self.walker, goals if name not in self._plans else goals[-1:])
            found = (0, np.zeros((0, 3))) if made is None else made.waypoints_from(self.walker, 0)
        assert found is not None
        self._plans[name] = made, found[0]
        return self._chunk_of(found[1])

    def _chunk_of(self, waypoints: np.ndarray) -> np.ndarray:
        chunk = np.zeros((WAYPOINTS, 3), np.float32)
        chunk[: len(waypoints)] = waypoints[:WAYPOINTS] / [self.rules.scale, self.rules.scale, 1.0]
        return chunk

    def _distance(self, position: np.ndarray) -> float:
        return min(self.walker.surface.way(position, goal).length for goal in self._goals)

    def _enter(self, bundle: str, scene: str) -> World:
        """Borrow the scene, and give back the last one."""
        key = assets_folder(bundle, "data") / "data" / "scene_datasets" / scene, self.rules.agent
        if key != self._borrowed:
            self.close()
            self._world = self._worlds.pool.borrow(*key)
            self._borrowed = key
        return self._world

    def close(self) -> None:
        if self._borrowed is not None:
            self._worlds.pool.give_back(*self._borrowed)
            self._borrowed = None


class RxrEnv(VlnceEnv):
    """The same with RxR's agent."""

    embodiment = VLNCE_RXR


def _check_start(surface: Surface, position: np.ndarray) -> None:
    """Make sure that a start is on the walkable surface, as habitat tells it."""
    nearest = surface.snap(position)
    if (
        not np.isfinite(nearest).all()
        or abs(float(nearest[1] - position[1])) > MOST_CLIMB
        or math.dist(nearest[[0, 2]], position[[0, 2]]) > 0.1
    ):
        shown = ", ".join(f"{value:.2f}" for value in position)
        raise VlarigError(
            f"it starts at ({shown}), which is not on the walkable surface; "
            "check that the scene, its .navmesh and the episodes belong together"
        )
