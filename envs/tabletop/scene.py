"""The one compiled scene that serves every tabletop task: robosuite's Panda and table, four objects, two trays, two zones.

Per episode nothing is compiled: static parts are moved by ``body_pos``, colours are written to ``geom_rgba``, objects are placed in
``qpos``. The visual meshes are cut out of the model before it is compiled: the scene is rendered from its collision geometry, which is
25 times cheaper to render and makes an env small.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any, Optional

import mujoco
import numpy as np

from ..mujoco_shared import ROBOSUITE_LOG
from ..upstream import quiet
from . import layout, textures
from .randomization import FLOOR_TEXTURE, TABLE_TEXTURE, Sample

with quiet(ROBOSUITE_LOG):
    from robosuite.controllers import load_composite_controller_config
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.arenas import TableArena
    from robosuite.models.objects import BoxObject, CylinderObject
    from robosuite.models.tasks import ManipulationTask

    from .control import ArmController

#: Physics steps of a control step: 20 Hz at 2 ms.
SUBSTEPS = 25

#: Where unused trays and zones wait: below the floor, which hides them; static bodies collide with nothing static.
PARKED = (0.0, 0.0, -1.0)

#: The ego camera points at the centre of the workspace from in front of the table, high enough to see into the trays.
EGO_POSITION = (0.72, 0.0, 1.47)
EGO_TARGET = (-0.07, 0.0, 0.875)
EGO_FOVY = 39.0

#: One sun from the front right and a weak lamp at the camera: together they light a top face to just below white, so that colours
#: keep their hue in both views.
SUN_DIRECTION = (-0.55, -0.25, -1.0)
SUN_DIFFUSE = 0.5
LAMP_AMBIENT = 0.42
LAMP_DIFFUSE = 0.12

FLOOR_RGBA = (0.62, 0.64, 0.67, 1.0)
TABLE_RGBA = (0.80, 0.72, 0.60, 1.0)
ROBOT_RGBA = (0.88, 0.89, 0.91, 1.0)
HAND_RGBA = (0.34, 0.36, 0.40, 1.0)
FINGER_RGBA = (0.16, 0.17, 0.19, 1.0)

#: Geom groups to render: 0 is robosuite's collision geometry, 2 holds what is only seen (floor, zones).
RENDERED_GROUPS = (0, 2)


class _Task(ManipulationTask):
    """A model without robosuite's map from geoms to instances, which would look for the visual meshes that were cut out."""

    def generate_id_mappings(self, sim: Any) -> None:
        """Nothing here uses the map."""


