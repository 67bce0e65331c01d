"""Shards of language-action data as a dataset: an arm and a template, whole trajectories or windows of them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....envs.embodiments import Embodiment
from ....policies.conventions import embodiment_named
from ....policies.qwen_vla.normalization import DatasetStatistics, statistics_from_data
from ...samples import ActionSample
from ..cleaning import CleaningReport
from ..dataset import check_index
from ..errors import DataError
from ..families import Family
from .arms import ARMS
from .generate import actions_of, read_head
from .templates import TEMPLATES, Template
from .timing import RATE
from .trajectories import Report

if TYPE_CHECKING:
    import pyarrow as pa

#: Row groups that are kept in memory.
_KEPT = 4

_COLUMNS = ["instruction", "joint_positions", "gripper"]


class SyntheticDataset:
    """Trajectories of one arm and one template, see :class:`~vlarig.training.data.dataset.Dataset`.

    An observation has no image. The state is the arm's joint angles and its gripper, the actions are those of the samples after it.

    Args:
        folder: Of :func:`~.generate.synthesize`.
        horizon: Steps of a window; ``None`` for whole trajectories. Each step is in one window; the last one of a trajectory is
            shorter.
    """

    family: Family = "synthetic_simulation"

    def __init__(self, folder: Path | str, arm: str, template: Template, horizon: int | None = None) -> None:
        if horizon is not None and horizon < 1:
            raise DataError(f"horizon {horizon} of language-action data: expected 1 or more")
        self.folder, self.horizon = Path(folder), horizon
        self.name = f"synthetic/{template}/{arm}"
        self.template: Template = template
        self.embodiment = embodiment_named(arm)
        self._paths = sorted((self.folder / template / arm).glob("shard-*.parquet"))
        if not self._paths:
            raise DataError(
                f"{self.folder / template / arm}: expected shards of language-action data; make them with vlarig data synthesize"
            )
        heads = [read_head(path) for path in self._paths]
        self._steps = [step for head in heads for step in head["steps"]]
        self._shards = list(accumulate(len(head["steps"]) for head in heads))
        made = Report()
        for head in heads:
            made.add(Report(**head["report"]))
        self.cleaning: CleaningReport | None = CleaningReport(made.attempts, made.rejected, {})
        windows = [1 if horizon is None else -(-(steps - 1) // horizon) for steps in self._steps]
        self._ends = list(accumulate(windows))
        self._statistics = _statistics(self.folder, self.embodiment)
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_groups": OrderedDict()}

    @property
    def embodiments(self) -> tuple[Embodiment, ...]:
        return (self.embodiment,)

    @property
    def statistics(self) -> Mapping[str, DatasetStatistics]:
        """Quantiles over all templates of the arm in the folder."""
        return {self.embodiment.statistics_key: self._statistics}

    @property
    def tasks(self) -> Mapping[str, Sequence[int]]:
        return {self.template: range(len(self))}

    @property
    def hours(self) -> float:
        return sum(self._steps) / RATE / 3600

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> ActionSample:
        check_index(index, len(self), self.name)
        trajectory = bisect_right(self._ends, index)
        window = index - (self._ends[trajectory - 1] if trajectory else 0)
        instruction, actions = self._read(trajectory)
        begin = window * (self.horizon or 0)
        chosen = actions[begin + 1 : None if self.horizon is None else begin + 1 + self.horizon]
        return ActionSample(
            f"{self.name}/{trajectory}/{begin}",
            {"images": {}, "state": actions[begin], "instruction": instruction},
            self.embodiment,
            chosen,
            self.horizon,
        )

    def length(self, index: int) -> int:
        """Steps of a sample's chunk: the horizon, which shorter ones are padded to, or those of the trajectory."""
        return self.horizon or self._steps[bisect_right(self._ends, index)] - 1

    def _read(self, trajectory: int) -> tuple[str, np.ndarray]:
        """Instruction and actions ``[T, A]`` of a trajectory."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        shard = bisect_right(self._shards, trajectory)
        row = trajectory - (self._shards[shard - 1] if shard else 0)
        path = self._paths[shard]
        try:
            with pq.ParquetFile(path) as file:
                group = 0
                while row >= (rows := file.metadata.row_group(group).num_rows):
                    row, group = row - rows, group + 1
                if (shard, group) not in self._groups:
                    self._groups[shard, group] = file.read_row_group(group, columns=_COLUMNS)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path}, row {row}: does not read ({error}); delete the file and make it again") from None
        table = self._groups[shard, group]
        self._groups.move_to_end((shard, group))
        while len(self._groups) > _KEPT:
            self._groups.popitem(last=False)
        return table["instruction"][row].as_py(), actions_of(table["joint_positions"][row], table["gripper"][row])


def synthetic_datasets(folder: Path | str, horizon: int | None = None) -> list[SyntheticDataset]:
    """All pairs of an arm and a template of which a folder has shards."""
    pairs: list[tuple[str, Template]] = [
        (arm, template)
        for template in TEMPLATES
        for arm in ARMS
        if any((Path(folder) / template / arm).glob("shard-*.parquet"))
    ]
    if not pairs:
        raise DataError(f"{folder} holds no language-action data; make some: vlarig data synthesize --to {folder}")
    return [SyntheticDataset(folder, arm, template, horizon) for arm, template in pairs]


def _statistics(folder: Path, embodiment: Embodiment) -> DatasetStatistics:
    path = folder / "statistics.json"
    try:
        return statistics_from_data(json.loads(path.read_text()))[embodiment.statistics_key]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: expected quantiles of {embodiment.statistics_key} ({error!r}); make them with vlarig data synthesize"
        ) from None
