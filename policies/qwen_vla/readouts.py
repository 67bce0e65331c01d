"""What is read out of the backbone's states beside actions: where the objects of a task are, and a value.

A backbone with random weights does not learn from cloning alone, in any time that two cores have, which object the words mean, and
where it is. So its states of a prompt's last tokens, where an answer begins, learn to hold the keypoints of the time step
(:mod:`vlarig.envs.keypoints`) by a linear read-out, :class:`Ends`, where the data have keypoints; a loss of ours, and input of a small
action expert. The read-out gives each place twice, in the frame of the robot's state and in the hand's frame, each with the size of its
error. An object that the front camera sees is known best in the frame of the state, one that the hand's camera sees in the hand's. The
state gives the hand's pose exactly, so both are the same place; :func:`relations` combines the two by their errors.

An action expert that reads these numbers alone (``expert.context = "ends"``, see :class:`~.config.ExpertConfig`) can be trained before
there is a backbone, and without images: on the simulator's truth with errors that :func:`~.end_numbers.blurred` samples. The expert
gets the errors' size as well.

The value head is a linear read-out of the backbone's mean state, through which no gradient passes (paper, section 4.2). Where
proprioception goes to the action expert and not into the prompt, the backbone's states do not hold it, and the head reads it beside
them (ours).

Lengths are in decimetres here, of the order of 1 above a table. Shapes: ``B`` samples, ``S`` tokens, ``D`` the backbone's width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .end_numbers import NUMBERS, PLACES, READ
from .tensors import Float32Linear

#: Weights beside a place's in the frame of the state: of a turn's numbers, of whether it is pushed, and of an error's logarithm.
#: With 0.3 for a turn ``small`` has not learned those of thin objects after 7,000 steps; with 2, and more of them shown, it has after
#: 1,000 more.
TURN_WEIGHT = 2.0
PUSHED_WEIGHT = 0.5
ERROR_WEIGHT = 0.1
#: Distance (dm) beyond which a further one counts linearly.
BEND = 0.1
#: The action expert clips logarithms of errors to these: 2 mm to 70 cm.
_LOWEST, _HIGHEST = -4.0, 2.0
#: Added to the length of a way (dm) by which its direction is divided: a way of length 0 has no direction.
_SHORT = 0.1
#: Distances are also given on a scale on which millimetres matter: tanh(15 x), x in dm. Ours, as the errors of
#: :func:`~.end_numbers.blurred`: with the truth, an expert that learned from 270,000 samples solves 52 of 80 starts with a scale of 5
#: and errors up to 2 cm and 10 cm, and 61 with 15.
_NEAR = 15.0

#: What :func:`relations` gives: the three places from the hand, the last of them from the first, their errors, the turn from the hand,
#: whether it is pushed; the direction in which the object has to go, and where the hand is along that way and across it; on the finer
#: scale the object and the place from the hand, the place from the object, and the hand across the way.
RELATIONS = 9 + 3 + 3 + 4 + 1 + 4 + 10


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
        wanted: ``float32[B, NUMBERS]`` from :func:`~.end_numbers.end_numbers`.
    """
    known = ~wanted.isnan()
    wanted = wanted.nan_to_num()
    apart = functional.smooth_l1_loss(found[:, :NUMBERS], wanted, reduction="none", beta=BEND) * known
    places, turns, pushed = apart.split([6 * PLACES, 8, 1], dim=1)
    far = wanted[:, 3 * PLACES : 6 * PLACES].unflatten(1, (PLACES, 3)).norm(dim=2)  # [B, 3]
    weights = torch.cat([torch.ones_like(far), 1 / (1 + far)], dim=1)
    distances = (places.unflatten(1, (2 * PLACES, 3)).sum(2) * weights).sum()
    whole = known[:, : 6 * PLACES].unflatten(1, (2 * PLACES, 3)).all(2)
    off = (found[:, : 6 * PLACES] - wanted[:, : 6 * PLACES]).detach().abs().unflatten(1, (2 * PLACES, 3)).mean(2)
    logs = found[:, NUMBERS:]
    errors = ((off * (-logs).exp() + logs) * whole).sum()  # least where the logarithm is that of the mean error
    total = distances + TURN_WEIGHT * turns.sum() + PUSHED_WEIGHT * pushed.sum() + ERROR_WEIGHT * errors
    return total, known.any(1).sum().float()


