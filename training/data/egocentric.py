"""Human hands as samples: what was done with two hands, seen from the head, as the paper's 32 channels (section 3.2.2).

A **source** reads one publisher's layout (:class:`~.egodex.EgoDex`, :class:`~.vitra.Vitra`) and gives each hand's wrist frame and joint
pose in one convention, MANO's right hand. What all samples need beside it is made once by ``vlarig data prepare``
(:mod:`~.preparation`) and kept in the folder ``vlarig`` beside the data:

* ``episodes.jsonl``: a line an episode, with the frames at which a sample begins and the words there;
* ``eigengrasps.json``: the principal components of the hand's joint pose "across all human datasets";
* ``statistics.json``: the chunk size, and the quantiles of actions and states;
* ``cleaning.json``: what was left out, and why.

A sample is a frame of a video, the instruction at that time, and the motion over the steps after it. Choices of ours:

* Step ``h`` of a chunk is the pose ``h + 1`` control periods after the frame, relative to the frame's.
* A hand that is not tracked at the frame does not move: 16 zeros a step, which is the mean hand pose at rest. The chunk ends where a
  hand that was tracked at first is lost; the prompt still has the whole chunk size.
* The state is 32 numbers of the same channels at the frame itself: zero motion, and each hand's eigengrasps.
* Videos at other rates than the embodiment's 30 Hz keep their frames; poses between frames are interpolated.

Shapes: ``T`` frames of an episode, ``H`` steps of a chunk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from ...envs.api import Observation
from ...envs.embodiments import Embodiment
from ...envs.images import pil_bilinear
from ...policies.api import PolicyError
from ...policies.qwen_vla.embodiments import REAL_HUMAN
from ...policies.qwen_vla.normalization import DatasetStatistics, statistics_from_data, statistics_to_data
from ...policies.qwen_vla.poses import (
    CHANNELS,
    HAND_CHANNELS,
    Eigengrasps,
    HandMotion,
    axis_angle,
    hands_to_actions,
    rotation_matrix,
)
from ..samples import ActionSample
from .cleaning import CleaningReport
from .dataset import check_index
from .decoding import typed
from .errors import DataError
from .families import Family


@dataclass(frozen=True, eq=False)
class Hand:
    """A hand over successive frames, in MANO's convention of the right hand.

    Attributes:
        wrist: Its wrist's frame in one fixed world, ``float64[T, 4, 4]``, m. On a right hand x points from the fingers to the wrist,
            y out of the back of the hand, z to the thumb's side; on a left hand x points to the fingers.
        joints: Its joint pose, ``float64[T, 45]``: axis times angle (rad) of each of 15 joints relative to its parent, from a flat
            hand; index, middle, little and ring finger, then the thumb, each from the palm outwards. A left hand's is that of its
            mirror image.
        tracked: Whether the frame's pose is known, ``bool[T]``. Poses that are not known are any rigid ones.
    """

    wrist: np.ndarray
    joints: np.ndarray
    tracked: np.ndarray


@dataclass(frozen=True, eq=False)
class Hands:
    """Both hands over the same frames."""

    left: Hand
    right: Hand

    def part(self, first: int, stop: int) -> Hands:
        """The frames from ``first`` to before ``stop``."""
        rows = slice(first, stop)
        return Hands(*(Hand(hand.wrist[rows], hand.joints[rows], hand.tracked[rows]) for hand in (self.left, self.right)))


@dataclass(frozen=True)
class HandEpisode:
    """What is known of an episode without its poses.

    Attributes:
        name: Names it within the source: ``part1/stack/12``.
        task: The group in which it is balanced with others.
        rate: Frames a second.
        frames: ``T``.
        spans: (first frame, frame after the last, instruction) of the runs of frames at which samples begin.
    """

    name: str
    task: str
    rate: float
    frames: int
    spans: tuple[tuple[int, int, str], ...]


class HandSource(Protocol):
    """One publisher's layout. It is pickled where batches are made in processes of their own."""

    @property
    def name(self) -> str:
        """Names the data set: ``egodex``."""
        ...

    @property
    def folder(self) -> Path: ...

    def names(self) -> list[str]:
        """The episodes, those of a task in succession. Raises :class:`DataError` where there are none."""
        ...

    def describe(self, name: str) -> HandEpisode:
        """An episode with the spans of its instructions."""
        ...

    def read(self, name: str, first: int = 0, stop: int | None = None) -> Hands:
        """The hands in the frames from ``first`` to before ``stop``. Raises :class:`DataError` where they do not read."""
        ...

    def image(self, name: str, frame: int) -> np.ndarray:
        """The frame seen from the head, ``uint8[h, w, 3]``. Raises :class:`DataError` where it does not read."""
        ...


