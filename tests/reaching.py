"""A policy that reaches the toy's goal beside it, to be tuned: cloned from demonstrations with an error that is always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from toy.env import STEP_LENGTH, TOY_SEEN

from vlarig.envs.api import Observation
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, Statistics, bounds_statistics
from vlarig.training.config import read_config
from vlarig.training.samples import ActionSample, Stream
from vlarig.training.trainer import train

#: Where demonstrations arrive, seen from the goal; and the deviation of their noise.
BESIDE, NOISE = np.array([0.07, -0.06]), 0.1


class Reaching(Stream):
    """Steps of straight ways to a place beside the goal."""

    embodiments = (TOY_SEEN,)
    statistics = {
        "toy_seen": DatasetStatistics(bounds_statistics(TOY_SEEN), Statistics((-1.0,) * 5, (1.0,) * 5, "the plane")),
    }

    def __getitem__(self, position: int) -> ActionSample:
        rng = np.random.default_rng(position)
        place, goal = rng.uniform(-1, 1, (2, 2))
        state = np.array([*place, -1.0, *goal], np.float32)
        actions = np.zeros((16, 3), np.float32)
        for step in actions:
            step[:2] = np.clip((goal + BESIDE - place) / STEP_LENGTH, -1, 1) + NOISE * rng.normal(size=2)
            place = np.clip(place + STEP_LENGTH * step[:2], -1, 1)
        seen = Observation(images={}, state=state, instruction="move the point to the goal")
        return ActionSample(f"reaching/{position}", seen, TOY_SEEN, actions.clip(-1, 1))


#: The smallest model, cloned in a minute.
CLONING = (
    "model.source=tiny",
    "model.state=dit",
    "model.compute=float32",
    "model.checkpointed=[]",
    "model.frozen=['vision', 'language', 'value_head']",
    "data.source=reaching:Reaching",
    "steps=300",
    "batch_size=96",
    "micro_batch_size=96",
    "optimizer.expert={lr = 3e-3, warmup = 0.02, final = 0.02}",
    "report_every=50",
    "checkpoints.every=10000",
    "track=[]",
)


def clone(run: Path, *overrides: str) -> Path:
    """The folder of the cloned policy."""
    from vlarig.training.reporting import Reporter

    return train(read_config("sft", None, (*CLONING, *overrides)), run, Reporter())
