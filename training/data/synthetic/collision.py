"""How far an arm is from itself, the table and the objects on it, for many joint vectors at once.

The arm is its capsules. An object is an upright rounded box: a box grown by a radius, so a sphere is a box without extent.
The table is the plane z = 0 on which the base is mounted.

Shapes: ``N`` joint vectors, ``C`` capsules, ``Q`` pairs of capsules, ``O`` objects, ``S`` points along the capsules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .arms import Arm
from .kinematics import Chain, Links

#: Columns of an object: centre x, y, z; half extents x, y, z; cosine and sine of its turn about z; radius.
OBJECT = 9

#: Points along a capsule are as far apart at most; from the axis of a capsule of 4 cm the error is then below 4 mm.
_SPACING = 0.035

#: Distance of an object that is not there.
_FAR = 10.0

#: A pair of capsules that touches in more than this share of all poses belongs to neighbours, whose fits overlap at the joint.
_ALWAYS = 0.9


@dataclass(frozen=True, eq=False)
class Collisions:
    """An arm's collision shapes as tensors.

    Attributes:
        chain: The arm's kinematics.
        links: ``[C]``: the link that carries each capsule; ``J + 1`` is the tool.
        ends: ``[C, 2, 3]`` in the link's frame.
        radii: ``[C]``.
        pairs: ``[Q, 2]``: capsules that could touch each other.
        points: ``[S, 3]`` along the capsules, in the link's frame.
        point_links: ``[S]``.
        point_radii: ``[S]``.
        above: ``[C]``: 1 where the table is an obstacle. The base and the link on it are mounted there.
    """

    chain: Chain
    links: Tensor
    ends: Tensor
    radii: Tensor
    pairs: Tensor
    points: Tensor
    point_links: Tensor
    point_radii: Tensor
    above: Tensor

    @classmethod
    def of(cls, arm: Arm, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Collisions:
        """The shapes of an arm; which pairs could touch is found by trying poses."""
        chain = Chain.of(arm, dtype, device)
        links = torch.tensor([capsule.link for capsule in arm.capsules], device=device)
        ends = torch.tensor([(capsule.start, capsule.end) for capsule in arm.capsules], dtype=dtype, device=device)
        radii = torch.tensor([capsule.radius for capsule in arm.capsules], dtype=dtype, device=device)
        points, owners = [], []
        for index, capsule in enumerate(arm.capsules):
            count = 1 + math.ceil(math.dist(capsule.start, capsule.end) / _SPACING)
            share = torch.linspace(0, 1, count, dtype=dtype, device=device)[:, None]
            points.append(ends[index, 0] * (1 - share) + ends[index, 1] * share)
            owners += [index] * count
        owner = torch.tensor(owners, device=device)
        apart = [
            (a, b) for b in range(len(radii)) for a in range(b) if _meet(arm.capsules[a].link, arm.capsules[b].link, arm.joints)
        ]
        made = cls(
            chain,
            links,
            ends,
            radii,
            torch.tensor(apart, device=device),
            torch.cat(points),
            links[owner],
            radii[owner],
            links > 1,
        )
        share = (made.between(chain.links(_poses(arm, dtype, device))) < 0).to(dtype).mean(0)
        could = made.pairs[(share > 0) & (share < _ALWAYS)]
        return replace(made, pairs=could)

    def capsule_ends(self, poses: Links) -> Tensor:
        """Where each capsule begins and ends, ``[N, C, 2, 3]``."""
        return _placed(poses, self.links[:, None].expand(-1, 2), self.ends)

    def between(self, poses: Links) -> Tensor:
        """Distances of the pairs of capsules, ``[N, Q]``, negative where they overlap."""
        ends = self.capsule_ends(poses)
        first, second = ends[:, self.pairs[:, 0]], ends[:, self.pairs[:, 1]]
        gap = _between_segments(first[..., 0, :], first[..., 1, :], second[..., 0, :], second[..., 1, :])
        return gap - self.radii[self.pairs].sum(-1)

    def clearance(self, joints: Tensor, objects: Tensor, held: Tensor) -> Tensor:
        """The least distance of each pose to anything, ``[N]``, negative where it touches.

        Args:
            joints: ``[N, J]``.
            objects: ``[N, O, 9]``, see :data:`OBJECT`; a radius below zero is an object that is not there.
            held: ``[N]``: radius of the sphere that the fingers hold at the tool centre point; zero where they hold no object.
        """
        poses = self.chain.links(joints)
        nearest = self.between(poses).amin(-1)
        tips = self.capsule_ends(poses)
        table = (tips[..., 2].amin(-1) - self.radii)[:, self.above].amin(-1)
        nearest = torch.minimum(nearest, table)
        if objects.shape[1]:
            points = _placed(poses, self.point_links, self.points)
            points = torch.cat((points, poses.tool_position[:, None]), 1)
            radii = torch.cat((self.point_radii.expand(len(joints), -1), held[:, None]), 1)
            nearest = torch.minimum(nearest, (distance(points, objects) - radii[..., None]).amin((-1, -2)))
        return nearest


def distance(points: Tensor, objects: Tensor) -> Tensor:
    """From points ``[N, S, 3]`` to objects ``[N, O, 9]``: ``[N, S, O]``, inside negative."""
    away = points[:, :, None] - objects[:, None, :, :3]
    cosine, sine = objects[:, None, :, 6], objects[:, None, :, 7]
    x = (cosine * away[..., 0] + sine * away[..., 1]).abs() - objects[:, None, :, 3]
    y = (cosine * away[..., 1] - sine * away[..., 0]).abs() - objects[:, None, :, 4]
    z = away[..., 2].abs() - objects[:, None, :, 5]
    outside = (x.clamp_min(0) ** 2 + y.clamp_min(0) ** 2 + z.clamp_min(0) ** 2).sqrt()
    inside = torch.maximum(torch.maximum(x, y), z).clamp_max(0)
    radius = objects[:, None, :, 8]
    return torch.where(radius < 0, torch.full_like(outside, _FAR), outside + inside - radius)


def _meet(first: int, second: int, joints: int) -> bool:
    """Whether two links are looked at: not neighbours, nor links two apart of the forearm and the wrist, where fits overlap at a joint.

    The latter are kept apart by the joint between them, as published lists have it
    (xArm-Developer/xarm_ros2@3654ba7 xarm_moveit_config/srdf/_xarm7_macro.srdf.xacro; NVlabs/curobo@07e6ccf, ``tm12.yml``).
    """
    second = min(second, joints)  # the tool does not move on the last link
    return second - first > (2 if first >= 3 else 1)


def _poses(arm: Arm, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Joint vectors all over an arm's ranges, always the same: a Halton sequence, ``[4096, J]``."""
    primes = (2, 3, 5, 7, 11, 13, 17)[: arm.joints]
    columns = []
    for base in primes:
        number, value, scale = torch.arange(1, 4097, device=device), torch.zeros(4096, dtype=dtype, device=device), 1.0
        while bool((number > 0).any()):
            scale /= base
            value = value + scale * (number % base).to(dtype)
            number = number // base
        columns.append(value)
    lower, upper = torch.tensor([arm.lower, arm.upper], dtype=dtype, device=device)
    return lower + torch.stack(columns, -1) * (upper - lower)


