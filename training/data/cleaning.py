"""Episodes that are left out of a data set before it is trained on, by rule, each drop counted with its reason (paper, section 3.2.1).

The paper names the rules, not their thresholds: "trajectories with corrupted or missing frames, near-zero-variance action sequences
indicative of static recordings, and episodes with anomalous lengths", and instructions that "are inconsistent with the observed
motion". Every number in :class:`Thresholds` is ours. An episode is dropped by the first rule that it breaks, in the order of
:data:`RULES`.

Shapes: ``J`` steps of an episode, ``A`` action channels, ``P`` numbers of the state.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.table import Table

from ...envs.embodiments import Embodiment
from .contradictions import contradiction
from .errors import DataError

#: The report on data that are prepared, below their folder.
REPORT = Path("vlarig", "cleaning.json")


@dataclass(frozen=True, eq=False)
class EpisodeArrays:
    """An episode, as far as the rules look at it.

    Attributes:
        name: Names it in the report: ``bridge/1234``.
        task: The task, among whose episodes lengths are compared.
        instruction: The task in words; empty where the data have none.
        embodiment: The robot, whose channels and state layout name the columns.
        actions: ``[J, A]`` in the embodiment's units; ``None`` where the data have no actions.
        states: ``[J, P]``; ``None`` where the data have no states.
        timestamps: Seconds of each step, ``[J]``.
        frames: View to ``bool[J]``: whether the step's image is there and decodes.
    """

    name: str
    task: str
    instruction: str
    embodiment: Embodiment
    actions: np.ndarray | None
    states: np.ndarray | None
    timestamps: np.ndarray
    frames: Mapping[str, np.ndarray]


class Episodes(Protocol):
    """The episodes of a data set, for :func:`clean`."""

    def __len__(self) -> int: ...

    def task_and_steps(self, index: int) -> tuple[str, int]:
        """The task of an episode and its ``J``, without reading it where the data set's tables have them."""
        ...

    def episode(self, index: int) -> EpisodeArrays: ...


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of the rules.

    Attributes:
        missing_share: Share of a view's frames that may be missing.
        longest_gap: Longest time between two steps, in control periods; beyond it a step is missing. One lost frame is 2.
        still_delta: Unit to the root mean square below which a channel of deltas counts as still, a step.
        still_absolute: Unit to the standard deviation below which a channel of absolute values counts as still.
        still_state: Standard deviation below which a number of the state counts as still, where there are no actions.
        fewest_steps: Shortest episode.
        length_spread: ``k``: lengths outside [q1 - k IQR, q3 + k IQR] of the logarithm are anomalous. 3 is Tukey's "far out".
        length_slack: Factor about the quartiles within which no length is anomalous, however alike the others are.
        length_episodes: Fewest episodes of a task whose lengths are compared with each other; those of a task that has fewer are
            compared with all episodes of the data set, as where every episode has words of its own.
        moved: Least motion that counts as having moved in a direction, in m (of a drawer or door: in its own unit).
        closed: How far a gripper has to close, as a share of its way, for a grasp.
        gripper_moved: A gripper that moves by that share of its way may have grasped something thick.
        directions: What the data set's words (``left``, ``right``, ``forward``, ``backward``, ``up``, ``down``) mean, as unit vectors
            in the frame of the end effector's position. Empty: instructions about directions are not judged, as their point of view is
            not known.
    """

    missing_share: float = 0.0
    longest_gap: float = 2.5
    still_delta: Mapping[str, float] = field(
        default_factory=lambda: {"m": 1e-4, "rad": 5e-4, "normalized": 1e-2, "share": 1e-2, "weight": 1e-2}
    )
    still_absolute: Mapping[str, float] = field(
        default_factory=lambda: {"m": 1e-3, "rad": 5e-3, "normalized": 1e-2, "share": 1e-2, "weight": 1e-2}
    )
    still_state: float = 1e-3
    fewest_steps: int = 2
    length_spread: float = 3.0
    length_slack: float = 2.0
    length_episodes: int = 8
    moved: float = 0.02
    closed: float = 0.5
    gripper_moved: float = 0.2
    directions: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """An episode that was left out.

    Attributes:
        reason: Name of the rule.
        episode: Name of the episode.
        detail: What is wrong with it, in words.
    """

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


def missing_frames(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """A view has frames that are missing or do not decode."""
    for view, present in episode.frames.items():
        missing = np.flatnonzero(~np.asarray(present, bool))
        if len(missing) > thresholds.missing_share * len(present):
            return f"{len(missing)} of {len(present)} frames of {view} are missing or damaged, the first is {missing[0]}"
    return None


def odd_times(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """Times do not increase, or there is a gap between two steps, for which frames are missing in all views alike."""
    steps = np.diff(np.asarray(episode.timestamps, np.float64))
    if not np.isfinite(steps).all() or (steps <= 0).any():
        worst = int(np.argmin(np.where(np.isfinite(steps), steps, -np.inf)))
        return f"time does not increase after step {worst}"
    longest = thresholds.longest_gap / episode.embodiment.control_frequency
    if (steps > longest).any():
        worst = int(np.argmax(steps))
        return f"{steps[worst]:.3g} s pass after step {worst}, expected {longest:.3g} s at most"
    return None


def broken_numbers(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """Actions or states have another shape than the robot's, or hold a number that is not finite."""
    del thresholds
    robot, steps = episode.embodiment, len(episode.timestamps)
    for what, array, size in (
        ("actions", episode.actions, robot.action_size),
        ("states", episode.states, len(robot.state_layout)),
    ):
        if array is None:
            continue
        if array.shape != (steps, size):
            return f"the {what} have the shape {list(array.shape)}, expected {[steps, size]} for {robot.name}"
        if not np.isfinite(array).all():
            step = int(np.argwhere(~np.isfinite(array))[0][0])
            return f"the {what} hold a number that is not finite at step {step}"
    return None


