"""Numbers of a data set to the chunk that a model learns, and back.

They are brought to -1 to 1 by quantiles (paper, section 3.2.1 and equation 5), grippers by their conventions; a state's also to bins.
Then the ``A`` numbers of an action take the leading channels of ``K``, the steps of a shorter chunk the leading ones of ``H``; the rest
is zero, and a mask marks the valid entries (section 2.4).

Statistics and normalisation are computed in float64, and returned in the type that came, or in float64 where integers came.

Shapes: ``J`` steps of a trajectory, ``A`` channels of an embodiment; ``B`` samples, ``H`` steps and ``K`` channels of the shared chunk;
``steps`` are those of a task's own chunk (the paper's ``H_task``); a leading ``...`` is any number of axes.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError, suggestion
from ...envs.untrusted import convert
from ..api import PolicyError


class Steps(ExitStack):
    """The steps of a data set's trajectories, of which it gives exact quantiles; a context manager, which closes their files.

    Each channel's numbers lie in a temporary file of their own, 8 bytes a number, where ``tempfile`` puts it (``TMPDIR``). numpy
    selects within the mapped file, so memory does not grow with the data, and trajectories are read once.

    Args:
        source: The data set's name.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self._channels: list[Any] = []
        self._trajectories = 0

    def add(self, trajectory: np.ndarray) -> None:
        """Append a trajectory, ``[J, A]``, ``J`` of any size."""
        array = np.asarray(trajectory)
        if not self._channels and array.ndim == 2:
            self._channels = [self.enter_context(tempfile.TemporaryFile()) for _ in array.T]  # noqa: SIM115
        what = f"trajectory {self._trajectories} of {self.source!r}"
        if array.ndim != 2 or array.shape[1] != len(self._channels) or not self._channels:
            raise PolicyError(
                f"{what} has the shape {array.shape}, expected (steps, channels) with one number of channels for all"
            )
        if not np.isfinite(array).all():
            raise PolicyError(f"{what} holds a number that is not finite; leave it out or repair it")
        for file, numbers in zip(self._channels, array.T, strict=True):
            file.write(numbers.astype(np.float64).tobytes())
        self._trajectories += 1

    def quantiles(self, fractions: Sequence[float]) -> np.ndarray:
        """Quantiles of each channel over all steps, ``float64[len(fractions), A]``, as ``np.quantile`` of their float64 gives them.

        Args:
            fractions: Each in 0 to 1.
        """
        if not self._channels or not self._channels[0].tell():
            raise PolicyError(f"trajectories of {self.source!r} hold 0 steps, and quantiles are of at least one")
        columns = [np.memmap(file, np.float64, "r+") for file in self._channels]
        return np.stack([np.quantile(column, fractions, overwrite_input=True) for column in columns], axis=1)


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
    """The statistics of all trajectories; memory does not grow with them, see :class:`Steps`.

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


@dataclass(frozen=True)
class ActionLayout:
    """The shared chunk's shape.

    Attributes:
        horizon: ``H``.
        channels: ``K``.
    """

    horizon: int
    channels: int

    def mask(self, steps: int, size: int) -> np.ndarray:
        """The valid entries, ``bool[H, K]``: the first ``steps`` of the chunk in the first ``size`` channels."""
        if not 1 <= size <= self.channels:
            raise PolicyError(
                f"an action of {size} channels does not fit the model's {self.channels}; take a model with as many channels or more"
            )
        if not 1 <= steps <= self.horizon:
            raise PolicyError(
                f"a chunk of {steps} steps does not fit the model's horizon of {self.horizon}; cut the chunk or take a longer model"
            )
        mask = np.zeros((self.horizon, self.channels), dtype=bool)
        mask[:steps, :size] = True
        return mask

    def place(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Puts a chunk in the leading steps and channels.

        Args:
            actions: ``[steps, A]``.

        Returns:
            ``float32[H, K]``, zero where there is no action, and its mask, ``bool[H, K]``.
        """
        if np.ndim(actions) != 2:
            raise PolicyError(f"an action chunk has the shape {np.shape(actions)}, expected (steps, channels)")
        mask = self.mask(*actions.shape)
        if not np.isfinite(actions).all():
            raise PolicyError("an action chunk holds a number that is not finite; drop the trajectory that it comes from")
        chunk = np.zeros(mask.shape, dtype=np.float32)
        chunk[: actions.shape[0], : actions.shape[1]] = actions
        return chunk, mask

    def masks(self, shapes: Sequence[tuple[int, int]]) -> np.ndarray:
        """The masks of a batch, ``bool[B, H, K]``, of each sample's ``(T, A)``."""
        return np.stack([self.mask(steps, size) for steps, size in shapes])

    def take_batch(self, chunks: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The inverse of :meth:`place` for a batch ``[B, H, K]``: copies of the valid entries, of each sample's ``(T, A)``."""
        return [chunk[:steps, :size].copy() for chunk, (steps, size) in zip(chunks, shapes, strict=True)]
