"""LeRobotDatasets as training data: a sample for each frame, with the actions from there to the horizon or the episode's end.

What the format does not say, which robot this is and which image is which view, is in ``meta/vlarig.json`` of what
``vlarig data record`` writes; of another dataset the caller says it. Needs the extra ``data``.

Episodes that ``vlarig data clean`` left out are in no sample. Where actions are made of states, an episode's last frame is no step.

Shapes: ``J`` steps of an episode's trajectory, ``P`` numbers of the state, ``A`` action channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ...benchmarks.captions import Description, Segment
from ...envs.api import Observation
from ...envs.embodiments import Embodiment
from ...envs.keypoints import NAMES
from ...policies.qwen_vla.normalization import DatasetStatistics
from ..samples import ActionSample
from .cleaning import CleaningReport
from .cleaning_rules import EpisodeArrays
from .dataset import check_index
from .errors import DataError
from .families import Family
from .film_reader import FilmReader
from .frames import read_image
from .lerobot_cleaning import stored_cleaning, thresholds_of
from .lerobot_episode import need_data_extra
from .lerobot_files import Meta, read_descriptions, read_meta
from .lerobot_numbers import EpisodeNumbers, KeptNumbers, check_times, episode_rows, image_bytes, vectors
from .lerobot_robot import ActionSource, Layout, read_layout, stored_statistics
from .lerobot_writer import KEYPOINTS
from .pseudo_actions import pseudo_actions


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
    actions: ActionSource = "recorded",
    segmented: bool = False,
    every: int = 1,
    rest: int | None = None,
    images: bool = True,
    cleaned: bool = True,
    thresholds: Mapping[str, Any] | None = None,
    statistics_file: Path | str | None = None,
) -> LeRobotDataset:
    """The LeRobotDataset in a folder, v2.1 or v3.0, without the episodes that ``vlarig data clean`` left out.

    Args:
        folder: The folder, with ``meta/``, ``data/`` and ``videos/``.
        horizon: Most actions of a sample, and the steps that its prompt requests.
        name: Names it in errors; its folder's name when ``None``.
        family: Its family of the mixture.
        embodiment: The robot, or the name of one; what ``meta/vlarig.json`` says when ``None``.
        cameras: Name of an image in the dataset to view tag; images that are not named are left out. The same when ``None``.
        action_names: The dataset's names of the action channels, in the order of the embodiment's; needed where they have other
            names there or another order.
        state_names: The same for the numbers of the state.
        actions: ``from_states`` makes them by finite differences, of a dataset that has none.
        segmented: Whether the instruction is that of the subtask, at whose end a chunk ends, as the paper has it of "subtask
            trajectories" beside full ones (section 3.2.3); for recordings that ``vlarig data record`` puts into words.
        every: A sample begins every so many frames of an episode. Neighbours look alike, and images are decoded and read by the
            backbone one by one.
        rest: Most samples that begin where an episode rests at its end (:func:`moving_steps`). SimplerEnv's episodes rest so, because
            they play all their steps whatever has succeeded. All when ``None``.
        images: Whether samples have images; a training without them need not decode films.
        cleaned: Whether those episodes are left out, and quantiles are there; otherwise it is all episodes, without quantiles, as
            cleaning itself reads them.
        thresholds: Those of cleaning that are not the defaults, by the names of :class:`~.cleaning_rules.Thresholds`.
        statistics_file: Where quantiles are kept that are not stored with the dataset; ``meta/vlarig_statistics.json`` when ``None``.
            They are fitted, in passes over all numbers, where the file is not there.
    """
    need_data_extra()
    meta = read_meta(Path(folder))
    layout = read_layout(meta, embodiment, cameras, action_names, state_names, actions)
    named = name or Path(folder).resolve().name
    dropped, cleaning = (), stored_cleaning(meta, layout, thresholds_of(thresholds, named)) if cleaned else None
    if cleaning is not None:
        dropped = tuple(cleaning.drops)
        if len(dropped) == cleaning.total:
            raise DataError(
                f"cleaning left nothing of {folder} ({cleaning.report.counts}); give other thresholds, or leave it out"
            )
        meta = meta.without(dropped)
    dataset = LeRobotDataset(meta, layout, named, family, horizon, segmented, every, rest if cleaned else None, images)
    if not cleaned:
        return dataset
    dataset.cleaning = None if cleaning is None else cleaning.report
    if segmented:
        silent = [
            int(number) for number, found in zip(dataset.meta.numbers, dataset.descriptions, strict=True) if found is None
        ]
        if silent:
            raise DataError(
                f"{folder} has no segments of episode {silent[0]} and {len(silent) - 1} more; record a suite that has a describer, "
                "with its expert, or leave segmented out"
            )
    file = Path(statistics_file) if statistics_file else None
    statistics = stored_statistics(dataset.meta, layout, file, dataset.trajectories, dropped)
    dataset.statistics = {layout.embodiment.statistics_key: statistics}
    return dataset


def moving_steps(actions: np.ndarray) -> int:
    """How many of an episode's actions, ``float32[J, A]``, there are before those at its end that are all the same."""
    return int((np.flatnonzero((actions != actions[-1]).any(1)) + 1)[-1:].sum())


