"""The mixture: an endless stream of several datasets by weight, the same for any number of processes (paper, sections 2.5 and 3.2).

A position's source and turn come from the :class:`~.schedule.Schedule`, the turn's sample from an endless shuffling of the source. So
nothing is remembered: a training that was killed reads on exactly where it was.

Named weights:

* ``table_1``: the pretraining mixture's (paper, Table 1). A family's weight is divided among its datasets by their samples. Families
  that are absent are left out and the others' weights scaled up, as 74.2 : 3.7 stay when they are alone.
* ``t2a``: 20 % synthetic simulation and 80 % real robots (paper, section 5.2.1), each divided by samples.
* ``balanced``: every embodiment as often as any other, and every task of an embodiment as often as its others (paper, section 3.1,
  "embodiment-balanced and task-balanced sampling"). Vision-language data count as one embodiment with a dataset for each task.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...envs.embodiments import Embodiment
from ...policies.api import PolicyError
from ...policies.qwen_vla.normalization import DatasetStatistics
from ...policies.qwen_vla.poses import Eigengrasps
from ..samples import Sample, Stream
from .dataset import Dataset, HasLengths, HasTrajectories, fit_statistics
from .egocentric import HandDataset
from .errors import DataError
from .families import TABLE_1, Family
from .schedule import Schedule, shuffled

WeightsName = Literal["table_1", "t2a", "balanced"]

#: Shares of the two kinds of data in T2A (paper, section 5.2.1).
T2A: dict[Family, float] = {"synthetic_simulation": 20.0, "robot_manipulation": 80.0}

#: Samples that are tried in the place of one that does not read, where those are skipped.
_MOST_TRIES = 20


@dataclass(frozen=True)
class Source:
    """What the schedule divides positions among: samples of one dataset, all or those of a task.

    Attributes:
        dataset: Its number in the mixture.
        weight: Its share, of any sum.
        indices: Its samples.
        name: Names it where the shares are shown.
    """

    dataset: int
    weight: float
    indices: Sequence[int]
    name: str


def by_family(datasets: Sequence[Dataset], table: Mapping[Family, float]) -> list[Source]:
    """Each family with its weight in a table, divided among its datasets by their samples; what the table lacks is left out."""
    samples: Counter[Family] = Counter()
    for dataset in datasets:
        samples[dataset.family] += len(dataset)
    sources = [
        Source(number, table[each.family] * len(each) / samples[each.family], range(len(each)), each.name)
        for number, each in enumerate(datasets)
        if each.family in table
    ]
    if not sources:
        found = ", ".join(sorted(samples)) or "none"
        raise DataError(f"no dataset is of the families {', '.join(table)} (found: {found}); choose other weights")
    return sources


def balanced(datasets: Sequence[Dataset]) -> list[Source]:
    """Embodiments as often as each other, and the tasks of each."""
    groups: dict[str, list[tuple[int, str, Sequence[int]]]] = {}
    for number, dataset in enumerate(datasets):
        robots = ", ".join(each.name for each in dataset.embodiments) or "vision-language"
        tasks = dataset.tasks if dataset.embodiments else {dataset.name: range(len(dataset))}
        groups.setdefault(robots, []).extend((number, task, indices) for task, indices in tasks.items())
    return [
        Source(number, 1 / len(tasks), indices, f"{datasets[number].name}: {task}")
        for tasks in groups.values()
        for number, task, indices in tasks
    ]


class Mixture(Stream):
    """Datasets as a stream. It pickles where they do.

    Args:
        datasets: One or more.
        sources: Made of them by one of the functions here.
        seed: Of the order.
        skip_broken: Take another sample of the same source for one that does not read, instead of ending the training.
        table: The percentages of families that the sources were made by.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        sources: Sequence[Source],
        seed: int = 0,
        skip_broken: bool = False,
        table: Mapping[Family, float] | None = None,
    ) -> None:
        for source in sources:
            if not len(source.indices):
                raise DataError(f"{source.name} has no samples; leave it out")
        self.datasets = tuple(datasets)
        self.sources = tuple(sources)
        self.seed = seed
        self.skip_broken = skip_broken
        self.embodiments = _embodiments(datasets)
        self.eigengrasps = _eigengrasps(datasets)
        self.statistics = _statistics(datasets)
        self._schedule = Schedule([source.weight for source in sources], seed)
        by_dataset = f"shares of the data sets: {_listed(self._percents(lambda dataset: dataset.name))}"
        self.notes = (by_dataset,) if table is None else self._by_family(table)

    def _percents(self, kind: Callable[[Dataset], str]) -> dict[str, float]:
        """The datasets' shares, summed over those of a kind."""
        found: defaultdict[str, float] = defaultdict(float)
        for source, share in zip(self.sources, self.shares, strict=True):
            found[kind(self.datasets[source.dataset])] += 100 * share
        return dict(found)

    def _by_family(self, table: Mapping[Family, float]) -> tuple[str, ...]:
        """What the table says of the families that are there, and their shares; and what it says of the others."""
        shares = self._percents(lambda dataset: dataset.family)
        there = ", ".join(f"{name} {shares[name]:.1f} % ({table[name]:g} in the table)" for name in table if name in shares)
        absent = {name: weight for name, weight in table.items() if name not in shares}
        others = (f"no data set is of these families, so the others have their shares: {_listed(absent)}",) if absent else ()
        unlisted = sorted({each.family for each in self.datasets} - set(table))
        left = (f"left out, as the table lacks them: {', '.join(unlisted)}",) if unlisted else ()
        return (f"shares of the families: {there}", *others, *left)

    @property
    def shares(self) -> list[float]:
        """Each source's share of the stream."""
        total = sum(source.weight for source in self.sources)
        return [source.weight / total for source in self.sources]

    def place(self, position: int) -> tuple[int, int]:
        """The dataset of a position, and the index of its sample there."""
        number, turn = self._schedule[position]
        return self._index(number, turn, 0)

    def bucket(self, position: int) -> tuple[int, ...]:
        """Chunks, then conversations; of each, the length where the dataset knows it, and the dataset."""
        number, index = self.place(position)
        dataset = self.datasets[number]
        length = dataset.length(index) if isinstance(dataset, HasLengths) else 0
        return not dataset.embodiments, length, number

    def __getitem__(self, position: int) -> Sample:
        number, turn = self._schedule[position]
        attempt = 0
        while True:
            dataset, index = self._index(number, turn, attempt)
            try:
                return self.datasets[dataset][index]
            except DataError:
                attempt += 1
                if not self.skip_broken or attempt == _MOST_TRIES:
                    raise

    def _index(self, number: int, turn: int, attempt: int) -> tuple[int, int]:
        source = self.sources[number]
        return source.dataset, source.indices[shuffled(turn, len(source.indices), (self.seed, number, attempt))]


