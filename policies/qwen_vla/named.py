"""The policy ``qwen-vla:SOURCE``: its options, where checkpoints are, and what a checkpoint says of itself.

What can be checked is checked before PyTorch is imported, which takes seconds; nothing here needs it. A checkpoint is in a folder, on
the hub, or in this package; it describes its architecture, its statistics and its robots.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ...envs.embodiments import Embodiment
from ...envs.errors import not_importable, suggestion
from ..api import PolicyError
from ..registry import Options, read_options
from .config import ModelConfig
from .egocentric import Eigengrasps, eigengrasps_of
from .normalization import DatasetStatistics
from .poses import WAYPOINTS
from .presets import PRESETS

if TYPE_CHECKING:
    from .policy import QwenVlaPolicy


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
