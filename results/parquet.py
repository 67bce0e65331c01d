"""Episodes as a Parquet file, for DuckDB, pandas, Polars and R: a row for each episode that the runs consist of.

An episode that was given up, or that was not played yet, has a row too, whose ``status`` says so and whose results are null. So
a reader sees how many there are.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..envs.errors import VlarigError, not_importable
from ..envs.home import appearing
from .ledger import Ledger
from .manifest import Manifest
from .records import Attempt, EpisodeRecord, TaskKey, split_key
from .run_files import run_name
from .tables import run_table

#: Name, type (as pyarrow calls it) and meaning of every column but the metrics' and the actions.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("run", "string", "name of the run's folder"),
    ("policy", "string", "the policy as the sweep named it"),
    ("policy_options", "string", "the policy's options, as JSON"),
    ("policy_revision", "string", "what fixes its weights; null where it has none"),
    ("policy_privileged", "bool", "whether the policy acts on the simulator's own truth, as scripted experts do"),
    ("seed", "int64", "seed of the run"),
    ("status", "string", "`finished`, `error` (given up for reasons that are not the policy's) or `missing` (not played yet)"),
    ("key", "string", "suite/protocol@version/task/variant/initial_state/repeat; null where the episode is missing"),
    ("suite", "string", "name of the suite"),
    ("protocol", "string", "the protocol as name@version"),
    ("task", "string", "name of the task within the suite"),
    ("variant", "string", "name of the variation; `base` where there is none"),
    ("initial_state", "int64", "the benchmark's seed of the initial state, or its index"),
    ("repeat", "int64", "counts episodes that share all of the above"),
    ("instruction", "string", "the instruction that the policy got; null where the run is older than this column"),
    ("success", "bool", "success under the protocol's own rule"),
    ("success_first", "bool", "success at any step"),
    ("success_final", "bool", "success at the end; null where the episode was cut short by success"),
    ("reward", "float64", "sum of the simulator's rewards"),
    ("steps", "int32", "steps that were executed"),
    ("primitives", "int32", "simulator moves that the steps were carried out with"),
    ("chunks", "list<int32>", "steps executed in each chunk, in order"),
    ("seconds_simulate", "float64", "wall seconds in the simulator's physics"),
    ("seconds_render", "float64", "wall seconds rendering images"),
    ("seconds_policy", "float64", "wall seconds that the policy took for its batches"),
    ("seconds_wait", "float64", "wall seconds waiting for a turn"),
    ("seconds_total", "float64", "wall seconds in all"),
    ("worker", "string", "name of the process that ran it"),
    ("state_digest", "string", "SHA-256 over the simulator's states"),
    ("image_digest", "string", "SHA-256 over the images that the policy was shown; null where it was shown none"),
    ("error_kind", "string", "what went wrong the last time, where the status is `error`"),
    ("error_message", "string", "what is known of the cause"),
)  # fmt: skip

_ROWS_AT_A_TIME = 1000


def export_parquet(run_dirs: Sequence[Path], file: Path, with_actions: bool = False) -> int:
    """Write the episodes of some runs into one file, and return the number of rows. It appears whole or not at all.

    Besides :data:`COLUMNS` there is a ``metric_<name>`` (float64) for each metric of the benchmarks. The file's metadata have the
    runs' manifests under ``vlarig``, as a JSON list.

    Args:
        run_dirs: Folders of the runs.
        file: The file.
        with_actions: Whether to add a column ``actions``, list<list<float32>>: the executed steps.
    """
    arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    names = [run_name(run_dir) for run_dir in run_dirs]
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise VlarigError(f"two of the runs are called {double[0]}; rename one's folder, or export them to two files")
    manifests = [
        run_table(run_dir).manifest for run_dir in run_dirs
    ]  # says so where manifest and ledger do not belong together
    schema = _schema(arrow, _metric_names(run_dirs), with_actions)
    about = json.dumps([manifest.model_dump(mode="json") for manifest in manifests], sort_keys=True)
    schema = schema.with_metadata({"vlarig": about})
    count = 0
    try:
        with appearing(file) as draft, parquet.ParquetWriter(draft, schema, compression="zstd") as writer:
            for run_dir, manifest in zip(run_dirs, manifests, strict=True):
                left = _rows(run_dir, manifest, with_actions)
                while rows := list(islice(left, _ROWS_AT_A_TIME)):
                    writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
                    count += len(rows)
    except OSError as error:
        raise VlarigError(
            f"{file} cannot be written: {error}; check that its folder is there, writable, and has space"
        ) from error
    return count


#: The data file in the folder of a dataset repository.
DATA_FILE = "data/train-00000-of-00001.parquet"

_CARD = """---
pretty_name: {title}
tags:
- robotics
- vision-language-action
- vlarig
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

# {heading}

Episodes of policies in simulation, a row each, written by `vlarig runs export`. Where `status` is `error` (given up) or `missing` (not
played), results are null; a mean over the others is not a success rate.

| run | policy | suite and protocol | episodes | success (%) | 95 % interval |
| --- | --- | --- | --- | --- | --- |
{rows}

