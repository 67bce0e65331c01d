"""Walks as samples: what was seen on the way so far, an instruction, and the next eight waypoints (paper, section 3.2.4).

The layout is a folder that a recorder of any simulator can write, an episode at a time:

    dataset.json        {"format": "vlarig-navigation", "version": 1, "name": "vlnce_r2r", "embodiment": "vlnce_r2r"}
    episodes.jsonl      a line an episode:
        {"name": "123", "kind": "instruction_following", "instruction": "Leave the room ...",
         "times": [0.0, 0.5, ...], "poses": [[x, y, theta], ...], "frames": "videos/123.mp4"}
    statistics.json     quantiles of the waypoints, by prepare_walks
    videos/123.mp4      or a folder of pictures that sort by name: frame i is seen at pose i

``poses`` are in one fixed frame of the ground plane: x and y in m, theta in rad, counter-clockwise seen from above, 0 along x
(:mod:`~vlarig.policies.qwen_vla.navigation`). ``times`` are seconds; a simulator without a clock counts its frames as half seconds.

A sample begins at each moment of a walk at 2 Hz, "navigation videos (sampled at 2 FPS)"; a walk of another rate is sampled there: poses
between two frames are interpolated, the picture is that of the nearest frame, and the last moment is the walk's end. So is the last
sample: its waypoints are no motion, which is how arriving is learned. Shown are the moment's frame and up to ``history - 1`` before it,
spread over the whole way so far, the first always among them; the paper leaves their number and choice open ("remember previously
navigated areas"), so do not take ours for its.

Shapes: ``J`` waypoints of a walk, hence ``J + 1`` moments; ``H`` waypoints of a chunk; ``M`` frames shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...envs.api import Observation
from ...envs.embodiments import Embodiment
from ...envs.errors import suggestion
from ...policies.api import PolicyError
from ...policies.qwen_vla.embodiments import VLNCE_R2R, VLNCE_RXR
from ...policies.qwen_vla.navigation import WAYPOINTS, relative_waypoints, window
from ...policies.qwen_vla.normalization import DatasetStatistics, statistics_from_data, statistics_of, statistics_to_data
from ..samples import ActionSample
from .cleaning import CleaningReport
from .errors import DataError
from .families import Family
from .frames import read_frames

#: Rate of the moments, in Hz (paper, section 3.2.4).
RATE = 2.0

Kind = Literal["instruction_following", "object_searching", "target_tracking"]

#: Percent of the whole mixture (paper, section 3.2.4). They add up to 7.6, Table 1 has 7.5.
KINDS: dict[Kind, float] = {"instruction_following": 4.3, "object_searching": 2.3, "target_tracking": 1.0}

_FORMAT = {"format": "vlarig-navigation", "version": 1}
_WALKERS = {each.name: each for each in (VLNCE_R2R, VLNCE_RXR)}


@dataclass(frozen=True)
class Walk:
    """An episode as it was recorded.

    Attributes:
        name: Names it within the data set.
        kind: What the walk is for.
        instruction: The task in words.
        times: Seconds of each frame, increasing.
        poses: (x, y, theta) at each frame.
        frames: The video, or the folder of pictures, relative to the data set's folder.
    """

    name: str
    kind: Kind
    instruction: str
    times: tuple[float, ...]
    poses: tuple[tuple[float, float, float], ...]
    frames: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataError(f"the walk {self.name!r} is of the kind {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        if not self.instruction.strip():
            raise DataError(f"the walk {self.name!r} has no instruction; leave it out")
        times, poses = np.asarray(self.times, np.float64), np.asarray(self.poses, np.float64)
        if times.ndim != 1 or not len(times) or poses.shape != (len(times), 3):
            raise DataError(
                f"the walk {self.name!r} has {len(self.times)} times and poses of the shape {poses.shape}, "
                "expected (x, y, theta) for each time"
            )
        if not (np.isfinite(poses).all() and np.isfinite(times).all() and (np.diff(times) > 0).all()):
            raise DataError(f"the walk {self.name!r} has numbers that are not finite, or times that do not increase")


@dataclass(frozen=True, eq=False)
class Moments:
    """A walk at 2 Hz.

    Attributes:
        poses: ``float64[J + 1, 3]``.
        frames: The recorded frame that is nearest to each, ``int64[J + 1]``.
    """

    poses: np.ndarray
    frames: np.ndarray


def resample(times: Sequence[float], poses: np.ndarray, rate: float = RATE) -> Moments:
    """A walk at another rate: poses interpolated, headings by the shorter way, and the nearest frame of each moment.

    The last moment is at the walk's end or less than a period after it; there the walker is where the walk ends.

    Args:
        times: Seconds of each frame, increasing.
        poses: (x, y, theta) at each frame.
        rate: Moments a second.
    """
    seconds, poses = np.asarray(times, np.float64), np.asarray(poses, np.float64)
    count = int(np.ceil((seconds[-1] - seconds[0]) * rate - 1e-6)) + 1
    moments = seconds[0] + np.arange(count) / rate
    columns = (poses[:, 0], poses[:, 1], np.unwrap(poses[:, 2]))
    after = np.searchsorted(seconds, moments).clip(1, max(len(seconds) - 1, 1))
    before_is_nearer = moments - seconds[after - 1] <= np.abs(seconds[np.minimum(after, len(seconds) - 1)] - moments)
    nearest = np.where(before_is_nearer, after - 1, np.minimum(after, len(seconds) - 1))
    return Moments(np.column_stack([np.interp(moments, seconds, column) for column in columns]), nearest)


def frames_shown(moment: int, history: int) -> list[int]:
    """The moments whose frames are shown at a moment, the oldest first: ``history`` of them, spread evenly, or all there are."""
    count = min(history, moment + 1)
    return [moment] if count == 1 else np.rint(np.linspace(0, moment, count)).astype(int).tolist()


def create_walks(folder: Path, name: str, embodiment: str = VLNCE_R2R.name) -> None:
    """Begin a data set in a folder.

    Args:
        folder: An empty folder, or none yet.
        name: Names the data set.
        embodiment: Whose walks they are: ``vlnce_r2r`` or ``vlnce_rxr``.

    Raises:
        DataError: There is a data set already, or no such embodiment.
    """
    _walker(embodiment, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "dataset.json").exists():
        raise DataError(f"{folder} holds a data set already; add to it, or choose another folder")
    (folder / "dataset.json").write_text(json.dumps(_FORMAT | {"name": name, "embodiment": embodiment}) + "\n")
    (folder / "episodes.jsonl").touch()


def add_walk(folder: Path, walk: Walk) -> None:
    """Append an episode whose frames are in place. One process at a time writes to a folder."""
    with (folder / "episodes.jsonl").open("a") as file:
        file.write(json.dumps(asdict(walk)) + "\n")


def prepare_walks(folder: Path) -> DatasetStatistics:
    """Fit the quantiles of the waypoints of all walks, and store them in ``statistics.json``.

    Raises:
        DataError: The folder holds no data set, or a line of it is no walk.
    """
    name, embodiment = _header(folder)
    walks = _walks(folder)

    class Waypoints:
        def __iter__(self) -> Iterator[np.ndarray]:
            return (relative_waypoints(resample(walk.times, np.array(walk.poses)).poses) for walk in walks)

    try:
        statistics = DatasetStatistics(statistics_of(Waypoints(), name))
    except PolicyError as error:
        raise DataError(f"{folder} has no quantiles: {error}") from None
    (folder / "statistics.json").write_text(json.dumps(statistics_to_data({embodiment.statistics_key: statistics})))
    return statistics


class NavigationDataset:
    """A folder of walks as a data set of the family ``navigation`` (:class:`~.dataset.Dataset`); its tasks are the kinds.

    Args:
        folder: The folder, which :func:`prepare_walks` has prepared.
        history: ``M``, the most frames shown.
        horizon: ``H``, the waypoints of a chunk: 8 in the paper (section 4.1).

    Raises:
        DataError: The folder does not read; the sentence names the file and the line.
    """

    family: Family = "navigation"
    cleaning: CleaningReport | None = None

    def __init__(self, folder: Path, history: int = 8, horizon: int = WAYPOINTS) -> None:
        if history < 1 or horizon < 1:
            raise DataError(f"history is {history} and horizon {horizon}, expected 1 or more of each")
        self.folder, self.history, self.horizon = folder, history, horizon
        self.name, self.embodiment = _header(folder)
        self.embodiments: tuple[Embodiment, ...] = (self.embodiment,)
        self.walks = _walks(folder)
        path = folder / "statistics.json"
        try:
            self.statistics: Mapping[str, DatasetStatistics] = statistics_from_data(json.loads(path.read_text()))
        except FileNotFoundError:
            raise DataError(f"{path} is missing; prepare the data set with prepare_walks") from None
        except (ValueError, PolicyError) as error:
            raise DataError(f"{path} does not read ({error}); prepare the data set anew") from None
        counts = [len(resample(walk.times, np.array(walk.poses)).frames) for walk in self.walks]
        self._ends = np.cumsum(counts, dtype=np.int64)

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
        """Hours of motion."""
        return sum(walk.times[-1] - walk.times[0] for walk in self.walks) / 3600

    def __len__(self) -> int:
        """Samples."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> ActionSample:
        """The sample of that index.

        Raises:
            DataError: Its frames do not read.
            IndexError: There is none.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} samples, expected an index from 0, got {index}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        walk = self.walks[number]
        moments = resample(walk.times, np.array(walk.poses))
        moment = len(moments.frames) - (int(self._ends[number]) - index)
        shown = moments.frames[frames_shown(moment, self.history)].tolist()
        name = f"{self.name}/{walk.name}/{moment}"
        try:
            images = read_frames(self.folder / walk.frames, shown)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        actions = window(relative_waypoints(moments.poses), moment, self.horizon).astype(np.float32)
        observation = Observation(images={"ego": images}, state=np.zeros(0, np.float32), instruction=walk.instruction)
        return ActionSample(name, observation, self.embodiment, actions, self.horizon)


def _walker(name: str, folder: Path) -> Embodiment:
    if name not in _WALKERS:
        raise DataError(f"{folder} has the embodiment {name!r}, which walks nowhere; {suggestion(name, _WALKERS)}")
    return _WALKERS[name]


def _header(folder: Path) -> tuple[str, Embodiment]:
    path = folder / "dataset.json"
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} is missing; is {folder} a data set of walks?") from None
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error})") from None
    if (
        not isinstance(data, dict)
        or {key: data.get(key) for key in _FORMAT} != _FORMAT
        or not {"name", "embodiment"} <= set(data)
    ):
        raise DataError(f"{path} is not of the format {_FORMAT} with a name and an embodiment")
    return str(data["name"]), _walker(str(data["embodiment"]), folder)


def _walks(folder: Path) -> list[Walk]:
    path = folder / "episodes.jsonl"
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; is {folder} a data set of walks?") from None
    walks = []
    for number, line in enumerate(lines, 1):
        try:
            walks.append(_walk(json.loads(line)))
        except DataError as error:
            raise DataError(f"line {number} of {path}: {error}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"line {number} of {path} is no walk ({error}); write the line again or take it out") from None
    return walks


def _walk(data: Any) -> Walk:
    if not isinstance(data, dict):
        raise TypeError(f"it is a {type(data).__name__}, expected an object")
    missing = sorted({"name", "kind", "instruction", "times", "poses", "frames"} - set(data))
    if missing:
        raise DataError(f"a walk has no {', '.join(missing)}")
    poses = tuple((float(x), float(y), float(theta)) for x, y, theta in data["poses"])
    times = tuple(float(time) for time in data["times"])
    return Walk(str(data["name"]), data["kind"], str(data["instruction"]), times, poses, str(data["frames"]))
