"""The statistics of a LeRobotDataset's features, as LeRobot stores them: minimum, maximum, mean, standard deviation, count, quantiles.

The names and shapes are LeRobot's (huggingface/lerobot 0.4.4, src/lerobot/datasets/compute_stats.py): a feature of ``n`` numbers has
lists of ``n``, a picture's are ``[3, 1, 1]`` of values from 0 to 1, and ``count`` is a list of one. Pictures' are exact here, from
histograms over all pixels, where LeRobot samples pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

_VALUES = np.arange(256) / 255.0


def number_stats(values: np.ndarray) -> dict[str, Any]:
    """The statistics of ``[steps, n]``, or ``[steps]`` for a feature of one number."""
    columns = np.asarray(values, np.float64).reshape(len(values), -1)
    stats: dict[str, Any] = {
        "min": columns.min(0).tolist(),
        "max": columns.max(0).tolist(),
        "mean": columns.mean(0).tolist(),
        "std": columns.std(0).tolist(),
        "count": [len(columns)],
    }
    return stats | {name: np.quantile(columns, share, axis=0).tolist() for name, share in QUANTILES.items()}


def picture_stats(histogram: np.ndarray, frames: int) -> dict[str, Any]:
    """The statistics of ``frames`` pictures.

    Args:
        histogram: ``int64[3, 256]``, how often each value occurs in each colour.
        frames: How many pictures.
    """
    total = histogram.sum(1)
    mean = histogram @ _VALUES / total
    spread = np.sqrt(np.maximum((histogram * (_VALUES[None] - mean[:, None]) ** 2).sum(1) / total, 0.0))
    reached = np.cumsum(histogram, 1)
    seen = [np.flatnonzero(each) for each in histogram]
    stats: dict[str, Any] = {
        "min": [_VALUES[each[0]] for each in seen],
        "max": [_VALUES[each[-1]] for each in seen],
        "mean": mean.tolist(),
        "std": spread.tolist(),
    }
    for name, share in QUANTILES.items():
        stats[name] = [_VALUES[np.searchsorted(each, share * each[-1])] for each in reached]
    return {name: [[[float(value)]] for value in values] for name, values in stats.items()} | {"count": [frames]}
