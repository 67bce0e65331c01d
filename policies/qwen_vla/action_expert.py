"""The action expert: a single-stream diffusion transformer that predicts the flow's velocity (paper, section 2.2).

The backbone's states and the noisy chunk are in one sequence and attend to each other in both directions. The flow time steers every
block through AdaLN (Peebles and Xie, "Scalable diffusion models with transformers"), and rotary positions go on where the prompt's end.
With the context ``ends`` (ours, :mod:`.readouts`) the sequence has no states: the numbers of the prompt's end steer the blocks, too.

Action projections are how chunks of embodiments with different action sizes enter it and leave it. The paper compares three (section
5.2.2). All take and give the leading layout ``[B, H, K]``, in which an embodiment's own channels come first; ``d_i`` is the action size
of embodiment ``i``. Each encoder and decoder is an MLP of two layers: the paper's count of 4.9M parameters at width 1,536 needs a ``D x
D`` layer on each side.

Shapes: ``B`` samples, ``S`` prompt tokens, ``H`` and ``K`` steps and channels of a chunk, ``D`` the expert's width, ``R`` rotary
dimensions, ``L`` the joint sequence: the prompt where it is read, one state token where there is one, the chunk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from ..api import PolicyError
from .backbone import Context
from .config import ModelConfig
from .readouts import RELATIONS, relations
from .tensors import Float32Linear


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


#: Standard deviation of the weights that AdaLN-Zero and DiT set to zero: every modulation, and the last layer. With exact zeros the
#: velocity of a model with random weights would be zero for every input, and no block would get a gradient in the first step. With
#: 0.02 (the backbone's own ``initializer_range``) gates are of the order of 0.1, so blocks still begin near the identity.
NEAR_ZERO = 0.02
#: The flow time 0 to 1 is stretched to the range that DiT's sinusoids were made for (1,000 diffusion steps, base 10,000).
TIME_SCALE = 1000.0
TIME_BASE = 10_000.0


class Block(GradientCheckpointingLayer):
    """Joint self-attention and a SwiGLU, each shifted, scaled and gated by the flow time (AdaLN-Zero, six times ``D``)."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(
        self, tokens: Tensor, condition: Tensor, cos: Tensor, sin: Tensor, attend: Tensor | None, first: int = 0
    ) -> Tensor:
        """The tokens from number ``first`` on, ``[B, L - first, D]``; they attend to all.

        Args:
            tokens: ``float32[B, L, D]``; they stay in float32 under autocast, which rounds what matrices multiply.
            condition: ``float32[B, D]``, made of the flow time, and of the prompt's end where this steers.
            cos: ``[B, 1, L, R]``.
            sin: ``[B, 1, L, R]``.
            attend: ``bool[B, 1, 1, L]`` or ``None``.
            first: First token that is read of the result.
        """
        modulation = self.modulation(condition).float().unsqueeze(1)  # under autocast too: 1 + scale has no room in bfloat16
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, dim=-1)
        attended = self._attention(modulate(tokens, shift_1, scale_1), cos, sin, attend, first)
        tokens = tokens[:, first:] + gate_1 * attended
        return tokens + gate_2 * self._mlp(modulate(tokens, shift_2, scale_2))

    def _attention(self, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Tensor | None, first: int) -> Tensor:
        query, key, value = self.qkv(tokens).float().unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query = rotate(self.query_norm(query[:, :, first:]), cos[:, :, first:], sin[:, :, first:])
        key = rotate(self.key_norm(key), cos, sin)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        return self.attention_out(mixed.transpose(1, 2).flatten(2))

    def _mlp(self, tokens: Tensor) -> Tensor:
        gate, up = self.gate_up(tokens).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


