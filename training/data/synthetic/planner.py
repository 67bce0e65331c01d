"""Ways in joint space from one pose to another that touch nothing, for many at once.

Three planners, each for what the one before left over. The straight line in joint space. Curves: the straight line plus smooth bumps,
many tried at once, of which the shortest free one is taken; the first ones lift or shift the tool by a way that the Jacobian gives, the
others are random. Last, for one way at a time, RRT-Connect (J. Kuffner and S. LaValle, ICRA 2000), shortened and rounded.

Shapes: ``N`` ways, ``P`` waypoints of each, ``J`` joints, ``O`` objects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .collision import Collisions
from .kinematics import LIMIT_MARGIN

#: Waypoints of a way, ends included.
WAYPOINTS = 17

#: Metres that the arm keeps from everything, by which the samples between waypoints and the points along capsules are covered too.
CLEARANCE = 0.01

#: Curves that are tried at once, by round: few bumps near the straight line first, then wilder ones.
_ROUNDS = ((24, 0.6), (64, 1.2))

#: Metres by which the first curves move the tool sideways and up.
_SHIFTS = (
    (0, 0, 0.15),
    (0, 0, 0.3),
    (0, 0, 0.45),
    (0.15, 0, 0.15),
    (-0.15, 0, 0.15),
    (0, 0.2, 0.15),
    (0, -0.2, 0.15),
    (-0.2, 0, 0.3),
)

#: Extensions of RRT-Connect's trees at most, and their length in radians.
_EXTENSIONS, _EXTENSION = 120, 0.35


class Ways(NamedTuple):
    """What was planned.

    Attributes:
        paths: ``[N, P, J]``.
        planner: ``[N]``: 0 the straight line, 1 a curve, 2 RRT-Connect, -1 none.
        blocked: ``[N]``: whether an object lies on the straight line, while the way's ends are free.
    """

    paths: Tensor
    planner: Tensor
    blocked: Tensor


def connect(
    collisions: Collisions, start: Tensor, goal: Tensor, objects: Tensor, held: Tensor, rng: np.random.Generator
) -> Ways:
    """Ways from ``start`` to ``goal``, ``[N, J]`` each, around objects ``[N, O, 9]``, with held spheres of radii ``[N]``."""
    share = torch.linspace(0, 1, WAYPOINTS, dtype=start.dtype, device=start.device)
    paths = start[:, None] + share[:, None] * (goal - start)[:, None]
    clear = path_clearance(collisions, paths, objects, held) > CLEARANCE
    ends = torch.stack((start, goal), 1)
    free_ends = (
        collisions.clearance(ends.flatten(0, 1), objects.repeat_interleave(2, 0), held.repeat_interleave(2)).unflatten(
            0, (-1, 2)
        )
        > CLEARANCE
    ).all(-1)
    nothing = torch.zeros_like(objects[:, :0])
    by_thing = path_clearance(collisions, paths, nothing, held) > CLEARANCE
    planner = torch.where(clear, 0, -1)
    blocked = ~clear & by_thing & free_ends
    for count, size in _ROUNDS:
        rest = torch.nonzero((planner < 0) & free_ends)[:, 0]
        for few in rest.split(max(1, 4096 // count)):
            found, curve = _curves(collisions, paths[few], objects[few], held[few], count, size, rng)
            paths[few[found]], planner[few[found]] = curve[found], 1
    for index in torch.nonzero((planner < 0) & free_ends)[:, 0].tolist():
        way = _rrt(collisions, start[index], goal[index], objects[index], held[index], rng)
        if way is not None:
            paths[index], planner[index] = way, 2
    return Ways(paths, planner, blocked)


def path_clearance(collisions: Collisions, paths: Tensor, objects: Tensor, held: Tensor) -> Tensor:
    """The least clearance along paths ``[N, P, J]``, at the waypoints and between them: ``[N]``."""
    midpoints = (paths[:, 1:] + paths[:, :-1]) / 2
    joints = torch.cat((paths, midpoints), 1)
    count = joints.shape[1]
    clearance = [
        collisions.clearance(part.flatten(0, 1), scene.repeat_interleave(count, 0), radius.repeat_interleave(count))
        for part, scene, radius in zip(joints.split(256), objects.split(256), held.split(256), strict=True)
    ]
    return torch.cat(clearance).unflatten(0, (-1, count)).amin(-1)


def _curves(
    collisions: Collisions, lines: Tensor, objects: Tensor, held: Tensor, count: int, size: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The shortest free curve of ``count`` for each straight line: whether there is one ``[N]``, and the curves ``[N, P, J]``."""
    chain = collisions.chain
    ways, joints = len(lines), lines.shape[-1]
    share = torch.linspace(0, 1, WAYPOINTS, dtype=lines.dtype, device=lines.device)
    bump = 16 * share**2 * (1 - share) ** 2
    links = chain.links(lines[:, WAYPOINTS // 2])
    jacobian = chain.jacobian(links)
    shifts = torch.zeros((len(_SHIFTS), 6), dtype=lines.dtype, device=lines.device)
    shifts[:, :3] = torch.tensor(_SHIFTS, dtype=lines.dtype)
    normal = jacobian @ jacobian.transpose(-1, -2) + 1e-2 * torch.eye(6, dtype=lines.dtype, device=lines.device)
    lifted = (jacobian.transpose(-1, -2) @ torch.linalg.solve(normal, shifts.T.expand(ways, -1, -1))).transpose(-1, -2)
    sampled = torch.as_tensor(rng.normal(size=(ways, count, 2, joints)), dtype=lines.dtype, device=lines.device) * size
    sampled[:, :, 1] *= 0.5
    sampled[:, : len(_SHIFTS), 0] = lifted
    sampled[:, : len(_SHIFTS), 1] = 0
    curves = (
        lines[:, None] + sampled[:, :, 0, None] * bump[:, None] + sampled[:, :, 1, None] * (bump * (1 - 2 * share) * 2)[:, None]
    )
    inside = ((curves > chain.lower + LIMIT_MARGIN) & (curves < chain.upper - LIMIT_MARGIN)).all(-1).all(-1)
    length = (curves[:, :, 1:] - curves[:, :, :-1]).norm(dim=-1).sum(-1)
    # Only every second waypoint is looked at to choose; what is chosen is looked at whole.
    sparse = curves[:, :, ::2]
    points = sparse.shape[2]
    clearance = collisions.clearance(
        sparse.flatten(0, 2), objects.repeat_interleave(count * points, 0), held.repeat_interleave(count * points)
    ).unflatten(0, (ways, count, points))
    length = torch.where(inside & (clearance.amin(-1) > CLEARANCE), length, torch.inf)
    found = torch.zeros(ways, dtype=torch.bool, device=lines.device)
    chosen = lines.clone()
    for _ in range(3):
        best = length.argmin(-1)
        every = torch.arange(ways, device=lines.device)
        candidate = curves[every, best]
        todo = torch.nonzero(~found & torch.isfinite(length[every, best]))[:, 0]
        if not len(todo):
            break
        good = todo[path_clearance(collisions, candidate[todo], objects[todo], held[todo]) > CLEARANCE]
        chosen[good], found[good] = candidate[good], True
        length[every, best] = torch.inf
    return found, chosen


def _rrt(
    collisions: Collisions, start: Tensor, goal: Tensor, objects: Tensor, held: Tensor, rng: np.random.Generator
) -> Tensor | None:
    """A way of RRT-Connect, ``[P, J]``, or ``None``."""
    lower, upper = collisions.chain.lower + LIMIT_MARGIN, collisions.chain.upper - LIMIT_MARGIN
    low = torch.maximum(lower, torch.minimum(start, goal) - 1.5)
    high = torch.minimum(upper, torch.maximum(start, goal) + 1.5)

    def free(points: Tensor) -> Tensor:
        return collisions.clearance(points, objects.expand(len(points), -1, -1), held.expand(len(points))) > CLEARANCE

    def edge(a: Tensor, b: Tensor) -> Tensor:
        count = 2 + int(float((b - a).norm()) / 0.08)
        return a + torch.linspace(0, 1, count, dtype=a.dtype, device=a.device)[:, None] * (b - a)

    def extend(tree: list[tuple[Tensor, int]], to: Tensor, whole: bool) -> int:
        """Grow a tree towards a point: the index of the last new node, or -1."""
        nodes = torch.stack([node for node, _ in tree])
        index = int((nodes - to).norm(dim=-1).argmin())
        begin = tree[index][0]
        far = float((to - begin).norm())
        if not whole and far > _EXTENSION:
            to = begin + (to - begin) * (_EXTENSION / far)
        points = edge(begin, to)
        passed = int(free(points).to(torch.int64).cumprod(0).sum())
        if passed < 3 and passed < len(points):
            return -1
        tree.append((points[passed - 1], index))
        return len(tree) - 1

    trees: list[list[tuple[Tensor, int]]] = [[(start, -1)], [(goal, -1)]]
    for extension in range(_EXTENSIONS):
        first, second = trees[extension % 2], trees[1 - extension % 2]
        target = low + torch.as_tensor(rng.random(len(start)), dtype=start.dtype, device=start.device) * (high - low)
        new = extend(first, target, whole=False)
        if new < 0:
            continue
        other = extend(second, first[new][0], whole=True)
        if other >= 0 and float((second[other][0] - first[new][0]).norm()) < 1e-9:
            forward, backward = _branch(first, new), _branch(second, other)
            nodes = [*forward[::-1], *backward[1:]]
            nodes = nodes if extension % 2 == 0 else nodes[::-1]
            return _rounded(collisions, _shortened(nodes, free, edge, rng), objects, held)
    return None


def _branch(tree: list[tuple[Tensor, int]], index: int) -> list[Tensor]:
    """The nodes from one to the tree's root."""
    nodes = []
    while index >= 0:
        node, index = tree[index]
        nodes.append(node)
    return nodes


def _shortened(nodes: list[Tensor], free, edge, rng: np.random.Generator) -> list[Tensor]:  # noqa: ANN001
    """The same way with detours cut off where the straight line between two nodes is free."""
    for _ in range(20):
        if len(nodes) < 3:
            break
        first, last = sorted(rng.choice(len(nodes), 2, replace=False).tolist())
        if last - first > 1 and bool(free(edge(nodes[first], nodes[last])).all()):
            nodes = [*nodes[: first + 1], *nodes[last:]]
    return nodes


def _rounded(collisions: Collisions, nodes: list[Tensor], objects: Tensor, held: Tensor) -> Tensor | None:
    """A polyline as ``[P, J]`` waypoints evenly along it, its corners rounded as far as that stays free; ``None`` where it is not."""
    corners = torch.stack(nodes)
    lengths = torch.cat((corners.new_zeros(1), (corners[1:] - corners[:-1]).norm(dim=-1).cumsum(0)))
    places = torch.linspace(0, float(lengths[-1]), WAYPOINTS, dtype=corners.dtype, device=corners.device)
    index = torch.searchsorted(lengths, places, right=True).clamp(1, len(nodes) - 1)
    share = (places - lengths[index - 1]) / (lengths[index] - lengths[index - 1]).clamp_min(1e-9)
    path = corners[index - 1] + share[:, None] * (corners[index] - corners[index - 1])
    best = None
    for _ in range(4):
        if float(path_clearance(collisions, path[None], objects[None], held[None])) > CLEARANCE:
            best = path
        path = torch.cat((path[:1], (path[:-2] + 2 * path[1:-1] + path[2:]) / 4, path[-1:]))
    return best