def chunk_of(hands: Hands, rate: float, horizon: int, eigengrasps: Eigengrasps) -> tuple[np.ndarray, np.ndarray]:
    """The actions after the first of these frames, and the state at it.

    Args:
        hands: From the sample's frame on.
        rate: Frames a second.
        horizon: ``H``.
        eigengrasps: The basis.

    Returns:
        ``float32[h, 32]`` with ``h`` up to ``H``, the steps for which both hands are known, and ``float32[32]``.
    """
    times = np.arange(1, horizon + 1) * rate / REAL_HUMAN.control_frequency
    ends = [_run(hand.tracked) - 1 for hand in (hands.left, hands.right) if hand.tracked[0]]
    times = times[times <= (min(ends) if ends else -1) + 1e-6]
    parts, state = [], np.zeros(CHANNELS)
    motions = {}
    for side, hand in (("left", hands.left), ("right", hands.right)):
        known = hand if hand.tracked[0] else _resting(eigengrasps, len(hand.tracked))
        motions[side] = HandMotion(*_at(known, times))
        parts.append(known)
    actions = hands_to_actions(motions["left"], motions["right"], parts[0].wrist[0], parts[1].wrist[0], eigengrasps)
    for index, part in enumerate(parts):
        end = (index + 1) * HAND_CHANNELS
        state[end - len(eigengrasps.components) : end] = eigengrasps.encode(part.joints[:1])[0]
    return actions.astype(np.float32), state.astype(np.float32)


def _resting(eigengrasps: Eigengrasps, frames: int) -> Hand:
    return Hand(np.tile(np.eye(4), (frames, 1, 1)), np.tile(eigengrasps.mean, (frames, 1)), np.ones(frames, bool))


def _run(tracked: np.ndarray) -> int:
    """Frames from the first on in which the hand is tracked without a break."""
    lost = np.flatnonzero(~tracked)
    return int(lost[0]) if len(lost) else len(tracked)


