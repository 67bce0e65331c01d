"""The end of a prompt in numbers: where the object and the goal of a task are, as a loss of ours and as input of a small action expert.

A backbone with random weights does not learn from cloning alone, in any time that two cores have, which object the words mean, and
where it is. So its states of a prompt's last tokens, where an answer begins, learn to hold the keypoints of the time step
(:mod:`vlarig.envs.keypoints`) by a linear read-out, :class:`Ends`, where the data have keypoints. The read-out gives each place twice,
in the frame of the robot's state and in the hand's frame, each with the size of its error. An object that the front camera sees is
known best in the frame of the state, one that the hand's camera sees in the hand's. The state gives the hand's pose exactly, so both
are the same place; :func:`relations` combines the two by their errors.

An action expert that reads these numbers alone (``expert.context = "ends"``, see :class:`~.config.ExpertConfig`) can be trained before
there is a backbone, and without images: on the simulator's truth with errors that :func:`blurred` samples. The expert gets the errors'
size as well.

Lengths are in decimetres here, of the order of 1 above a table. Shapes: ``B`` samples, ``S`` tokens, ``D`` the backbone's width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...envs.keypoints import NAMES
from .projections import Float32Linear
from .rotations import euler_matrix, rotation_matrix

#: Decimetres in a metre.
_TENTHS = 10.0

#: Places of a time step: object, goal, and where the object is to be in the end.
_PLACES = 3
#: The numbers: three places in the frame of the state, the same in the hand's, the object's turn in both, whether it is pushed.
NUMBERS = 2 * 3 * _PLACES + 2 * 2 + 1
#: The read-outs: the numbers, and for each place in each frame the logarithm of its error (mean absolute, dm).
READ = NUMBERS + 2 * _PLACES

#: Weights beside a place's in the frame of the state: of a turn's two numbers, of whether it is pushed, and of an error's logarithm.
TURN_WEIGHT = 0.3
PUSHED_WEIGHT = 0.5
ERROR_WEIGHT = 0.1
#: Distance (dm) beyond which a further one counts linearly.
BEND = 0.1
#: The action expert clips logarithms of errors to these: 2 mm to 70 cm.
_LOWEST, _HIGHEST = -4.0, 2.0
#: Added to the length of a way (dm) by which its direction is divided: a way of length 0 has no direction.
_SHORT = 0.1
#: Distances are also given on a scale on which millimetres matter: tanh(15 x), x in dm. Ours, as the errors of :func:`blurred`: with
#: the truth, an expert that learned from 270,000 samples solves 52 of 80 starts with a scale of 5 and errors up to 2 cm and 10 cm, and
#: 61 with 15.
_NEAR = 15.0

#: What :func:`relations` gives: the three places from the hand, the last of them from the first, their errors, the turn from the hand,
#: whether it is pushed; the direction in which the object has to go, and where the hand is along that way and across it; on the finer
#: scale the object and the place from the hand, the place from the object, and the hand across the way.
RELATIONS = 9 + 3 + 3 + 2 + 1 + 4 + 10

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
    """What the end of a time step's prompt is to hold, ``float32[23]``; what is not known is not a number.

    Args:
        keypoints: ``float32[12]``, see :data:`vlarig.envs.keypoints.NAMES`.
        pose: ``float32[12]``, of the hand.
    """
    known: dict[str, float] = dict(zip(NAMES, keypoints.tolist(), strict=True))
    rotation = pose[3:].reshape(3, 3).astype(np.float64)
    places = _TENTHS * np.array([[known[f"{name}_{axis}"] for axis in "xyz"] for name in ("object", "goal", "place")])
    turn = known["turn_cos"] + 1j * known["turn_sin"]
    from_hand = turn * np.exp(-4j * np.arctan2(rotation[1, 0], rotation[0, 0]))
    turns = [turn.real, turn.imag, from_hand.real, from_hand.imag]
    return np.concatenate([places.ravel(), ((places - pose[:3]) @ rotation).ravel(), turns, [known["pushed"]]]).astype(
        np.float32
    )


class Ends(nn.Module):
    """The linear read-out of a prompt's last states, a part of the language model."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.readout = Float32Linear(tokens * width, READ)

    def forward(self, states: Tensor, valid: Tensor, last: Tensor | None = None) -> Tensor:
        """``float32[B, READ]``.

        Args:
            states: ``[B, S, D]`` of the backbone.
            valid: ``bool[B, S]``; prompts are padded on the right.
            last: ``int64[B]``, the prompt's last token where something follows it.
        """
        end = valid.sum(1) - 1 if last is None else last
        places = end.unsqueeze(1) - torch.arange(self.tokens, device=end.device)
        return self.readout(states.float().take_along_dim(places.unsqueeze(-1), dim=1).flatten(1))


