"""The habitat backend, call by call, against what habitat-sim publishes.

``data/habitat_names.json`` has each class, method, parameter and attribute that is used, read in habitat-sim's sources at v0.2.4,
v0.3.3 and 57ee494. The stand-in below has these and nothing else, so that any other name or argument fails.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
from bundles import bundle_folder

from vlarig.envs.errors import VlarigError
from vlarig.envs.vlnce.world import Agent, Lens

CLASSES = json.loads((Path(__file__).parent / "data" / "habitat_names.json").read_text())["classes"]
RXR = Agent(0.88, 0.18)


class Published:
    """A module that has what is published, and writes down each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {
            "PathFinder.load_nav_mesh": True,
            "PathFinder.snap_point": lambda given: given["point"],
            "PathFinder.try_step": lambda given: given["end"],
            "PathFinder.try_step_no_sliding": lambda given: given["start"],
            "PathFinder.find_path": self.found,
            "PathFinder.build_navmesh_vertices": [[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1]],
            "PathFinder.build_navmesh_vertex_indices": [0, 1, 2, 2, 1, 3],
            "Simulator.get_agent": lambda given: self.module.Agent(),
            "Simulator.get_sensor_observations": {"rgb": np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(np.uint8)},
            "Simulator.recompute_navmesh": True,
        }
        self.module: Any = ModuleType("habitat_sim")
        self.module.agent = ModuleType("habitat_sim.agent")
        self.module.__version__ = "0.3.3"
        for path, published in CLASSES.items():
            owner, name = (self.module.agent, path.split(".")[1]) if "." in path else (self.module, path)
            setattr(owner, name, self.published(name, published))
        self.module.SensorType.COLOR = "COLOR"
        self.module.PathFinder.is_loaded = True

    def found(self, given: dict[str, Any]) -> bool:
        """A way straight from start to end."""
        path = given["path"]
        path.points, path.geodesic_distance = [path.requested_start, path.requested_end], 2.5
        return True

    def published(self, name: str, about: dict[str, Any]) -> type:
        """A class with the published members alone."""

        def method(member: str, parameters: list[str]) -> Any:
            kind, must = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
            named = [inspect.Parameter(each.strip("?"), kind, default=None if "?" in each else must) for each in parameters]
            known = inspect.Signature(named)

            def call(itself: Any, *arguments: Any, **named: Any) -> Any:
                given = dict(known.bind(*arguments, **named).arguments)
                self.calls.append((f"{name}.{member}", given))
                answer = self.answers.get(f"{name}.{member}")
                return answer(given) if callable(answer) else answer

            return call

        def constrain(itself: Any, attribute: str, value: Any) -> None:
            assert attribute in about["attributes"], f"habitat-sim's {name} has no {attribute}"
            object.__setattr__(itself, attribute, value)

        def construct(itself: Any, *arguments: Any, **named: Any) -> None:
            method("__init__", about["methods"].get("__init__", []))(itself, *arguments, **named)

        members = {member: method(member, given) for member, given in about["methods"].items() if member != "__init__"}
        return type(name, (), {**members, "__init__": construct, "__setattr__": constrain})

    def of(self, name: str) -> list[dict[str, Any]]:
        """What a method was called with."""
        return [given for called, given in self.calls if called == name]