class TabletopScene(ManipulationEnv):
    """The robosuite environment: steps the Panda under ``OSC_POSE`` and finds its bodies by name.

    Args:
        cameras: robosuite's settings of cameras that it renders itself; none without them.

    Attributes:
        bodies: Shape to the names of its bodies in the compiled scene.
        control: The episode's controller.
    """

    bodies = {shape: tuple(f"{shape}_{index}" for index in range(spec.count)) for shape, spec in layout.SHAPES.items()}

    def __init__(self, **cameras: Any) -> None:
        self._poses: dict[str, np.ndarray] = {}
        with quiet(ROBOSUITE_LOG):
            super().__init__(
                robots="Panda",
                controller_configs=load_composite_controller_config(controller="BASIC", robot="Panda"),
                initialization_noise=None,
                use_camera_obs=bool(cameras),
                has_renderer=False,
                has_offscreen_renderer=bool(cameras),
                control_freq=20,
                ignore_done=True,
                hard_reset=False,
                renderer="mujoco",
                **cameras,
            )
        # The robot's own copy of the model, visual meshes and all, serves whole-body IK alone.
        self.robots[0].robot_model.mujoco_model = None

    @property
    def raw_model(self) -> mujoco.MjModel:
        return self.sim.model._model

    @property
    def raw_data(self) -> mujoco.MjData:
        return self.sim.data._data

    def place(self, poses: dict[str, np.ndarray], sampled: Optional[Sample] = None) -> None:
        """Soft-reset the scene.

        Args:
            poses: Body to ``float64[7]``, position and quaternion ``wxyz``.
            sampled: What the arm begins away from its usual angles, and factors on the controller's gains; none without it.
        """
        self._poses = poses
        robot = self.robots[0]
        robot.init_qpos = np.array(robot.robot_model.init_qpos)
        if sampled is not None:
            robot.init_qpos = robot.init_qpos + sampled.joints
        with quiet(ROBOSUITE_LOG):
            self.reset()
        self.control = ArmController(robot, self.raw_model, self.raw_data, sampled)

    def advance(self, action: np.ndarray) -> None:
        """One control step, as robosuite's own ``step`` takes it (robosuite/environments/base.py), without observables and reward.

        Args:
            action: ``float64[7]``, see :meth:`ArmController.set_goal`.
        """
        model, data, control = self.raw_model, self.raw_data, self.control
        for substep in range(SUBSTEPS):
            mujoco.mj_step1(model, data)
            if substep == 0:
                control.set_goal(action)
            control.apply()
            mujoco.mj_step2(model, data)

    def reward(self, action: Any = None) -> float:
        """Goals are judged outside the scene."""
        return 0.0

    def _check_success(self) -> bool:
        return False

    def _setup_observables(self) -> dict[str, Any]:
        """None: robosuite would update them in each of the 25 substeps of a step."""
        return {}

    def _load_model(self) -> None:
        super()._load_model()
        base = self.robots[0].robot_model.base_xpos_offset["table"](0.8)
        self.robots[0].robot_model.set_base_xpos(base)
        arena = TableArena(table_full_size=(0.8, 0.8, 0.05), table_offset=(0, 0, layout.TABLE_TOP))
        arena.set_origin([0, 0, 0])
        for index in range(layout.CONTAINERS):
            arena.worldbody.append(_tray(f"tray_{index}"))
            arena.worldbody.append(_zone(f"zone_{index}"))
        arena.worldbody.append(_ego_camera())
        self.model = _Task(
            mujoco_arena=arena,
            mujoco_robots=[robot.robot_model for robot in self.robots],
            mujoco_objects=[_movable(shape, name) for shape, names in self.bodies.items() for name in names],
        )

    def edit_model_xml(self, xml_str: str) -> str:
        """robosuite's hook on the model's text before it is compiled: cut the visual meshes out, recolour what is left."""
        root = ET.fromstring(super().edit_model_xml(xml_str))
        for body in root.iter("body"):
            for geom in list(body.findall("geom")):
                if geom.get("group") == "1" or "eef_target" in body.get("name", ""):
                    body.remove(geom)
                else:
                    _recolour(geom)
        world = root.find("worldbody")
        assert world is not None
        for geom in list(world.findall("geom")):
            if geom.get("name") == "floor":
                geom.set("group", "2")
                _recolour(geom)
            else:
                world.remove(geom)
        _light(root, world)
        _drop_unused_assets(root)
        _add_textures(root)
        return ET.tostring(root, encoding="unicode")

    def _reset_internal(self) -> None:
        super()._reset_internal()
        for name, pose in self._poses.items():
            self.sim.data.set_joint_qpos(f"{name}_joint0", pose)

    def _check_robot_configuration(self, robots: Any) -> None:
        """The robot is fixed: one Panda."""


def _numbers(values: Any) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _box(name: str, position: Any, half_size: Any, **attributes: str) -> ET.Element:
    given = {"type": "box", "name": name, "pos": _numbers(position), "size": _numbers(half_size), "rgba": "1 1 1 1"}
    return ET.Element("geom", {**given, **attributes})


def _tray(name: str) -> ET.Element:
    """A static open box; the origin is the centre of its underside."""
    body = ET.Element("body", {"name": name, "pos": _numbers(PARKED)})
    outer, wall, height = layout.TRAY_OUTER, layout.TRAY_WALL / 2, layout.TRAY_HEIGHT / 2
    centre = outer - wall
    parts = {
        "floor": ((0, 0, layout.TRAY_FLOOR / 2), (outer, outer, layout.TRAY_FLOOR / 2)),
        "front": ((centre, 0, height), (wall, outer, height)),
        "back": ((-centre, 0, height), (wall, outer, height)),
        "left": ((0, -centre, height), (outer, wall, height)),
        "right": ((0, centre, height), (outer, wall, height)),
    }
    for part, (position, half_size) in parts.items():
        body.append(_box(f"{name}_{part}", position, half_size, group="0"))
    return body