def mix(
    datasets: Sequence[Dataset], weights: WeightsName | Sequence[float] = "table_1", seed: int = 0, skip_broken: bool = False
) -> Mixture:
    """A mixture with named weights, or with one for each dataset."""
    if not datasets:
        raise DataError("a mixture has no dataset; name one or more")
    table: Mapping[Family, float] | None = None
    if weights in ("table_1", "t2a"):
        table = TABLE_1 if weights == "table_1" else T2A
        sources = by_family(datasets, table)
    elif weights == "balanced":
        sources = balanced(datasets)
    elif isinstance(weights, str) or len(weights) != len(datasets):
        raise DataError(
            f"the weights {weights!r} do not fit {len(datasets)} datasets; give one each, or table_1, t2a or balanced"
        )
    else:
        pairs = enumerate(zip(datasets, weights, strict=True))
        sources = [Source(number, weight, range(len(dataset)), dataset.name) for number, (dataset, weight) in pairs]
    return Mixture(datasets, sources, seed, skip_broken, table)


def _listed(percents: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {percent:.1f} %" for name, percent in percents.items())


def _embodiments(datasets: Sequence[Dataset]) -> tuple[Embodiment, ...]:
    known: dict[str, Embodiment] = {}
    for dataset in datasets:
        for each in dataset.embodiments:
            if known.setdefault(each.name, each) != each:
                raise DataError(
                    f"{dataset.name} has another robot under the name {each.name!r} than a dataset before it; rename one"
                )
    return tuple(known.values())


def _statistics(datasets: Sequence[Dataset]) -> dict[str, DatasetStatistics]:
    """Those of each key; a policy has one of each, so datasets of a robot that differ are fitted together."""
    keyed: dict[str, list[Dataset]] = {}
    for dataset in datasets:
        for key in dataset.statistics:
            keyed.setdefault(key, []).append(dataset)
    return {key: _together(key, each) for key, each in keyed.items()}


def _together(key: str, datasets: Sequence[Dataset]) -> DatasetStatistics:
    first = datasets[0]
    other = next((each for each in datasets if each.statistics[key] != first.statistics[key]), None)
    if other is None:
        return first.statistics[key]
    fitted = [each for each in datasets if isinstance(each, HasTrajectories)]
    if len(fitted) < len(datasets):
        raise DataError(
            f"{other.name} and {first.name} both have statistics {key!r}, which differ: a policy has one of each; give one of the "
            "robots another statistics_key, or fit the two together"
        )
    names = " and ".join(each.name for each in datasets)
    try:
        return fit_statistics([each.trajectories for each in fitted], first.statistics[key].state is not None, names)
    except PolicyError as error:
        raise DataError(f"quantiles of {names} cannot be fitted together: {error}") from None


def _eigengrasps(datasets: Sequence[Dataset]) -> Eigengrasps | None:
    """The one basis of hand poses; ``None`` where there are no hands."""
    hands = [dataset for dataset in datasets if isinstance(dataset, HandDataset)]
    for each in hands[1:]:
        if each.eigengrasps != hands[0].eigengrasps:
            raise DataError(
                f"{each.name} and {hands[0].name} have different eigengrasps, and a policy has one basis; prepare them together: "
                "vlarig data prepare MIXTURE"
            )
    return hands[0].eigengrasps if hands else None