@pytest.fixture
def habitat(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, and the backend on it."""
    fake = Published()
    monkeypatch.setitem(sys.modules, "habitat_sim", fake.module)
    monkeypatch.delitem(sys.modules, "vlarig.envs.vlnce.habitat", raising=False)
    yield fake, importlib.import_module("vlarig.envs.vlnce.habitat")
    sys.modules.pop("vlarig.envs.vlnce.habitat", None)


@pytest.fixture(scope="module")
def scene() -> Path:
    """A scan."""
    return bundle_folder("vlnce_r2r") / "data/scene_datasets/mp3d/proc_house_01/proc_house_01.glb"


def test_a_scene_is_loaded_walked_and_rendered_by_published_calls_alone(habitat: Any, scene: Path) -> None:
    fake, backend = habitat
    world = backend.HabitatWorld(scene, Agent(1.5, 0.1))
    assert fake.calls == [
        ("PathFinder.__init__", {}),
        ("PathFinder.load_nav_mesh", {"path": str(scene.with_suffix(".navmesh"))}),
    ]
    here, there = np.array([1.0, 0.2, 3.0], np.float32), np.array([1.0, 0.2, 2.75], np.float32)
    surface = world.surface
    walked = surface.snap(here), surface.move(here, there, True), surface.move(here, there, False)
    assert np.array_equal(walked, [here, there, here])
    way = surface.way(here, there)
    assert way.length == 2.5 and way.points.shape == (2, 3)
    assert surface.floor().shape == (2, 3, 3)
    image = world.render(here, math.pi / 2, Lens(79.0, 0.88), 480, 640)
    assert image.shape == (2, 3, 3) and image.dtype == np.uint8
    (made,) = fake.of("Simulator.__init__")
    (configured,) = fake.of("Configuration.__init__")
    setting, (body,) = configured["sim_cfg"], configured["agents"]
    assert (setting.scene_id, setting.enable_physics, setting.load_semantic_mesh) == (str(scene), False, False)
    (camera,) = body.sensor_specifications
    assert (camera.uuid, camera.sensor_type, camera.resolution) == ("rgb", "COLOR", [480, 640])
    assert (camera.position, camera.hfov) == ([0.0, 0.88, 0.0], 79.0)
    (state,) = fake.of("AgentState.__init__")
    assert np.array_equal(state["position"], here)
    assert state["rotation"] == pytest.approx([0, math.sin(math.pi / 4), 0, math.cos(math.pi / 4)])  # x, y, z, w
    assert fake.of("Agent.set_state") and made["config"]
    world.render(here, 0.0, Lens(79.0, 0.88), 480, 640)
    assert len(fake.of("Simulator.__init__")) == 1
    world.close()
    assert len(fake.of("Simulator.close")) == 1


def test_the_surface_is_computed_for_another_agent_alone(habitat: Any, scene: Path) -> None:
    fake, backend = habitat
    backend.HabitatWorld(scene, RXR)
    assert not fake.of("PathFinder.load_nav_mesh")
    (computed,) = fake.of("Simulator.recompute_navmesh")
    assert (computed["navmesh_settings"].agent_height, computed["navmesh_settings"].agent_radius) == (0.88, 0.18)
    order = [fake.calls.index(each) for each in fake.calls if each[0] in ("NavMeshSettings.set_defaults", "Simulator.close")]
    assert order[0] < [name for name, _ in fake.calls].index("Simulator.recompute_navmesh") < order[1]
    fake.answers["Simulator.recompute_navmesh"] = False
    with pytest.raises(VlarigError, match=r"cannot use the scene .*proc_house_01.glb \(it computes no walkable surface"):
        backend.HabitatWorld(scene, RXR)


def test_what_is_missing_is_one_sentence(habitat: Any, scene: Path, tmp_path: Path) -> None:
    fake, backend = habitat
    with pytest.raises(VlarigError, match=r"the scene .*nowhere.glb is missing"):
        backend.HabitatWorld(tmp_path / "nowhere.glb", Agent(1.5, 0.1))
    fake.answers["PathFinder.load_nav_mesh"] = False
    with pytest.raises(VlarigError, match=r"proc_house_01.navmesh is missing or no .navmesh of habitat's"):
        backend.HabitatWorld(scene, Agent(1.5, 0.1))
    fake.answers["PathFinder.find_path"] = False
    fake.answers["PathFinder.load_nav_mesh"] = True
    world = backend.HabitatWorld(scene, Agent(1.5, 0.1))
    assert world.surface.way(np.zeros(3), np.ones(3)).length == math.inf
    with pytest.raises(VlarigError, match="another walker is not rendered by habitat-sim"):
        world.render(np.zeros(3), 0.0, Lens(90.0, 1.25), 8, 8, person=np.zeros(3))
    fake.answers["Simulator.__init__"] = mock.Mock(side_effect=AssertionError("ESP_CHECK failed"))
    with pytest.raises(VlarigError, match=r"cannot use the scene .*proc_house_01.glb \(ESP_CHECK failed\); put"):
        world.render(np.zeros(3), 0.0, Lens(90.0, 1.25), 8, 8)


def test_an_old_habitat_is_refused_by_its_version(habitat: Any, scene: Path) -> None:
    fake, backend = habitat
    fake.module.__version__ = "0.1.7"
    del fake.module.CameraSensorSpec
    with pytest.raises(VlarigError, match=r"^habitat-sim 0.1.7 is too old; adopt 0.2.4 or newer"):
        backend.HabitatWorld(scene, Agent(1.5, 0.1))


def test_the_stand_in_refuses_what_is_not_published(habitat: Any) -> None:
    fake, _ = habitat
    with pytest.raises(AssertionError, match="habitat-sim's CameraSensorSpec has no fov"):
        fake.module.CameraSensorSpec().fov = 90
    with pytest.raises(TypeError, match="unexpected keyword argument 'slide'"):
        fake.module.PathFinder().try_step(start=0, end=0, slide=True)
    with pytest.raises(AttributeError, match="find_route"):
        fake.module.PathFinder().find_route  # noqa: B018
