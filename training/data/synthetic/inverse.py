"""Joint angles that bring the tool to a pose: damped least squares from several beginnings, for many poses at once.

Shapes: ``N`` poses, ``M`` beginnings of each, ``K`` poses along a line.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .kinematics import Chain, rotation_vector

#: A pose is reached within these: metres and radians.
TOLERANCE = (1e-4, 1e-3)

#: Radians that stay free before a joint's limit.
LIMIT_MARGIN = 0.01

#: Longest step of a joint in one iteration, radians.
_STEP = 0.5

#: Added to the diagonal of the normal equations: times the squared error, so it goes away near the pose, plus a floor.
_DAMPING, _FLOOR = 1e-1, 1e-6


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
