"""VLN-CE's agent, which walks by waypoints in the ground plane."""

from __future__ import annotations

import math

from ..embodiments import Channel, Embodiment


def _walker(name: str) -> Embodiment:
    """VLN-CE's agent: a waypoint is a displacement in the ground plane and a turn, from one waypoint to the next (section 2.4).

    The tag is ours. Frequency is that of the paper's navigation videos (section 3.2.4); the simulator itself has no clock. Bounds
    are far beyond its steps of 0.25 m and 15 or 30 degrees (jacobkrantz/VLN-CE@729d141 habitat_extensions/config). The state is
    empty: a walker locates itself by its images alone.
    """
    return Embodiment(
        name=name,
        robot_tag="VLN-CE agent",
        arms="none",
        control_frequency=2.0,
        channels=(
            Channel("dx", "m", "delta", "agent", -2.0, 2.0),
            Channel("dy", "m", "delta", "agent", -2.0, 2.0),
            Channel("dtheta", "rad", "delta", "agent", -math.pi, math.pi),
        ),
        state_layout=(),
        cameras={"ego": "rgb"},
        statistics_key=name,
        mobile_base=True,
    )


#: The two data sets have agents of different size and step, hence statistics of their own.
VLNCE_R2R = _walker("vlnce_r2r")
VLNCE_RXR = _walker("vlnce_rxr")
