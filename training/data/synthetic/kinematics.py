"""Where the links of a serial arm are, and the joint angles that bring its tool to a pose, for many at once, on a CPU or a GPU.

Joint angles are found by damped least squares from several beginnings.

Shapes: ``...`` any batch, ``J`` joints, ``L = J + 1`` links with the base as link 0; ``N`` poses, ``M`` beginnings of each, ``K`` poses
along a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .arms import Arm, Origin

#: A pose is reached within these: metres and radians.
TOLERANCE = (1e-4, 1e-3)

#: Radians that stay free before a joint's limit.
LIMIT_MARGIN = 0.01

#: Longest step of a joint in one iteration, radians.
_STEP = 0.5

#: Added to the diagonal of the normal equations: times the squared error, so it goes away near the pose, plus a floor.
_DAMPING, _FLOOR = 1e-1, 1e-6


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


class Solutions(NamedTuple):
    """What was found.

    Attributes:
        joints: ``[N, M, J]``, within the limits.
        reached: ``[N, M]``: whether the tool is at the pose.
    """

    joints: Tensor
    reached: Tensor


def solve(chain: Chain, positions: Tensor, rotations: Tensor, begin: Tensor, iterations: int = 60) -> Solutions:
    """Joint angles of poses.

    Args:
        chain: The arm.
        positions: ``[N, 3]`` of the tool centre point.
        rotations: ``[N, 3, 3]``.
        begin: ``[N, M, J]``: where to begin.
        iterations: Steps at most.
    """
    poses, beginnings, _ = begin.shape
    positions = positions[:, None].expand(-1, beginnings, -1).reshape(-1, 3)
    rotations = rotations[:, None].expand(-1, beginnings, -1, -1).reshape(-1, 3, 3)
    joints = begin.reshape(poses * beginnings, -1).clone()
    reached = torch.zeros(len(joints), dtype=torch.bool, device=joints.device)
    open_ = torch.arange(len(joints), device=joints.device)
    for iteration in range(iterations + 1):
        links = chain.links(joints[open_])
        error = torch.cat(
            (
                positions[open_] - links.tool_position,
                rotation_vector(rotations[open_] @ links.tool_rotation.transpose(-1, -2)),
            ),
            -1,
        )
        there = (error[:, :3].norm(dim=-1) < TOLERANCE[0]) & (error[:, 3:].norm(dim=-1) < TOLERANCE[1])
        reached[open_[there]] = True
        if iteration == iterations or bool(there.all()):
            break
        links = type(links)(*(part[~there] for part in links))
        open_, error = open_[~there], error[~there]
        joints[open_] = _step(chain, joints[open_], chain.jacobian(links), error)
    return Solutions(joints.reshape(poses, beginnings, -1), reached.reshape(poses, beginnings))


def follow(chain: Chain, positions: Tensor, rotations: Tensor, begin: Tensor, steps: int = 3) -> Solutions:
    """Joint angles along lines of poses, each near the ones before, as a moving arm needs them.

    Args:
        chain: The arm.
        positions: ``[N, K, 3]``.
        rotations: ``[N, K, 3, 3]``.
        begin: ``[N, J]``: near the first pose.
        steps: Iterations for each pose.

    Returns:
        ``[N, K, J]`` and whether each pose is reached, ``[N, K]``.
    """
    found, reached = [], []
    joints = begin
    for index in range(positions.shape[1]):
        solution = solve(chain, positions[:, index], rotations[:, index], joints[:, None], steps)
        joints = solution.joints[:, 0]
        found.append(joints)
        reached.append(solution.reached[:, 0])
    return Solutions(torch.stack(found, 1), torch.stack(reached, 1))


def nearest_turns(chain: Chain, joints: Tensor, to: Tensor) -> Tensor:
    """The same poses with each joint moved by full turns, within its limits, as near as possible to other angles."""
    turn = 2 * torch.pi
    moved = joints - turn * ((joints - to) / turn).round()
    inside = (moved >= chain.lower + LIMIT_MARGIN) & (moved <= chain.upper - LIMIT_MARGIN)
    return torch.where(inside, moved, joints)


def _step(chain: Chain, joints: Tensor, jacobian: Tensor, error: Tensor) -> Tensor:
    """One step of damped least squares, kept within the limits."""
    damping = _DAMPING * (error * error).sum(-1) + _FLOOR
    normal = jacobian @ jacobian.transpose(-1, -2) + damping[:, None, None] * torch.eye(
        6, dtype=error.dtype, device=error.device
    )
    factor = torch.linalg.cholesky(normal)
    step = (jacobian.transpose(-1, -2) @ torch.cholesky_solve(error[..., None], factor)).squeeze(-1)
    step = step * (_STEP / step.abs().amax(-1, keepdim=True).clamp_min(_STEP))
    return torch.minimum(torch.maximum(joints + step, chain.lower + LIMIT_MARGIN), chain.upper - LIMIT_MARGIN)