class LeRobotDataset:
    """A dataset that :func:`open_lerobot` opens. It is pickled without files; each process opens those that it reads."""

    def __init__(
        self,
        meta: Meta,
        layout: Layout,
        name: str,
        family: Family,
        horizon: int,
        segmented: bool = False,
        every: int = 1,
        rest: int | None = None,
        images: bool = True,
    ) -> None:
        """Use :func:`open_lerobot` instead."""
        for what, value in (("horizon", horizon), ("stride 'every'", every), ("number 'rest'", 1 if rest is None else rest)):
            if value < 1:
                raise DataError(f"the {what} of {name} is {value}, expected 1 or more")
        self.name = name
        self.family: Family = family
        self.embodiments = (layout.embodiment,)
        self.statistics: Mapping[str, DatasetStatistics] = {}
        self.cleaning: CleaningReport | None = None
        self.meta = meta
        self.layout = layout
        self._horizon = horizon
        self.segmented = segmented
        self._images = images
        self._pointed = _has_keypoints(meta)
        self._every = every
        self._steps = np.maximum(meta.lengths - layout.from_states, 0)
        self._films = FilmReader()
        self._kept = KeptNumbers()
        self._begins = self._steps.copy()
        if rest is not None:
            moving = [moving_steps(each) for each in self.trajectories("actions")]
            self._begins[self._steps > 0] = np.minimum(self._steps[self._steps > 0], np.array(moving) + rest)
        self._samples = -(-self._begins // every)
        self._ends = np.cumsum(self._samples)

    @property
    def fps(self) -> float:
        return self.meta.fps

    @property
    def hours(self) -> float:
        return float(self._steps.sum()) / self.meta.fps / 3600

    @cached_property
    def tasks(self) -> Mapping[str, Sequence[int]]:
        parts: dict[str, list[np.ndarray]] = {}
        for place, words in enumerate(self.meta.episode_tasks):
            indices = np.asarray(self.episodes[place])
            if self.segmented:
                frames = np.arange(len(indices)) * self._every
                for segment in self.segments(place):
                    parts.setdefault(segment.label, []).append(indices[(segment.begin <= frames) & (frames < segment.end)])
                continue
            if len(words) == 1:
                parts.setdefault(words[0], []).append(indices)
                continue
            tasks = self._numbers(place).tasks[: self._begins[place] : self._every]
            for task in np.unique(tasks).tolist():
                parts.setdefault(self._words(task, place), []).append(indices[tasks == task])
        return {task: np.concatenate(each) for task, each in parts.items()}  # type: ignore[misc]

    @cached_property
    def episodes(self) -> Sequence[range]:
        """The indices of each episode's samples."""
        return [range(int(end - count), int(end)) for end, count in zip(self._ends, self._samples, strict=True)]

    @property
    def instructions(self) -> Sequence[tuple[str, ...]]:
        """The words of each episode's tasks."""
        return self.meta.episode_tasks

    @cached_property
    def descriptions(self) -> Sequence[Description | None]:
        """Each episode in words, where ``vlarig data record`` put it into words."""
        return read_descriptions(self.meta)

    def __len__(self) -> int:
        """Samples: frames that have an action, or every so many of them."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> ActionSample:
        check_index(index, len(self), self.name)
        place = int(np.searchsorted(self._ends, index, side="right"))
        frame = int(index - self._ends[place] + self._samples[place]) * self._every
        numbers = self._numbers(place)
        sample = self._sample(place, frame)
        cameras = self.layout.cameras if self._images else {}
        images = {view: self._image(key, place, frame, numbers, sample)[None] for key, view in cameras.items()}
        if self.segmented:
            segment = next(each for each in self.segments(place) if frame < each.end)
            words, end = segment.label, segment.end
        else:
            words, end = self._words(int(numbers.tasks[frame]), place), int(self._steps[place])
        return ActionSample(
            name=sample,
            observation=Observation(images=images, state=numbers.states[frame], instruction=words),
            embodiment=self.layout.embodiment,
            actions=numbers.actions[frame : min(frame + self._horizon, end)],
            horizon=self._horizon,
            keypoints=None if numbers.keypoints is None else numbers.keypoints[frame],
        )

    def keypoints(self, place: int) -> np.ndarray | None:
        """``float32[J, 14]`` of an episode, see :mod:`vlarig.envs.keypoints`; ``None`` where the dataset has none."""
        return self._read(place, with_images=False).keypoints

    def trajectories(self, part: str) -> Iterator[np.ndarray]:
        for place in np.flatnonzero(self._steps).tolist():
            numbers = self._read(place, with_images=False)
            yield numbers.actions if part == "actions" else numbers.states

    def task_and_steps(self, place: int) -> tuple[str, int]:
        """The tasks of an episode and its steps, by ``meta/``."""
        return "; ".join(self.meta.episode_tasks[place]), int(self._steps[place])

    def arrays(self, place: int) -> EpisodeArrays:
        """An episode as cleaning looks at it: its images are decoded, and those that do not decode are marked."""
        numbers, (words, _) = self._read(place), self.task_and_steps(place)
        steps = len(numbers.seconds)
        return EpisodeArrays(
            name=f"{self.name}/{self.meta.numbers[place]}",
            task=words,
            instruction=words,
            embodiment=self.layout.embodiment,
            actions=numbers.actions,
            states=numbers.states,
            timestamps=numbers.seconds,
            frames={
                view: np.array([self._decodes(key, place, frame, numbers) for frame in range(steps)], bool)
                for key, view in self.layout.cameras.items()
            },
        )

    def _decodes(self, key: str, place: int, frame: int, numbers: EpisodeNumbers) -> bool:
        sample = self._sample(place, frame)
        try:
            image = self._decode(key, place, frame, numbers, sample)
        except DataError:
            return False
        self._check_size(image, key, sample)
        return True

    def segments(self, place: int) -> tuple[Segment, ...]:
        """The subtasks of an episode of a segmented dataset."""
        description = self.descriptions[place]
        assert description is not None  # open_lerobot made sure
        return description.segments

    def _sample(self, place: int, frame: int) -> str:
        return f"{self.name}/{self.meta.numbers[place]}/{frame}"

    def _words(self, task: int, place: int) -> str:
        if task not in self.meta.tasks:
            raise DataError(
                f"{self.meta.data_file(place)}, episode {self.meta.numbers[place]}, is of task {task}, which meta/ does not name; "
                "restore meta/, or leave the episode out"
            )
        return self.meta.tasks[task]

    def _image(self, key: str, place: int, frame: int, numbers: EpisodeNumbers, sample: str) -> np.ndarray:
        """``uint8[h, w, 3]``."""
        image = self._decode(key, place, frame, numbers, sample)
        self._check_size(image, key, sample)
        return image

    def _decode(self, key: str, place: int, frame: int, numbers: EpisodeNumbers, sample: str) -> np.ndarray:
        if key in numbers.films:
            path, begin = numbers.films[key]
            return self._films.read(path, begin + float(numbers.seconds[frame]), self.meta.fps, sample)
        return read_image(BytesIO(numbers.images[key][frame]), f"{key} of {sample} in {self.meta.data_file(place)}")

    def _check_size(self, image: np.ndarray, key: str, sample: str) -> None:
        wanted = self.layout.sizes[key]
        if image.shape != wanted:
            raise DataError(
                f"{key} of {sample} in {self.meta.folder} has the shape {image.shape}; info.json says {wanted}: correct one of them"
            )

    def _numbers(self, place: int) -> EpisodeNumbers:
        return self._kept.get(place) or self._kept.keep(place, self._read(place))

    def _read(self, place: int, with_images: bool = True) -> EpisodeNumbers:
        meta, layout = self.meta, self.layout
        file, number = meta.data_file(place), int(meta.numbers[place])
        single = ["timestamp", "frame_index", "episode_index", "task_index"]
        images = [key for key in layout.cameras if key not in meta.films] if with_images else []
        numbers = [layout.action_key] * (not layout.from_states) + [layout.state_key] * bool(layout.embodiment.state_layout)
        names = [*numbers, *single, *images, *[KEYPOINTS] * self._pointed]
        where = f"{file}, episode {number}"
        table = episode_rows(file, number, names, where)
        length = int(meta.lengths[place])
        if len(table) != length:
            raise DataError(
                f"{where}, has {len(table)} frames; meta/ says {length}: download it again, or leave the episode out"
            )
        columns = {name: np.asarray(table[name]) for name in single}
        check_times(columns["timestamp"], columns["frame_index"], meta.fps, where)
        seconds = columns["frame_index"] / meta.fps
        states = np.zeros((length, 0), np.float32)
        if layout.embodiment.state_layout:
            states = vectors(table, layout.state_key, layout.state_columns, layout.state_size, where)
        if layout.from_states:
            actions = _differences(states, columns["frame_index"], layout.embodiment, where)
        else:
            actions = vectors(table, layout.action_key, layout.action_columns, layout.action_size, where)
        steps = len(actions)
        return EpisodeNumbers(
            states=states[:steps],
            actions=actions,
            seconds=seconds[:steps],
            tasks=columns["task_index"].astype(np.int64)[:steps],
            films={key: meta.film(key, place) for key in layout.cameras if key in meta.films},
            images={
                key: [image_bytes(each, file, f"{where}, frame {row}") for row, each in enumerate(cells.to_pylist()[:steps])]
                for key, cells in ((key, table[key]) for key in images)
            },
            keypoints=vectors(table, KEYPOINTS, range(len(NAMES)), len(NAMES), where)[:steps] if self._pointed else None,
        )


def _has_keypoints(meta: Meta) -> bool:
    """Whether a dataset has our keypoints. Those of another form are refused: to ends they would be none, without a word."""
    names = meta.features.get(KEYPOINTS, {}).get("names") or []
    if NAMES[0] in names and list(names) != list(NAMES):
        raise DataError(
            f"{meta.folder} has keypoints of {len(names)} numbers a step, as another version of vlarig recorded them; expected "
            f"{len(NAMES)}: record it again"
        )
    return NAMES[0] in names


def _differences(states: np.ndarray, frames: np.ndarray, embodiment: Embodiment, where: str) -> np.ndarray:
    """Actions made of an episode's states, ``float32[J - 1, A]``."""
    if len(frames) < 2 or (np.diff(frames) != 1).any():
        raise DataError(
            f"{where}, has {len(frames)} frames that do not follow each other, so no actions can be made; leave it out"
        )
    return pseudo_actions(states, 1 / embodiment.control_frequency, embodiment).astype(np.float32)