def _at(hand: Hand, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The wrist's frames and joint poses at times in frames; between two frames the turn is about one axis at one speed."""
    nearest = np.rint(times).astype(int)
    if np.allclose(times, nearest, atol=1e-6):
        return hand.wrist[nearest], hand.joints[nearest]
    low = np.clip(np.floor(times + 1e-6).astype(int), 0, len(hand.wrist) - 2)
    share = (times - low)[:, None]
    before, after = hand.wrist[low], hand.wrist[low + 1]
    wrist = before.copy()
    wrist[:, :3, 3] += share * (after[:, :3, 3] - before[:, :3, 3])
    turn = axis_angle(np.swapaxes(before[:, :3, :3], -1, -2) @ after[:, :3, :3])
    wrist[:, :3, :3] = before[:, :3, :3] @ rotation_matrix(share * turn)
    return wrist, hand.joints[low] + share * (hand.joints[low + 1] - hand.joints[low])


def sample_spans(hands: Hands, episode: HandEpisode) -> tuple[tuple[int, int, str], ...]:
    """The frames of the episode's spans at which a hand is tracked and a step of motion follows."""
    ahead = int(np.ceil(episode.rate / REAL_HUMAN.control_frequency - 1e-6))
    good = np.zeros(episode.frames, bool)
    usable = np.ones(episode.frames, bool)
    usable[max(episode.frames - ahead, 0) :] = False
    for hand in (hands.left, hands.right):
        stays = hand.tracked.copy()
        for step in range(1, ahead + 1):
            stays[:-step] &= hand.tracked[step:]
        good |= hand.tracked
        usable &= ~hand.tracked | stays
    good &= usable
    spans = []
    for first, stop, words in episode.spans:
        edges = np.flatnonzero(np.diff(np.concatenate(([False], good[first:stop], [False])).astype(int)))
        spans += [(first + int(start), first + int(end), words) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return tuple(spans)


def frames_ahead(horizon: int, rate: float) -> int:
    """Frames that a chunk needs, the first one with them."""
    return int(np.ceil(horizon * rate / REAL_HUMAN.control_frequency)) + 2


@dataclass(frozen=True)
class PreparedHands:
    """What is beside the data.

    Attributes:
        horizon: ``H``, the chunks whose quantiles these are.
        eigengrasps: The basis of hand poses.
        statistics: Quantiles of actions and states.
        episodes: Those that are kept, with the spans at which samples begin.
    """

    horizon: int
    eigengrasps: Eigengrasps
    statistics: DatasetStatistics
    episodes: tuple[HandEpisode, ...]

    def write(self, folder: Path) -> None:
        folder = folder / "vlarig"
        folder.mkdir(exist_ok=True)
        (folder / "episodes.jsonl").write_text("".join(json.dumps(asdict(each)) + "\n" for each in self.episodes))
        (folder / "eigengrasps.json").write_text(json.dumps(self.eigengrasps.to_data()))
        stored = {"horizon": self.horizon, "statistics": statistics_to_data({REAL_HUMAN.statistics_key: self.statistics})}
        (folder / "statistics.json").write_text(json.dumps(stored))

    @classmethod
    def read(cls, folder: Path) -> PreparedHands:
        folder = folder / "vlarig"
        try:
            lines = (folder / "episodes.jsonl").read_text().splitlines()
            eigengrasps = Eigengrasps.from_data(json.loads((folder / "eigengrasps.json").read_text()))
            stored = json.loads((folder / "statistics.json").read_text())
            statistics = statistics_from_data(stored["statistics"])[REAL_HUMAN.statistics_key]
            return cls(
                int(stored["horizon"]), eigengrasps, statistics, tuple(typed(json.loads(line), HandEpisode) for line in lines)
            )
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} is missing; run: vlarig data prepare MIXTURE") from None
        except (ValueError, KeyError, TypeError, PolicyError) as error:
            raise DataError(f"{folder} does not read ({error}); run again: vlarig data prepare MIXTURE") from None


class HandDataset:
    """A source as a data set of the family ``human_egocentric`` (:class:`~.dataset.Dataset`).

    Whatever needs what ``vlarig data prepare`` writes raises :class:`DataError` before that has run.

    Args:
        source: The data.
        horizon: ``H``, the steps of a chunk.
        picture_height: Height to which larger images are scaled, in pixels: 1080 lines are more than a model sees. ``None``: as
            they are.
    """

    family: Family = "human_egocentric"
    embodiments: tuple[Embodiment, ...] = (REAL_HUMAN,)

    def __init__(self, source: HandSource, horizon: int = 16, picture_height: int | None = 480) -> None:
        if horizon < 1:
            raise DataError(f"the horizon of {source.name} is {horizon}, expected 1 or more")
        self.source = source
        self.name = source.name
        self.horizon = horizon
        self.picture_height = picture_height

    @cached_property
    def prepared(self) -> PreparedHands:
        """What is beside the data. Raises :class:`DataError` where it is missing, or is for chunks of another size."""
        prepared = PreparedHands.read(self.source.folder)
        if prepared.horizon != self.horizon:
            raise DataError(
                f"{self.source.folder} is prepared for chunks of {prepared.horizon} steps, and the mixture has horizon = "
                f"{self.horizon}; run again: vlarig data prepare MIXTURE"
            )
        return prepared

    @property
    def cleaning(self) -> CleaningReport | None:
        return CleaningReport.read(self.source.folder)

    @property
    def statistics(self) -> Mapping[str, DatasetStatistics]:
        """Quantiles of all human data in the mixture."""
        return {REAL_HUMAN.statistics_key: self.prepared.statistics}

    @property
    def eigengrasps(self) -> Eigengrasps:
        """The basis of hand poses, of all human data in the mixture."""
        return self.prepared.eigengrasps

    @property
    def episodes(self) -> tuple[HandEpisode, ...]:
        """Those that are kept."""
        return self.prepared.episodes

    @cached_property
    def _spans(self) -> np.ndarray:
        """Number of the episode, first frame and the frame after the last of each span, ``int64[spans, 3]``."""
        spans = [(number, *span[:2]) for number, episode in enumerate(self.episodes) for span in episode.spans]
        return np.array(spans, np.int64).reshape(-1, 3)

    @cached_property
    def _ends(self) -> np.ndarray:
        """Samples up to the end of each span."""
        return np.cumsum(self._spans[:, 2] - self._spans[:, 1])

    @property
    def tasks(self) -> Mapping[str, Sequence[int]]:
        starts = np.concatenate(([0], self._ends[:-1])).tolist()
        parts: dict[str, list[range]] = {}
        for start, end, number in zip(starts, self._ends.tolist(), self._spans[:, 0].tolist(), strict=True):
            ranges = parts.setdefault(self.episodes[number].task, [])
            if ranges and ranges[-1].stop == start:
                ranges[-1] = range(ranges[-1].start, end)
            else:
                ranges.append(range(start, end))
        return {
            task: ranges[0] if len(ranges) == 1 else np.concatenate([np.arange(r.start, r.stop) for r in ranges]).tolist()
            for task, ranges in parts.items()
        }

    @property
    def hours(self) -> float:
        return sum(episode.frames / episode.rate for episode in self.episodes) / 3600

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> ActionSample:
        check_index(index, len(self), self.name)
        row = int(np.searchsorted(self._ends, index, side="right"))
        number, first, stop = self._spans[row].tolist()
        frame = stop - (int(self._ends[row]) - index)
        episode = self.episodes[number]
        words = next(words for start, _, words in episode.spans if start == first)
        try:
            hands = self.source.read(episode.name, frame, min(frame + frames_ahead(self.horizon, episode.rate), episode.frames))
            actions, state = chunk_of(hands, episode.rate, self.horizon, self.eigengrasps)
        except PolicyError as error:
            raise DataError(f"{self.name}/{episode.name}, frame {frame}: {error}") from None
        image = self.source.image(episode.name, frame)
        if self.picture_height is not None and image.shape[0] > self.picture_height:
            width = max(round(image.shape[1] * self.picture_height / image.shape[0]), 1)
            image = pil_bilinear(np.ascontiguousarray(image), self.picture_height, width)
        observation = Observation(images={"ego": image[None]}, state=state, instruction=words)
        return ActionSample(f"{self.name}/{episode.name}/{frame}", observation, REAL_HUMAN, actions, self.horizon)
