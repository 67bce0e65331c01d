"""The file beside a LeRobotDataset that says which of its episodes are left out: ``meta/vlarig_cleaning.json``.

``vlarig data clean`` writes it, ``open_lerobot`` reads it. It says what was judged, with which thresholds, and why each episode is
dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from ...envs.errors import VlarigError
from ...envs.untrusted import convert
from ...results.run_files import appearing
from .cleaning import CleaningReport, Drop, Thresholds
from .decoding import typed
from .errors import DataError
from .lerobot_files import Meta
from .lerobot_robot import Layout

CLEANING = "meta/vlarig_cleaning.json"

_VERSION = 1


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


def store_cleaning(cleaning: Cleaning, meta: Meta, layout: Layout, thresholds: Thresholds) -> Path:
    file = meta.folder / CLEANING
    drops = [{"number": number, **asdict(drop)} for number, drop in cleaning.drops.items()]
    data = {"version": _VERSION, "made_of": _made_of(meta, layout, thresholds), "total": cleaning.total, "drops": drops}
    try:
        with appearing(file) as draft:
            draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"the drops of {meta.folder} cannot be kept in {file} ({error.strerror}); make it writable") from None
    return file


def stored_cleaning(meta: Meta, layout: Layout, thresholds: Thresholds) -> Cleaning | None:
    """What the file says; ``None`` where there is none and the thresholds are the defaults.

    Args:
        meta: The dataset, with all its episodes.
        layout: Its layout.
        thresholds: Those that it is to be cleaned with.
    """
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
