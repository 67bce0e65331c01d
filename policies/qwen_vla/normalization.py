"""Numbers of a data set to -1 to 1 and back, by quantiles (paper, section 3.2.1 and equation 5); gripper conventions; state bins.

Everything is computed in float64 and returned in the type that came, or in float64 where integers came.

Shapes: ``J`` steps of a trajectory, ``A`` channels; a leading ``...`` is any number of axes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError, suggestion
from ...envs.untrusted import convert
from ..api import PolicyError
from .quantiles import Steps

#: Bins of a state number in the prompt (paper, section 5.2.4).
STATE_BINS = 256


@dataclass(frozen=True)
class Statistics:
    """The range of each channel that is mapped to -1 to 1.

    A channel with two equal quantiles is constant: it is normalised to 0, and restored to its constant whatever the model predicts.

    Attributes:
        q01: 1st percentile of each of the ``A`` channels, in the data's own units.
        q99: 99th percentile.
        source: Where they come from, in words.
    """

    q01: tuple[float, ...]
    q99: tuple[float, ...]
    source: str

    def __post_init__(self) -> None:
        if len(self.q01) != len(self.q99) or not self.q01:
            raise PolicyError(
                f"statistics of {self.source!r} have {len(self.q01)} q01 and {len(self.q99)} q99, expected one of each a channel"
            )
        for index, (low, high) in enumerate(zip(self.q01, self.q99, strict=True)):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise PolicyError(
                    f"statistics of {self.source!r} give channel {index} the range {low} to {high}, expected finite numbers in order"
                )

    @property
    def size(self) -> int:
        """``A``."""
        return len(self.q01)


@dataclass(frozen=True)
class DatasetStatistics:
    """A checkpoint's statistics of a data set, kept by the embodiments' ``statistics_key``.

    Attributes:
        actions: Of the action channels.
        state: Of the state vector, which is normalised by statistics of its own; ``None`` where the model reads no state.
    """

    actions: Statistics
    state: Statistics | None = None


def statistics_to_data(datasets: Mapping[str, DatasetStatistics]) -> dict[str, Any]:
    """Statistics by key as plain JSON data, in the order of the keys; floats survive it exactly."""
    parts = {key: {"actions": each.actions, "state": each.state} for key, each in sorted(datasets.items())}
    return {key: {name: asdict(part) for name, part in each.items() if part is not None} for key, each in parts.items()}


def statistics_from_data(data: Any) -> dict[str, DatasetStatistics]:
    if not isinstance(data, Mapping):
        raise PolicyError(f"statistics are {type(data).__name__}, expected an object of data sets by name")
    try:
        return {str(key): convert(entry, DatasetStatistics, f"statistics of {key!r}") for key, entry in data.items()}
    except BadMessageError as error:
        raise PolicyError(str(error)) from None


def find_statistics(datasets: Mapping[str, DatasetStatistics], key: str) -> DatasetStatistics:
    if key not in datasets:
        raise PolicyError(f"there are no normalisation statistics for {key!r}; {suggestion(key, datasets)}")
    return datasets[key]


def statistics_of(trajectories: Iterable[np.ndarray], source: str) -> Statistics:
    """The statistics of all trajectories; memory does not grow with them, see :mod:`~.quantiles`.

    Args:
        trajectories: Actions or states, ``[J, A]`` each, ``J`` of any size; they are iterated once.
        source: The data set's name.
    """
    with Steps(source) as steps:
        for trajectory in trajectories:
            steps.add(trajectory)
        return fitted(steps)


def fitted(steps: Steps) -> Statistics:
    """The 1st and 99th percentiles of each channel over all steps (paper, section 3.2.1), exactly."""
    q01, q99 = steps.quantiles((0.01, 0.99))
    return Statistics(tuple(q01.tolist()), tuple(q99.tolist()), steps.source)


def bounds_statistics(embodiment: Embodiment) -> Statistics:
    """The legal bounds of an embodiment's action channels in the place of quantiles, for a model that has seen no data."""
    channels = embodiment.channels
    low, high = tuple(float(channel.low) for channel in channels), tuple(float(channel.high) for channel in channels)
    return Statistics(low, high, f"channel bounds of {embodiment.name}")


def normalize(values: np.ndarray, statistics: Statistics) -> np.ndarray:
    """The quantiles' range to -1 to 1, and what is beyond them clipped (paper, equation 5).

    Args:
        values: ``[..., A]`` in the data's own units.
        statistics: Of the data set.
    """
    values, low, high = _checked(values, statistics)
    constant = low == high
    scaled = 2 * (values.astype(np.float64) - low) / np.where(constant, 1.0, high - low) - 1
    return np.where(constant, 0.0, scaled.clip(-1, 1)).astype(values.dtype)


def denormalize(values: np.ndarray, statistics: Statistics) -> np.ndarray:
    """The inverse of :func:`normalize`: -1 and 1 become the quantiles exactly, and what is beyond them is clipped.

    Args:
        values: ``[..., A]``.
        statistics: Of the data set.
    """
    values, low, high = _checked(values, statistics)
    share = (values.astype(np.float64).clip(-1, 1) + 1) / 2
    return (low * (1 - share) + high * share).clip(low, high).astype(values.dtype)


def normalize_state(state: np.ndarray, statistics: Statistics) -> np.ndarray:
    """:func:`normalize` for a state that an env sent, ``[..., P]``."""
    if not np.isfinite(state).all():
        raise PolicyError("the state holds a number that is not finite; the env that sent it is broken")
    return normalize(state, statistics)


def state_bins(state: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Which of 256 equal bins each number of the state falls into, ``int64[..., P]`` in 0 to 255 (paper, section 5.2.4).

    The paper does not print the bins' edges. Ours divide -1 to 1 of the normalised state, as the field's prompts do
    (Physical-Intelligence/openpi src/openpi/models/tokenizer.py@15a9616): a number at or below the 1st percentile is in bin 0, at or
    above the 99th in bin 255, one that never changes in bin 128.

    Args:
        state: ``[..., P]`` in the embodiment's own units.
        statistics: The state's own, not the actions'.
    """
    scaled = normalize_state(np.asarray(state, dtype=np.float64), statistics)
    return np.minimum(np.floor((scaled + 1) / 2 * STATE_BINS), STATE_BINS - 1).astype(np.int64)


@dataclass(frozen=True)
class GripperConvention:
    """The convention of a gripper channel's numbers.

    Attributes:
        open: The number that opens the gripper all the way.
        close: The number that closes it.
    """

    open: float
    close: float


def parse_gripper(words: str) -> GripperConvention:
    """Reads the wording of a channel's ``gripper``, such as ``+1 closes, -1 opens`` or ``1 opens, 0 closes``."""
    found = re.fullmatch(r"([+-]?\d+(?:\.\d+)?) (opens|closes), ([+-]?\d+(?:\.\d+)?) (opens|closes)", words.strip())
    ends = {found[2]: float(found[1]), found[4]: float(found[3])} if found else {}
    if len(ends) != 2 or ends["opens"] == ends["closes"]:
        raise PolicyError(
            f"the gripper convention is {words!r}, expected wording like '+1 closes, -1 opens' with two numbers that differ"
        )
    return GripperConvention(open=ends["opens"], close=ends["closes"])


def _checked(values: np.ndarray, statistics: Statistics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.asarray(values)
    values = values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)
    if values.ndim == 0 or values.shape[-1] != statistics.size:
        raise PolicyError(
            f"values of the shape {values.shape} do not fit statistics of {statistics.source!r} for {statistics.size} channels"
        )
    return values, np.array(statistics.q01), np.array(statistics.q99)
