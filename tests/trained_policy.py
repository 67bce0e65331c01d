"""A tiny Qwen-VLA that says what it was trained on, for tests."""

from __future__ import annotations

import numpy as np

from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.policies.qwen_vla.checkpoint import Description, LoadedPolicy, load
from vlarig.policies.qwen_vla.embodiments import REAL_HUMAN
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, Statistics, bounds_statistics
from vlarig.policies.qwen_vla.poses import Eigengrasps


def trained_bundle() -> LoadedPolicy:
    """A tiny model that says it was trained on two robots."""
    bundle = load("tiny", seed=3)
    statistics = {
        "libero": DatasetStatistics(bounds_statistics(LIBERO_PANDA), Statistics((-1.0,) * 8, (1.0,) * 8, "made up")),
        "bridge": DatasetStatistics(bounds_statistics(WIDOWX_BRIDGE)),
    }
    embodiments = {each.name: each for each in (LIBERO_PANDA, WIDOWX_BRIDGE)}
    return LoadedPolicy(
        Description(bundle.description.config, statistics, embodiments), bundle.model, bundle.tokenizer, "in memory"
    )


def human_bundle() -> LoadedPolicy:
    """A tiny model that says it was trained on human hands."""
    bundle = load("tiny", seed=3)
    eigengrasps = Eigengrasps.fit([np.random.default_rng(0).normal(size=(200, 45))])
    statistics = {"real_human": DatasetStatistics(bounds_statistics(REAL_HUMAN))}
    description = Description(bundle.description.config, statistics, {"real_human": REAL_HUMAN}, eigengrasps)
    return LoadedPolicy(description, bundle.model, bundle.tokenizer, "in memory")
