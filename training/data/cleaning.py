"""Episodes that are left out of a data set before it is trained on, by rule, each drop counted with its reason (paper, section 3.2.1).

The paper names the rules, not their thresholds: "trajectories with corrupted or missing frames, near-zero-variance action sequences
indicative of static recordings, and episodes with anomalous lengths", and instructions that "are inconsistent with the observed
motion". Every number in :class:`~.cleaning_rules.Thresholds` is ours. An episode is dropped by the first rule
that it breaks, in the order of :data:`~.cleaning_rules.RULES`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from .cleaning_rules import RULES, EpisodeArrays, Thresholds
from .errors import DataError

#: The report on data that are prepared, below their folder.
REPORT = Path("vlarig", "cleaning.json")


@dataclass(frozen=True)
class Drop:
    """An episode that was left out, by which rule, and what is wrong with it in words."""

    reason: str
    episode: str
    detail: str


@dataclass(frozen=True)
class CleaningReport:
    """What was left out, counted by reason.

    Attributes:
        total: Episodes in all.
        counts: Reason to the number of episodes that were dropped for it.
        examples: The first drops of each reason, where they are known one by one.
    """

    total: int
    counts: Mapping[str, int]
    examples: Mapping[str, tuple[Drop, ...]]

    @classmethod
    def of(cls, total: int, drops: Iterable[Drop], shown: int = 5) -> CleaningReport:
        """The report on ``total`` episodes of which some were dropped, with ``shown`` examples of a reason at most."""
        counts: Counter[str] = Counter()
        examples: dict[str, tuple[Drop, ...]] = {}
        for drop in drops:
            counts[drop.reason] += 1
            examples[drop.reason] = (*examples.get(drop.reason, ()), drop)[:shown]
        return cls(total, dict(counts), examples)

    @property
    def dropped(self) -> int:
        """Episodes that were left out."""
        return sum(self.counts.values())

    def to_data(self) -> dict[str, Any]:
        examples = {
            reason: [{"episode": drop.episode, "detail": drop.detail} for drop in drops]
            for reason, drops in self.examples.items()
        }
        return {
            "total": self.total,
            "kept": self.total - self.dropped,
            "dropped": dict(self.counts),
            "examples": examples,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> CleaningReport:
        try:
            examples = {
                reason: tuple(Drop(reason, drop["episode"], drop["detail"]) for drop in drops)
                for reason, drops in data["examples"].items()
            }
            return cls(data["total"], dict(data["dropped"]), examples)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"a cleaning report lacks {error}; expected what vlarig wrote") from None

    def write(self, folder: Path) -> None:
        """Keep it beside prepared data: in ``vlarig/cleaning.json`` below their folder."""
        (folder / REPORT).write_text(json.dumps(self.to_data()))

    @classmethod
    def read(cls, folder: Path) -> CleaningReport:
        file = folder / REPORT
        try:
            return cls.from_data(json.loads(file.read_text()))
        except (OSError, ValueError, DataError) as error:
            raise DataError(f"{file} does not read ({error}); run again: vlarig data prepare MIXTURE") from None

    def table(self) -> Table:
        """A row for each reason, the most frequent first, then what was kept."""
        table = Table("reason", "episodes", "share", "for example")
        for reason, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            first = next((f"{drop.episode}: {drop.detail}" for drop in self.examples.get(reason, ())), "")
            table.add_row(reason, str(count), f"{count / self.total:.1%}", first)
        kept = self.total - self.dropped
        table.add_row("kept", str(kept), f"{kept / self.total:.1%}" if self.total else "", "")
        return table


def length_bounds(lengths: Sequence[int], thresholds: Thresholds) -> tuple[float, float]:
    """The shortest and the longest length that are not anomalous among those of a task's episodes.

    Quartiles of the logarithm, as lengths differ by factors; they do not move when few episodes are far off.
    """
    if len(lengths) < thresholds.length_episodes:
        return float(thresholds.fewest_steps), np.inf
    q1, q3 = np.quantile(np.log(np.maximum(lengths, 1)), (0.25, 0.75))
    reach = max(thresholds.length_spread * (q3 - q1), np.log(thresholds.length_slack))
    return max(float(np.exp(q1 - reach)), float(thresholds.fewest_steps)), float(np.exp(q3 + reach))


def judge(
    episodes: Sequence[tuple[str, int]], read: Callable[[int], EpisodeArrays], thresholds: Thresholds, workers: int = 1
) -> Iterable[Drop | None]:
    """For each episode in order why it is dropped, or ``None``.

    Args:
        episodes: The task and the steps of each, among which lengths are compared before any is read.
        read: Gives an episode by its index; :class:`DataError` where it does not read.
        thresholds: The thresholds of the rules.
        workers: Processes that read.
    """
    by_task: dict[str, list[int]] = {}
    for task, steps in episodes:
        by_task.setdefault(task, []).append(steps)
    whole = length_bounds([steps for _, steps in episodes], thresholds)
    bounds = {
        task: length_bounds(steps, thresholds) if len(steps) >= thresholds.length_episodes else whole
        for task, steps in by_task.items()
    }
    verdict = partial(_verdict, [(steps, bounds[task]) for task, steps in episodes], read, thresholds)
    if workers <= 1:
        return map(verdict, range(len(episodes)))
    from torch.utils.data import DataLoader

    # torch's loader of data is a pool that gives results in order.
    return DataLoader(range(len(episodes)), batch_size=None, collate_fn=verdict, num_workers=workers)  # type: ignore[arg-type]


def _verdict(
    lengths: Sequence[tuple[int, tuple[float, float]]], read: Callable[[int], EpisodeArrays], thresholds: Thresholds, index: int
) -> Drop | None:
    steps, (low, high) = lengths[index]
    try:
        episode = read(index)
    except DataError as error:
        return Drop("does not read", str(index), str(error))
    if not low <= steps <= high:
        usual = f"{low:.0f} or more" if np.isinf(high) else f"{low:.0f} to {high:.0f}, by the lengths of the others"
        return Drop("odd length", episode.name, f"{steps} steps, expected {usual}")
    for reason, rule in RULES.items():
        detail = rule(episode, thresholds)
        if detail is not None:
            return Drop(reason, episode.name, detail)
    return None