class ActionExpert(nn.Module):
    """From a noisy chunk, its time, the backbone's states and a mask to the velocity; ``H`` is the chunk's own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        expert = config.expert
        self.time_features = expert.time_features
        self.state_size = config.state_size
        self.rotary_axes: Tensor
        self.rotary_frequencies: Tensor
        axes, frequencies = rotary_frequencies(tuple(config.rope["mrope_section"]), float(config.rope["rope_theta"]))
        self.register_buffer("rotary_axes", axes, persistent=False)
        self.register_buffer("rotary_frequencies", frequencies, persistent=False)
        ends = config.reads_ends
        self.vlm_projection = None if ends else nn.Linear(config.text["hidden_size"], expert.width)
        steering = RELATIONS + config.state_size
        self.ends_projection = two_layers(steering, 2 * expert.width, expert.width) if ends else None
        self.action_projection: ActionProjection = make_projection(config)
        self.state_projection = two_layers(config.state_size, expert.width, expert.width) if config.state == "dit" else None
        self.time_embedding = two_layers(expert.time_features, expert.width, expert.width)
        self.blocks = nn.ModuleList(Block(expert.width, expert.heads, expert.mlp_width) for _ in range(expert.blocks))
        self.output_modulation = Float32Linear(expert.width, 2 * expert.width)

    def reset(self) -> None:
        """Sample the weights again from torch's current generators: Xavier, and near zero where AdaLN-Zero has zeros."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)
        modulations: list[nn.Linear] = [self.output_modulation]
        modulations += [block.modulation for block in self.blocks if isinstance(block, Block)]
        for layer in (*modulations, *self.action_projection.last_layers()):
            nn.init.normal_(layer.weight, std=NEAR_ZERO)

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        prompt: Context | Tensor,
        mask: Tensor,
        embodiment: Tensor | None = None,
        state: Tensor | None = None,
    ) -> Tensor:
        """The velocity ``float32[B, H, K]``, zero outside the mask.

        The values in masked entries of ``noisy`` change nothing: they are emptied before the action projection, and no token
        attends to a step without a valid entry. No weight depends on ``H``.

        Args:
            noisy: ``[B, H, K]``.
            time: ``[B]``, 0 (clean) to 1 (noise).
            prompt: The backbone's states of it; with the context ``ends`` what its end says, ``float32[B, READ]``.
            mask: ``bool[B, H, K]``.
            embodiment: ``int64[B]`` for the projections ``multi_mlp`` and ``concat``.
            state: ``[B, state_numbers]`` where the state is a token.
        """
        assert (state is None) == (self.state_projection is None), "a state is missing, or is given to a model that reads none"
        condition = self.time_embedding(sinusoids(time, self.time_features))  # float32 [B, D]
        tokens, keys, pose = [], [], None
        if isinstance(prompt, Context) and self.vlm_projection is not None:
            tokens, keys = [self.vlm_projection(prompt.states.float()).float()], [prompt.valid]
        if self.state_projection is not None and state is not None:
            state, pose = state[:, : self.state_size], state[:, self.state_size :] if self.ends_projection is not None else None
            tokens.append(self.state_projection(state).unsqueeze(1))
            keys.append(mask.new_ones(len(mask), 1))
        if self.ends_projection is not None and isinstance(prompt, Tensor):
            known = [relations(prompt, pose), *([] if state is None else [state])]
            condition = condition + self.ends_projection(torch.cat(known, dim=1))
        embedded = functional.silu(condition)
        actions = self.action_projection.encode(noisy.float().masked_fill(~mask, 0.0), embodiment)
        sequence, attend = torch.cat([*tokens, actions], dim=1), torch.cat([*keys, mask.any(dim=-1)], dim=1)
        if isinstance(prompt, Context):
            along = following_positions(prompt.positions, prompt.valid, attend.shape[1] - prompt.valid.shape[1])
        else:
            along = torch.arange(attend.shape[1], device=attend.device).expand(3, len(attend), -1)
        cos, sin = (each.unsqueeze(1) for each in rotary_table(along, self.rotary_axes, self.rotary_frequencies))
        # Where nothing is padded, attention is faster without a mask. To look costs a GPU its lead over the CPU, and a compiled graph
        # its wholeness.
        looks = attend.device.type == "cpu" and not torch.compiler.is_compiling()
        keys_seen = None if looks and bool(attend.all()) else attend[:, None, None, :]
        first = sequence.shape[1] - noisy.shape[1]
        for block in self.blocks[:-1]:
            sequence = block(sequence, embedded, cos, sin, keys_seen)
        sequence = self.blocks[-1](sequence, embedded, cos, sin, keys_seen, first)  # of the last block, the chunk alone is read
        shift, scale = self.output_modulation(embedded).unsqueeze(1).chunk(2, dim=-1)
        output = modulate(sequence, shift, scale)
        return self.action_projection.decode(output, embodiment).masked_fill(~mask, 0.0)


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation without weights, then ``shift`` and ``scale`` (AdaLN)."""
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift


def sinusoids(time: Tensor, features: int) -> Tensor:
    """Cosines and sines of the flow time, ``float32[B, features]``."""
    half = features // 2
    frequencies = torch.exp(-math.log(TIME_BASE) * torch.arange(half, device=time.device, dtype=torch.float32) / half)
    angles = TIME_SCALE * time.float().unsqueeze(-1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def following_positions(positions: Tensor, valid: Tensor, count: int) -> Tensor:
    """The prompt's positions, continued: token ``i`` after the prompt is at its largest position + 1 + ``i`` in every section.

    Args:
        positions: ``int64[3, B, S]``.
        valid: ``bool[B, S]``.
        count: Tokens that follow.

    Returns:
        ``int64[3, B, S + count]``.
    """
    last = positions.masked_fill(~valid, 0).amax(dim=(0, 2))  # [B]
    following = last.unsqueeze(-1) + 1 + torch.arange(count, device=positions.device)
    return torch.cat([positions, following.expand(3, -1, -1)], dim=2)


def rotary_frequencies(sections: tuple[int, ...], theta: float) -> tuple[Tensor, Tensor]:
    """Interleaved multi-section RoPE, the backbone's own (transformers ``Qwen3_5TextRotaryEmbedding``, v5.23.0).

    Frequency ``i`` turns with the row for ``i = 1, 4, 7, ...``, with the column for ``i = 2, 5, 8, ...``, as many as their sections
    say, and with the frame otherwise.

    Args:
        sections: Frequencies of frame, row and column, ``R / 2`` in all.
        theta: Base of the frequencies.

    Returns:
        ``int64[R / 2]``, the axis that each frequency turns with, and ``float32[R / 2]``, the frequencies.
    """
    index = torch.arange(sum(sections))
    axes = torch.where(index < 3 * torch.tensor(sections)[index % 3], index % 3, 0)
    return axes, theta ** -(index.float() / sum(sections))


def rotary_table(positions: Tensor, axes: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the positions, two ``float32[B, L, R]``.

    Args:
        positions: ``int64[3, B, L]``: frame, row, column.
        axes: From :func:`rotary_frequencies`.
        frequencies: From :func:`rotary_frequencies`.
    """
    angles = positions.movedim(0, -1)[..., axes].float() * frequencies  # [B, L, R / 2]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the first dimensions of ``[B, heads, L, width]``, as many as the table has; the others pass."""
    rotary = cos.shape[-1]
    turned, passed = heads[..., :rotary], heads[..., rotary:]
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, passed], dim=-1)
