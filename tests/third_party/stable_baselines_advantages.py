"""Advantages and returns by Stable-Baselines3's rollout buffer: ``python stable_baselines_advantages.py ROLLOUT.npz FOUND.npz``.

``tests/rl/test_advantages.py`` runs it in an environment that has Stable-Baselines3.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.buffers import RolloutBuffer

with np.load(sys.argv[1]) as given:
    rewards, values, beyond, ended, last = (given[name] for name in ("rewards", "values", "beyond", "ended", "last"))
    gamma, decay = float(given["gamma"]), float(given["decay"])
envs, chunks = rewards.shape
space = Box(-1, 1, (1,))
buffer = RolloutBuffer(chunks, space, space, gae_lambda=decay, gamma=gamma, n_envs=envs)
nothing = np.zeros((envs, 1), np.float32)
starts = np.ones(envs, bool)
for chunk in range(chunks):
    # As its OnPolicyAlgorithm.collect_rollouts does at a time limit: what is expected beyond an end is added to the reward.
    reward = rewards[:, chunk] + gamma * np.where(ended[:, chunk], beyond[:, chunk], 0.0)
    buffer.add(nothing, nothing, reward, starts, torch.from_numpy(values[:, chunk]), torch.zeros(envs))
    starts = ended[:, chunk]
buffer.compute_returns_and_advantage(torch.from_numpy(last), starts)
np.savez(sys.argv[2], advantages=buffer.advantages.T, returns=buffer.returns.T)
