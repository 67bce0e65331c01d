"""Planned motions as trajectories at 50 Hz, each looked at sample by sample before it is kept.

Shapes: ``B`` motions, ``T`` samples of one, ``J`` joints.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import timing
from .arms import ARMS, Arm
from .collision import Collisions
from .kinematics import quaternion_of
from .motion import REASONS, Motions, held_radii, plan
from .templates import STEPS, TEMPLATES, Instance, Steps, Template, sample

#: Seconds that the gripper takes to open or close, while the arm rests.
GRIPPER_SECONDS = 0.4

#: Longest trajectory, seconds.
LONGEST = 60.0

#: A motion is slower than it could be by a factor between these.
_SLOWNESS = (1.0, 1.6)

#: Samples whose clearance is found at a time.
_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One kept motion.

    Attributes:
        index: Of the instance within its shard.
        instance: What was planned.
        positions: ``float32[T, J]`` in radians.
        velocities: ``float32[T, J]`` in rad/s.
        tool: ``float32[T, 7]``: position of the tool centre point in the base frame, metres, and its orientation as a unit
            quaternion w, x, y, z without jumps of sign.
        gripper: ``float32[T]``: 1 open, 0 closed.
        planners: ``[S]``: which planner found the way to each stroke, see :class:`~.planner.Ways`.
    """

    index: int
    instance: Instance
    positions: np.ndarray
    velocities: np.ndarray
    tool: np.ndarray
    gripper: np.ndarray
    planners: tuple[int, ...]


@dataclass
class Report:
    """What became of the motions of a shard, or of many.

    Attributes:
        attempts: Motions that were sampled.
        kept: Trajectories.
        rejected: Reason to number, see :data:`~.motion.REASONS`.
        blocked: Ways on whose straight line an object was.
        around: Those of them that were planned around it, by planner.
        samples: Of all trajectories.
    """

    attempts: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    blocked: int = 0
    around: dict[str, int] = field(default_factory=dict)
    samples: int = 0

    def add(self, other: Report) -> None:
        """Count another one's motions too."""
        self.attempts += other.attempts
        self.kept += other.kept
        self.rejected = dict(Counter(self.rejected) + Counter(other.rejected))
        self.blocked += other.blocked
        self.around = dict(Counter(self.around) + Counter(other.around))
        self.samples += other.samples


def make(
    arm: Arm, template: Template, seed: int, shard: int, attempts: int, collisions: Collisions
) -> tuple[list[Trajectory], Report]:
    """The trajectories of a shard: a function of the arm, the template, the seed, the shard's number and its size."""
    key = [seed, list(ARMS).index(arm.name), TEMPLATES.index(template), shard]
    instances = [sample(arm, template, np.random.default_rng([*key, index])) for index in range(attempts)]
    rng = np.random.default_rng([*key, attempts])
    steps = STEPS[template]
    motions = plan(arm, collisions, steps, instances, rng)
    slowness = torch.as_tensor(rng.uniform(*_SLOWNESS, attempts), dtype=motions.start.dtype, device=motions.start.device)
    trajectories, reason = _timed(arm, collisions, steps, instances, motions, slowness)
    blocked = motions.planner[motions.blocked].tolist()
    report = Report(
        attempts,
        len(trajectories),
        dict(Counter(REASONS[index] for index in reason.tolist() if index)),
        len(blocked),
        dict(Counter(("", "curve", "RRT-Connect")[planner] for planner in blocked if planner > 0)),
        sum(len(each.positions) for each in trajectories),
    )
    return trajectories, report


def _timed(
    arm: Arm, collisions: Collisions, steps: Steps, instances: list[Instance], motions: Motions, slowness: Tensor
) -> tuple[list[Trajectory], Tensor]:
    """The kept trajectories and each motion's reason."""
    reason = motions.reason.clone()
    kept = torch.nonzero(reason == 0)[:, 0]
    if not len(kept):
        return [], reason
    like = {"dtype": motions.start.dtype, "device": motions.start.device}
    velocity, acceleration = torch.tensor(arm.velocity, **like), torch.tensor(arm.acceleration, **like)
    pieces = motions.paths.shape[1]
    vertices = len(steps.gripper[0])
    after = torch.tensor([opening for stroke in steps.gripper for opening in stroke], **like)
    before = torch.cat((torch.tensor([steps.begin], **like), after[:-1]))
    paths = motions.paths[kept].flatten(0, 1)
    counts = timing.durations(paths, velocity, acceleration, slowness[kept].repeat_interleave(pieces))
    pauses = torch.where(before != after, math.ceil(GRIPPER_SECONDS * timing.RATE), 0).repeat(len(kept))
    lengths = (counts + pauses).unflatten(0, (-1, pieces)).sum(-1)
    reason[kept[lengths > LONGEST * timing.RATE]] = REASONS.index("too long")

    samples = timing.sample(paths, counts, pauses)
    piece = samples.piece % pieces
    owner = samples.piece // pieces
    objects = torch.as_tensor(np.stack([each.objects for each in instances]), **like)[kept]
    radii = torch.as_tensor(np.stack([each.radii for each in instances]), **like)[kept]
    stage = 2 * (piece // vertices) + (piece % vertices > 0)
    held = held_radii(steps, radii)
    clearance = torch.cat(
        [
            collisions.clearance(samples.positions[part], objects[owner[part], stage[part]], held[owner[part], piece[part]])
            for part in torch.arange(len(piece), device=piece.device).split(_AT_ONCE)
        ]
    )
    chain = collisions.chain
    good = (
        (clearance > 0)
        & (samples.positions >= chain.lower).all(-1)
        & (samples.positions <= chain.upper).all(-1)
        & (samples.velocities.abs() <= velocity).all(-1)
        & (samples.accelerations.abs() <= acceleration).all(-1)
    )
    bad = torch.zeros(len(kept), dtype=torch.int64, device=kept.device).index_add(0, owner, (~good).to(torch.int64))
    reason[kept] = torch.where((bad > 0) & (reason[kept] == 0), REASONS.index("limits"), reason[kept])

    opening = before[piece] + samples.share * (after - before)[piece]
    starts = lengths.cumsum(0) - lengths
    trajectories = []
    for number, motion in enumerate(kept.tolist()):
        if reason[motion]:
            continue
        part = slice(int(starts[number]), int(starts[number] + lengths[number]))
        positions = torch.cat((motions.start[motion][None], samples.positions[part]))
        velocities = torch.cat((torch.zeros_like(positions[:1]), samples.velocities[part]))
        links = chain.links(positions)
        tool = torch.cat((links.tool_position, _without_jumps(quaternion_of(links.tool_rotation))), -1)
        gripper = torch.cat((before[:1], opening[part]))
        angles, speeds, poses, openings = (
            tensor.cpu().numpy().astype(np.float32) for tensor in (positions, velocities, tool, gripper)
        )
        planners = tuple(motions.planner[motion].tolist())
        trajectories.append(Trajectory(motion, instances[motion], angles, speeds, poses, openings, planners))
    return trajectories, reason


def _without_jumps(quaternions: Tensor) -> Tensor:
    """The same orientations ``[T, 4]``, each of the sign that is nearer to the one before."""
    turned = (quaternions[1:] * quaternions[:-1]).sum(-1) < 0
    signs = torch.where(turned, -1.0, 1.0).to(quaternions.dtype).cumprod(0)
    return torch.cat((quaternions[:1], quaternions[1:] * signs[:, None]))
