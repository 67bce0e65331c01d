"""Shards of language-action data: files that are made one by one, on any number of machines, and never twice.

A shard is a function of its arm, template, seed, number and size: made again on a machine of the same type it is the same, byte for
byte. It is written beside its place and then renamed, so a file that is there is whole and a run that was ended goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ....envs.errors import suggestion
from ....envs.home import appearing
from ....policies.qwen_vla.normalization import DatasetStatistics, statistics_of, statistics_to_data
from ..errors import DataError
from .arms import ARMS
from .collision import Collisions
from .options import SynthesizeOptions
from .templates import TEMPLATES, Template
from .timing import RATE
from .trajectories import Report, Trajectory, make

if TYPE_CHECKING:
    import pyarrow as pa

#: Of the files' layout and of all that their content depends on: a change of either is another number.
VERSION = 1

#: Trajectories that are read at once from a file.
_ROW_GROUP = 16


@dataclass(frozen=True)
class Task:
    """One shard that is to be made."""

    arm: str
    template: Template
    shard: int
    seed: int
    attempts: int
    device: str
    to: Path

    @property
    def path(self) -> Path:
        return self.to / self.template / self.arm / f"shard-{self.shard:05d}.parquet"


def synthesize(options: SynthesizeOptions) -> Iterator[tuple[Task, Report, bool]]:
    """Make the shards that are not there yet, then the statistics of all that are.

    Yields:
        Each shard, what became of its motions, and whether it was made now.
    """
    tasks = list(_tasks(options))
    workers = options.workers if options.workers > 1 else 0
    # torch's loader of data is a pool that gives results in order.
    made = DataLoader(tasks, batch_size=None, collate_fn=ensure, num_workers=workers)  # type: ignore[arg-type]
    for task, (report, new) in zip(tasks, made, strict=True):
        yield task, report, new
    fit(options.to)


def ensure(task: Task) -> tuple[Report, bool]:
    """Make a shard unless it is there: what became of its motions, and whether it was made now."""
    if task.path.exists():
        head = read_head(task.path)
        for name in ("seed", "attempts"):
            if head[name] != getattr(task, name):
                raise DataError(
                    f"{task.path}: made with {name} {head[name]}, expected {getattr(task, name)}; choose another folder or that {name}"
                )
        return Report(**head["report"]), False
    return write(task), True


def write(task: Task) -> Report:
    """Make a shard and write its file."""
    import pyarrow.parquet as pq

    arm = ARMS[task.arm]
    with _one_thread():
        trajectories, report = make(
            arm, task.template, task.seed, task.shard, task.attempts, _collisions(task.arm, task.device)
        )
    task.path.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "version": VERSION,
        "arm": task.arm,
        "template": task.template,
        "shard": task.shard,
        "seed": task.seed,
        "attempts": task.attempts,
        "rate": RATE,
        "steps": [len(each.positions) for each in trajectories],
        "report": asdict(report),
    }
    table = _table(trajectories, arm.joints).replace_schema_metadata({"vlarig": json.dumps(head, sort_keys=True)})
    with appearing(task.path) as draft:
        pq.write_table(table, draft, compression="zstd", row_group_size=_ROW_GROUP, use_dictionary=False)
    return report


def read_head(path: Path) -> dict[str, Any]:
    """What a shard's file says of itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        head = json.loads((pq.read_schema(path).metadata or {})[b"vlarig"])
    except (OSError, pa.ArrowInvalid, KeyError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path}: expected a shard of language-action data ({error!r}); delete the file and make it again"
        ) from None
    if head.get("version") != VERSION:
        raise DataError(f"{path}: has version {head.get('version')}, expected {VERSION}; delete the file and make it again")
    return head


def fit(folder: Path) -> dict[str, DatasetStatistics]:
    """q01 and q99 of each arm over all shards of a folder, written to its ``statistics.json``: joint angles and gripper."""
    datasets = {}
    for name in ARMS:
        paths = sorted(folder.glob(f"*/{name}/shard-*.parquet"))
        if paths and any(read_head(path)["steps"] for path in paths):
            found = statistics_of(_actions(paths), f"language-action data of {name}")
            datasets[name] = DatasetStatistics(found, found)
    with appearing(folder / "statistics.json") as draft:
        draft.write_text(json.dumps(statistics_to_data(datasets), indent=1))
    return datasets


