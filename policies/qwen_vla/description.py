"""A checkpoint's description of itself: architecture, statistics, robots. It needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...envs.embodiments import Embodiment
from ..api import PolicyError
from .config import ModelConfig
from .egocentric import Eigengrasps, eigengrasps_of
from .navigation import WAYPOINTS
from .normalization import DatasetStatistics


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
    """Steps that a model of this horizon predicts for a robot: all, or :data:`~.navigation.WAYPOINTS` waypoints."""
    return min(horizon, WAYPOINTS) if embodiment.arms == "none" else horizon
