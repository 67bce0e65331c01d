"""Cleaning of a LeRobotDataset: episodes that break a rule are left out from then on, by ``meta/vlarig_cleaning.json`` beside it.

``vlarig data clean`` writes the file, ``open_lerobot`` reads it. It says what was judged, with which thresholds, and why each episode
is dropped. Every number and every image is read once. Whether a frame "is there and decodes" is found by decoding it, as training
would. Looking at a film's packets alone takes a twentieth of that time, and finds frames that are missing but none that is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from ...envs.errors import VlarigError
from ...envs.home import appearing
from ...envs.untrusted import convert
from .cleaning import CleaningReport, Drop, judge
from .cleaning_rules import Thresholds
from .decoding import typed
from .errors import DataError
from .lerobot_files import Meta
from .lerobot_robot import Layout

CLEANING = "meta/vlarig_cleaning.json"

#: Passes on the verdicts as they are found, of which there will be so many.
Watch = Callable[[Iterable[Drop | None], int], Iterable[Drop | None]]


@dataclass(frozen=True)
class _NumberedDrop(Drop):
    number: int


class _Stored(msgspec.Struct):
    version: Literal[1]
    made_of: dict[str, Any]
    total: int
    drops: list[_NumberedDrop]


@dataclass(frozen=True)
class Cleaning:
    """Which episodes of a dataset are left out.

    Attributes:
        total: Episodes in all.
        drops: Number of an episode to why it is left out.
    """

    total: int
    drops: Mapping[int, Drop]

    @property
    def report(self) -> CleaningReport:
        """The drops counted by reason, with the first of each."""
        return CleaningReport.of(self.total, self.drops.values())


def thresholds_of(data: Mapping[str, Any] | None, where: str) -> Thresholds:
    """The thresholds of a mixture's entry; those that it does not name are the defaults."""
    try:
        return convert(dict(data or {}), Thresholds, f"the thresholds of {where}")
    except VlarigError as error:
        raise DataError(str(error)) from None


def clean_lerobot(
    folder: Path | str,
    *,
    workers: int = 1,
    watch: Watch = lambda verdicts, _: verdicts,
    thresholds: Mapping[str, Any] | None = None,
    statistics_file: Path | str | None = None,
    **options: Any,
) -> tuple[Cleaning, Path]:
    """Judge all episodes of a dataset and store the verdicts beside it, where ``open_lerobot`` finds them.

    Args:
        folder: The dataset's folder.
        workers: Processes that read.
        watch: Shows progress.
        thresholds: The thresholds of the rules, by the names of :class:`~.cleaning_rules.Thresholds`.
        statistics_file: Not used: quantiles are fitted to what is kept.
        options: The others of ``open_lerobot``.

    Returns:
        What is left out, and the file that says so.
    """
    from .lerobot import open_lerobot  # which reads what is stored here

    del statistics_file
    dataset = open_lerobot(folder, cleaned=False, **options)
    limits, count = thresholds_of(thresholds, dataset.name), len(dataset.episodes)
    found = watch(judge([dataset.task_and_steps(place) for place in range(count)], dataset.arrays, limits, workers), count)
    drops = {number: drop for number, drop in zip(dataset.meta.numbers.tolist(), found, strict=True) if drop is not None}
    cleaning = Cleaning(count, drops)
    return cleaning, store_cleaning(cleaning, dataset.meta, dataset.layout, limits)


def store_cleaning(cleaning: Cleaning, meta: Meta, layout: Layout, thresholds: Thresholds) -> Path:
    file = meta.folder / CLEANING
    drops = [{"number": number, **asdict(drop)} for number, drop in cleaning.drops.items()]
    data = {"version": 1, "made_of": _made_of(meta, layout, thresholds), "total": cleaning.total, "drops": drops}
    try:
        with appearing(file) as draft:
            draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"the drops of {meta.folder} cannot be kept in {file} ({error.strerror}); make it writable") from None
    return file


def stored_cleaning(meta: Meta, layout: Layout, thresholds: Thresholds) -> Cleaning | None:
    """What the file says of ``meta`` with all its episodes; ``None`` where there is none and the thresholds are the defaults."""
    file = meta.folder / CLEANING
    try:
        stored = typed(json.loads(file.read_text(encoding="utf-8")), _Stored)
    except FileNotFoundError:
        if thresholds == Thresholds():
            return None
        raise DataError(f"{meta.folder} has thresholds and is not cleaned; run vlarig data clean on the mixture") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not as vlarig writes it ({error}); run vlarig data clean again") from None
    for name, now in _made_of(meta, layout, thresholds).items():
        before = stored.made_of.get(name)
        if name == "cameras" and isinstance(before, dict) and now.items() <= before.items():
            continue  # of several cameras that were looked at, some may be left out
        if before != now:
            raise DataError(
                f"{file} was made with {name.replace('_', ' ')} {before}, and now it is {now}; run vlarig data clean on the mixture "
                "again, or delete the file to take all episodes"
            )
    return Cleaning(stored.total, {each.number: Drop(each.reason, each.episode, each.detail) for each in stored.drops})


def _made_of(meta: Meta, layout: Layout, thresholds: Thresholds) -> dict[str, Any]:
    """What verdicts depend on. Images of other cameras were not looked at."""
    numbers: Sequence[int] = meta.numbers.tolist()
    given = {"episodes": len(numbers), **layout.made_of(meta), "cameras": dict(layout.cameras), **asdict(thresholds)}
    return json.loads(json.dumps(given))  # as it is read: lists for tuples