def _zone(name: str) -> ET.Element:
    """A mark on the table; the origin is the centre of its underside."""
    body = ET.Element("body", {"name": name, "pos": _numbers(PARKED)})
    half = (layout.ZONE_HALF, layout.ZONE_HALF, layout.ZONE_THICKNESS / 2)
    seen_only = {"group": "2", "contype": "0", "conaffinity": "0"}
    body.append(_box(f"{name}_mark", (0, 0, layout.ZONE_THICKNESS / 2), half, **seen_only))
    return body


def _movable(shape: str, name: str) -> Any:
    half = layout.SHAPES[shape].half_size
    if shape == "cube":
        return BoxObject(name=name, size=half, obj_type="collision", rgba=[1, 1, 1, 1])
    return CylinderObject(name=name, size=(half[0], half[2]), obj_type="collision", rgba=[1, 1, 1, 1])


def _ego_camera() -> ET.Element:
    forward = np.subtract(EGO_TARGET, EGO_POSITION)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    up = np.cross(right, forward / np.linalg.norm(forward))
    axes = _numbers([*right, *up])
    given = {"name": "ego", "mode": "fixed", "pos": _numbers(EGO_POSITION), "xyaxes": axes, "fovy": f"{EGO_FOVY}"}
    return ET.Element("camera", given)


def _recolour(geom: ET.Element) -> None:
    """Give a collision geom of robosuite's own models a plain colour; materials would override it."""
    name = geom.get("name", "")
    if name == "floor":
        colour = FLOOR_RGBA
    elif name.startswith("table"):
        colour = TABLE_RGBA
    elif "finger" in name:
        colour = FINGER_RGBA
    elif name.startswith("gripper"):
        colour = HAND_RGBA
    elif name.startswith(("robot", "fixed_mount")):
        colour = ROBOT_RGBA
    else:
        return
    geom.attrib.pop("material", None)
    geom.set("rgba", _numbers(colour))


def _light(root: ET.Element, world: ET.Element) -> None:
    """Replace the arena's lamp, which saturates the colours of what lies under the wrist camera."""
    for light in world.findall("light"):
        world.remove(light)
    grey = {"castshadow": "false", "diffuse": _numbers([SUN_DIFFUSE] * 3), "specular": "0 0 0", "ambient": "0 0 0"}
    world.append(ET.Element("light", {"directional": "true", "dir": _numbers(SUN_DIRECTION), "pos": "0 0 3", **grey}))
    lamp = {"ambient": _numbers([LAMP_AMBIENT] * 3), "diffuse": _numbers([LAMP_DIFFUSE] * 3), "specular": "0 0 0"}
    visual = root.find("visual")
    assert visual is not None
    visual.append(ET.Element("headlight", lamp))


def _add_textures(root: ET.Element) -> None:
    """Add the textures that randomised episodes write to and show; as compiled no geom has them."""
    assets = root.find("asset")
    assert assets is not None
    side = str(textures.SIDE)
    for name, repeat in ((FLOOR_TEXTURE, "2 2"), (TABLE_TEXTURE, "1 1")):
        flat = {"type": "2d", "builtin": "flat", "rgb1": "1 1 1", "width": side, "height": side}
        assets.append(ET.Element("texture", {"name": name, **flat}))
        given = {"texture": name, "texrepeat": repeat, "specular": "0", "shininess": "0", "reflectance": "0"}
        assets.append(ET.Element("material", {"name": name, **given}))


def _drop_unused_assets(root: ET.Element) -> None:
    """Remove meshes, materials and textures that no geom uses any more, the sky's texture apart."""
    geoms = list(root.iter("geom"))
    meshes = {geom.get("mesh") for geom in geoms}
    materials = {geom.get("material") for geom in geoms}
    for assets in root.findall("asset"):
        for asset in list(assets):
            kept = {"mesh": meshes, "material": materials, "texture": {None}}.get(asset.tag)
            if kept is not None and asset.get("name") not in kept and asset.get("type") != "skybox":
                assets.remove(asset)
