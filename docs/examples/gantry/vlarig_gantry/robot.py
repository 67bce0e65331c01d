"""The robot, and the convention in which it is moved."""

from __future__ import annotations

from vlarig.envs.embodiments import Channel, Embodiment

#: An action of 1 moves the finger's target by 0.02 m (``world.py``, ``REACH``).
ROBOT = Embodiment(
    name="gantry",
    robot_tag="Gantry",
    arms="single arm",
    control_frequency=10.0,
    channels=tuple(Channel(axis, unit="normalized", kind="delta", frame="base", low=-1.0, high=1.0) for axis in "xyz"),
    state_layout=("position_x", "position_y", "position_z"),
    cameras={"ego": "front", "cam_left_wrist": "hand"},
    statistics_key="gantry",
)