def relations(ends: Tensor, pose: Tensor | None) -> Tensor:
    """What an action depends on, ``float32[B, RELATIONS]``: places from the hand along the axes of the state's frame.

    Args:
        ends: ``float32[B, READ]``.
        pose: ``float32[B, 12]``, the hand's (:func:`~.end_numbers.hand_pose`); ``None`` where it is not known: places are then from
            the origin.
    """
    places = ends[:, : 6 * PLACES].unflatten(1, (2, PLACES, 3))
    logs = ends[:, NUMBERS:].clamp(_LOWEST, _HIGHEST).unflatten(1, (2, PLACES))
    apart, error, turn = places[:, 0], logs[:, 0], ends[:, 18:22]
    if pose is not None:
        rotation = pose[:, 3:].unflatten(1, (3, 3))
        shares = (-2 * logs).softmax(dim=1).unsqueeze(-1)  # [B, 2, 3, 1], by one over the square of the error
        from_state, from_hand = apart - pose[:, None, :3], places[:, 1] @ rotation.transpose(1, 2)
        apart = shares[:, 0] * from_state + shares[:, 1] * from_hand  # [B, 3, 3]
        error = -0.5 * (-2 * logs).logsumexp(dim=1)
        turn = (_from_hand(turn, rotation) + ends[:, 22:26]) / 2
    way = apart[:, 2] - apart[:, 0]  # from the object to its place
    along = way[:, :2] / (way[:, :2].norm(dim=1, keepdim=True) + _SHORT)
    behind = (apart[:, 0, :2] * along).sum(1, keepdim=True)
    aside = apart[:, 0, :1] * along[:, 1:] - apart[:, 0, 1:2] * along[:, :1]
    near = torch.tanh(_NEAR * torch.cat([apart[:, 0], apart[:, 2], way, aside], dim=1))
    return torch.cat([apart.flatten(1), way, error, turn, ends[:, 26:27], along, behind, aside, near], dim=1)


def _from_hand(turn: Tensor, rotation: Tensor) -> Tensor:
    """Cosines and sines of twice and of four times a turn in the frame of the state, ``[B, 4]``, from the hand."""
    yaw = torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])
    yaw = torch.stack([2 * yaw, 4 * yaw], dim=1)
    cos, sin = turn.unflatten(1, (2, 2)).unbind(2)
    return torch.stack([cos * yaw.cos() + sin * yaw.sin(), sin * yaw.cos() - cos * yaw.sin()], dim=2).flatten(1)


class ValueHead(nn.Module):
    """The value of an observation, from the mean of its valid tokens' states and the robot's, in float32.

    It starts at zero: before the first update every state is worth nothing, as under a sparse reward most are.
    """

    def __init__(self, width: int, state_numbers: int = 0) -> None:
        super().__init__()
        self.readout = Float32Linear(width + state_numbers, 1)

    def reset(self) -> None:
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, states: Tensor, valid: Tensor, state: Tensor | None = None) -> Tensor:
        """``float32[B]``; arguments as for :meth:`features`."""
        return self.readout(self.features(states, valid, state)).squeeze(-1)

    def features(self, states: Tensor, valid: Tensor, state: Tensor | None = None) -> Tensor:
        """What a value is read from, ``float32[B, D + state_numbers]``.

        Args:
            states: ``[B, S, D]`` of the backbone; they are detached.
            valid: ``bool[B, S]``, false at padding.
            state: ``float32[B, state_numbers]`` of the robot, where there are any.
        """
        counted = valid.unsqueeze(-1)
        total = states.detach().float().masked_fill(~counted, 0.0).sum(dim=1)
        mean = total / counted.sum(dim=1).clamp(min=1)
        return mean if state is None else torch.cat([mean, state], dim=1)