def ends_loss(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the weighted distances of known numbers, and the count of samples that have any; two ``float32[]``.

    A place in the hand's frame counts less the further away it is, because the hand's camera sees it less well.

    Args:
        found: ``float32[B, READ]``.
        wanted: ``float32[B, NUMBERS]`` from :func:`end_numbers`.
    """
    known = ~wanted.isnan()
    wanted = wanted.nan_to_num()
    apart = functional.smooth_l1_loss(found[:, :NUMBERS], wanted, reduction="none", beta=BEND) * known
    places, turns, pushed = apart.split([6 * _PLACES, 4, 1], dim=1)
    far = wanted[:, 3 * _PLACES : 6 * _PLACES].unflatten(1, (_PLACES, 3)).norm(dim=2)  # [B, 3]
    weights = torch.cat([torch.ones_like(far), 1 / (1 + far)], dim=1)
    distances = (places.unflatten(1, (2 * _PLACES, 3)).sum(2) * weights).sum()
    whole = known[:, : 6 * _PLACES].unflatten(1, (2 * _PLACES, 3)).all(2)
    off = (found[:, : 6 * _PLACES] - wanted[:, : 6 * _PLACES]).detach().abs().unflatten(1, (2 * _PLACES, 3)).mean(2)
    logs = found[:, NUMBERS:]
    errors = ((off * (-logs).exp() + logs) * whole).sum()  # least where the logarithm is that of the mean error
    total = distances + TURN_WEIGHT * turns.sum() + PUSHED_WEIGHT * pushed.sum() + ERROR_WEIGHT * errors
    return total, known.any(1).sum().float()


def relations(ends: Tensor, pose: Tensor | None) -> Tensor:
    """What an action depends on, ``float32[B, RELATIONS]``: places from the hand along the axes of the state's frame.

    Args:
        ends: ``float32[B, READ]``.
        pose: ``float32[B, 12]``, the hand's (:func:`hand_pose`); ``None`` where it is not known: places are then from the origin.
    """
    places = ends[:, : 6 * _PLACES].unflatten(1, (2, _PLACES, 3))
    logs = ends[:, NUMBERS:].clamp(_LOWEST, _HIGHEST).unflatten(1, (2, _PLACES))
    apart, error, turn = places[:, 0], logs[:, 0], ends[:, 18:20]
    if pose is not None:
        rotation = pose[:, 3:].unflatten(1, (3, 3))
        shares = (-2 * logs).softmax(dim=1).unsqueeze(-1)  # [B, 2, 3, 1], by one over the square of the error
        from_state, from_hand = apart - pose[:, None, :3], places[:, 1] @ rotation.transpose(1, 2)
        apart = shares[:, 0] * from_state + shares[:, 1] * from_hand  # [B, 3, 3]
        error = -0.5 * (-2 * logs).logsumexp(dim=1)
        turn = (torch.stack(_from_hand(turn, rotation), dim=1) + ends[:, 20:22]) / 2
    way = apart[:, 2] - apart[:, 0]  # from the object to its place
    along = way[:, :2] / (way[:, :2].norm(dim=1, keepdim=True) + _SHORT)
    behind = (apart[:, 0, :2] * along).sum(1, keepdim=True)
    aside = apart[:, 0, :1] * along[:, 1:] - apart[:, 0, 1:2] * along[:, :1]
    near = torch.tanh(_NEAR * torch.cat([apart[:, 0], apart[:, 2], way, aside], dim=1))
    return torch.cat([apart.flatten(1), way, error, turn, ends[:, 22:23], along, behind, aside, near], dim=1)


def _from_hand(turn: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of four times a turn in the frame of the state, from the hand."""
    yaw = 4 * torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])
    return turn[:, 0] * yaw.cos() + turn[:, 1] * yaw.sin(), turn[:, 1] * yaw.cos() - turn[:, 0] * yaw.sin()


def blurred(numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The truth as a backbone might read it, ``float32[READ]``: with errors of a sampled size, and about how large they are.

    They reach from 2 mm to 12 mm in the frame of the state, and to 30 mm at the hand. Errors up to 20 mm and 100 mm make the expert
    cautious where it sees well: with the truth it then solves 52 of 80 starts instead of 64.

    Args:
        numbers: ``float32[NUMBERS]``, all known.
        rng: Samples the errors.
    """
    low, high = np.log([[0.02] * _PLACES, [0.02] * _PLACES]), np.log([[0.12] * _PLACES, [0.3] * _PLACES])
    logs = rng.uniform(low, high).ravel()
    read = np.concatenate([numbers, logs + rng.normal(0.0, 0.2, logs.shape)]).astype(np.float32)
    read[: 6 * _PLACES] += rng.laplace(size=6 * _PLACES) * np.exp(logs).repeat(3)
    read[6 * _PLACES : NUMBERS] += rng.normal(size=5) * [0.1, 0.1, 0.1, 0.1, 0.05]
    return read
