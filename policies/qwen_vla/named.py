"""The policy ``qwen-vla:SOURCE``: its options, the presets, where checkpoints are, and what a checkpoint says of itself.

What can be checked is checked before PyTorch is imported, which takes seconds; nothing here needs it. A preset is an architecture that
comes with vlarig: the paper's, one that two CPU cores can train, and one for tests. A checkpoint is in a folder, on the hub, or in this
package; it describes its architecture, its statistics and its robots.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ...envs.embodiments import Embodiment
from ...envs.errors import not_importable, suggestion
from ..api import PolicyError
from ..registry import Options, read_options
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
from .normalization import DatasetStatistics
from .poses import WAYPOINTS, Eigengrasps, eigengrasps_of

if TYPE_CHECKING:
    from .policy import QwenVlaPolicy


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


class QwenVlaOptions(Options):
    """Options of a Qwen-VLA beside its checkpoint."""

    steps: int = Field(default=4, ge=1, le=1000)
    """Euler steps of a chunk, 'a few' in the paper."""
    temperature: float = Field(default=0.6, ge=0, allow_inf_nan=False)
    """Standard deviation of the noise that a chunk starts from; 0.6 is the paper's at evaluation (section 4.2)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights; what the flow is computed in stays float32."""
    compute: Literal["float32", "bfloat16"] | None = None
    """Precision that matrices are multiplied in; by default that of the weights."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1; auto takes a GPU where there is one."""
    threads: int = Field(default=1, ge=1)
    """Threads on a CPU. The simulators need the other cores, and threads that wait for each other are far slower than one."""
    compile: bool = False
    """Let torch.compile translate the model; its first chunks are compared with the plain model's."""
    kernels: Literal["auto", "off"] = "auto"
    """Kernels of flash-linear-attention and causal-conv1d, where they are installed: auto takes them for bfloat16 on a GPU."""
    seed: int = 0
    """Seed of a preset's random weights, of 64 bits."""
    backbone: str | None = None
    """For a preset: folder or hub id of a trained Qwen3.5 to take the backbone from."""
    zero_shot: str | None = None
    """For robots that the checkpoint was not trained on: the one of its embodiments whose statistics to keep (section 4.2)."""


def qwen_vla(source: str, **options: str) -> QwenVlaPolicy:
    """The policy that ``source`` names.

    Args:
        source: A preset's name, a checkpoint's folder, a hub's ``owner/name``, or nothing for the package's own checkpoint.
        options: Fields of :class:`QwenVlaOptions`.
    """
    read_options(QwenVlaOptions, options, f"qwen-vla:{source}".removesuffix(":"))
    if source not in PRESETS:
        find_checkpoint(source, weights=False)
    return policy_class()(source, **options)


def policy_class() -> type[QwenVlaPolicy]:
    """The policy's class, which needs the extra ``policy``; a sentence says so where that is not installed."""
    try:
        from .policy import QwenVlaPolicy
    except ImportError as error:
        raise PolicyError(
            f"{not_importable('Qwen-VLA needs', error, 'policy')} "
            "(without a GPU, run before: python -m uv pip install --torch-backend cpu torch)"
        ) from None
    return QwenVlaPolicy


#: The checkpoint that this package brings along, which an empty source names; its made.txt says how it was made.
SHIPPED = Path(__file__).parent / "shipped"

#: An id of the hub: ``owner/name``.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def find_checkpoint(source: str, weights: bool = True) -> Path:
    """The folder of a checkpoint, downloaded from the hub where ``source`` is an id of it.

    Args:
        source: A folder, a hub's ``owner/name``, or nothing for :data:`SHIPPED`.
        weights: Whether to download the weights too; :func:`~.checkpoint.describe_checkpoint` needs none.
    """
    folder = Path(source) if source else SHIPPED
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(source) or folder.is_absolute():
        raise PolicyError(
            f"no checkpoint {source!r}: {suggestion(source, PRESETS)} (presets with random weights), or give a checkpoint's folder or "
            "a hub's owner/name"
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, allow_patterns=["*.json", *(["*.safetensors"] if weights else [])]))
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PolicyError(f"there is no folder {source!r}, and the hub has not given it ({first}); check the name") from None


@dataclass(frozen=True)
class TrainedStage:
    """A stage of the recipe that the weights went through (paper, section 3.1).

    Attributes:
        stage: ``t2a``, ``cpt``, ``sft`` or a later one.
        steps: Steps of the optimiser.
        samples: Samples, over all steps.
    """

    stage: str
    steps: int
    samples: int


@dataclass(frozen=True)
class Description:
    """All of a checkpoint but its weights and its tokenizer.

    Attributes:
        config: The architecture.
        statistics: Statistics key to quantiles.
        embodiments: Name to embodiment; empty for random weights, which were trained on none and are tried on any.
        eigengrasps: What the eigengrasp channels of human hands mean; needed where an embodiment has such channels.
        trained: The stages that made the weights, the first one first; none of random weights, and of weights that came from elsewhere.
    """

    config: ModelConfig
    statistics: dict[str, DatasetStatistics] = field(default_factory=dict)
    embodiments: dict[str, Embodiment] = field(default_factory=dict)
    eigengrasps: Eigengrasps | None = None
    trained: tuple[TrainedStage, ...] = ()

    def __post_init__(self) -> None:
        known = 0 if self.eigengrasps is None else len(self.eigengrasps.components)
        for name, embodiment in self.embodiments.items():
            if (needed := eigengrasps_of(embodiment)) not in (0, known):
                raise PolicyError(
                    f"{name!r} has {needed} eigengrasps a hand, and the description has {known}; give those that its actions were "
                    "made with"
                )


def chunk_steps(embodiment: Embodiment, horizon: int) -> int:
    """Steps that a model of this horizon predicts for a robot: all, or :data:`~.poses.WAYPOINTS` waypoints."""
    return min(horizon, WAYPOINTS) if embodiment.arms == "none" else horizon
