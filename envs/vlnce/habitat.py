"""A house on habitat-sim, from version 0.2.4 on, which conda has (facebookresearch/habitat-sim@57ee494).

Only its PathFinder and its renderer are used: moves, rules and measures are the caller's, so that both backends share them. From tag
v0.3.4 on (whose ``__version__`` still says 0.3.3) it is built on another Detour, whose moves without sliding differ: one that begins
at a wall stays there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import habitat_sim
import numpy as np

from ..errors import VlarigError
from ..upstream import quiet
from .world import DEFAULT_AGENT, Agent, Lens, Surface, Way, World

#: Of a scan in a folder of scans, what tells habitat its axes (DATASETS.md); without it a .glb is taken for z-up, as scans are.
DATASET = "mp3d.scene_dataset_config.json"

#: The first version that has what is used, and the newest of the names.
FIRST_VERSION, NEWEST_NAME = "0.2.4", "CameraSensorSpec"


class HabitatSurface(Surface):
    """A walkable surface of habitat's."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def snap(self, point: np.ndarray) -> np.ndarray:
        return np.array(self._finder.snap_point(np.asarray(point, np.float32)), np.float32)

    def move(self, start: np.ndarray, end: np.ndarray, sliding: bool) -> np.ndarray:
        step = self._finder.try_step if sliding else self._finder.try_step_no_sliding
        return np.array(step(np.asarray(start, np.float32), np.asarray(end, np.float32)), np.float32)

    def way(self, start: np.ndarray, end: np.ndarray) -> Way:
        path = habitat_sim.ShortestPath()
        path.requested_start, path.requested_end = np.asarray(start, np.float32), np.asarray(end, np.float32)
        if not self._finder.find_path(path):
            return Way(math.inf, np.zeros((0, 3), np.float32))
        return Way(float(path.geodesic_distance), np.array(path.points, np.float32).reshape(-1, 3))

    def floor(self) -> np.ndarray:
        corners = np.array(self._finder.build_navmesh_vertices(), np.float32).reshape(-1, 3)
        return corners[np.array(self._finder.build_navmesh_vertex_indices(), np.int64)].reshape(-1, 3, 3)


class HabitatWorld(World):
    """A scan in habitat-sim. One simulator is made for each camera that renders, since a renderer belongs to one.

    Args:
        scene: The ``.glb``.
        agent: The body that the walkable surface is made for. That of habitat's default agent is read from the ``.navmesh`` beside
            the scene. Any other is computed, as habitat does (v0.2.4 src_python/habitat_sim/simulator.py, ``_config_pathfinder``).
    """

    def __init__(self, scene: Path, agent: Agent) -> None:
        if not hasattr(habitat_sim, NEWEST_NAME):
            version = getattr(habitat_sim, "__version__", "of an unknown version")
            raise VlarigError(
                f"habitat-sim {version} is too old; adopt {FIRST_VERSION} or newer: vlarig runtime add vlnce --python PATH"
            )
        self._scene = scene
        self._simulators: dict[tuple[Lens, int, int], Any] = {}
        if not scene.is_file():
            raise VlarigError(
                f"the scene {scene} is missing; put the scan there, or point VLARIG_ASSETS at a folder that has it"
            )
        finder, surface = habitat_sim.PathFinder(), scene.with_suffix(".navmesh")
        if agent != DEFAULT_AGENT:
            self._compute(finder, agent)
        elif not (surface.is_file() and finder.load_nav_mesh(str(surface)) and finder.is_loaded):
            raise VlarigError(f"{surface} is missing or no .navmesh of habitat's; get it anew, beside its .glb")
        self.surface = HabitatSurface(finder)

    def _compute(self, finder: Any, agent: Agent) -> None:
        settings = habitat_sim.NavMeshSettings()
        settings.set_defaults()
        settings.agent_height, settings.agent_radius = agent.height, agent.radius
        with self._complaints():
            if not self._simulator(Lens(90.0, agent.height), 8, 8).recompute_navmesh(finder, settings):
                raise RuntimeError(f"it computes no walkable surface for {agent}")
        self.close()

    def render(
        self, position: np.ndarray, yaw: float, lens: Lens, height: int, width: int, person: Optional[np.ndarray] = None
    ) -> np.ndarray:
        if person is not None:
            raise VlarigError(
                "another walker is not rendered by habitat-sim here; use the runtime `vlnce` that vlarig installs"
            )
        with self._complaints():
            simulator = self._simulator(lens, height, width)
        turn = [0.0, math.sin(yaw / 2), 0.0, math.cos(yaw / 2)]
        simulator.get_agent(0).set_state(habitat_sim.AgentState(position=np.asarray(position, np.float32), rotation=turn))
        return np.array(simulator.get_sensor_observations()["rgb"][..., :3], np.uint8)

    def close(self) -> None:
        for simulator in self._simulators.values():
            simulator.close()
        self._simulators.clear()

    def _simulator(self, lens: Lens, height: int, width: int) -> Any:
        key = (lens, height, width)
        if key not in self._simulators:
            camera = habitat_sim.CameraSensorSpec()
            camera.uuid = "rgb"
            camera.sensor_type = habitat_sim.SensorType.COLOR
            camera.resolution = [height, width]
            camera.position = [0.0, lens.elevation, 0.0]
            camera.hfov = lens.hfov
            body = habitat_sim.agent.AgentConfiguration()
            body.sensor_specifications = [camera]
            setting = habitat_sim.SimulatorConfiguration()
            setting.scene_id = str(self._scene)
            setting.enable_physics = setting.load_semantic_mesh = False
            dataset = self._scene.parent.parent / DATASET
            if dataset.is_file():
                setting.scene_dataset_config_file = str(dataset)
            with quiet():
                self._simulators[key] = habitat_sim.Simulator(habitat_sim.Configuration(setting, [body]))
        return self._simulators[key]

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        """What habitat raises of a scene names it; its checks raise AssertionError (src/esp/bindings/Bindings.cpp)."""
        try:
            yield
        except (AssertionError, RuntimeError, ValueError) as error:
            raise VlarigError(
                f"habitat-sim cannot use the scene {self._scene} ({error}); put the scan's own .glb there"
            ) from error
