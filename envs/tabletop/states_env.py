"""The tabletop adapter for policies that do not see: the state says where the current object and goal are."""

from __future__ import annotations

import numpy as np

from . import layout
from .env import TabletopEnv
from .robot import TABLETOP_PANDA_STATES


class TabletopStatesEnv(TabletopEnv):
    """One env of the suite ``tabletop_states``."""

    embodiment = TABLETOP_PANDA_STATES

    def state(self) -> np.ndarray:
        """``float32[16]``: the robot's own eight, then the object's five and the goal's three.

        Of the object: its centre seen from the grip site, in m along the base's axes, and cosine and sine of four times its turn about
        the vertical, since a cube looks the same after a quarter. Of the goal: its centre, seen likewise.
        """
        robot = super().state()
        names = {role: name for name, role in self._goal.roles().items()}
        pose = self._qpos[self._bodies[names["object"]]]
        turn = 8 * np.arctan2(pose[6], pose[3])  # four times the angle, of which the quaternion has the half
        base = self._bodies.get(names["goal"])
        if base is None:
            (centre,) = (place for key, place in self._places.items() if key.partition("/")[2] == names["goal"])
            goal = np.array([*centre, layout.TABLE_TOP])
        else:
            goal = self._qpos[base][:3]
        return np.concatenate([robot, pose[:3] - robot[:3], [np.cos(turn), np.sin(turn)], goal - robot[:3]]).astype(np.float32)