def _actions(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    import pyarrow.parquet as pq

    for path in paths:
        table = pq.read_table(path, columns=["joint_positions", "gripper"])
        yield from map(actions_of, table["joint_positions"], table["gripper"])


def actions_of(joints: pa.Scalar, gripper: pa.Scalar) -> np.ndarray:
    """Joint angles and gripper of a row, ``float32[T, J + 1]``, the embodiment's channels."""
    opening = gripper.values.to_numpy()
    return np.concatenate((joints.values.flatten().to_numpy().reshape(len(opening), -1), opening[:, None]), 1)


def _table(trajectories: list[Trajectory], joints: int) -> pa.Table:
    import pyarrow as pa

    def rows(width: int, arrays: list[np.ndarray], kind: pa.DataType) -> pa.Array:
        """Arrays ``[T, width]`` of any length, or ``[T]`` for width 1."""
        offsets = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int32)
        values = pa.array(
            np.concatenate([np.zeros(0), *(array.reshape(-1) for array in arrays)]).astype(kind.to_pandas_dtype()), kind
        )
        return pa.ListArray.from_arrays(
            pa.array(offsets), values if width == 1 else pa.FixedSizeListArray.from_arrays(values, width)
        )

    single, double = pa.float32(), pa.float64()
    goals = [
        np.concatenate((each.instance.positions, each.instance.yaws[..., None], each.instance.tilts), -1).reshape(-1, 6)
        for each in trajectories
    ]
    objects = [each.instance.objects.reshape(-1, 9) for each in trajectories]
    return pa.table(
        {
            "index": pa.array([each.index for each in trajectories], pa.int32()),
            "instruction": pa.array([each.instance.instruction for each in trajectories], pa.string()),
            "joint_positions": rows(joints, [each.positions for each in trajectories], single),
            "joint_velocities": rows(joints, [each.velocities for each in trajectories], single),
            "tool_pose": rows(7, [each.tool for each in trajectories], single),
            "gripper": rows(1, [each.gripper for each in trajectories], single),
            "goals": rows(6, goals, double),
            "things": rows(9, objects, double),
            "radii": rows(1, [each.instance.radii for each in trajectories], double),
            "planners": pa.array([list(each.planners) for each in trajectories], pa.list_(pa.int8())),
        }
    )


def _tasks(options: SynthesizeOptions) -> Iterator[Task]:
    """The shards of the options, checked."""
    ranges = re.fullmatch(r"(\d+)(?:-(\d+))?", options.shards)
    if not ranges or int(ranges[2] or ranges[1]) < int(ranges[1]):
        raise DataError(f"shards are {options.shards!r}, expected the first and the last number, such as 0-9")
    if options.attempts < 1 or options.workers < 1 or options.seed < 0:
        raise DataError(
            f"attempts {options.attempts}, workers {options.workers}, seed {options.seed}: expected 1 or more, and a seed of 0 or more"
        )
    for kind, chosen, known in (("arm", options.arm, [*ARMS]), ("template", options.template, [*TEMPLATES])):
        if chosen not in (*known, "all"):
            raise DataError(f"unknown {kind} {chosen!r}; {suggestion(chosen, known)}")
    for number in range(int(ranges[1]), int(ranges[2] or ranges[1]) + 1):
        for template in TEMPLATES:
            for arm in ARMS:
                if options.arm in (arm, "all") and options.template in (template, "all"):
                    yield Task(arm, template, number, options.seed, options.attempts, options.device, options.to)


@cache
def _collisions(arm: str, device: str) -> Collisions:
    """An arm's shapes, which are the same for all its shards."""
    return Collisions.of(ARMS[arm], device=device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch: sums are then in one order whatever the machine, and processes do not take each other's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
