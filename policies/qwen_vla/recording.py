"""What training wants to know of an answer: what the policy keeps of it, and its log-probability under changed weights.

Each reply's extras are tensors of one sample on the CPU, so that replies of different batches can be put together anew:

=================== ============================== =======================================================================
extra               shape                          holds
=================== ============================== =======================================================================
``log_probability`` ``float32[]``                  of the stochastic steps, under the weights that sampled them
``before``          ``float32[N, H, K]``           chunks before the ``N`` stochastic steps
``after``           ``float32[N, H, K]``           chunks after them
``step``            ``int64[N]``                   indices of the steps
``mask``            ``bool[H, K]``                 valid entries
``value``           ``float32[]``                  the value head's estimate
``embodiment``      ``int64[]``                    its index, for the projections ``multi_mlp`` and ``concat``
``state``           ``float32[state_size]``        the normalised state, for the state mode ``dit``
``states``          ``[S, D]``                     the backbone's states, where :attr:`Recording.states` asks for them
``positions``       ``int64[3, S]``                their positions, with ``states``
=================== ============================== =======================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..api import PolicyError
from .flow import Chain, SdeNoise, Transitions, recompute_log_probability
from .model import Context, QwenVla


@dataclass(frozen=True)
class Recording:
    """What training wants to know of each answer; chunks are then sampled with the SDE, at its own temperature.

    Attributes:
        sde: Which steps are stochastic, and how much.
        states: Whether to keep the backbone's states too, so that an update needs only the action expert.
    """

    sde: SdeNoise
    states: bool = True


def extras_of(
    chain: Chain,
    mask: Tensor,
    value: Tensor,
    embodiment: Tensor | None = None,
    state: Tensor | None = None,
    context: Context | None = None,
) -> list[dict[str, Tensor]]:
    """The extras of each sample of a batch; every tensor goes to the CPU as a whole, not sample by sample.

    Args:
        chain: The sampling.
        mask: ``bool[B, H, K]``.
        value: ``float32[B]``.
        embodiment: ``int64[B]``, where the action projection asks for it.
        state: ``float32[B, state_size]``, where the action expert reads it.
        context: What the backbone made of the prompts, where it is to be kept.
    """
    whole = {
        "log_probability": chain.log_probability,
        "before": chain.transitions.before,
        "after": chain.transitions.after,
        "step": chain.transitions.step,
        "mask": mask,
        "value": value,
        **({} if embodiment is None else {"embodiment": embodiment}),
        **({} if state is None else {"state": state}),
    }
    here = {name: tensor.cpu() for name, tensor in whole.items()}
    # Copies: a view would keep its whole batch in memory.
    extras = [{name: tensor[index].clone() for name, tensor in here.items()} for index in range(len(mask))]
    if context is not None:
        states, positions = context.states.cpu(), context.positions.cpu()
        for index, length in enumerate(context.valid.sum(1).tolist()):
            extras[index]["states"] = states[index, :length].clone()
            extras[index]["positions"] = positions[:, index, :length].clone()
    return extras


def recorded_context(extras: Sequence[Mapping[str, Tensor]], device: torch.device | str = "cpu") -> Context:
    """The backbone's states that were kept with some answers, padded to one batch on ``device``.

    Raises:
        PolicyError: They were not kept.
    """
    if not extras or any("states" not in each for each in extras):
        raise PolicyError("an answer was recorded without the backbone's states; record with states=True, or give the context")
    lengths = torch.tensor([len(each["states"]) for each in extras])
    states = pad_sequence([each["states"] for each in extras], batch_first=True)
    positions = pad_sequence([each["positions"].T for each in extras], batch_first=True).permute(2, 0, 1)
    valid = torch.arange(states.shape[1]) < lengths[:, None]
    return Context(states.to(device), valid.to(device), positions.to(device))


def recompute(
    model: QwenVla, extras: Sequence[Mapping[str, Tensor]], steps: int, sde: SdeNoise, context: Context | None = None
) -> Tensor:
    """How probable recorded steps are under the model's present weights, ``float32[B]``; gradients flow into the model.

    With the weights that sampled them it is ``log_probability`` of the extras, up to rounding.

    Args:
        model: The network.
        extras: Of replies of any batches.
        steps: Euler steps of those answers.
        sde: The recording's.
        context: The backbone's states of the same samples, where they are computed anew; else the recorded ones are taken.

    Raises:
        PolicyError: No context is given and none was recorded, or an extra that the model needs is missing.
    """
    device = next(model.parameters()).device

    def batch(name: str) -> Tensor:
        if any(name not in each for each in extras):
            raise PolicyError(f"the recorded answers lack {name!r}, which this model needs; record them with the same model")
        return torch.stack([each[name] for each in extras]).to(device)

    mask = batch("mask")
    embodiment = None if model.config.projection == "zero_pad" else batch("embodiment")
    state = batch("state") if model.config.state == "dit" else None
    if context is None:
        context = recorded_context(extras, device)
    field = model.velocity_field(context, mask, embodiment, state)
    stored = Transitions(batch("before"), batch("after"), batch("step"))
    return recompute_log_probability(field, stored, mask, steps, sde)