def static(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """No channel moves: near-zero variance.

    Deltas are compared with zero, not with their mean: a constant one is a constant motion.
    """
    if episode.actions is None:
        if episode.states is None:
            return None
        spread = np.std(episode.states, axis=0).max(initial=0.0)
        return f"no number of the state varies by more than {spread:.2g}" if spread < thresholds.still_state else None
    for channel, values in zip(episode.embodiment.channels, np.asarray(episode.actions, np.float64).T, strict=True):
        delta = channel.kind == "delta"
        limits = thresholds.still_delta if delta else thresholds.still_absolute
        if channel.unit not in limits:
            raise DataError(
                f"{episode.name}: channel {channel.name} has the unit {channel.unit!r}; give its threshold of stillness"
            )
        if (np.sqrt(np.mean(values**2)) if delta else np.std(values)) >= limits[channel.unit]:
            return None
    return f"no channel of its {len(episode.actions)} actions moves"


def contradicted(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """The motion contradicts the instruction, where a rule of :mod:`~.contradictions` can tell."""
    return contradiction(
        episode.instruction,
        episode.embodiment,
        episode.actions,
        episode.states,
        moved=thresholds.moved,
        closed=thresholds.closed,
        gripper_moved=thresholds.gripper_moved,
        directions=thresholds.directions,
    )


#: The rules that look at an episode alone, by the name under which a drop is counted. Before them come ``does not read`` and
#: ``odd length``.
RULES: dict[str, Callable[[EpisodeArrays, Thresholds], str | None]] = {
    "missing frames": missing_frames,
    "odd times": odd_times,
    "broken numbers": broken_numbers,
    "static": static,
    "contradicts instruction": contradicted,
}


def length_bounds(lengths: Sequence[int], thresholds: Thresholds) -> tuple[float, float]:
    """The shortest and the longest length that are not anomalous among those of a task's episodes.

    Quartiles of the logarithm, as lengths differ by factors; they do not move when few episodes are far off.
    """
    if len(lengths) < thresholds.length_episodes:
        return float(thresholds.fewest_steps), np.inf
    q1, q3 = np.quantile(np.log(np.maximum(lengths, 1)), (0.25, 0.75))
    reach = max(thresholds.length_spread * (q3 - q1), np.log(thresholds.length_slack))
    return max(float(np.exp(q1 - reach)), float(thresholds.fewest_steps)), float(np.exp(q3 + reach))


def clean(episodes: Episodes, thresholds: Thresholds | None = None, shown: int = 5) -> tuple[np.ndarray, CleaningReport]:
    """The indices of the episodes that are kept, ``int64``, and the report on the others.

    Args:
        episodes: The data set's.
        thresholds: The thresholds of the rules; the defaults where it is ``None``.
        shown: Most examples of a reason in the report.
    """
    found = list(judge(episodes, thresholds or Thresholds()))
    kept = [index for index, drop in enumerate(found) if drop is None]
    return np.array(kept, np.int64), CleaningReport.of(len(found), filter(None, found), shown)


def judge(episodes: Episodes, thresholds: Thresholds, workers: int = 1) -> Iterator[Drop | None]:
    """For each episode in order why it is dropped, or ``None``.

    A first pass over :meth:`Episodes.task_and_steps` compares lengths, a second one reads the episodes, in ``workers``
    processes.
    """
    lengths = [episodes.task_and_steps(index) for index in range(len(episodes))]
    by_task: dict[str, list[int]] = {}
    for task, steps in lengths:
        by_task.setdefault(task, []).append(steps)
    whole = length_bounds([steps for _, steps in lengths], thresholds)
    bounds = {
        task: length_bounds(steps, thresholds) if len(steps) >= thresholds.length_episodes else whole
        for task, steps in by_task.items()
    }
    verdicts = _Verdicts(episodes, thresholds, [(steps, bounds[task]) for task, steps in lengths])
    if workers <= 1:
        yield from (verdicts[index] for index in range(len(verdicts)))
        return
    from torch.utils.data import DataLoader

    # torch's loader of data is a pool that gives results in order.
    yield from DataLoader(verdicts, batch_size=None, num_workers=workers)  # type: ignore[arg-type]


class _Verdicts:
    """The verdict on each episode, found where it is read."""

    def __init__(self, episodes: Episodes, thresholds: Thresholds, lengths: Sequence[tuple[int, tuple[float, float]]]) -> None:
        self._episodes = episodes
        self._thresholds = thresholds
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> Drop | None:
        steps, (low, high) = self._lengths[index]
        try:
            episode = self._episodes.episode(index)
        except DataError as error:
            return Drop("does not read", str(index), str(error))
        if not low <= steps <= high:
            usual = f"{low:.0f} or more" if np.isinf(high) else f"{low:.0f} to {high:.0f}, by the lengths of the others"
            return Drop("odd length", episode.name, f"{steps} steps, expected {usual}")
        for reason, rule in RULES.items():
            detail = rule(episode, self._thresholds)
            if detail is not None:
                return Drop(reason, episode.name, detail)
        return None
