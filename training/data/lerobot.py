"""LeRobotDatasets as training data: a sample for each frame, with the actions from there to the horizon or the episode's end.

What the format does not say, which robot this is and which picture is which view, is in ``meta/vlarig.json`` of what ``vlarig record``
writes; of another dataset the caller says it. Needs the extra ``data``.

Shapes: ``J`` steps of an episode's trajectory, ``P`` numbers of the state, ``A`` action channels.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...benchmarks.captions import Description
from ...envs.api import Observation
from ...envs.embodiments import Embodiment
from ...harness.lerobot_episode import need_data_extra
from ...policies.qwen_vla.normalization import DatasetStatistics
from ..samples import ActionSample
from .errors import DataError
from .families import Family
from .film_reader import FilmReader
from .lerobot_files import Meta, read_descriptions, read_meta
from .lerobot_robot import Layout, read_layout, stored_statistics

#: Seconds that a frame's time may be beside its number, divided by the frames a second (LeRobot's ``tolerance_s``).
TOLERANCE = 1e-4

#: Bytes of episodes' numbers that a process keeps.
KEPT_BYTES = 256 * 2**20


def open_lerobot(
    folder: Path | str,
    *,
    horizon: int,
    name: str | None = None,
    family: Family = "robot_manipulation",
    embodiment: Embodiment | str | None = None,
    cameras: Mapping[str, str] | None = None,
    action_names: Sequence[str] | None = None,
    state_names: Sequence[str] | None = None,
    statistics_file: Path | str | None = None,
) -> LeRobotDataset:
    """The LeRobotDataset in a folder, v2.1 or v3.0.

    Args:
        folder: The folder, with ``meta/``, ``data/`` and ``videos/``.
        horizon: Most actions of a sample, and the steps that its prompt requests.
        name: Names it in errors; its folder's name when ``None``.
        family: Its family of the mixture.
        embodiment: The robot, or the name of one; what ``meta/vlarig.json`` says when ``None``.
        cameras: Name of a picture in the dataset to view tag; pictures that are not named are left out. The same when ``None``.
        action_names: The dataset's names of the action channels, in the order of the embodiment's; needed where they have other
            names there or another order.
        state_names: The same for the numbers of the state.
        statistics_file: Where quantiles are kept that are not stored with the dataset; ``meta/vlarig_statistics.json`` when ``None``.
            They are fitted, in passes over all numbers, where the file is not there.

    Raises:
        DataError: The dataset does not read or does not fit the embodiment, or something is missing that has to be said.
        VlarigError: The extra ``data`` is not installed.
    """
    need_data_extra()
    meta = read_meta(Path(folder))
    layout = read_layout(meta, embodiment, cameras, action_names, state_names)
    dataset = LeRobotDataset(meta, layout, name or Path(folder).resolve().name, family, horizon)
    statistics = stored_statistics(meta, layout, Path(statistics_file) if statistics_file else None, dataset.trajectories)
    dataset.statistics = {layout.embodiment.statistics_key: statistics}
    return dataset


@dataclass(frozen=True)
class _Numbers:
    """The numbers of an episode.

    Attributes:
        states: ``float32[J, P]``.
        actions: ``float32[J, A]``.
        seconds: ``float64[J]``, the frames' times from the episode's beginning.
        tasks: ``int64[J]``, the frames' tasks.
        films: Name of a picture to its film, and the second at which the episode begins there.
        pictures: Name of a picture that is no film to its ``J`` files' bytes.
    """

    states: np.ndarray
    actions: np.ndarray
    seconds: np.ndarray
    tasks: np.ndarray
    films: Mapping[str, tuple[str, float]]
    pictures: Mapping[str, Sequence[bytes]]

    @property
    def size(self) -> int:
        """Bytes."""
        arrays = (self.states, self.actions, self.seconds, self.tasks)
        return sum(each.nbytes for each in arrays) + sum(len(file) for files in self.pictures.values() for file in files)


class LeRobotDataset:
    """A dataset that :func:`open_lerobot` opens. It is pickled without files; each process opens those that it reads."""

    def __init__(self, meta: Meta, layout: Layout, name: str, family: Family, horizon: int) -> None:
        """Use :func:`open_lerobot` instead."""
        if horizon < 1:
            raise DataError(f"the horizon of {name} is {horizon}, expected 1 or more")
        self.name = name
        self.family: Family = family
        self.embodiments = (layout.embodiment,)
        self.statistics: Mapping[str, DatasetStatistics] = {}
        self._meta = meta
        self._layout = layout
        self._horizon = horizon
        self._ends = np.cumsum(meta.lengths)
        self._films = FilmReader()
        self._kept = _Kept()

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self._meta.fps

    @property
    def hours(self) -> float:
        """Hours of motion."""
        return len(self) / self._meta.fps / 3600

    @cached_property
    def tasks(self) -> Mapping[str, Sequence[int]]:
        """The indices of each task's samples."""
        parts: dict[str, list[np.ndarray]] = {}
        for place, words in enumerate(self._meta.episode_tasks):
            indices = np.arange(self._ends[place] - self._meta.lengths[place], self._ends[place])
            if len(words) == 1:
                parts.setdefault(words[0], []).append(indices)
                continue
            tasks = self._numbers(place).tasks
            for task in np.unique(tasks).tolist():
                parts.setdefault(self._words(task, place), []).append(indices[tasks == task])
        return {task: np.concatenate(each) for task, each in parts.items()}  # type: ignore[misc]

    @cached_property
    def episodes(self) -> Sequence[range]:
        """The indices of each episode's samples, one for each of its frames."""
        return [range(int(end - length), int(end)) for end, length in zip(self._ends, self._meta.lengths, strict=True)]

    @property
    def instructions(self) -> Sequence[tuple[str, ...]]:
        """The words of each episode's tasks."""
        return self._meta.episode_tasks

    @cached_property
    def descriptions(self) -> Sequence[Description | None]:
        """Each episode in words, where ``vlarig record`` put it into words.

        Raises:
            DataError: They do not read.
        """
        return read_descriptions(self._meta)

    def __len__(self) -> int:
        """Frames."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> ActionSample:
        """The sample of that frame.

        Raises:
            DataError: It does not read; the sentence names the file and the sample.
            IndexError: There is none.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {self.name}, which has {len(self)}")
        place = int(np.searchsorted(self._ends, index, side="right"))
        frame = int(index - self._ends[place] + self._meta.lengths[place])
        numbers = self._numbers(place)
        sample = self._sample(place, frame)
        images = {view: self._picture(key, place, frame, numbers, sample)[None] for key, view in self._layout.cameras.items()}
        return ActionSample(
            name=sample,
            observation=Observation(
                images=images, state=numbers.states[frame], instruction=self._words(int(numbers.tasks[frame]), place)
            ),
            embodiment=self._layout.embodiment,
            actions=numbers.actions[frame : frame + self._horizon],
            horizon=self._horizon,
        )

    def trajectories(self, part: str) -> Iterator[np.ndarray]:
        """The ``actions`` or the ``states`` of each episode, in order."""
        for place in range(len(self._ends)):
            numbers = self._read(place, with_pictures=False)
            yield numbers.actions if part == "actions" else numbers.states

    def _sample(self, place: int, frame: int) -> str:
        return f"{self.name}/{self._meta.numbers[place]}/{frame}"

    def _words(self, task: int, place: int) -> str:
        if task not in self._meta.tasks:
            raise DataError(
                f"{self._meta.data_file(place)}, episode {self._meta.numbers[place]}, is of task {task}, which meta/ does not name; "
                "restore meta/, or leave the episode out"
            )
        return self._meta.tasks[task]

    def _picture(self, key: str, place: int, frame: int, numbers: _Numbers, sample: str) -> np.ndarray:
        """``uint8[h, w, 3]``."""
        if key in numbers.films:
            path, begin = numbers.films[key]
            picture = self._films.read(path, begin + float(numbers.seconds[frame]), self._meta.fps, sample)
        else:
            picture = _decoded(numbers.pictures[key][frame], key, self._meta.data_file(place), sample)
        wanted = self._layout.sizes[key]
        if picture.shape != wanted:
            raise DataError(
                f"{key} of {sample} in {self._meta.folder} has the shape {picture.shape}; info.json says {wanted}: correct one of them"
            )
        return picture

    def _numbers(self, place: int) -> _Numbers:
        return self._kept.get(place) or self._kept.keep(place, self._read(place))

    def _read(self, place: int, with_pictures: bool = True) -> _Numbers:
        meta, layout = self._meta, self._layout
        file, number = meta.data_file(place), int(meta.numbers[place])
        single = ["timestamp", "frame_index", "episode_index", "task_index"]
        pictures = [key for key in layout.cameras if key not in meta.films] if with_pictures else []
        names = [layout.action_key, *[layout.state_key][: len(layout.embodiment.state_layout)], *single, *pictures]
        where = f"{file}, episode {number}"
        table = _episode_rows(file, number, names, where)
        length = int(meta.lengths[place])
        if len(table) != length:
            raise DataError(
                f"{where}, has {len(table)} frames; meta/ says {length}: download it again, or leave the episode out"
            )
        columns = {name: np.asarray(table[name]) for name in single}
        _check_times(columns["timestamp"], columns["frame_index"], meta.fps, where)
        return _Numbers(
            states=_vectors(table, layout.state_key, layout.state_columns, layout.state_size, where)
            if layout.embodiment.state_layout
            else np.zeros((length, 0), np.float32),
            actions=_vectors(table, layout.action_key, layout.action_columns, layout.action_size, where),
            seconds=columns["frame_index"] / meta.fps,
            tasks=columns["task_index"].astype(np.int64),
            films={key: meta.film(key, place) for key in layout.cameras if key in meta.films},
            pictures={key: [_bytes(each, file, f"{where}, frame {row}") for row, each in enumerate(table[key].to_pylist())]
                      for key in pictures},
        )  # fmt: skip


