"""The tabletop adapter: builds a scene from an episode's payload, steps it, and judges the payload's goal."""

from __future__ import annotations

import json
from typing import Any, Optional

import mujoco
import numpy as np

from ..api import Camera, Env, Episode, StepResult
from ..mujoco_shared import ObjectGeoms, integration_state
from ..scene_objects import SceneObject
from . import layout
from .goals import Goal
from .randomization import Look, sample
from .render import Renderer
from .robot import TABLETOP_PANDA
from .scene import PARKED, TabletopScene
from .world import ObjectState, World

#: The gripper's orientation when it points straight down with its fingers side by side along ``y``; the columns are its axes in the
#: world. The state's rotation is measured from here, so that it stays near zero, where an axis-angle vector has no jumps.
STRAIGHT_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])

GRIP_SITE = "gripper0_right_grip_site"
FINGER_JOINTS = ("gripper0_right_finger_joint1", "gripper0_right_finger_joint2")
GRIPPER = "gripper"


class TabletopEnv(Env):
    """One env of the tabletop suite.

    The payload is the scene: ``objects`` (name, shape, colour, x, y, yaw), ``trays`` and ``zones`` (name, colour, x, y),
    ``instruction`` and ``goal`` (see :mod:`.goals`). It may have ``randomization`` (see :mod:`.randomization`) and ``program``, the
    skills that reach the goal, which the adapter hands to experts. The adapter has no tasks.

    Args:
        renderer: The renderer to share; a new one when ``None``.
    """

    embodiment = TABLETOP_PANDA

    def __init__(self, renderer: Optional[Renderer] = None) -> None:
        super().__init__()
        self._renderer = renderer or Renderer()
        self._scene = TabletopScene()
        self._model = self._scene.raw_model
        self._data = self._scene.raw_data
        self._look = Look(self._model)
        self._program: Optional[np.ndarray] = None
        self._grip_site = self._model.site(GRIP_SITE).id
        self._fingers = [int(self._model.joint(name).qposadr[0]) for name in FINGER_JOINTS]
        self._geom_owner = self._owners()
        joints = {name: self._data.joint(f"{name}_joint0") for names in self._scene.bodies.values() for name in names}
        self._qpos = {name: joint.qpos for name, joint in joints.items()}
        self._qvel = {name: joint.qvel for name, joint in joints.items()}

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Move and colour the scene's parts; from ``rng`` comes the randomisation alone, an initial state is literal data."""
        scene = episode.payload
        sampled = sample(scene["randomization"], rng) if "randomization" in scene else None
        self._look.restore()
        if sampled is not None:
            self._look.show(sampled)
        self._goal = Goal(scene["goal"])
        self._places = {}
        self._shown: list[tuple[str, str, str, str]] = []  # name, colour, kind and body
        for kind, colours in (("tray", layout.TRAY_COLOURS), ("zone", layout.ZONE_COLOURS)):
            self._set_static(kind, scene[f"{kind}s"], colours)
        self._bodies = self._assign_bodies(scene["objects"])
        poses = {}
        for index, obj in enumerate(scene["objects"]):
            body = self._bodies[obj["name"]]
            self._colour(body, layout.OBJECT_COLOURS[obj["colour"]])
            self._shown.append((obj["name"], obj["colour"], obj["shape"], body))
            height = layout.TABLE_TOP + layout.SHAPES[obj["shape"]].half_size[2]
            x, y, yaw = np.array([obj["x"], obj["y"], obj["yaw"]]) + (0.0 if sampled is None else sampled.objects[index])
            poses[body] = np.array([x, y, height, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
        self._scene.place(poses, sampled)
        self._program = np.frombuffer(json.dumps(scene["program"]).encode(), np.uint8) if "program" in scene else None
        return scene["instruction"]

    def apply(self, action: np.ndarray) -> StepResult:
        """One control step of 50 ms."""
        self._scene.advance(action.astype(np.float64))
        success = self._goal.update(self._world())
        return StepResult(float(success), success, success, terminated=self._goal.failed)

    def state(self) -> np.ndarray:
        """``float32[8]``: grip site in the world frame, rotation vector from :data:`STRAIGHT_DOWN` about world axes, fingers."""
        turned = self._data.site_xmat[self._grip_site].reshape(3, 3) @ STRAIGHT_DOWN.T
        quaternion, vector = np.empty(4), np.empty(3)
        mujoco.mju_mat2Quat(quaternion, turned.ravel())
        mujoco.mju_quat2Vel(vector, quaternion, 1.0)
        fingers = self._data.qpos[self._fingers]
        return np.concatenate([self._data.site_xpos[self._grip_site], vector, fingers]).astype(np.float32)

    def render_view(self, camera: Camera) -> np.ndarray:
        source = self.embodiment.cameras[camera.view]
        canvas = self._renderer.canvas(self._model, camera.height, camera.width, self._look.textures)
        return canvas.render(self._model, self._data.qpos, source, camera.height, camera.width)

    def simulator_state(self) -> np.ndarray:
        """MuJoCo's integration state, the gripper's accumulated command, and the goal's state.

        ``OSC_POSE`` takes its goal again from the achieved pose in each step, so it carries nothing over; the gripper adds up its
        commands (robosuite/models/grippers/panda_gripper.py, ``format_action``).
        """
        command = self._scene.control.gripper_command
        return np.concatenate([integration_state(self._model, self._data), command, self._goal.memory()])

    def privileged(self) -> dict[str, np.ndarray]:
        """Poses by name, in the world frame.

        ``object/<name>`` is ``float64[7]``, position and quaternion ``wxyz``; ``tray/<name>`` and ``zone/<name>`` are ``float64[3]``,
        the centre of the underside. ``program`` is ``uint8[bytes]``, the payload's motion program as JSON, where it has one.
        """
        truth = {f"object/{name}": self._qpos[body].copy() for name, body in self._bodies.items()}
        truth.update({key: np.array([*centre, layout.TABLE_TOP]) for key, centre in self._places.items()})
        if self._program is not None:
            truth["program"] = self._program
        return truth

    def describe(self, camera: Camera) -> list[SceneObject]:
        """Its objects, trays and zones."""
        roles = self._goal.roles()
        objects = [
            ObjectGeoms(f"{colour} {kind}", kind, colour, self._geoms_of(body), roles.get(name, ""))
            for name, colour, kind, body in self._shown
        ]
        source = self.embodiment.cameras[camera.view]
        canvas = self._renderer.canvas(self._model, camera.height, camera.width, self._look.textures)
        return canvas.find(self._model, self._data.qpos, source, camera.height, camera.width, objects)

    def metrics(self) -> dict[str, float]:
        """``failed_for_good``: a push that lifted, an order that was broken. ``parts_done``: parts of an ordered goal."""
        return {"failed_for_good": float(self._goal.failed), "parts_done": float(self._goal.done)}

    def sibling(self) -> TabletopEnv:
        return type(self)(self._renderer)

    def close(self) -> None:
        """Free the shared graphics context; it is made again if an env renders once more."""
        self._renderer.close()

    def _set_static(self, kind: str, wanted: list[dict[str, Any]], colours: dict[str, tuple[float, float, float]]) -> None:
        """Move the scene's trays or zones to the payload's places and park the rest."""
        if len(wanted) > layout.CONTAINERS:
            raise ValueError(f"the payload has {len(wanted)} {kind}s, the scene {layout.CONTAINERS}")
        for index in range(layout.CONTAINERS):
            body = f"{kind}_{index}"
            if index < len(wanted):
                spec = wanted[index]
                self._places[f"{kind}/{spec['name']}"] = np.array([spec["x"], spec["y"]])
                self._model.body(body).pos[:] = (spec["x"], spec["y"], layout.TABLE_TOP)
                self._colour(body, colours[spec["colour"]])
                self._shown.append((spec["name"], spec["colour"], kind, body))
            else:
                self._model.body(body).pos[:] = PARKED

    def _assign_bodies(self, objects: list[dict[str, Any]]) -> dict[str, str]:
        """Object name to the body that plays it: each shape's bodies in the payload's order."""
        free = {shape: list(names) for shape, names in self._scene.bodies.items()}
        count = {shape: sum(obj["shape"] == shape for obj in objects) for shape in free}
        if count != {shape: len(names) for shape, names in free.items()}:
            raise ValueError(f"the payload has {count} objects, the scene { {s: len(n) for s, n in free.items()} }")
        return {obj["name"]: free[obj["shape"]].pop(0) for obj in objects}

    def _colour(self, body: str, colour: tuple[float, float, float]) -> None:
        self._model.geom_rgba[self._geoms_of(body), :3] = colour

    def _geoms_of(self, body: str) -> np.ndarray:
        name = body if body.startswith(("tray", "zone")) else f"{body}_main"
        return np.flatnonzero(self._model.geom_bodyid == self._model.body(name).id)

    def _owners(self) -> np.ndarray:
        """``object[ngeom]``: the movable body, or :data:`GRIPPER`, that a geom belongs to, else the empty string."""
        owner = np.full(self._model.ngeom, "", dtype=object)
        for names in self._scene.bodies.values():
            for name in names:
                owner[self._geoms_of(name)] = name
        for geom in range(self._model.ngeom):
            if self._model.geom(geom).name.startswith("gripper0_right"):
                owner[geom] = GRIPPER
        return owner

    def _held_bodies(self) -> set[str]:
        first = self._geom_owner[self._data.contact.geom1]
        second = self._geom_owner[self._data.contact.geom2]
        return {a if b == GRIPPER else b for a, b in zip(first, second) if GRIPPER in (a, b)}

    def _world(self) -> World:
        held = self._held_bodies()
        objects = {}
        for name, body in self._bodies.items():
            pose = self._qpos[body]
            velocity = self._qvel[body]
            rotation = np.empty(9)
            mujoco.mju_quat2Mat(rotation, pose[3:])
            speed, turn = float(np.linalg.norm(velocity[:3])), float(np.linalg.norm(velocity[3:]))
            objects[name] = ObjectState(body.split("_")[0], pose[:3].copy(), rotation.reshape(3, 3), speed, turn, body in held)
        places = {key.split("/", 1)[1]: centre for key, centre in self._places.items()}
        return World(objects, places)
