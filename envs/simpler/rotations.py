"""What evaluators make of a step's rotation, as the angles that mani-skill's controller takes, and what it does to the hand's place.

A step holds roll, pitch and yaw as BridgeData has them. The controller turns the hand's target by a rotation that it reads as angles
about the moving axes x, y, z (mani_skill 3.0.1, agents/controllers/pd_ee_pose.py, ``euler_angles_to_matrix(delta_rot, "XYZ")``); the
original benchmark's took a rotation vector. For the small turns of a control step the readings hardly differ.

The original's also turns about another point: not about the target, which stays where it is in mani-skill 3, but about the hand, behind
which the target swings (simpler-env/ManiSkill2_real2sim mani_skill2_real2sim/agents/controllers/pd_ee_pose.py@ef7a4d4, ``ee_align2``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from transforms3d.axangles import axangle2mat, mat2axangle
from transforms3d.euler import euler2mat, mat2euler

MOVING_XYZ = "rxyz"
FIXED_XYZ = "sxyz"


def fixed_axes(angles: np.ndarray) -> np.ndarray:
    """Turns about the base's fixed axes x, y, z: the rotation that the original benchmark carries out.

    Its evaluators make a rotation vector of the angles (simpler-env/SimplerEnv simpler_env/policies/octo/octo_model.py@4ab7178,
    ``euler2axangle``), which its controller takes as it is.
    """
    return np.array(mat2euler(euler2mat(*angles, axes=FIXED_XYZ), axes=MOVING_XYZ))


def rotation_vector(angles: np.ndarray) -> np.ndarray:
    """Turns by the numbers as a rotation vector, without a conversion before: GR00T's evaluator on the original benchmark.

    Source: NVIDIA/Isaac-GR00T gr00t/eval/sim/SimplerEnv/simpler_env.py@626af89, ``step``.
    """
    angle = float(np.linalg.norm(angles))
    turn = axangle2mat(angles / angle, angle, is_normalized=True) if angle > 0 else np.eye(3)
    return np.array(mat2euler(turn, axes=MOVING_XYZ))


def moving_axes(angles: np.ndarray) -> np.ndarray:
    """Turns about the moving axes x, y, z: mani-skill 3's env, given the step as it is."""
    return angles


def maniskill3(angles: np.ndarray) -> np.ndarray:
    """What SimplerEnv's evaluator on mani-skill 3 carries out: it makes a rotation vector, which the env reads as angles again.

    Source: simpler-env/SimplerEnv simpler_env/policies/octo/octo_model.py@52a5088, ``matrix_to_axis_angle``.
    """
    axis, angle = mat2axangle(euler2mat(*angles, axes=MOVING_XYZ))
    return axis * angle


def swing(angles: np.ndarray, lead: np.ndarray) -> np.ndarray:
    """How far the target swings when it is turned about the hand, ``float64[3]`` in the base frame, in m.

    Args:
        angles: What the controller takes, ``float64[3]``.
        lead: From the hand to its target, ``float64[3]`` in the base frame, in m.
    """
    return euler2mat(*angles, axes=MOVING_XYZ) @ lead - lead


#: Values of a protocol's option ``rotation`` that select the original's controller.
ABOUT_THE_HAND = frozenset({"fixed_axes", "rotation_vector"})

#: Value of a protocol's option ``rotation`` to what it does: roll, pitch, yaw, ``float64[3]`` in rad, to the controller's angles.
ROTATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    rotation.__name__: rotation for rotation in (fixed_axes, rotation_vector, moving_axes, maniskill3)
}
