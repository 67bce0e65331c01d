"""What a Qwen-VLA has to compute: floating-point operations of its matrix products, two for each multiplication with its addition.

Counted is what the mathematics asks for, not what an implementation does: half of a causal attention, half of a triangular system, no
padding. Norms, activations and softmax are left out. They are the floor that measured times are compared with.

Symbols: ``S`` prompt tokens, ``L`` tokens of the joint sequence, ``D`` a width, ``H`` rows and ``K`` channels of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vlarig.policies.qwen_vla.config import ModelConfig
from vlarig.policies.qwen_vla.model import QwenVla

#: Tokens that the gated delta rule takes at a time (transformers models/qwen3_5/modeling_qwen3_5.py, v5.23.0).
DELTA_RULE_CHUNK = 64


@dataclass(frozen=True)
class Flops:
    """Operations of one sample, by part.

    Attributes:
        vision: The vision tower, over all its images.
        language: The language model without its head, which no chunk needs.
        condition: What the action expert computes once a chunk.
        step: The action expert in one Euler step.
    """

    vision: float
    language: float
    condition: float
    step: float

    @property
    def backbone(self) -> float:
        """Vision tower and language model."""
        return self.vision + self.language

    def chunk(self, steps: int) -> float:
        """A whole chunk with ``steps`` Euler steps."""
        return self.backbone + self.condition + steps * self.step

    def training(self, backbone_passes: int) -> float:
        """A training step: the expert goes forward and back, which costs three passes; the backbone takes ``backbone_passes``.

        Args:
            backbone_passes: 0 with its states at hand, 3 where it is trained, 4 where its activations are computed again.
        """
        return backbone_passes * self.backbone + 3 * (self.condition + self.step)


def count(config: ModelConfig, tokens: int, images: int) -> Flops:
    """Operations of a sample.

    Args:
        config: The architecture.
        tokens: ``S``, those of the images among them.
        images: Pictures of all views and their histories.
    """
    text = config.text
    kinds = text["layer_types"]
    mlp = 2 * tokens * 3 * text["hidden_size"] * text["intermediate_size"]
    mixers = kinds.count("full_attention") * _full_attention(config, tokens)
    mixers += kinds.count("linear_attention") * _linear_attention(config, tokens)
    return Flops(
        vision=images * _vision(config),
        language=mixers + len(kinds) * mlp,
        condition=_condition(config, tokens),
        step=_step(config, tokens),
    )


def _vision(config: ModelConfig) -> float:
    """One image."""
    sizes = config.vision
    width, merged = sizes["hidden_size"], sizes["hidden_size"] * sizes["spatial_merge_size"] ** 2
    blocks = config.image_tokens()
    patches = blocks * sizes["spatial_merge_size"] ** 2
    pixels = sizes["in_channels"] * sizes["temporal_patch_size"] * sizes["patch_size"] ** 2
    layer = 2 * patches * (4 * width**2 + 2 * width * sizes["intermediate_size"]) + 4 * patches**2 * width
    merger = 2 * blocks * (merged**2 + merged * sizes["out_hidden_size"])
    return 2 * patches * pixels * width + sizes["depth"] * layer + merger


def _full_attention(config: ModelConfig, tokens: int) -> float:
    """A layer's attention with its gate, whose projection is as wide as the queries'."""
    text = config.text
    queries = text["num_attention_heads"] * text["head_dim"]
    keys = text["num_key_value_heads"] * text["head_dim"]
    projections = 2 * tokens * text["hidden_size"] * (2 * queries + 2 * keys + queries)
    return projections + 2 * tokens * (tokens + 1) * queries


def _linear_attention(config: ModelConfig, tokens: int) -> float:
    """A layer's gated delta rule with its projections and its short convolution."""
    text = config.text
    heads, key, value = text["linear_num_value_heads"], text["linear_key_head_dim"], text["linear_value_head_dim"]
    mixed = 2 * text["linear_num_key_heads"] * key + heads * value
    projections = 2 * tokens * text["hidden_size"] * (mixed + 2 * heads * value + 2 * heads)
    convolution = 2 * tokens * text["linear_conv_kernel_dim"] * mixed
    return projections + convolution + heads * sum(_delta_rule(length, key, value) for length in _chunks(tokens))


def _chunks(tokens: int) -> list[int]:
    """How long the pieces are in which the delta rule goes through a sequence."""
    whole, rest = divmod(tokens, DELTA_RULE_CHUNK)
    return [DELTA_RULE_CHUNK] * whole + [rest] * bool(rest)


def _delta_rule(length: int, key: int, value: int) -> float:
    """One head over one piece.

    Keys with keys and with queries, the triangular system solved for keys and values, the mixing, and three products with the recurrent
    state.
    """
    return 2 * length**2 * (2 * key + value) + length**2 * (key + value) + 3 * 2 * length * key * value


def _condition(config: ModelConfig, tokens: int) -> float:
    """The prompt's states, and the robot's where it is a token, brought to the expert's width."""
    width = config.expert.width
    state = 2 * (config.state_size * width + width**2) if config.state == "dit" else 0
    return 2 * tokens * config.text["hidden_size"] * width + state


def _step(config: ModelConfig, tokens: int) -> float:
    """One pass of the expert over the prompt, the state token where there is one, and the chunk."""
    expert, width = config.expert, config.expert.width
    length = tokens + (config.state == "dit") + config.horizon
    tokenwise = 2 * length * (4 * width**2 + 3 * width * expert.mlp_width)
    block = tokenwise + 4 * length**2 * width + 2 * 6 * width**2
    time = 2 * (expert.time_features * width + width**2) + 2 * 2 * width**2
    sizes = [size for _, size in config.projection_embodiments]
    entrances = {"zero_pad": [config.channels], "multi_mlp": sizes, "concat": [sum(sizes)]}[config.projection]
    actions = sum(2 * 2 * config.horizon * (size * width + width**2) for size in entrances)  # in and out
    return expert.blocks * block + time + actions


def weight_bytes(model: QwenVla, steps: int) -> int:
    """Bytes of weights that a chunk reads at least: the backbone's once, the blocks of the expert in each step.

    The embedding is left out: of its rows a prompt reads a few.
    """
    language = model.backbone.model.language_model
    once = _bytes(model.backbone.model) - _bytes(language.get_input_embeddings()) + _bytes(model.expert.vlm_projection)
    return once + steps * (_bytes(model.expert) - _bytes(model.expert.vlm_projection))


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
