"""What lies within a camera's view, in MuJoCo: rendering may leave out the rest, and the image stays the same to the bit."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

#: Added to each geom's bounding sphere, in m: OpenGL rounds positions to single precision.
MARGIN = 1e-3


@dataclass(frozen=True, eq=False)
class View:
    """A camera's view: a pyramid, whose top is the camera.

    Attributes:
        position: Of the camera in the world, ``float64[3]`` in m.
        axes: Its axes in the world as columns, ``float64[3, 3]``: to the right, up, and backwards.
        across: Tangent of half the horizontal opening angle.
        up: The same of the vertical one.
    """

    position: np.ndarray
    axes: np.ndarray
    across: float
    up: float

    @classmethod
    def of(cls, model: mujoco.MjModel, data: mujoco.MjData, camera: int, aspect: float) -> View:
        """The view of a camera of the model, by its number, in an image of ``aspect`` times its height; ``data`` has its pose."""
        up = float(np.tan(np.deg2rad(model.cam_fovy[camera]) / 2))
        return cls(data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3), up * aspect, up)

    def misses(self, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """Which spheres lie wholly outside, ``bool[spheres]``; some that do, near an edge of the pyramid, are not found.

        Their ``centres`` in the world are ``float64[spheres, 3]``, their ``radii`` ``float64[spheres]``.
        """
        x, y, backwards = ((centres - self.position) @ self.axes).T
        radii = radii + MARGIN
        outside = np.abs(x) + backwards * self.across > radii * np.hypot(1, self.across)
        outside |= np.abs(y) + backwards * self.up > radii * np.hypot(1, self.up)
        return outside | (backwards > radii)

    def is_filled_by(self, centre: np.ndarray, half: np.ndarray) -> bool:
        """Whether a horizontal rectangle below the camera is behind all of the image.

        Args:
            centre: Its centre in the world, ``float64[3]``.
            half: Half its lengths along the axes of the world, ``float64[2]``.
        """
        corners = np.array([[x, y, -1.0] for x in (-self.across, self.across) for y in (-self.up, self.up)]) @ self.axes.T
        falls = -corners[:, 2]
        height = self.position[2] - centre[2]
        if height <= 0 or falls.min() <= 0:
            return False
        hits = self.position[:2] + corners[:, :2] * (height / falls)[:, None]
        return bool((np.abs(hits - centre[:2]) <= half).all())
