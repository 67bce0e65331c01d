"""A time step as the model sees it, alike in acting and in training: its prompt, and its state where the model reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...envs.api import Observation
from ...envs.embodiments import Embodiment
from ..api import PolicyError
from .config import ModelConfig
from .end_numbers import hand_pose
from .inputs import Prompted, prompted
from .normalization import Statistics, normalize_state, state_bins


@dataclass(frozen=True)
class Role:
    """A robot, as one model plays it.

    Attributes:
        embodiment: The robot of the prompt.
        actions: Statistics of its actions.
        state: Statistics of its state, where there are any.
        index: Its index in the action projections, where they have weights for each embodiment.
    """

    embodiment: Embodiment
    actions: Statistics
    state: Statistics | None
    index: int | None


@dataclass(frozen=True, eq=False)
class Query:
    """What a chunk is predicted from.

    Attributes:
        observation: What is seen, read and felt; views that the robot has not are left out.
        role: The robot.
        steps: Steps of the chunk.
    """

    observation: Observation
    role: Role
    steps: int


def prompt_of(query: Query, config: ModelConfig, images: bool = True) -> Prompted:
    """The prompt of a time step, with its images or without."""
    observation, embodiment = query.observation, query.role.embodiment
    bins = None
    if config.state == "prompt":
        bins = state_bins(observation["state"], _state_statistics(query.role)).tolist()
    seen = {tag: frames for tag, frames in observation["images"].items() if images and tag in embodiment.cameras}
    return prompted({**observation, "images": seen}, embodiment, query.steps, bins)


def state_of(query: Query, config: ModelConfig) -> np.ndarray:
    """The normalised state in the leading numbers of ``float32[state_numbers]``, for the state mode ``dit``.

    The hand's pose is in the last ones, where the action expert reads the ends of prompts.
    """
    role = query.role
    state = normalize_state(query.observation["state"], _state_statistics(role))
    if len(state) > config.state_size:
        raise PolicyError(
            f"the state of {role.embodiment.name!r} has {len(state)} numbers, the model reads {config.state_size}; "
            "it was trained for others"
        )
    padded = np.zeros(config.state_numbers, np.float32)
    padded[: len(state)] = state
    if config.state_numbers > config.state_size:
        padded[config.state_size :] = hand_pose(query.observation["state"], role.embodiment.state_layout)
    return padded


def _state_statistics(role: Role) -> Statistics:
    if role.state is None:
        raise PolicyError(
            f"the model reads the state, and the checkpoint has no statistics of the state of {role.embodiment.name!r}"
        )
    return role.state
