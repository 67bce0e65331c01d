"""What the end of a prompt is to hold (:mod:`.readouts`), as data have it: by numpy alone, so that what reads data needs no torch.

Lengths are in decimetres here, of the order of 1 above a table.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence

import numpy as np

from ...envs.keypoints import NAMES
from .poses import euler_matrix, rotation_matrix

#: Decimetres in a metre.
_TENTHS = 10.0

#: Places of a time step: object, goal, and where the object is to be in the end.
PLACES = 3
#: The numbers: three places in the frame of the state, the same in the hand's, the object's turn in both, whether it is pushed.
#: A turn is cosine and sine of twice and of four times itself.
NUMBERS = 2 * 3 * PLACES + 2 * 4 + 1
#: The read-outs: the numbers, and for each place in each frame the logarithm of its error (mean absolute, dm).
READ = NUMBERS + 2 * PLACES

#: Names of a rotation's three numbers in a state, and whether they are roll, pitch and yaw, or an axis times an angle.
_ROTATIONS = (
    (("roll", "pitch", "yaw"), euler_matrix),
    (("axis_angle_x", "axis_angle_y", "axis_angle_z"), rotation_matrix),
    (("axis_angle_from_down_x", "axis_angle_from_down_y", "axis_angle_from_down_z"), rotation_matrix),
)


def hand_pose(state: np.ndarray, layout: Sequence[str]) -> np.ndarray:
    """The hand's pose by a state, ``float32[12]``; at the origin and not turned where the state does not tell.

    Args:
        state: ``float32[P]``, as the env gives it.
        layout: Names of its numbers.
    """
    at = {name: index for index, name in enumerate(layout)}
    position, rotation = np.zeros(3), np.eye(3)
    places = [f"position_{axis}" for axis in "xyz"]
    for names, matrix in _ROTATIONS:
        if all(name in at for name in (*places, *names)):
            position = _TENTHS * state[[at[name] for name in places]]
            rotation = matrix(state[[at[name] for name in names]])
    return np.concatenate([position, rotation.ravel()]).astype(np.float32)


def end_numbers(keypoints: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """What the end of a time step's prompt is to hold, ``float32[27]``; what is not known is not a number.

    Args:
        keypoints: ``float32[14]``, see :data:`vlarig.envs.keypoints.NAMES`.
        pose: ``float32[12]``, of the hand.
    """
    known: dict[str, float] = dict(zip(NAMES, keypoints.tolist(), strict=True))
    rotation = pose[3:].reshape(3, 3).astype(np.float64)
    places = _TENTHS * np.array([[known[f"{name}_{axis}"] for axis in "xyz"] for name in ("object", "goal", "place")])
    yaw = math.atan2(rotation[1, 0], rotation[0, 0])
    half, quarter = (known[f"{name}_turn_cos"] + 1j * known[f"{name}_turn_sin"] for name in ("half", "quarter"))
    turns = (half, quarter, half * cmath.exp(-2j * yaw), quarter * cmath.exp(-4j * yaw))
    pairs = [number for turn in turns for number in (turn.real, turn.imag)]
    numbers = [places.ravel(), ((places - pose[:3]) @ rotation).ravel(), pairs, [known["pushed"]]]
    return np.concatenate(numbers).astype(np.float32)


def blurred(numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The truth as a backbone might read it, ``float32[READ]``: with errors of a sampled size, and about how large they are.

    They reach from 2 mm to 12 mm in the frame of the state, and to 30 mm at the hand. Errors up to 20 mm and 100 mm make the expert
    cautious where it sees well: with the truth it then solves 52 of 80 starts instead of 64.

    Args:
        numbers: ``float32[NUMBERS]``, all known.
        rng: Samples the errors.
    """
    low, high = np.log([[0.02] * PLACES, [0.02] * PLACES]), np.log([[0.12] * PLACES, [0.3] * PLACES])
    logs = rng.uniform(low, high).ravel()
    read = np.concatenate([numbers, logs + rng.normal(0.0, 0.2, logs.shape)]).astype(np.float32)
    read[: 6 * PLACES] += rng.laplace(size=6 * PLACES) * np.exp(logs).repeat(3)
    read[6 * PLACES : NUMBERS] += rng.normal(size=9) * ([0.1] * 8 + [0.05])
    return read
