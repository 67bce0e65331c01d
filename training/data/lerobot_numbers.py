"""The numbers of a LeRobotDataset's episodes: out of its Parquet files, checked, and those that a process keeps."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

#: Bytes of episodes' numbers that a process keeps.
KEPT_BYTES = 256 * 2**20

#: Seconds that a frame's time may be beside its number, divided by the frames a second (LeRobot's ``tolerance_s``).
TOLERANCE = 1e-4


@dataclass(frozen=True)
class EpisodeNumbers:
    """The numbers of an episode.

    Attributes:
        states: ``float32[J, P]``.
        actions: ``float32[J, A]``.
        seconds: ``float64[J]``, the frames' times from the episode's beginning.
        tasks: ``int64[J]``, the frames' tasks.
        films: Name of an image to its film, and the second at which the episode begins there.
        images: Name of an image that is no film to its ``J`` files' bytes.
        keypoints: ``float32[J, 14]``; ``None`` where the dataset has none.
    """

    states: np.ndarray
    actions: np.ndarray
    seconds: np.ndarray
    tasks: np.ndarray
    films: Mapping[str, tuple[str, float]]
    images: Mapping[str, Sequence[bytes]]
    keypoints: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        arrays = (self.states, self.actions, self.seconds, self.tasks, self.keypoints)
        return sum(each.nbytes for each in arrays if each is not None) + sum(
            len(file) for files in self.images.values() for file in files
        )


class KeptNumbers:
    """Episodes' numbers that a process has read, the latest of them. It is pickled empty; threads wait for each other."""

    def __init__(self) -> None:
        self._episodes: OrderedDict[int, EpisodeNumbers] = OrderedDict()
        self._bytes = 0
        self._turn = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        KeptNumbers.__init__(self)

    def get(self, place: int) -> EpisodeNumbers | None:
        with self._turn:
            numbers = self._episodes.get(place)
            if numbers is not None:
                self._episodes.move_to_end(place)
            return numbers

    def keep(self, place: int, numbers: EpisodeNumbers) -> EpisodeNumbers:
        with self._turn:
            if place not in self._episodes:
                self._episodes[place] = numbers
                self._bytes += numbers.size
            while self._bytes > KEPT_BYTES and len(self._episodes) > 1:
                self._bytes -= self._episodes.popitem(last=False)[1].size
            return numbers


def episode_rows(file: Path, number: int, names: Sequence[str], where: str) -> pa.Table:
    """The episode's rows; of a file of several episodes, only the groups of rows are read that hold it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            missing = [name for name in names if name not in parquet.schema_arrow.names]
            if missing:
                raise DataError(f"{where}, has no column {missing[0]!r}; it has {', '.join(parquet.schema_arrow.names)}")
            groups = _groups_with(parquet.metadata, number)
            table = parquet.read_row_groups(groups, columns=list(names), use_threads=False)
        rows = np.flatnonzero(np.asarray(table.column("episode_index")) == number)
        return table.slice(rows[0], len(rows)) if len(rows) else table.slice(0, 0)  # an episode's rows lie together
    except FileNotFoundError:
        raise DataError(
            f"there is no {file}, which episode {number} needs; download it again, or leave the episode out"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{where}, cannot be read ({str(error).splitlines()[0]}); download the file again") from None


def _groups_with(metadata: Any, number: int) -> list[int]:
    """The groups of rows that may hold an episode, by the smallest and largest number in each."""
    paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    groups = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(paths.index("episode_index")).statistics
        if statistics is None or not statistics.has_min_max or statistics.min <= number <= statistics.max:
            groups.append(group)
    return groups


def vectors(table: pa.Table, key: str, columns: Sequence[int], size: int, where: str) -> np.ndarray:
    """A column of lists as ``float32[J, columns]``, in the embodiment's order."""
    import pyarrow as pa

    column = table[key].combine_chunks()
    values = column
    if not pa.types.is_floating(column.type):
        fixed = pa.types.is_fixed_size_list(column.type)
        lengths = np.full(len(column), column.type.list_size) if fixed else np.asarray(column.value_lengths())
        wrong = np.flatnonzero(lengths != size)
        if len(wrong):
            raise DataError(
                f"{where}, frame {wrong[0]}: {key} has {lengths[wrong[0]]} numbers, and info.json says {size}; correct one of them"
            )
        values = column.flatten()
    if values.null_count:
        raise DataError(f"{where}: {key} has values that are missing; leave the episode out")
    flat = np.asarray(values).astype(np.float32).reshape(len(table), -1)
    if flat.shape[1] != size:
        raise DataError(f"{where}: {key} has {flat.shape[1]} numbers, and info.json says {size}; correct one of them")
    return np.ascontiguousarray(flat[:, list(columns)])


def check_times(seconds: np.ndarray, frames: np.ndarray, fps: float, where: str) -> None:
    """Make sure that the frames' times are those of ``info.json``'s frames a second."""
    wrong = np.flatnonzero(np.abs(seconds.astype(np.float64) - frames / fps) > TOLERANCE + 1e-6 * np.abs(seconds))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{where}, frame {frames[row]}, is at {seconds[row]:.4f} s; at info.json's {fps:g} frames a second it would be at "
            f"{frames[row] / fps:.4f} s: correct fps in info.json"
        )


def image_bytes(value: Any, file: Path, where: str) -> bytes:
    """An image's file, out of a cell as LeRobot (by Hugging Face's datasets) stores it."""
    if isinstance(value, Mapping) and value.get("bytes"):
        return value["bytes"]
    raise DataError(f"{where}: the image is not in {file.name}; write the dataset with its images embedded")
