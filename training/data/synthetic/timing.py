"""Where a path is at each time: each piece from rest to rest within the arm's speeds and accelerations, sampled at 50 Hz.

A piece is a cubic spline through its waypoints, over s from 0 to 1. Along it s follows the fifth-order minimum-jerk profile (T. Flash
and N. Hogan, Journal of Neuroscience 1985). With a profile of fixed shape speeds are as the reciprocal of the duration and
accelerations as its square, so the shortest duration within all limits is a formula and needs no search. Libraries serve less here:
ruckig's free edition has no waypoints without its server, and toppra takes one path at a time.

Shapes: ``N`` pieces, ``P`` waypoints, ``J`` joints, ``T`` samples of all pieces, one after another.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

#: Samples a second (paper, section 3.2.3).
RATE = 50

#: Places of a piece at which its speed and acceleration are looked at, and the share that they keep from the limits for those between.
_PLACES, _RESERVE = 65, 0.99

#: Shortest piece in samples.
_SHORTEST = 10


class Samples(NamedTuple):
    """Joints over time.

    Attributes:
        piece: ``[T]``: the piece of each sample.
        share: ``[T]``: of the piece's pause after its motion that has gone by, 0 before.
        positions: ``[T, J]`` in radians.
        velocities: ``[T, J]`` in rad/s.
        accelerations: ``[T, J]`` in rad/s².
    """

    piece: Tensor
    share: Tensor
    positions: Tensor
    velocities: Tensor
    accelerations: Tensor


def durations(paths: Tensor, velocity: Tensor, acceleration: Tensor, slowness: Tensor) -> Tensor:
    """Samples that each piece takes, ``[N]``: the fewest within limits ``[J]``, times ``slowness`` ``[N]``, which is 1 or more."""
    time = torch.linspace(0, 1, _PLACES, dtype=paths.dtype, device=paths.device)
    s, speed, change = _profile(time)
    index = torch.arange(len(paths), device=paths.device)[:, None].expand(-1, _PLACES)
    _, first, second = _evaluate(_coefficients(paths), index, s.expand(len(paths), -1))
    speeds = (first * speed[:, None]).abs().amax(1)
    changes = (second * (speed**2)[:, None] + first * change[:, None]).abs().amax(1)
    seconds = torch.maximum((speeds / velocity).amax(-1), (changes / acceleration).amax(-1).sqrt()) / _RESERVE
    return (seconds * slowness * RATE).ceil().to(torch.int64).clamp_min(_SHORTEST)


def sample(paths: Tensor, counts: Tensor, pauses: Tensor) -> Samples:
    """Joints at each sample of pieces ``[N, P, J]`` that take ``counts`` samples and then rest for ``pauses`` ones."""
    whole = counts + pauses
    piece = torch.repeat_interleave(torch.arange(len(paths), device=paths.device), whole)
    local = torch.arange(len(piece), device=paths.device) - (whole.cumsum(0) - whole)[piece]
    moving = (local + 1).clamp_max(counts[piece])
    time = moving.to(paths.dtype) / counts[piece]
    s, speed, change = _profile(time)
    position, first, second = (part.squeeze(1) for part in _evaluate(_coefficients(paths), piece[:, None], s[:, None]))
    seconds = (counts[piece].to(paths.dtype) / RATE)[:, None]
    speed, change = speed[:, None] / seconds, change[:, None] / seconds**2
    share = (local + 1 - counts[piece]).clamp_min(0).to(paths.dtype) / pauses[piece].clamp_min(1)
    return Samples(piece, share, position, first * speed, second * speed**2 + first * change)


def _profile(time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum jerk from 0 to 1 over time 0 to 1, with its two derivatives."""
    return (
        time**3 * (10 - 15 * time + 6 * time**2),
        30 * time**2 * (1 - time) ** 2,
        60 * time * (1 - time) * (1 - 2 * time),
    )


@cache
def _spline(waypoints: int) -> np.ndarray:
    """From waypoints to the coefficients of each interval's cubic, ``[4, P - 1, P]``, highest power first."""
    return CubicSpline(np.linspace(0, 1, waypoints), np.eye(waypoints), axis=0).c


def _coefficients(paths: Tensor) -> Tensor:
    """``[N, P - 1, 4, J]``."""
    spline = torch.as_tensor(_spline(paths.shape[1]), dtype=paths.dtype, device=paths.device)
    return torch.einsum("dip,npj->nidj", spline, paths)


def _evaluate(coefficients: Tensor, piece: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions and derivatives by s at places ``[..., M]`` of the pieces of those numbers: ``[..., M, J]`` each."""
    intervals = coefficients.shape[1]
    interval = (s * intervals).floor().to(torch.int64).clamp(0, intervals - 1)
    u = (s - interval / intervals)[..., None]
    a, b, c, d = coefficients[piece, interval].unbind(-2)
    return ((a * u + b) * u + c) * u + d, (3 * a * u + 2 * b) * u + c, 6 * a * u + 2 * b
