"""Joint paths of whole motions: inverse kinematics at each stroke, the strokes followed, and ways between them.

Shapes: ``B`` motions of one template, ``S`` strokes, ``K`` vertices, ``P`` waypoints of a piece, ``J`` joints. A motion has ``S * K``
pieces: of each stroke the way to it, then its ``K - 1`` lines, so piece ``j`` of a stroke ends at its vertex ``j``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .arms import Arm
from .collision import Collisions
from .kinematics import LIMIT_MARGIN, follow, nearest_turns, rotation_by, rotation_vector, solve, turn
from .planner import CLEARANCE, WAYPOINTS, connect, path_clearance
from .templates import Instance, Steps

#: Why a motion is not kept, in the order in which it is found out. Empty: it is kept.
REASONS = (
    "",
    "start in collision",  # the arm's first pose touches something
    "unreachable",  # no joint angles bring the tool to a stroke
    "goal in collision",  # all that do touch something
    "line not followed",  # the arm cannot keep to a stroke, or touches something on it
    "no way",  # no planner found a way to a stroke
    "limits",  # a sample is beyond a limit or too near to something
    "too long",
)

#: Beginnings of inverse kinematics, and how many of the solutions are tried to follow a stroke.
_BEGINNINGS, _TRIES = 8, 3

#: Largest change of a joint from one waypoint of a line to the next, radians: more is a jump to another branch.
_JUMP = 0.35


@dataclass(frozen=True, eq=False)
class Motions:
    """Paths of motions.

    Attributes:
        start: ``[B, J]``.
        paths: ``[B, S * K, P, J]``.
        reason: ``[B]``: index of :data:`REASONS`.
        blocked: ``[B, S]``: whether an object lies on the straight way to a stroke.
        planner: ``[B, S]``: which planner found the way, see :class:`~.planner.Ways`; -1 where none did or none was asked.
    """

    start: Tensor
    paths: Tensor
    reason: Tensor
    blocked: Tensor
    planner: Tensor


def plan(arm: Arm, collisions: Collisions, steps: Steps, instances: Sequence[Instance], rng: np.random.Generator) -> Motions:
    """Paths of instances of one template."""
    chain = collisions.chain
    like = {"dtype": chain.lower.dtype, "device": chain.lower.device}
    positions = torch.as_tensor(np.stack([each.positions for each in instances]), **like)
    yaws = torch.as_tensor(np.stack([each.yaws for each in instances]), **like)
    tilts = torch.as_tensor(np.stack([each.tilts for each in instances]), **like)
    objects = torch.as_tensor(np.stack([each.objects for each in instances]), **like)
    radii = torch.as_tensor(np.stack([each.radii for each in instances]), **like)
    rotations = (
        rotation_by(torch.nn.functional.pad(tilts, (0, 1))) @ turn("z", yaws) @ turn("x", torch.full_like(yaws, torch.pi))
    )
    count, strokes, vertices = yaws.shape
    held = held_radii(steps, radii)

    home = torch.tensor(arm.home, **like)
    start = home + torch.as_tensor(rng.uniform(-0.2, 0.2, (count, arm.joints)), **like)
    start = torch.minimum(torch.maximum(start, chain.lower + 2 * LIMIT_MARGIN), chain.upper - 2 * LIMIT_MARGIN)
    # The reserve of the clearance is for the samples between waypoints.
    touching = collisions.clearance(start, objects[:, 0], held[:, 0]) <= CLEARANCE
    reason = torch.where(touching, REASONS.index("start in collision"), 0)

    paths = torch.zeros((count, strokes * vertices, WAYPOINTS, arm.joints), **like)
    heading = torch.sign(chain.links(home).rotations[1, 2, 2])
    before = start
    begins = []
    for stroke in range(strokes):
        lines = _polyline(positions[:, stroke], rotations[:, stroke])
        scene = objects[:, 2 * stroke + 1]
        carried = held[:, stroke * vertices + 1 : (stroke + 1) * vertices]
        found, why = _stroke(collisions, lines, scene, carried, before, home, heading, rng)
        reason = torch.where((reason == 0) & (why > 0), why, reason)
        paths[:, stroke * vertices + 1 : (stroke + 1) * vertices] = found
        begins.append((before, found[:, 0, 0]))
        before = found[:, -1, -1]

    blocked = torch.zeros((count, strokes), dtype=torch.bool, device=start.device)
    planner = torch.full((count, strokes), -1, device=start.device)
    for stroke, (first, last) in enumerate(begins):
        good = torch.nonzero(reason == 0)[:, 0]
        if not len(good):
            break
        ways = connect(collisions, first[good], last[good], objects[good, 2 * stroke], held[good, stroke * vertices], rng)
        paths[good, stroke * vertices] = ways.paths
        planner[good, stroke], blocked[good, stroke] = ways.planner, ways.blocked
        reason[good] = torch.where(ways.planner < 0, REASONS.index("no way"), reason[good])
    return Motions(start, paths, reason, blocked, planner)


def held_radii(steps: Steps, radii: Tensor) -> Tensor:
    """Radius of what the fingers hold during each piece, ``[B, S * K]``: what they held on leaving the vertex before."""
    left = [-1, *(obj for stroke in steps.carried for obj in stroke)][:-1]
    carried = torch.tensor(left, device=radii.device)
    return torch.where(carried >= 0, radii[:, carried.clamp_min(0)], torch.zeros_like(radii[:, :1]))


def _polyline(positions: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Poses along a stroke's lines ``[B, K, ...]``: ``[B, K - 1, P, 3]`` and ``[B, K - 1, P, 3, 3]``, turning evenly."""
    share = torch.linspace(0, 1, WAYPOINTS, dtype=positions.dtype, device=positions.device)[:, None]
    along = positions[:, :-1, None] + share * (positions[:, 1:] - positions[:, :-1])[:, :, None]
    between = rotation_vector(rotations[:, 1:] @ rotations[:, :-1].transpose(-1, -2))
    return along, rotation_by(share * between[:, :, None]) @ rotations[:, :-1, None]


