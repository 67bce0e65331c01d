"""What training needs of an answer: what the policy keeps of it, and its log-probability under changed weights.

Each reply's :attr:`~vlarig.policies.api.Recorded.arrays` are numpy arrays of one sample, so that they travel, and replies of different
batches can be put together again:

============== ======================= ==============================================================================
array          shape                   holds
============== ======================= ==============================================================================
``before``     ``float32[E, H, K]``    chunks before the ``E`` stochastic steps
``after``      ``float32[E, H, K]``    chunks after them
``step``       ``int64[E]``            indices of the steps
``mask``       ``bool[H, K]``          valid entries
``embodiment`` ``int64[]``             its index, for the projections ``multi_mlp`` and ``concat``
``state``      ``float32[state_size]`` the normalised state, for the state mode ``dit``
``states``     ``float32[S, D]``       the backbone's states, where :attr:`Recording.states` requests them; those in
                                       bfloat16, which numpy has not, as bytes: ``uint8[S, 2 D]``
``positions``  ``int64[3, S]``         their positions, with ``states``
============== ======================= ==============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...envs.errors import suggestion
from ..api import PolicyError, Recorded
from .flow import Chain, DenoisingSteps, SdeNoise, recompute_log_probability
from .model import Context, QwenVla


@dataclass(frozen=True)
class Recording:
    """What training needs of each answer; chunks are then sampled with the SDE, at its own temperature.

    Attributes:
        sde: Which steps are stochastic, and how much.
        states: Whether to keep the backbone's states too, so that an update needs only the action expert.
    """

    sde: SdeNoise = field(default_factory=SdeNoise)
    states: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From plain data: ``{"sde": {"level": 0.5}, "states": True}``.

        Raises:
            PolicyError: An option is unknown, of another type, or not possible.
        """
        _refuse_unknown(options, cls, "")
        _refuse_unknown(options.get("sde", {}), SdeNoise, "sde.")
        try:
            return msgspec.convert(options, cls)
        except ValueError as error:
            raise PolicyError(f"what is to be recorded cannot be: {error}") from None


def recorded_of(
    chain: Chain,
    mask: Tensor,
    value: Tensor,
    embodiment: Tensor | None = None,
    state: Tensor | None = None,
    context: Context | None = None,
) -> list[Recorded]:
    """What is recorded of each sample of a batch; every tensor goes to the CPU as a whole, not sample by sample.

    Args:
        chain: The sampling.
        mask: ``bool[B, H, K]``.
        value: ``float32[B]``.
        embodiment: ``int64[B]``, where the action projection needs it.
        state: ``float32[B, state_size]``, where the action expert reads it.
        context: What the backbone made of the prompts, where it is to be kept.
    """
    whole = {
        "before": chain.denoising_steps.before,
        "after": chain.denoising_steps.after,
        "step": chain.denoising_steps.step,
        "mask": mask,
        **({} if embodiment is None else {"embodiment": embodiment}),
        **({} if state is None else {"state": state}),
    }
    here = {name: tensor.cpu().numpy() for name, tensor in whole.items()}
    # Copies: a view would keep its whole batch in memory.
    arrays: list[dict[str, np.ndarray]] = [
        {name: np.array(array[index]) for name, array in here.items()} for index in range(len(mask))
    ]
    if context is not None:
        states, positions = _bytes_of_bfloat16(context.states.cpu()), context.positions.cpu().numpy()
        for index, length in enumerate(context.valid.sum(1).tolist()):
            arrays[index]["states"] = states[index, :length].copy()
            arrays[index]["positions"] = positions[:, index, :length].copy()
    numbers = zip(chain.log_probability.tolist(), value.tolist(), arrays, strict=True)
    return [Recorded(log_probability, estimate, own) for log_probability, estimate, own in numbers]


def recorded_context(recorded: Sequence[Recorded], device: torch.device | str = "cpu") -> Context:
    """The backbone's states that were kept with some answers, padded to one batch on ``device``.

    Raises:
        PolicyError: They were not kept.
    """
    if not recorded or any("states" not in each.arrays for each in recorded):
        raise PolicyError("an answer was recorded without the backbone's states; record with states=True, or give the context")
    each_states = [_from_bytes(each.arrays["states"]) for each in recorded]
    lengths = torch.tensor([len(states) for states in each_states])
    states = pad_sequence(each_states, batch_first=True)
    positions = pad_sequence([torch.tensor(each.arrays["positions"]).T for each in recorded], batch_first=True).permute(2, 0, 1)
    valid = torch.arange(states.shape[1]) < lengths[:, None]
    return Context(states.to(device), valid.to(device), positions.to(device))


def recompute(
    model: QwenVla, recorded: Sequence[Recorded], steps: int, sde: SdeNoise, context: Context | None = None
) -> Tensor:
    """How probable recorded steps are under the model's present weights, ``float32[B]``; gradients flow into the model.

    With the weights that sampled them it is their ``log_probability``, up to rounding.

    Args:
        model: The network.
        recorded: Of replies of any batches.
        steps: Euler steps of those answers.
        sde: The recording's.
        context: The backbone's states of the same samples, where they are recomputed; else the recorded ones are taken.

    Raises:
        PolicyError: No context is given and none was recorded, or an array that the model needs is missing.
    """
    device = next(model.parameters()).device

    def batch(name: str) -> Tensor:
        if any(name not in each.arrays for each in recorded):
            raise PolicyError(f"the recorded answers lack {name!r}, which this model needs; record them with the same model")
        return torch.from_numpy(np.stack([each.arrays[name] for each in recorded])).to(device)

    mask = batch("mask")
    embodiment = None if model.config.projection == "zero_pad" else batch("embodiment")
    state = batch("state") if model.config.state == "dit" else None
    if context is None:
        context = recorded_context(recorded, device)
    field = model.velocity_field(context, mask, embodiment, state)
    stored = DenoisingSteps(batch("before"), batch("after"), batch("step"))
    return recompute_log_probability(field, stored, mask, steps, sde)


def _bytes_of_bfloat16(states: Tensor) -> np.ndarray:
    """``[B, S, D]`` as numpy has it: ``float32``, or the bytes of ``bfloat16``, which numpy has not."""
    return (states.contiguous().view(torch.uint8) if states.dtype == torch.bfloat16 else states.float()).numpy()


def _from_bytes(states: np.ndarray) -> Tensor:
    tensor = torch.tensor(states)  # a copy: what has travelled cannot be written to
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint8 else tensor


def _refuse_unknown(options: Mapping[str, Any], kind: Any, place: str) -> None:
    known = [each.name for each in fields(kind)]
    for name in options:
        if name not in known:
            raise PolicyError(f"nothing called {place}{name} can be recorded; {suggestion(name, known)}")
