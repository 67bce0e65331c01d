"""What RL needs of an answer: what the policy keeps of it, how that becomes a batch, and its log-probability under other weights.

Each reply's :attr:`~vlarig.policies.api.Recorded.arrays` are numpy arrays of one sample, so that they cross process borders, and
replies of different batches can be put together again. Only valid entries are kept:

============== ======================= ==============================================================================
array          shape                   holds
============== ======================= ==============================================================================
``before``     ``float32[E, H, A]``    chunks before the ``E`` scored steps: the task's own ``H``, real channels ``A``
``after``      ``float32[E, H, A]``    chunks after them
``step``       ``int64[E]``            indices of the steps
``executed``   ``int64[]``             steps of the chunk that the env runs; the log-probability is of those alone
``density``    ``float32[H]``          log-density of the scored steps, for each step of the chunk: what the log-probability is made of
``embodiment`` ``int64[]``             its index, for the projections ``multi_mlp`` and ``concat``
``state``      ``float32[state_numbers]`` the normalised state, for the state mode ``dit``
``states``     ``float32[S, D]``       the backbone's states, where :attr:`Recording.states` requests them; those in
                                       bfloat16, which numpy has not, as bytes: ``uint8[S, 2 D]``
``positions``  ``int64[3, S]``         their positions, with ``states``
============== ======================= ==============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import msgspec
import numpy as np
import torch
from torch import Tensor

from ...envs.errors import suggestion
from ..api import PolicyError, Recorded
from .backbone import BackboneInputs, Context
from .flow import Chain, DenoisingSteps, Sde, recompute_log_probability
from .model import QwenVla
from .tensors import Tensors, changed


@dataclass(frozen=True)
class Recording:
    """What RL needs of each answer; chunks are then sampled with the SDE, with its own steps and temperature.

    Attributes:
        sde: Number of steps, which of them are stochastic and scored, and how much noise.
        states: Whether to keep the backbone's states too, so that an update needs only the action expert.
    """

    sde: Sde = field(default_factory=Sde)
    states: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From plain data: ``{"sde": {"level": 0.5}, "states": True}``."""
        _refuse_unknown(options, cls, "")
        _refuse_unknown(options.get("sde", {}), Sde, "sde.")
        try:
            return msgspec.convert(options, cls)
        except ValueError as error:
            raise PolicyError(f"what is to be recorded cannot be: {error}") from None


def recorded_of(
    chain: Chain,
    shapes: Sequence[tuple[int, int]],
    executed: Sequence[int],
    value: Tensor,
    embodiment: Tensor | None = None,
    state: Tensor | None = None,
    context: Context | None = None,
) -> list[Recorded]:
    """What is recorded of each sample of a batch; every tensor goes to the CPU as a whole, not sample by sample.

    Args:
        chain: The sampling.
        shapes: ``(H, A)`` of each sample: the task's own steps, real channels.
        executed: Steps of each sample's chunk that are run.
        value: ``float32[B]``.
        embodiment: ``int64[B]``, where the action projection needs it.
        state: ``float32[B, state_numbers]``, where the action expert reads it.
        context: What the backbone made of the prompts, where it is to be kept.
    """
    steps = chain.denoising_steps
    kept = (steps.before, steps.after, steps.step, chain.log_density)
    before, after, step, density = (tensor.cpu().numpy() for tensor in kept)
    extra = {
        name: tensor.cpu().numpy() for name, tensor in (("embodiment", embodiment), ("state", state)) if tensor is not None
    }
    arrays: list[dict[str, np.ndarray]] = [
        {  # copies: a view would keep its whole batch in memory
            "before": before[index, :, :h, :c].copy(),
            "after": after[index, :, :h, :c].copy(),
            "step": step[index].copy(),
            "executed": np.array(executed[index], np.int64),
            "density": density[index, :h].copy(),
            **{name: np.array(array[index]) for name, array in extra.items()},
        }
        for index, (h, c) in enumerate(shapes)
    ]
    if context is not None:
        states, positions = _bytes_of_bfloat16(context.states.cpu()), context.positions.cpu().numpy()
        for index, length in enumerate(context.valid.sum(1).tolist()):
            arrays[index]["states"] = states[index, :length].copy()
            arrays[index]["positions"] = positions[:, index, :length].copy()
    numbers = zip(chain.log_probability.tolist(), value.tolist(), arrays, strict=True)
    return [Recorded(log_probability, estimate, own) for log_probability, estimate, own in numbers]


def shortened(recorded: Recorded, executed: int, sde: Sde) -> Recorded:
    """The record as if the env had been to run so many steps of the chunk: an episode's last chunk ends where the episode does.

    Steps that were not run had no effect, so their part of the log-probability would only add noise to a ratio.
    """
    planned = int(recorded.arrays["executed"])
    if not 1 <= executed <= planned:
        raise PolicyError(f"{executed} steps of a chunk were run; expected 1 to {planned}, as the request says")
    if executed == planned:
        return recorded
    total = float(recorded.arrays["density"][:executed].sum(dtype=np.float64))
    if sde.reduction == "mean":
        scored, _, channels = recorded.arrays["before"].shape
        total /= executed * channels * scored
    return replace(recorded, log_probability=total, arrays=recorded.arrays | {"executed": np.array(executed, np.int64)})


