"""A checkpoint's description of itself: architecture, statistics, robots. It needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...envs.embodiments import Embodiment
from .config import ModelConfig
from .navigation import WAYPOINTS
from .normalization import DatasetStatistics


@dataclass(frozen=True)
class Description:
    """All of a checkpoint but its weights and its tokenizer.

    Attributes:
        config: The architecture.
        statistics: Statistics key to quantiles.
        embodiments: Name to embodiment; empty for random weights, which were trained on none and are tried on any.
    """

    config: ModelConfig
    statistics: dict[str, DatasetStatistics] = field(default_factory=dict)
    embodiments: dict[str, Embodiment] = field(default_factory=dict)


def chunk_steps(embodiment: Embodiment, horizon: int) -> int:
    """Steps that a model of this horizon predicts for a robot: all, or :data:`~.navigation.WAYPOINTS` waypoints."""
    return min(horizon, WAYPOINTS) if embodiment.arms == "none" else horizon
