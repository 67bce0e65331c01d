"""Short runs of PPO in the toy simulator."""

from __future__ import annotations

from pathlib import Path

import torch
from kept_numbers import Numbers
from safetensors.torch import load_file

from vlarig.rl.config import PpoConfig, read_ppo_config
from vlarig.rl.run import tune

#: A few short episodes.
SHORT = (
    "model.source=sft/policy",
    "model.compute=float32",
    "rollout.suites=['seen']",
    "rollout.envs=4",
    "rollout.epochs=2",
    "rollout.steps=24",
    "rollout.n_action_steps=8",
    "rollout.workers=1",
    "ppo.minibatch=8",
    "ppo.micro_batch=8",
    "optimizer.expert.lr=1e-3",
    "iterations=3",
    "checkpoints.keep=9",
    "track=[]",
)


def configuration(*overrides: str) -> PpoConfig:
    return read_ppo_config(None, (*SHORT, *overrides))


def tuned(run: Path, *overrides: str) -> Numbers:
    reporter = Numbers()
    tune(configuration(*overrides), run, reporter)
    return reporter


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "policy" / "model.safetensors")