| column | type | meaning |
| --- | --- | --- |
{columns}
"""


def export_dataset(run_dirs: Sequence[Path], folder: Path, with_actions: bool = False) -> int:
    """Write the episodes of some runs as a dataset repository of the Hugging Face Hub has them: a data file and its card.

    Arguments and result as for :func:`export_parquet`; other files of the folder stay.
    """
    data = folder / DATA_FILE
    try:
        data.parent.mkdir(parents=True, exist_ok=True)
        count = export_parquet(run_dirs, data, with_actions)
        title = ", ".join(run_name(run_dir) for run_dir in run_dirs)
        card = _CARD.format(
            title=json.dumps(title),
            heading=title,
            rows="\n".join(row for run_dir in run_dirs for row in _card_rows(run_dir)),
            columns="\n".join(f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in COLUMNS),
        )
        with appearing(folder / "README.md") as draft:
            draft.write_text(card, encoding="utf-8")
    except OSError as error:
        raise VlarigError(
            f"{folder} cannot be written: {error}; name a folder that is new or yours, with space left"
        ) from error
    return count


def _card_rows(run_dir: Path) -> list[str]:
    """A line of the card for each suite of a run; a suite that is incomplete has no rate."""
    table = run_table(run_dir)
    lines = []
    for suite in table.suites:
        total = suite.total
        rate, interval = "–", ""
        if total.complete and total.percent is not None:
            percent, low, high = total.percent
            rate, interval = f"{percent:.1f}", f"{low:.1f} to {high:.1f}"
        policy = table.manifest.identity.policy_label.replace("|", "\\|")
        cells = (table.run, policy, f"{suite.suite} {suite.protocol}", f"{total.finished} of {total.expected}", rate, interval)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _pyarrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise VlarigError(not_importable("Parquet files need", error, "results")) from None


def _schema(arrow: Any, metrics: Sequence[str], with_actions: bool) -> Any:
    types = {"list<int32>": arrow.list_(arrow.int32()), "string": arrow.string(), "bool": arrow.bool_(),
             "int32": arrow.int32(), "int64": arrow.int64(), "float64": arrow.float64()}  # fmt: skip
    fields = [arrow.field(name, types[kind], metadata={"description": meaning}) for name, kind, meaning in COLUMNS]
    fields += [arrow.field(f"metric_{name}", arrow.float64()) for name in metrics]
    fields += [arrow.field("actions", arrow.list_(arrow.list_(arrow.float32())))] if with_actions else []
    return arrow.schema(fields)


def _metric_names(run_dirs: Sequence[Path]) -> list[str]:
    names: set[str] = set()
    for run_dir in run_dirs:
        with Ledger.open_read_only(run_dir) as ledger:
            for record in ledger.each_record():
                names |= record.metrics.keys()
    return sorted(names)


def _rows(run_dir: Path, manifest: Manifest, with_actions: bool) -> Iterator[dict[str, Any]]:
    """The run's rows: finished episodes by their keys, then those given up, then those missing."""
    identity = manifest.identity
    run = {
        "run": run_name(run_dir),
        "policy": identity.policy,
        "policy_options": json.dumps(identity.policy_options, sort_keys=True),
        "policy_revision": identity.policy_revision,
        "policy_privileged": identity.policy_privileged,
        "seed": identity.seed,
    }
    left = Counter(identity.planned)
    finished: set[str] = set()
    with Ledger.open_read_only(run_dir) as ledger:
        given_up = ledger.error_keys()  # before the records: what finishes in between is no error
        last = {attempt.key: attempt for attempt in ledger.attempts()}
        for record in ledger.each_record(with_actions):
            left[TaskKey.of(record.key)] -= 1
            finished.add(record.key)
            yield run | _finished(record, with_actions)
    for key in given_up:
        if key not in finished:
            left[TaskKey.of(key)] -= 1
            yield run | _given_up(last[key])
    for task, count in left.items():
        for _ in range(count):
            yield run | {"status": "missing"} | task._asdict()


def _finished(record: EpisodeRecord, with_actions: bool) -> dict[str, Any]:
    plain = ("key", "suite", "protocol", "task", "variant", "initial_state", "repeat", "success", "reward", "steps", "primitives",
             "worker", "state_digest")  # fmt: skip
    outcome = record.outcome
    row = {name: getattr(record, name) for name in plain}
    row |= {"status": "finished", "chunks": list(record.chunks), "success_first": outcome.first}
    row |= {"instruction": record.instruction or None, "image_digest": record.image_digest if record.saw_images else None}
    row |= {"success_final": None if outcome.cut_short else outcome.final}
    row |= {f"seconds_{name}": seconds for name, seconds in record.seconds.items()}
    row |= {f"metric_{name}": value for name, value in record.metrics.items()}
    return row | {"actions": record.actions.tolist()} if with_actions else row


def _given_up(attempt: Attempt) -> dict[str, Any]:
    suite, protocol, task, variant, initial_state, repeat = split_key(attempt.key)
    return {
        "status": "error", "key": attempt.key, "suite": suite, "protocol": protocol, "task": task, "variant": variant,
        "initial_state": initial_state, "repeat": repeat, "worker": attempt.worker, "error_kind": attempt.kind,
        "error_message": attempt.message,
    }  # fmt: skip