def _stroke(
    collisions: Collisions,
    lines: tuple[Tensor, Tensor],
    scene: Tensor,
    held: Tensor,
    before: Tensor,
    home: Tensor,
    heading: Tensor,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Joint paths of a stroke, ``[B, K - 1, P, J]``, and why there is none, ``[B]``.

    Of the joint angles that bring the tool to the stroke's second vertex and touch nothing, the nearest ones to where the arm comes
    from are followed both ways; then the next nearest.
    """
    chain = collisions.chain
    positions, rotations = lines
    count, pieces = positions.shape[:2]
    anchor, turned = positions[:, 0, -1], rotations[:, 0, -1]
    begin = home + torch.as_tensor(rng.normal(0, 0.5, (count, _BEGINNINGS, len(home))), dtype=home.dtype, device=home.device)
    begin[..., 0] = home[0] + heading * torch.atan2(anchor[:, 1], anchor[:, 0])[:, None] + (begin[..., 0] - home[0]) * 0.3
    begin[:, 1, 1:] = home[1:]
    begin[:, 0] = before
    begin = torch.minimum(torch.maximum(begin, chain.lower + LIMIT_MARGIN), chain.upper - LIMIT_MARGIN)
    solved = solve(chain, anchor, turned, begin)
    joints = nearest_turns(chain, solved.joints, before[:, None].expand_as(solved.joints))
    clear = (
        collisions.clearance(
            joints.flatten(0, 1), scene.repeat_interleave(_BEGINNINGS, 0), held[:, 0].repeat_interleave(_BEGINNINGS)
        )
        > CLEARANCE
    ).unflatten(0, (count, _BEGINNINGS))
    distance = (joints - before[:, None]).abs().amax(-1)
    distance = torch.where(solved.reached & clear, distance, torch.inf)
    why = torch.full((count,), REASONS.index("line not followed"), device=home.device)
    why = torch.where(torch.isinf(distance).all(-1), REASONS.index("goal in collision"), why)
    why = torch.where(solved.reached.any(-1), why, REASONS.index("unreachable"))
    found = torch.zeros((count, pieces, WAYPOINTS, len(home)), dtype=home.dtype, device=home.device)
    every = torch.arange(count, device=home.device)
    for _ in range(_TRIES):
        best = distance.argmin(-1)
        todo = torch.nonzero((why > 0) & torch.isfinite(distance[every, best]))[:, 0]
        if not len(todo):
            break
        path, good = _followed(collisions, positions[todo], rotations[todo], scene[todo], held[todo], joints[todo, best[todo]])
        found[todo[good]] = path[good]
        why[todo[good]] = 0
        # Solutions beside the one that failed would fail too.
        tried = joints[every, best]
        distance = torch.where((joints - tried[:, None]).abs().amax(-1) < 0.05, torch.inf, distance)
    return found, why


def _followed(
    collisions: Collisions, positions: Tensor, rotations: Tensor, scene: Tensor, held: Tensor, anchor: Tensor
) -> tuple[Tensor, Tensor]:
    """A stroke's lines in joint space from the angles at its second vertex, and whether all is reached, smooth and free."""
    chain = collisions.chain
    count, pieces = positions.shape[:2]
    back = follow(chain, positions[:, 0].flip(1), rotations[:, 0].flip(1), anchor)
    on = follow(chain, positions[:, 1:].flatten(1, 2), rotations[:, 1:].flatten(1, 2), anchor)
    first = back.joints.flip(1)[:, None]
    path = torch.cat((first, on.joints.unflatten(1, (pieces - 1, WAYPOINTS))), 1)
    # The vertex between two lines is one pose.
    path[:, 1:, 0] = path[:, :-1, -1]
    smooth = ((path[:, :, 1:] - path[:, :, :-1]).abs().amax((-1, -2)) < _JUMP).all(-1)
    clear = (
        path_clearance(collisions, path.flatten(0, 1), scene.repeat_interleave(pieces, 0), held.flatten()).unflatten(
            0, (count, pieces)
        )
        > CLEARANCE
    ).all(-1)
    return path, back.reached.all(-1) & on.reached.all(-1) & smooth & clear
