"""Sizes and colours of the tabletop scene, as plain data that the simulator, the sampler of initial states and the expert share.

Lengths are in metres and half sizes are half of an extent, as MuJoCo has them. The world frame is robosuite's: ``x`` points from the
robot to the ego camera, ``y`` to the right of the ego image, ``z`` up; the table's top is the plane ``z = TABLE_TOP``.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Height of the table's top (robosuite/environments/manipulation/stack.py, ``table_offset``).
TABLE_TOP = 0.8


@dataclass(frozen=True)
class Shape:
    """A movable object's form.

    Attributes:
        half_size: Half extents along the object's own axes.
        count: How many objects of the form the compiled scene holds; every scene shows them all.
    """

    half_size: tuple[float, float, float]
    count: int


#: 4.5 cm across, so that 8 cm of gripper opening leave room for an error of 1.5 cm. The cylinder's height distinguishes it from a cube
#: when a wall hides its foot; it stays below the hand, whose underside is 6 cm above the table when the fingers grasp.
SHAPES = {
    "cube": Shape((0.0225, 0.0225, 0.0225), 2),
    "cylinder": Shape((0.0225, 0.0225, 0.0275), 2),
}

#: Colours of objects, as far apart in hue as five can be and none of them the robot's or the table's.
OBJECT_COLOURS = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.10, 0.62, 0.16),
    "blue": (0.08, 0.22, 0.85),
    "yellow": (0.95, 0.82, 0.05),
    "purple": (0.52, 0.12, 0.68),
}

TRAY_COLOURS = {"white": (0.97, 0.97, 0.97), "black": (0.10, 0.10, 0.11), "orange": (0.95, 0.45, 0.08)}
ZONE_COLOURS = {"pink": (0.98, 0.55, 0.72), "cyan": (0.30, 0.85, 0.90), "gray": (0.38, 0.38, 0.40)}

#: Trays and zones that the compiled scene holds; those that an episode does not use wait out of sight.
CONTAINERS = 2

#: Half of a tray's inner side: the open gripper, 11 cm over its fingers, fits in.
TRAY_HALF = 0.06
TRAY_WALL = 0.006
TRAY_HEIGHT = 0.03
TRAY_FLOOR = 0.004
#: Half of a tray's outer side.
TRAY_OUTER = TRAY_HALF + TRAY_WALL

#: Half of a zone's side; a zone is a mark on the table that nothing collides with.
ZONE_HALF = 0.06
ZONE_THICKNESS = 0.0006
