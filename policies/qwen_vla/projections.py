"""Action projections: how chunks of embodiments with different action sizes enter the expert and leave it.

The paper compares three (section 5.2.2). All take and give the leading layout ``[B, H, K]``, in which an embodiment's own channels
come first; ``D`` is the expert's width and ``d_i`` the action size of embodiment ``i``. Each encoder and decoder is an MLP of two
layers: the paper's count of 4.9M parameters at width 1,536 needs a ``D x D`` layer on each side.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..api import PolicyError
from .config import ModelConfig


def computing(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Multiply matrices in ``dtype`` for the block, float32 or bfloat16, whatever the autocast around it.

    Without autocast's cache: it would keep the rounded copies of all weights until the end of the block.
    """
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False)


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 whatever the precision of its weights, its input and the autocast around it.

    The velocity enters Euler steps and, in RL, a Gaussian's log-probability divided by a small standard deviation: rounding it to
    bfloat16 there moves the probability ratio.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """``float32[..., out]`` of ``[..., in]``."""
        with computing(input.device, torch.float32):
            bias = None if self.bias is None else self.bias.float()
            return functional.linear(input.float(), self.weight.float(), bias)


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """An MLP of two layers in float32, SiLU between them."""
    return nn.Sequential(Float32Linear(inputs, hidden), nn.SiLU(), Float32Linear(hidden, outputs))


class ActionProjection(nn.Module):
    """From noisy actions to tokens and back to velocities, in float32."""

    def encode(self, actions: Tensor, embodiment: Tensor | None) -> Tensor:
        """Tokens ``float32[B, H, D]`` of ``actions[B, H, K]``, whose masked entries are zero.

        Args:
            actions: The noisy chunk.
            embodiment: ``int64[B]``, indices in ``projection_embodiments``; ``zero_pad`` does not read it.
        """
        raise NotImplementedError

    def decode(self, tokens: Tensor, embodiment: Tensor | None) -> Tensor:
        """Velocities ``float32[B, H, K]`` of ``tokens[B, H, D]``."""
        raise NotImplementedError

    def last_layers(self) -> list[nn.Linear]:
        """The layers that give the velocity: the last one of each decoder."""
        decoders = [part for name, part in self.named_modules() if name.startswith("decoder")]
        return [last for part in decoders if isinstance(part, nn.Sequential) and isinstance(last := part[-1], nn.Linear)]


class ZeroPad(ActionProjection):
    """One MLP for all; shorter actions are padded with zeros. The paper's default."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.encoder = two_layers(channels, width, width)
        self.decoder = two_layers(width, width, channels)

    def encode(self, actions: Tensor, embodiment: Tensor | None) -> Tensor:
        return self.encoder(actions)

    def decode(self, tokens: Tensor, embodiment: Tensor | None) -> Tensor:
        return self.decoder(tokens)


class MultiMlp(ActionProjection):
    """A private encoder and decoder for each embodiment.

    Every sample goes through all of them and its own is taken. That costs little beside the expert's blocks, and no sample's result
    depends on which embodiments are in its batch.
    """

    def __init__(self, sizes: list[int], channels: int, width: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.channels = channels
        self.encoders = nn.ModuleList(two_layers(size, width, width) for size in sizes)
        self.decoders = nn.ModuleList(two_layers(width, width, size) for size in sizes)

    def encode(self, actions: Tensor, embodiment: Tensor | None) -> Tensor:
        chosen = _required(embodiment)
        each = [encoder(actions[..., :size]) for encoder, size in zip(self.encoders, self.sizes, strict=True)]
        return _own(each, chosen)

    def decode(self, tokens: Tensor, embodiment: Tensor | None) -> Tensor:
        chosen = _required(embodiment)
        each = [
            functional.pad(decoder(tokens), (0, self.channels - size))
            for decoder, size in zip(self.decoders, self.sizes, strict=True)
        ]
        return _own(each, chosen)


class Concat(ActionProjection):
    """One MLP over the actions of all embodiments side by side; each has a segment of its own and zeros elsewhere."""

    def __init__(self, sizes: list[int], channels: int, width: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.channels = channels
        self.encoder = two_layers(sum(sizes), width, width)
        self.decoder = two_layers(width, width, sum(sizes))

    def encode(self, actions: Tensor, embodiment: Tensor | None) -> Tensor:
        chosen = _required(embodiment)
        own = [(chosen == index)[:, None, None] for index in range(len(self.sizes))]
        segments = [actions[..., :size] * mine for size, mine in zip(self.sizes, own, strict=True)]
        return self.encoder(torch.cat(segments, dim=-1))

    def decode(self, tokens: Tensor, embodiment: Tensor | None) -> Tensor:
        chosen = _required(embodiment)
        segments = self.decoder(tokens).split(self.sizes, dim=-1)
        each = [functional.pad(segment, (0, self.channels - segment.shape[-1])) for segment in segments]
        return _own(each, chosen)


def make_projection(config: ModelConfig) -> ActionProjection:
    sizes = [size for _, size in config.projection_embodiments]
    if config.projection == "multi_mlp":
        return MultiMlp(sizes, config.channels, config.expert.width)
    if config.projection == "concat":
        return Concat(sizes, config.channels, config.expert.width)
    return ZeroPad(config.channels, config.expert.width)


def _required(embodiment: Tensor | None) -> Tensor:
    if embodiment is None:
        raise PolicyError("this action projection has weights for each embodiment; pass the embodiment's index of every sample")
    return embodiment


def _own(each: list[Tensor], chosen: Tensor) -> Tensor:
    """``[B, H, *]``: sample ``b`` of ``each[chosen[b]]``."""
    return torch.stack(each, dim=1)[torch.arange(len(chosen), device=chosen.device), chosen]