@dataclass(frozen=True)
class RecordedBatch(Tensors):
    """Recorded answers as tensors of one batch, padded to the longest; all on one device.

    Attributes:
        log_probability: ``float32[B]``, as it was when they were sampled.
        value: ``float32[B]``, as it was then.
        steps: The scored steps, chunks ``[B, E, H, K]``.
        mask: ``bool[B, H, K]``, the valid entries.
        scored: ``bool[B, H, K]``, those of executed steps.
        embodiment: ``int64[B]``, where it was recorded.
        state: ``float32[B, state_numbers]``, where it was recorded.
        context: What the backbone made of the prompts, where it was recorded.
    """

    log_probability: Tensor
    value: Tensor
    steps: DenoisingSteps
    mask: Tensor
    scored: Tensor
    embodiment: Tensor | None = None
    state: Tensor | None = None
    context: Context | None = None

    @classmethod
    def stack(cls, recorded: Sequence[Recorded], channels: int) -> Self:
        """A batch on the CPU.

        Args:
            recorded: Of replies of any batches, in which prompts, chunks and robots may differ.
            channels: ``K`` of the model.
        """
        if not recorded:
            raise PolicyError("there are no recorded answers to put together; give one or more")

        def arrays(name: str) -> list[np.ndarray] | None:
            found = [each.arrays[name] for each in recorded if name in each.arrays]
            if found and len(found) < len(recorded):
                raise PolicyError(f"{len(found)} of {len(recorded)} recorded answers have {name!r}; record all of them alike")
            return found or None

        def stacked(name: str) -> Tensor | None:
            found = arrays(name)
            return None if found is None else torch.from_numpy(np.stack(found))

        before, after, steps, executed = (
            [each.arrays[name] for each in recorded] for name in ("before", "after", "step", "executed")
        )
        horizon = max(array.shape[1] for array in before)
        shape = (len(before), before[0].shape[0], horizon, channels)
        chunks = np.zeros((2, *shape), np.float32)
        mask = np.zeros((shape[0], horizon, channels), bool)
        for index, (first, second) in enumerate(zip(before, after, strict=True)):
            _, h, c = first.shape
            chunks[0, index, :, :h, :c], chunks[1, index, :, :h, :c] = first, second
            mask[index, :h, :c] = True
        states, positions = arrays("states"), arrays("positions")
        context = None
        if states is not None and positions is not None:
            context = Context.padded([_from_bytes(each) for each in states], [torch.tensor(each) for each in positions])
        return cls(
            log_probability=torch.tensor([each.log_probability for each in recorded]),
            value=torch.tensor([each.value for each in recorded]),
            steps=DenoisingSteps(torch.from_numpy(chunks[0]), torch.from_numpy(chunks[1]), torch.from_numpy(np.stack(steps))),
            mask=torch.from_numpy(mask),
            scored=torch.from_numpy(mask & (np.arange(horizon)[:, None] < np.stack(executed)[:, None, None])),
            embodiment=stacked("embodiment"),
            state=stacked("state"),
            context=context,
        )

    def of(self, samples: Tensor) -> Self:
        """Those of some samples, ``int64[C]``."""
        context = None if self.context is None else self.context.of(samples)
        return replace(changed(replace(self, context=None), lambda tensor: tensor[samples]), context=context)

    def __len__(self) -> int:
        """``B``."""
        return len(self.value)


@dataclass(frozen=True)
class Evaluated:
    """Recorded answers under a model's present weights.

    Attributes:
        log_probability: ``float32[B]``; gradients flow into the action expert, and into the backbone where it was run again.
        value: ``float32[B]``; gradients flow into the value head alone.
    """

    log_probability: Tensor
    value: Tensor


def evaluate(model: QwenVla, recorded: RecordedBatch, sde: Sde, inputs: BackboneInputs | None = None) -> Evaluated:
    """How probable recorded chunks are under the model's present weights, and what their observations are worth.

    With the weights that sampled them it is what was recorded, up to rounding.

    Args:
        model: The network.
        recorded: On the model's device.
        sde: The recording's.
        inputs: The prompts of the same samples, to run the backbone again; without them the recorded states are taken.
    """
    context = recorded.context if inputs is None else model.encode(inputs)
    if context is None:
        raise PolicyError(
            "the answers were recorded without the backbone's states; record with states=True, or give the inputs"
        )

    def velocity(noisy: Tensor, time: Tensor) -> Tensor:
        return model.velocity(noisy, time, context, recorded.mask, recorded.embodiment, recorded.state)

    log_probability = recompute_log_probability(velocity, recorded.steps, recorded.scored, sde)
    return Evaluated(log_probability, model.value(context, recorded.state))


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
