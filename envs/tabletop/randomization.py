"""Randomisation of the tabletop scene: light, cameras, background, table texture, arm, objects and controller.

Which ranges hold is plain data in an episode's payload (``vlarig.benchmarks.tabletop.protocols``); what is sampled from them is a
function of the episode's seed. Without that data all is as compiled: :meth:`Look.restore` writes back what any earlier episode sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import mujoco
import numpy as np

from . import textures
from .layout import SHAPES

#: Names in the compiled scene: the textures and materials that only randomised episodes show, and what shows them.
FLOOR_TEXTURE, TABLE_TEXTURE = "random_floor", "random_table"
FLOOR_GEOM, TABLE_GEOM = "floor", "table_collision"

EGO, WRIST = "ego", "robot0_eye_in_hand"


@dataclass(frozen=True)
class Sample:
    """What one episode is played with.

    Attributes:
        sun_direction: ``float64[3]``, where the sun shines to.
        sun: ``float64[3]``, its colour.
        ambient: ``float64[3]``, light from everywhere.
        lamp: Brightness of the lamp at the camera.
        background: Number of the floor's texture; ``None`` for the plain floor.
        table: Number of the table's texture; ``None`` for the plain table.
        cameras: Camera to ``float64[7]``: shift in m along the axes of its body, turn as a rotation vector in rad about its own axes,
            change of the opening angle in degrees.
        joints: ``float64[7]``, what the arm's joints begin away from their usual angles, in rad.
        objects: ``float64[objects, 3]``, what the objects begin away from the payload's ``x``, ``y`` (in m) and ``yaw`` (in rad).
        stiffness: ``float64[2]``, factors on the controller's stiffness in position and in rotation.
        damping: ``float64[2]``, factors on its damping ratios.
    """

    sun_direction: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    lamp: float
    background: Optional[int]
    table: Optional[int]
    cameras: dict[str, np.ndarray]
    joints: np.ndarray
    objects: np.ndarray
    stiffness: np.ndarray
    damping: np.ndarray


def sample(ranges: dict[str, Any], rng: np.random.Generator) -> Sample:
    """What an episode is played with, within ``ranges``; every number is sampled, in the same order, whatever the ranges are."""

    def near(size: Any, count: int) -> np.ndarray:
        return rng.uniform(-1.0, 1.0, count) * np.asarray(size, dtype=np.float64)

    azimuth = np.deg2rad(rng.uniform(0.0, 360.0))
    height = np.deg2rad(rng.uniform(*ranges["sun_height"]))
    sun = rng.uniform(*ranges["sun"]) * (1.0 + near(ranges["tint"], 3))
    ambient = rng.uniform(*ranges["ambient"]) * (1.0 + near(ranges["tint"], 3))
    lamp = rng.uniform(*ranges["lamp"])
    background, table = int(rng.integers(textures.BACKGROUNDS)), int(rng.integers(textures.TABLES))
    camera = [*[ranges["ego_shift"]] * 3, *[np.deg2rad(ranges["ego_turn"])] * 3, ranges["ego_angle"]]
    wrist = [*[ranges["wrist_shift"]] * 3, *[np.deg2rad(ranges["wrist_turn"])] * 3, ranges["wrist_angle"]]
    objects = sum(shape.count for shape in SHAPES.values())
    return Sample(
        sun_direction=-np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)]),
        sun=sun,
        ambient=ambient,
        lamp=lamp,
        background=background if ranges["backgrounds"] else None,
        table=table if ranges["tables"] else None,
        cameras={EGO: near(camera, 7), WRIST: near(wrist, 7)},
        joints=near(np.deg2rad(ranges["joints"]), 7),
        objects=rng.uniform(-1.0, 1.0, (objects, 3)) * [*[ranges["object_shift"]] * 2, np.deg2rad(ranges["object_turn"])],
        stiffness=np.exp(near(np.log(ranges["stiffness"]), 2)),
        damping=np.exp(near(np.log(ranges["damping"]), 2)),
    )


class Look:
    """The parts of a compiled model that decide how it looks, as compiled, and what episodes make of them."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._geoms = {name: model.geom(name).id for name in (FLOOR_GEOM, TABLE_GEOM)}
        self._fields = {
            name: getattr(model, name).copy()
            for name in ("light_dir", "light_diffuse", "cam_pos", "cam_quat", "cam_fovy", "geom_matid")
        }
        self._plain = {geom: model.geom_rgba[geom].copy() for geom in self._geoms.values()}
        headlight = model.vis.headlight
        self._headlight = {name: np.array(getattr(headlight, name)) for name in ("ambient", "diffuse")}
        self.textures: dict[int, str] = {}
        """The textures on show: number of the texture to what is on it; empty where nothing is textured."""

    def restore(self) -> None:
        """Make all look as compiled."""
        for name, values in self._fields.items():
            getattr(self._model, name)[:] = values
        for geom, colour in self._plain.items():
            self._model.geom_rgba[geom] = colour
        for name, values in self._headlight.items():
            getattr(self._model.vis.headlight, name)[:] = values
        self.textures = {}

    def show(self, sampled: Sample) -> None:
        """Make all look as it was sampled; call :meth:`restore` before."""
        model = self._model
        model.light_dir[:] = sampled.sun_direction
        model.light_diffuse[:] = sampled.sun
        model.vis.headlight.ambient[:] = sampled.ambient
        model.vis.headlight.diffuse[:] = sampled.lamp
        for name, change in sampled.cameras.items():
            camera = model.camera(name).id
            model.cam_pos[camera] += change[:3]
            turn, turned = np.array([1.0, 0.0, 0.0, 0.0]), np.empty(4)
            mujoco.mju_quatIntegrate(turn, change[3:6], 1.0)
            mujoco.mju_mulQuat(turned, model.cam_quat[camera].copy(), turn)
            model.cam_quat[camera] = turned
            model.cam_fovy[camera] += change[6]
        for geom, texture, number, make in (
            (FLOOR_GEOM, FLOOR_TEXTURE, sampled.background, textures.background),
            (TABLE_GEOM, TABLE_TEXTURE, sampled.table, textures.table),
        ):
            if number is not None:
                index = model.texture(texture).id
                begin = int(model.tex_adr[index])
                image = make(number)
                model.tex_data[begin : begin + image.size] = image.ravel()
                model.geom_matid[self._geoms[geom]] = model.material(texture).id
                model.geom_rgba[self._geoms[geom]] = 1.0
                self.textures[index] = f"{texture} {number}"
