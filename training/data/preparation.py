"""``vlarig data prepare``: what human hands and walks need beside them before a training reads them.

A policy has one basis of hand poses and one set of quantiles for all human data ("across all human datasets", paper, section 3.2.2),
and one set of quantiles for the walks of a robot. So the data sets of a mixture are prepared together, and each gets a copy beside it.
Every episode is read twice: once to be judged and for the basis, once for its actions.

Reasons for which an episode is left out: ``does not read``, ``missing frames`` (a video is not there or is shorter than its poses),
``no instruction``, ``no tracked hand``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from ...policies.api import PolicyError
from ...policies.qwen_vla.normalization import DatasetStatistics, Steps, fitted, statistics_of
from ...policies.qwen_vla.poses import Eigengrasps, wrist_channels
from .cleaning import CleaningReport, Drop
from .egocentric import HandDataset, HandEpisode, PreparedHands, chunk_of, frames_ahead, sample_spans
from .errors import DataError, MissingFrames
from .frames import need_frames
from .mixture_file import open_unmixed
from .navigation import NavigationDataset, PreparedWalks, Walk

#: Gets the name of a data set, how many of its episodes were looked at, and how many there are.
Progress = Callable[[str, int, int], None]

_Kept = TypeVar("_Kept", HandEpisode, Walk)


def prepare(file: Path, eigengrasps: Eigengrasps | None, progress: Progress) -> Iterator[tuple[str, CleaningReport]]:
    """Prepare the hands, then the walks of a mixture.

    Args:
        file: The mixture's.
        eigengrasps: A basis of hand poses; one is fitted to all hands of the mixture where it is ``None``.
        progress: Called after each episode.

    Yields:
        The name of a data set, and what is left out of it.
    """
    datasets = open_unmixed(file)
    hands = [dataset for dataset in datasets if isinstance(dataset, HandDataset)]
    robots: dict[str, list[NavigationDataset]] = {}
    for dataset in datasets:
        if isinstance(dataset, NavigationDataset):
            robots.setdefault(dataset.embodiment.statistics_key, []).append(dataset)
    if not hands and not robots:
        raise DataError(f"{file} has neither human hands nor walks (egodex, vitra, walks); nothing else is prepared")
    if hands:
        yield from prepare_hands(hands, eigengrasps, progress)
    for walks in robots.values():
        yield from prepare_walks(walks, progress)


def read_eigengrasps(file: Path) -> Eigengrasps:
    """A basis of hand poses out of the ``eigengrasps.json`` of a checkpoint or of prepared data."""
    try:
        return Eigengrasps.from_data(json.loads(file.read_text()))
    except (OSError, ValueError, PolicyError) as error:
        raise DataError(
            f"{file} does not read ({error}); name the eigengrasps.json of a checkpoint or of prepared data"
        ) from None


def prepare_hands(
    datasets: Sequence[HandDataset], eigengrasps: Eigengrasps | None, progress: Progress
) -> Iterator[tuple[str, CleaningReport]]:
    """Write what :class:`~.egocentric.PreparedHands` holds beside each data set. See :func:`prepare`."""
    horizon, names = datasets[0].horizon, ", ".join(each.name for each in datasets)
    if any(each.horizon != horizon for each in datasets):
        raise DataError(
            f"{names} have the horizons {[each.horizon for each in datasets]}; give them one, as "
            "quantiles of wrist motion depend on it"
        )
    sorted_: list[_Sorted[HandEpisode]] = [_Sorted() for _ in datasets]
    poses = (part for each, found in zip(datasets, sorted_, strict=True) for part in _good_poses(each, found, progress))
    try:
        basis = Eigengrasps.fit(poses) if eigengrasps is None else eigengrasps
        for _ in poses:  # where there are no hands to fit
            pass
    except PolicyError as error:
        raise DataError(f"no eigengrasps of {names}: {error}") from None
    with Steps(names) as actions, Steps(names) as states:
        for dataset, found in zip(datasets, sorted_, strict=True):
            ahead = [frames_ahead(horizon, episode.rate) for episode in found.kept]
            for number, (episode, frames) in enumerate(zip(found.kept, ahead, strict=True), 1):
                hands = dataset.source.read(episode.name)
                progress(f"{dataset.name}, actions", number, len(found.kept))
                for first, stop, _ in episode.spans:
                    for frame in range(first, stop, horizon):
                        chunk, state = chunk_of(hands.part(frame, frame + frames), episode.rate, horizon, basis)
                        actions.add(chunk)
                        states.add(np.atleast_2d(state))
        statistics = DatasetStatistics(fitted(actions), fitted(states))
    for dataset, found in zip(datasets, sorted_, strict=True):
        PreparedHands(horizon, basis, statistics, tuple(found.kept)).write(dataset.source.folder)
        yield dataset.name, found.report(dataset.source.folder)


def prepare_walks(datasets: Sequence[NavigationDataset], progress: Progress) -> Iterator[tuple[str, CleaningReport]]:
    """Write what :class:`~.navigation.PreparedWalks` holds beside each data set of one robot. See :func:`prepare`."""
    sorted_: list[_Sorted[Walk]] = [_Sorted() for _ in datasets]
    for dataset, found in zip(datasets, sorted_, strict=True):
        lines = dataset.lines()
        for number, line in enumerate(lines, 1):
            try:
                walk = dataset.walk(line, number)
                need_frames(dataset.folder / walk.frames, len(walk.times))
                found.kept.append(walk)
            except DataError as error:
                found.drop(number, f"line {number}", error)
            progress(dataset.name, number, len(lines))
        found.check(dataset.folder)
    names = ", ".join(dataset.name for dataset in datasets)
    waypoints = [walk.resampled().waypoints() for found in sorted_ for walk in found.kept]
    try:
        quantiles = {datasets[0].embodiment.statistics_key: DatasetStatistics(statistics_of(waypoints, names))}
    except PolicyError as error:
        raise DataError(f"no quantiles of {names}: {error}") from None
    for dataset, found in zip(datasets, sorted_, strict=True):
        PreparedWalks(found.total, tuple(found.left_out), quantiles).write(dataset.folder)
        yield dataset.name, found.report(dataset.folder)


@dataclass
class _Sorted(Generic[_Kept]):
    """The episodes of a data set after they were judged.

    Attributes:
        kept: Those to learn from.
        left_out: Numbers of the others, from 1.
        drops: Why they are left out.
    """

    kept: list[_Kept] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.kept) + len(self.left_out)

    def drop(self, number: int, name: str, reason: str | Exception, detail: str = "") -> None:
        """Leave an episode out, for what is wrong with it or for an error."""
        if isinstance(reason, Exception):
            reason, detail = "missing frames" if isinstance(reason, MissingFrames) else "does not read", str(reason)
        self.left_out.append(number)
        self.drops.append(Drop(reason, name, detail))

    def check(self, folder: Path) -> None:
        """Raises :class:`DataError` where no episode is left."""
        if not self.kept:
            first = self.drops[0]
            raise DataError(
                f"{folder} has no episode to learn from, of {self.total}; the first, {first.episode}: {first.reason}, {first.detail}"
            )

    def report(self, folder: Path) -> CleaningReport:
        report = CleaningReport.of(self.total, self.drops)
        report.write(folder)
        return report


def _good_poses(dataset: HandDataset, found: _Sorted[HandEpisode], progress: Progress) -> Iterator[np.ndarray]:
    """Judge the episodes of a data set; the joint poses of tracked hands, ``[T, 45]``, of those that are kept."""
    names = dataset.source.names()
    for number, name in enumerate(names, 1):
        progress(dataset.name, number, len(names))
        try:
            episode = dataset.source.describe(name)
            hands = dataset.source.read(name)
            for hand in (hands.left, hands.right):
                wrist_channels(hand.wrist, np.eye(4))  # refuses what is no rigid transform
        except (DataError, PolicyError) as error:
            found.drop(number, name, error)
            continue
        spans = sample_spans(hands, episode)
        if not episode.spans:
            found.drop(number, name, "no instruction", f"none of its {episode.frames} frames has words")
        elif not spans:
            found.drop(
                number, name, "no tracked hand", f"in none of its {episode.frames} frames is a hand tracked with words to it"
            )
        else:
            found.kept.append(replace(episode, spans=spans))
            for hand in (hands.left, hands.right):
                yield hand.joints[hand.tracked]
    found.check(dataset.source.folder)