def _placed(poses: Links, links: Tensor, points: Tensor) -> Tensor:
    """Points ``[..., 3]`` in the frames of links ``[...]``, in the base frame: ``[N, ..., 3]``."""
    rotations = torch.cat((poses.rotations, poses.tool_rotation[:, None]), 1)
    positions = torch.cat((poses.positions, poses.tool_position[:, None]), 1)
    return (rotations[:, links] @ points[..., None]).squeeze(-1) + positions[:, links]


def _between_segments(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The least distance of segments a-b and c-d, ``[..., 3]`` each (C. Ericson, "Real-time collision detection", section 5.1.9)."""
    u, v, w = b - a, d - c, a - c
    uu, vv, uv = (u * u).sum(-1).clamp_min(1e-12), (v * v).sum(-1).clamp_min(1e-12), (u * v).sum(-1)
    uw, vw = (u * w).sum(-1), (v * w).sum(-1)
    across = uu * vv - uv * uv
    s = torch.where(across > 1e-12, ((uv * vw - uw * vv) / across.clamp_min(1e-12)), torch.zeros_like(across)).clamp(0, 1)
    t = ((uv * s + vw) / vv).clamp(0, 1)
    s = ((uv * t - uw) / uu).clamp(0, 1)
    return (w + s[..., None] * u - t[..., None] * v).norm(dim=-1)