class _Kept:
    """Episodes' numbers that a process has read, the latest of them. It is pickled empty; threads wait for each other."""

    def __init__(self) -> None:
        self._episodes: OrderedDict[int, _Numbers] = OrderedDict()
        self._bytes = 0
        self._turn = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        _Kept.__init__(self)

    def get(self, place: int) -> _Numbers | None:
        with self._turn:
            numbers = self._episodes.get(place)
            if numbers is not None:
                self._episodes.move_to_end(place)
            return numbers

    def keep(self, place: int, numbers: _Numbers) -> _Numbers:
        with self._turn:
            if place not in self._episodes:
                self._episodes[place] = numbers
                self._bytes += numbers.size
            while self._bytes > KEPT_BYTES and len(self._episodes) > 1:
                self._bytes -= self._episodes.popitem(last=False)[1].size
            return numbers


class _Rows:
    """Columns of an episode's rows."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, name: str) -> Any:
        return self._table.column(name)


def _episode_rows(file: Path, number: int, names: Sequence[str], where: str) -> _Rows:
    """The episode's rows; of a file of several episodes, only the groups of rows are read that hold it.

    Raises:
        DataError: The file is missing or does not read, or has no such column.
    """
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
        return _Rows(table.slice(rows[0], len(rows)) if len(rows) else table.slice(0, 0))  # an episode's rows lie together
    except FileNotFoundError:
        raise DataError(
            f"there is no {file}, which episode {number} needs; download it again, or leave the episode out"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{where}, cannot be read ({str(error).splitlines()[0]}); download the file again") from None


def _groups_with(metadata: Any, number: int) -> list[int]:
    """The groups of rows that may hold an episode, by the smallest and largest number in each."""
    (column,) = (
        index for index in range(metadata.num_columns) if metadata.schema.column(index).path == "episode_index"
    )  # fmt: skip
    groups = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max or statistics.min <= number <= statistics.max:
            groups.append(group)
    return groups


def _vectors(table: _Rows, key: str, columns: Sequence[int], size: int, where: str) -> np.ndarray:
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


def _check_times(seconds: np.ndarray, frames: np.ndarray, fps: float, where: str) -> None:
    """Make sure that the frames' times are those of ``info.json``'s frames a second."""
    wrong = np.flatnonzero(np.abs(seconds.astype(np.float64) - frames / fps) > TOLERANCE + 1e-6 * np.abs(seconds))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{where}, frame {frames[row]}, is at {seconds[row]:.4f} s; at info.json's {fps:g} frames a second it would be at "
            f"{frames[row] / fps:.4f} s: correct fps in info.json"
        )


def _bytes(value: Any, file: Path, where: str) -> bytes:
    """A picture's file, out of a cell as LeRobot (by Hugging Face's datasets) stores it."""
    if isinstance(value, Mapping) and value.get("bytes"):
        return value["bytes"]
    raise DataError(f"{where}: the picture is not in {file.name}; write the dataset with its pictures embedded")


def _decoded(file: bytes, key: str, place: Path, sample: str) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(file)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{key} of {sample} in {place} is no picture ({error}); leave the episode out") from None
