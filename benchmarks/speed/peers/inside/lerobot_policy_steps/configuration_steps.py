"""The policy's configuration."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig


@PreTrainedConfig.register_subclass("steps")
@dataclass
class StepsConfig(PreTrainedConfig):
    """Nothing to configure; it is not trained."""

    observation_delta_indices = action_delta_indices = reward_delta_indices = None

    def get_optimizer_preset(self) -> None:
        """None."""

    def get_scheduler_preset(self) -> None:
        """None."""

    def validate_features(self) -> None:
        """Takes what LIBERO shows."""
