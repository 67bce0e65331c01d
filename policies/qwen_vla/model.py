"""Qwen-VLA: the backbone reads images and text, the action expert turns noise into a chunk of actions (paper, section 2.2).

Shapes: ``B`` samples, ``S`` prompt tokens, ``H`` and ``K`` steps and channels of a chunk, ``D`` the backbone's width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from .action_expert import ActionExpert, Conditioning
from .backbone import BackboneInputs, hidden_states, load_backbone, make_backbone
from .config import ModelConfig
from .projections import Float32Linear
from .value_head import ValueHead


@dataclass(frozen=True)
class Context:
    """The backbone's output for a batch of prompts; enough for the action expert and the value head.

    Attributes:
        states: ``[B, S, D]``, zero at padding.
        valid: ``bool[B, S]``.
        positions: ``int64[3, B, S]``.
    """

    states: Tensor
    valid: Tensor
    positions: Tensor


class QwenVla(nn.Module):
    """The whole policy network.

    Attributes:
        config: Its architecture.
        backbone: Transformers' ``Qwen3_5ForConditionalGeneration``; its language-model head serves the vision-language loss.
        expert: The action expert.
        value_head: The critic of the RL stage.
    """

    def __init__(self, config: ModelConfig, backbone: nn.Module | None = None) -> None:
        """Weights come from torch's current generators; :func:`build` seeds them.

        Args:
            config: The architecture.
            backbone: A backbone that is there already, instead of a new one.
        """
        super().__init__()
        self.config = config
        self.backbone: Any = make_backbone(config.backbone) if backbone is None else backbone
        self.expert = ActionExpert(config)
        self.value_head = ValueHead(config.text["hidden_size"])

    def encode(self, inputs: BackboneInputs) -> Context:
        """The backbone's forward pass."""
        return Context(hidden_states(self.backbone, inputs), inputs.valid, inputs.positions)

    def condition(
        self, context: Context, mask: Tensor, embodiment: Tensor | None = None, state: Tensor | None = None
    ) -> Conditioning:
        """What stays the same over the Euler steps of a chunk; arguments as for :meth:`velocity`."""
        return self.expert.condition(context.states, context.valid, context.positions, mask, embodiment, state)

    def velocity_field(
        self, context: Context, mask: Tensor, embodiment: Tensor | None = None, state: Tensor | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """``(noisy[B, H, K], time[B]) -> float32[B, H, K]``: the velocity in this context, for samplers that call it repeatedly."""
        conditioning = self.condition(context, mask, embodiment, state)
        return lambda noisy, time: self.expert(noisy, time, conditioning)

    def velocity(
        self,
        noisy: Tensor,
        time: Tensor,
        context: Context,
        mask: Tensor,
        embodiment: Tensor | None = None,
        state: Tensor | None = None,
    ) -> Tensor:
        """The flow's velocity, from clean to noise: ``float32[B, H, K]``, zero outside the mask.

        Args:
            noisy: ``[B, H, K]``; the values outside the mask are not read.
            time: ``[B]``, 0 (clean) to 1 (noise).
            context: From :meth:`encode`.
            mask: ``bool[B, H, K]``, the valid entries.
            embodiment: ``int64[B]``, :meth:`~.config.ModelConfig.embodiment_index` of each sample; ``None`` for ``zero_pad``.
            state: ``[B, state_size]`` for the state mode ``dit``, else ``None``.

        Raises:
            PolicyError: A shape does not fit, or something that the configuration needs is missing.
        """
        return self.velocity_field(context, mask, embodiment, state)(noisy, time)

    def value(self, context: Context) -> Tensor:
        """The value of each observation, ``float32[B]``; no gradient reaches the backbone."""
        return self.value_head(context.states, context.valid)


def build(
    config: ModelConfig,
    seed: int | None = 0,
    backbone: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> QwenVla:
    """A model whose weights are a function of ``config`` and ``seed`` alone; torch's generators are left as they were.

    Args:
        config: The architecture.
        seed: Seed of the random weights. ``None`` leaves them unset, for a checkpoint to fill every one of them: at full size that
            saves minutes.
        backbone: Directory or hub id of a trained Qwen3.5 whose weights the backbone takes; its sizes must be ``config.backbone``'s.
        device: Where the weights are made. A GPU's generator draws others than the CPU's; ``meta`` makes none.
        dtype: Precision of the weights, see :func:`cast_parameters`.

    Raises:
        PolicyError: The trained backbone cannot be loaded or has other sizes.
    """
    place = torch.device(device)
    with _seeded(seed or 0, place):
        trained: Any = None if backbone is None else load_backbone(backbone, dtype, config.backbone)
        with no_init_weights() if seed is None else contextlib.nullcontext(), place:
            model = QwenVla(config, None if trained is None else trained.to(place))
    model.backbone.tie_weights()
    if seed is not None:
        with _seeded(seed, place):  # again, so that the expert does not depend on where its backbone came from
            model.expert.reset()
            model.value_head.reset()
    cast_parameters(model, dtype)
    return model.eval()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's generators of the CPU and of ``device`` for the block and restores them after it."""
    cuda = device.type == "cuda"
    index = device.index if device.index is not None else torch.cuda.current_device() if cuda else 0
    with torch.random.fork_rng(devices=[index] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def cast_parameters(model: QwenVla, dtype: torch.dtype) -> None:
    """Gives the weights another precision, in place.

    The layers around the flow (action, state and time projections, output modulation, value head) stay in float32, see
    :class:`~.projections.Float32Linear`; they are one part in five hundred of the whole. Buffers stay as well:
    ``model.to(torch.bfloat16)`` would round the backbone's rotary frequencies, which loading the same weights does not.
    """
    for module in model.modules():
        if not isinstance(module, Float32Linear):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def coarsest_precision(model: QwenVla) -> torch.dtype:
    """The precision of the weights, but for the layers around the flow, which :func:`cast_parameters` leaves in float32."""
    return min({parameter.dtype for parameter in model.parameters()}, key=lambda dtype: torch.finfo(dtype).bits)


def parameter_counts(model: QwenVla) -> dict[str, int]:
    """Parameters by part, under the names that the paper uses where it prints a number (section 2.2); shared weights count once."""
    expert, vision = model.expert, model.backbone.model.visual
    counts = {
        "block": _count(expert.blocks[0]),
        "blocks": _count(expert.blocks),
        "action projections": _count(expert.action_projection),
        "vlm projection": _count(expert.vlm_projection),
        "time embedding": _count(expert.time_embedding),
        "output modulation": _count(expert.output_modulation),
    }
    if expert.state_projection is not None:
        counts["state projection"] = _count(expert.state_projection)
    counts |= {
        "action expert": _count(expert),
        "vision": _count(vision),
        "language model": _count(model.backbone) - _count(vision),
        "value head": _count(model.value_head),
        "total": _count(model),
    }
    return counts


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
