"""What LeRobot does to a policy's input and output: here nothing."""

from __future__ import annotations

from typing import Any

from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action


def make_steps_pre_post_processors(config: Any, dataset_stats: Any = None) -> tuple[Any, Any]:
    """Two pipelines without steps."""
    answers = PolicyProcessorPipeline(
        steps=[], to_transition=policy_action_to_transition, to_output=transition_to_policy_action
    )
    return PolicyProcessorPipeline(steps=[]), answers
