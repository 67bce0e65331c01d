"""Walks as samples: frames of the way so far, an instruction, and the next eight waypoints (paper, section 3.2.4).

The layout is a folder that a recorder of any simulator can write, an episode at a time:

    dataset.json        {"format": "vlarig-navigation", "version": 1, "name": "vlnce_r2r", "embodiment": "vlnce_r2r"}
    episodes.jsonl      a line an episode:
        {"name": "123", "kind": "instruction_following", "instruction": "Leave the room ...",
         "times": [0.0, 0.5, ...], "poses": [[x, y, theta], ...], "frames": "videos/123.mp4"}
    videos/123.mp4      or a folder of images that sort by name: frame i is seen at pose i
    vlarig/             by ``vlarig data prepare`` (:mod:`~.preparation`): ``statistics.json``, the waypoints' quantiles and which lines
                        are left out; ``cleaning.json``, why

``poses`` are in one fixed frame of the ground plane: x and y in m, theta in rad, counter-clockwise seen from above, 0 along x
(:mod:`~vlarig.policies.qwen_vla.poses`). ``times`` are seconds; a simulator without a clock counts its frames as half seconds.

A sample begins at each time step of a walk at 2 Hz, "navigation videos (sampled at 2 FPS)". A walk of another rate is sampled at these
times: poses between two frames are interpolated, the image is that of the nearest frame, and the last time step is the walk's end. So
is the last sample: its waypoints are no motion, which is how arriving is learned. A sample shows the frame of its time step and up to
``history - 1`` frames before it, spread over the whole way so far, the first always among them. The paper leaves their number and
choice open ("remember previously navigated areas"), so do not take ours for its.

Shapes: ``J`` waypoints of a walk, hence ``J + 1`` time steps; ``H`` waypoints of a chunk; ``M`` frames shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from ...envs.api import Observation, frames_shown
from ...envs.embodiments import Embodiment
from ...policies.api import PolicyError
from ...policies.conventions import embodiment_named
from ...policies.qwen_vla.normalization import DatasetStatistics, statistics_from_data, statistics_to_data
from ...policies.qwen_vla.poses import WAYPOINTS, relative_waypoints, window
from ..samples import ActionSample
from .cleaning import CleaningReport
from .dataset import check_index
from .decoding import typed
from .errors import DataError
from .families import Family
from .frames import read_frames

#: Rate of the time steps, in Hz (paper, section 3.2.4).
RATE = 2.0

#: Of waypoints, in m and rad. An agent that never steps aside has a dy of rounding errors, and quantiles would scale those to -1 to 1.
RESOLUTION = 1e-5

Kind = Literal["instruction_following", "object_searching", "target_tracking"]


class _Header(msgspec.Struct):
    format: Literal["vlarig-navigation"]
    version: Literal[1]
    name: str
    embodiment: str


@dataclass(frozen=True)
class Walk:
    """An episode as it was recorded.

    Attributes:
        times: Seconds of each frame, increasing.
        poses: (x, y, theta) at each frame.
        frames: The video, or the folder of images, relative to the data set's folder.
    """

    name: str
    kind: Kind
    instruction: str
    times: tuple[float, ...]
    poses: tuple[tuple[float, float, float], ...]
    frames: str

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise ValueError(f"{self.name!r} has no instruction")
        if not self.times or len(self.poses) != len(self.times):
            raise ValueError(
                f"{self.name!r} has {len(self.times)} times and {len(self.poses)} poses, expected one for each time"
            )
        if not (np.isfinite(self.poses).all() and np.isfinite(self.times).all() and (np.diff(self.times) > 0).all()):
            raise ValueError(f"{self.name!r} has numbers that are not finite, or times that do not increase")

    def resampled(self) -> Resampled:
        """It at 2 Hz."""
        return resample(self.times, np.array(self.poses))


@dataclass(frozen=True, eq=False)
class Resampled:
    """A walk at 2 Hz.

    Attributes:
        poses: ``float64[J + 1, 3]``.
        frames: The recorded frame that is nearest to each, ``int64[J + 1]``.
    """

    poses: np.ndarray
    frames: np.ndarray

    def waypoints(self) -> np.ndarray:
        """From each time step to the next, to :data:`RESOLUTION`, ``float64[J, 3]``."""
        return np.round(relative_waypoints(self.poses) / RESOLUTION) * RESOLUTION + 0.0  # no -0


def resample(times: Sequence[float], poses: np.ndarray, rate: float = RATE) -> Resampled:
    """A walk at another rate: poses interpolated, headings by the shorter way, and the nearest frame of each time step.

    The last time step is at the walk's end or less than a period after it; there the walker is where the walk ends.

    Args:
        times: Seconds of each frame, increasing.
        poses: (x, y, theta) at each frame.
        rate: Time steps a second.
    """
    seconds, poses = np.asarray(times, np.float64), np.asarray(poses, np.float64)
    count = int(np.ceil((seconds[-1] - seconds[0]) * rate - 1e-6)) + 1
    wanted = seconds[0] + np.arange(count) / rate
    columns = (poses[:, 0], poses[:, 1], np.unwrap(poses[:, 2]))
    after = np.searchsorted(seconds, wanted).clip(1, max(len(seconds) - 1, 1))
    before_is_nearer = wanted - seconds[after - 1] <= np.abs(seconds[np.minimum(after, len(seconds) - 1)] - wanted)
    nearest = np.where(before_is_nearer, after - 1, np.minimum(after, len(seconds) - 1))
    return Resampled(np.column_stack([np.interp(wanted, seconds, column) for column in columns]), nearest)


@dataclass(frozen=True)
class PreparedWalks:
    """What is beside the data.

    Attributes:
        lines: Lines of ``episodes.jsonl`` that were looked at.
        left_out: Numbers of those that are no samples, from 1.
        statistics: Quantiles of the waypoints.
    """

    lines: int
    left_out: tuple[int, ...]
    statistics: Mapping[str, DatasetStatistics]

    def write(self, folder: Path) -> None:
        (folder / "vlarig").mkdir(exist_ok=True)
        data = {"lines": self.lines, "left_out": self.left_out, "statistics": statistics_to_data(self.statistics)}
        (folder / "vlarig" / "statistics.json").write_text(json.dumps(data))

    @classmethod
    def read(cls, folder: Path) -> PreparedWalks:
        path = folder / "vlarig" / "statistics.json"
        try:
            data = json.loads(path.read_text())
            return cls(int(data["lines"]), tuple(map(int, data["left_out"])), statistics_from_data(data["statistics"]))
        except FileNotFoundError:
            raise DataError(f"{path} is missing; run: vlarig data prepare MIXTURE") from None
        except (ValueError, KeyError, TypeError, PolicyError) as error:
            raise DataError(f"{path} does not read ({error}); run again: vlarig data prepare MIXTURE") from None


class NavigationDataset:
    """A folder of walks as a data set of the family ``navigation`` (:class:`~.dataset.Dataset`); its tasks are the kinds.

    Whatever needs what ``vlarig data prepare`` writes raises :class:`DataError` before that has run.

    Args:
        history: ``M``, the most frames shown.
        horizon: ``H``, the waypoints of a chunk: 8 in the paper (section 4.1).
    """

    family: Family = "navigation"

    def __init__(self, folder: Path, history: int = 8, horizon: int = WAYPOINTS) -> None:
        if history < 1 or horizon < 1:
            raise DataError(f"history is {history} and horizon {horizon}, expected 1 or more of each")
        self.folder, self.history, self.horizon = folder, history, horizon
        self.name, self.embodiment = _header(folder)
        self.embodiments: tuple[Embodiment, ...] = (self.embodiment,)

    @cached_property
    def prepared(self) -> PreparedWalks:
        """What is beside the data. Raises :class:`DataError` where it is not."""
        return PreparedWalks.read(self.folder)

    @property
    def cleaning(self) -> CleaningReport | None:
        return CleaningReport.read(self.folder)

    @property
    def statistics(self) -> Mapping[str, DatasetStatistics]:
        """Quantiles of all walks of the mixture."""
        return self.prepared.statistics

    @cached_property
    def walks(self) -> tuple[Walk, ...]:
        """Those that are kept. Raises :class:`DataError` where lines were written since they were prepared."""
        lines = self.lines()
        if len(lines) != self.prepared.lines:
            raise DataError(
                f"{self.folder} has {len(lines)} walks, {self.prepared.lines} are prepared; run again: vlarig data prepare MIXTURE"
            )
        left_out = set(self.prepared.left_out)
        return tuple(self.walk(line, number) for number, line in enumerate(lines, 1) if number not in left_out)

    def lines(self) -> list[str]:
        """The walks as they are written. Raises :class:`DataError` where there are none."""
        path = self.folder / "episodes.jsonl"
        try:
            lines = path.read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if not lines:
            raise DataError(f"{path} is missing or empty; is {self.folder} a data set of walks?")
        return lines

    def walk(self, line: str, number: int) -> Walk:
        """The walk of a line. Raises :class:`DataError` where it is none."""
        where = f"line {number} of {self.folder / 'episodes.jsonl'}"
        try:
            return typed(json.loads(line), Walk)
        except ValueError as error:
            raise DataError(f"{where} is no walk ({error}); write the line again or take it out") from None

    @cached_property
    def _ends(self) -> np.ndarray:
        """Samples up to the end of each walk."""
        return np.cumsum([len(walk.resampled().frames) for walk in self.walks], dtype=np.int64)

    @property
    def tasks(self) -> Mapping[str, Sequence[int]]:
        """The indices of each kind's samples."""
        found: dict[str, list[int]] = {}
        start = 0
        for walk, end in zip(self.walks, self._ends.tolist(), strict=True):
            found.setdefault(walk.kind, []).extend(range(start, end))
            start = end
        return found

    @property
    def hours(self) -> float:
        return sum(walk.times[-1] - walk.times[0] for walk in self.walks) / 3600

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> ActionSample:
        check_index(index, len(self), self.name)
        number = int(np.searchsorted(self._ends, index, side="right"))
        walk = self.walks[number]
        resampled = walk.resampled()
        step = len(resampled.frames) - (int(self._ends[number]) - index)
        shown = resampled.frames[frames_shown(step, self.history)].tolist()
        name = f"{self.name}/{walk.name}/{step}"
        try:
            images = read_frames(self.folder / walk.frames, shown)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        actions = window(resampled.waypoints(), step, self.horizon).astype(np.float32)
        observation = Observation(images={"ego": images}, state=np.zeros(0, np.float32), instruction=walk.instruction)
        return ActionSample(name, observation, self.embodiment, actions, self.horizon)


def _header(folder: Path) -> tuple[str, Embodiment]:
    path = folder / "dataset.json"
    try:
        header = typed(json.loads(path.read_text()), _Header)
        walker = embodiment_named(header.embodiment)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; is {folder} a data set of walks?") from None
    except ValueError as error:
        raise DataError(f"{path} is no header of a data set of walks ({error}); is {folder} one?") from None
    except PolicyError as error:
        raise DataError(f"{folder}: {error}") from None
    if [each.name for each in walker.channels] != ["dx", "dy", "dtheta"]:
        raise DataError(
            f"{folder} has the embodiment {header.embodiment!r}, which does not walk by (dx, dy, dtheta); name the walker it is of"
        )
    return header.name, walker
