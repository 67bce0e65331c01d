"""The architectures that come with vlarig: the paper's, one that two CPU cores can train, and one for tests."""

from __future__ import annotations

from collections.abc import Callable

from .config import (
    QWEN_TOKENS,
    QWEN_VOCABULARY,
    TEXT_4B,
    VISION_4B,
    ExpertConfig,
    ModelConfig,
    SpecialTokens,
    backbone_config,
    rope_config,
)

#: A small tokenizer numbers its special tokens first: end of text, message start and end, vision start and end, then the three pads.
SMALL_TOKENS = SpecialTokens(image_pad=6, video_pad=7, vision_start=3, vision_end=4)


#: Rows of the embedding of ``small`` and ``tiny``: as many entries as a small tokenizer may have.
SMALL_VOCABULARY = 1024


def qwen_vla_4b(vocabulary_size: int = QWEN_VOCABULARY, tokens: SpecialTokens = QWEN_TOKENS) -> ModelConfig:
    """The paper's model: Qwen3.5-4B and an action expert of 1.15B parameters (paper, section 2.2).

    The backbone's sizes give 4,539,265,536 parameters.

    Args:
        vocabulary_size: Rows of the embedding, at least the tokenizer's entries.
        tokens: Ids of the special tokens.
    """
    return ModelConfig(backbone=backbone_config(TEXT_4B, VISION_4B, vocabulary_size, tokens, interval=4))


def qwen_vla_small(vocabulary_size: int = SMALL_VOCABULARY, tokens: SpecialTokens = SMALL_TOKENS) -> ModelConfig:
    """The same architecture with about 6M parameters, which two CPU cores can train.

    Every second layer of the language model is a full attention. With one in four there would be a single one, and the model learns
    more slowly to look up what the instruction names. The rotary base is shorter than Qwen's because prompts are. The other differences
    from the paper are :attr:`ModelConfig.deviations` and the merge of patches: a token that holds two objects does not say which colour
    goes with which shape. Reasons and measurements are in docs/qwen-vla.md. Arguments are those of :func:`qwen_vla_4b`.
    """
    text = {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rope_parameters": rope_config(10_000.0, [3, 3, 2]),
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_num_key_heads": 6,
        "linear_num_value_heads": 6,
    }
    vision = {
        "depth": 2,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_heads": 4,
        "out_hidden_size": 192,
        "num_position_embeddings": 64,
        "spatial_merge_size": 1,
    }
    expert = ExpertConfig(width=192, blocks=4, heads=3, mlp_width=512, time_features=256, context="ends")
    backbone = backbone_config(text, vision, vocabulary_size, tokens)
    return ModelConfig(backbone, expert, image_size=(128, 128), stem="conv", kept_tokens=12)


def qwen_vla_tiny(vocabulary_size: int = SMALL_VOCABULARY, tokens: SpecialTokens = SMALL_TOKENS) -> ModelConfig:
    """The same architecture as small as it goes, for tests: one linear and one full attention, images of 64 x 64 pixels."""
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": rope_config(10_000.0, [2, 1, 1]),
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 2,
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
    }
    expert = ExpertConfig(width=32, blocks=2, heads=2, mlp_width=64, time_features=32)
    return ModelConfig(backbone=backbone_config(text, vision, vocabulary_size, tokens), expert=expert, image_size=(64, 64))


#: Name to preset; each takes the vocabulary's size and the special tokens of the tokenizer that it is used with.
PRESETS: dict[str, Callable[..., ModelConfig]] = {"4b": qwen_vla_4b, "small": qwen_vla_small, "tiny": qwen_vla_tiny}

#: Presets whose weights a CPU samples in minutes; they differ between kinds of devices.
SAMPLED_IN_PLACE = ("4b",)
