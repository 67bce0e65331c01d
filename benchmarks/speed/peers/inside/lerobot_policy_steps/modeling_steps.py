"""The policy: a chunk of steps for each env, then one step at a time, as LeRobot's own chunked policies do it."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from chunks import Chunks, note
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from .configuration_steps import StepsConfig


class StepsPolicy(PreTrainedPolicy):
    """Answers what :class:`Chunks` does."""

    config_class = StepsConfig
    name = "steps"

    def __init__(self, config: StepsConfig, **kwargs: object) -> None:
        super().__init__(config)
        self._chunks = Chunks()
        self._steps: deque[Tensor] = deque()

    def reset(self) -> None:
        """An episode begins in every env."""
        note("begin")
        self._steps.clear()

    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: object) -> Tensor:
        """``float32[B, 16, 7]``."""
        egos, wrists = (_images(batch[f"observation.images.{name}"]) for name in ("image", "image2"))
        states = batch["observation.state"].numpy()
        shown = zip(egos, wrists, states, batch["task"], strict=True)
        return torch.from_numpy(np.stack([self._chunks.chunk(*each) for each in shown]))

    def select_action(self, batch: dict[str, Tensor], **kwargs: object) -> Tensor:
        """``float32[B, 7]``."""
        if not self._steps:
            self._steps.extend(self.predict_action_chunk(batch).unbind(1))
        return self._steps.popleft()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, None]:
        raise NotImplementedError

    def get_optim_params(self) -> dict:
        return {}


def _images(images: Tensor) -> np.ndarray:
    """``uint8[B, h, w, 3]`` from ``float32[B, 3, h, w]``."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
