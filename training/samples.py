"""What a training learns from: an endless stream of samples, each a function of its position alone.

So a training goes on after a crash where it was, with any number of processes: the position is the whole state of its data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..envs.api import Observation
from ..envs.embodiments import Embodiment
from ..policies.qwen_vla.conversation import Conversation
from ..policies.qwen_vla.normalization import DatasetStatistics
from ..policies.qwen_vla.poses import Eigengrasps


@dataclass(frozen=True, eq=False)
class ActionSample:
    """A time step of a demonstration, and the actions from there on.

    Attributes:
        name: Names it in errors: ``bridge/1234/56``.
        observation: What was seen, read and felt.
        embodiment: The robot that acts.
        actions: ``[H, A]`` in the embodiment's own units: a chunk of any length, or the rest of the trajectory.
        horizon: The steps that the prompt requests, where they are more than there are actions, as at an episode's end: the others
            are masked. Default: as many as the actions.
        keypoints: ``float32[14]``, the keypoints of the time step (:mod:`vlarig.envs.keypoints`); ``None`` where the data do not say.
    """

    name: str
    observation: Observation
    embodiment: Embodiment
    actions: np.ndarray
    horizon: int | None = None
    keypoints: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class LanguageSample:
    """Vision-language data: a conversation whose answers are learned."""

    name: str
    conversation: Conversation


Sample: TypeAlias = ActionSample | LanguageSample


class Stream(ABC):
    """Samples by position, 0, 1, 2, ... without an end. It is pickled where batches are made in processes of their own."""

    embodiments: tuple[Embodiment, ...] = ()
    """The robots of its samples, which the trained policy then knows."""

    statistics: Mapping[str, DatasetStatistics] = {}
    """Quantiles by the embodiments' ``statistics_key``."""

    eigengrasps: Eigengrasps | None = None
    """The basis of hand poses, where a robot of its samples has eigengrasps."""

    notes: tuple[str, ...] = ()
    """Sentences that a training prints when it begins, such as the shares of what it learns from."""

    @abstractmethod
    def __getitem__(self, position: int) -> Sample:
        """The sample at a position, the same whenever it is read, in whatever order."""

    def bucket(self, position: int) -> tuple[int, ...]:
        """The key by which a step sorts its samples: neighbours have about the same length, so that a micro-batch has less padding."""
        return ()
