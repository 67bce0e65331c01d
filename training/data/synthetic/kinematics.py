"""Where the links of a serial arm are, for many joint vectors at once, on a CPU or a GPU.

Shapes: ``...`` any batch, ``J`` joints, ``L = J + 1`` links with the base as link 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .arms import Arm, Origin


class Links(NamedTuple):
    """Poses in the base frame.

    Attributes:
        rotations: ``[..., L, 3, 3]``, of the links' frames.
        positions: ``[..., L, 3]`` in metres.
        tool_rotation: ``[..., 3, 3]``, of the tool centre point: z is the direction of approach, the fingers open along y.
        tool_position: ``[..., 3]``.
    """

    rotations: Tensor
    positions: Tensor
    tool_rotation: Tensor
    tool_position: Tensor


@dataclass(frozen=True, eq=False)
class Chain:
    """The fixed transforms of an arm as tensors, each joint turning about the z axis of its frame.

    Attributes:
        rotations: ``[J + 1, 3, 3]``: from each link's frame to the next joint's at zero, the last one to the tool.
        offsets: ``[J + 1, 3]``.
        lower: ``[J]`` in radians.
        upper: ``[J]``.
    """

    rotations: Tensor
    offsets: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, arm: Arm, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Chain:
        origins = (*arm.origins, arm.tool)
        rotations = torch.stack([rotation_of(origin) for origin in origins])
        offsets = torch.tensor([origin[:3] for origin in origins], dtype=torch.float64)
        limits = torch.tensor([arm.lower, arm.upper], dtype=torch.float64)
        return cls(*(tensor.to(device=device, dtype=dtype) for tensor in (rotations, offsets, limits[0], limits[1])))

    @property
    def joints(self) -> int:
        """``J``."""
        return len(self.lower)

    def links(self, joints: Tensor) -> Links:
        """Forward kinematics of ``[..., J]``."""
        rotation = torch.eye(3, dtype=joints.dtype, device=joints.device).expand(*joints.shape[:-1], 3, 3)
        position = torch.zeros((*joints.shape[:-1], 3), dtype=joints.dtype, device=joints.device)
        rotations, positions = [rotation], [position]
        cosines, sines = joints.cos()[..., None], joints.sin()[..., None]
        for index in range(self.joints):
            position = position + rotation @ self.offsets[index]
            turned = rotation @ self.rotations[index]
            x, y, z = turned.unbind(-1)
            cosine, sine = cosines[..., index, :], sines[..., index, :]
            rotation = torch.stack((cosine * x + sine * y, cosine * y - sine * x, z), -1)
            rotations.append(rotation)
            positions.append(position)
        return Links(
            torch.stack(rotations, -3),
            torch.stack(positions, -2),
            rotation @ self.rotations[-1],
            position + rotation @ self.offsets[-1],
        )

    def jacobian(self, links: Links) -> Tensor:
        """How the tool moves with each joint, ``[..., 6, J]``: metres, then the rotation vector in the base frame, a radian."""
        axes = links.rotations[..., 1:, :, 2]
        arms = links.tool_position[..., None, :] - links.positions[..., 1:, :]
        return torch.cat((torch.linalg.cross(axes, arms), axes), -1).transpose(-1, -2)


def rotation_of(origin: Origin) -> Tensor:
    """The rotation matrix of an origin's roll, pitch and yaw: about fixed x, then y, then z, as in URDF. ``[3, 3]``, float64."""
    roll, pitch, yaw = torch.tensor(origin[3:], dtype=torch.float64)
    return turn("z", yaw) @ turn("y", pitch) @ turn("x", roll)


def turn(axis: str, angle: Tensor) -> Tensor:
    """Rotations about a coordinate axis by ``[...]`` radians, ``[..., 3, 3]``."""
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = {
        "x": (one, zero, zero, zero, cosine, -sine, zero, sine, cosine),
        "y": (cosine, zero, sine, zero, one, zero, -sine, zero, cosine),
        "z": (cosine, -sine, zero, sine, cosine, zero, zero, zero, one),
    }[axis]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def rotation_vector(rotation: Tensor) -> Tensor:
    """The axis of ``[..., 3, 3]`` times its angle, ``[..., 3]``. At a half turn, where the axis has two signs, it is near zero."""
    skew = torch.stack(
        (
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ),
        -1,
    )
    sine = skew.norm(dim=-1) / 2
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    angle = torch.atan2(sine, cosine)
    return skew * torch.where(sine > 1e-9, angle / (2 * sine.clamp_min(1e-9)), torch.full_like(sine, 0.5))[..., None]


def rotation_by(vector: Tensor) -> Tensor:
    """The inverse of :func:`rotation_vector` (Rodrigues' formula)."""
    angle = vector.norm(dim=-1, keepdim=True)
    x, y, z = (vector / angle.clamp_min(1e-12)).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    angle = angle[..., None]
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return identity + angle.sin() * cross + (1 - angle.cos()) * cross @ cross


def quaternion_of(rotation: Tensor) -> Tensor:
    """``[..., 3, 3]`` as unit quaternions w, x, y, z with w not negative, ``[..., 4]``.

    Of the four ways to divide, each row takes the one with the largest divisor (S. W. Shepperd, Journal of Guidance and
    Control 1978).
    """
    xx, yy, zz = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
    squares = torch.stack((1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz), -1)
    zy, xz, yx = (rotation[..., a, b] for a, b in ((2, 1), (0, 2), (1, 0)))
    yz, zx, xy = (rotation[..., a, b] for a, b in ((1, 2), (2, 0), (0, 1)))
    w, x, y, z = squares.unbind(-1)
    candidates = torch.stack(
        (
            torch.stack((w, zy - yz, xz - zx, yx - xy), -1),
            torch.stack((zy - yz, x, yx + xy, xz + zx), -1),
            torch.stack((xz - zx, yx + xy, y, zy + yz), -1),
            torch.stack((yx - xy, xz + zx, zy + yz, z), -1),
        ),
        -2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = torch.nn.functional.normalize(candidates.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
