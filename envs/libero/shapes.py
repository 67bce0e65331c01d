"""Points that span an object's collision geometry, for planning a grasp."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

#: Points on each rim of a cylinder or capsule.
RIM_POINTS = 12


@dataclass(frozen=True)
class Shape:
    """The collision geoms below a body, as points.

    Attributes:
        local: Points in the frames of their geoms, ``float64[points, 3]``, in m.
        geoms: The geom of each point, ``int[points]``.
    """

    local: np.ndarray
    geoms: np.ndarray

    def in_world(self, data: mujoco.MjData) -> np.ndarray:
        """The points now, ``float64[points, 3]``, in the world frame."""
        rotations = data.geom_xmat[self.geoms].reshape(-1, 3, 3)
        return np.einsum("nij,nj->ni", rotations, self.local) + data.geom_xpos[self.geoms]


def collision_shape(model: mujoco.MjModel, body: int) -> Shape:
    """The shape of a body and of all that hangs on it: corners of boxes, rims of cylinders, vertices of meshes."""
    geoms = [
        geom
        for geom in range(model.ngeom)
        if model.body_rootid[model.geom_bodyid[geom]] == body and (model.geom_contype[geom] or model.geom_conaffinity[geom])
    ]
    parts = [_points(model, geom) for geom in geoms]
    if not parts:
        return Shape(np.zeros((0, 3)), np.zeros(0, dtype=int))
    return Shape(np.concatenate(parts), np.repeat(geoms, [len(part) for part in parts]))


def _points(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """``float64[points, 3]``: points that span a geom, in its own frame."""
    kinds = mujoco.mjtGeom
    kind, size = model.geom_type[geom], model.geom_size[geom]
    if kind == kinds.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        first = model.mesh_vertadr[mesh]
        return model.mesh_vert[first : first + model.mesh_vertnum[mesh]].astype(np.float64)
    if kind in (kinds.mjGEOM_CYLINDER, kinds.mjGEOM_CAPSULE):
        turns = np.linspace(0.0, 2 * np.pi, RIM_POINTS, endpoint=False)
        rim = np.stack([np.cos(turns) * size[0], np.sin(turns) * size[0], np.ones(RIM_POINTS) * size[1]], axis=1)
        return np.concatenate([rim, rim * (1.0, 1.0, -1.0)])
    half = size if kind in (kinds.mjGEOM_BOX, kinds.mjGEOM_ELLIPSOID) else np.full(3, size[0])
    corners = np.array(np.meshgrid((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0))).reshape(3, -1).T
    return corners * half
