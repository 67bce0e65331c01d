"""vla-eval's leaderboard: its file, read and written, and what it holds as published tables.

The form is leaderboard/data/leaderboard.schema.json of allenai/vla-evaluation-harness@e1ee9ad; benchmarks.json beside it says which
metric a benchmark has. ``leaderboard_entries.py`` makes entries of our own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, TypeVar

from leaderboard_keys import KEYS
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vlarig.benchmarks.published import Kind, PublishedColumn, PublishedPaper, PublishedRow, PublishedTable
from vlarig.envs.errors import VlarigError
from vlarig.envs.untrusted import first_problem

Weights = Literal["shared", "finetuned"]
_T = TypeVar("_T")


class _Model(BaseModel):
    """Unknown fields and values of another type are errors, and a field's docstring is its description."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )


class LeaderboardEntry(_Model):
    """What one paper, or run, reports of one model on one benchmark."""

    model: str
    """Key of the model, as in BibTeX; with `__` and the key of the paper that measured it where that is another's."""
    display_name: str
    """Name for readers; it names the measuring paper too where that is another's."""
    name_in_paper: str | None = None
    """Name of the method in the table."""
    params: str | None = None
    """Size of the model, for instance `7B`."""
    model_paper: str | None = None
    """Address of the paper that introduces the method."""
    benchmark: str
    """Key of the benchmark."""
    weight_type: Weights
    """Whether the same weights play all benchmarks or are fine-tuned on this one."""
    overall_score: float | None = None
    """What ranks the entry; `None` unless measured by the benchmark's standard protocol."""
    suite_scores: dict[str, float] = Field(default_factory=dict)
    """Key of a suite to its score."""
    task_scores: dict[str, float] = Field(default_factory=dict)
    """Key of a task to its score; `reported_avg` is a mean that cannot rank."""
    reported_paper: str | None = None
    """Address of the paper with the number."""
    reported_table: str | None = None
    """The table in it."""
    curated_by: str = Field(pattern=r"^((opus|sonnet|haiku) \d+\.\d+|@[\w-]+|human)$")
    """Who made the entry: `@` with a name at GitHub, `human`, or a model with its version."""
    date_added: date
    """Day on which it was made."""
    notes: str = ""
    """Remarks on the numbers."""


class Leaderboard(_Model):
    """The whole file."""

    last_updated: date
    """Day of the last change."""
    results: list[LeaderboardEntry]
    """The entries, by benchmark and model."""


@dataclass(frozen=True)
class LeaderboardMetric:
    """What ranks a benchmark's entries.

    Attributes:
        name: Name of the metric.
        unit: Its unit.
        range: Lowest and highest value.
        higher_is_better: Which direction is better.
    """

    name: str
    unit: str
    range: tuple[float, float]
    higher_is_better: bool


@dataclass(frozen=True)
class LeaderboardBenchmark:
    """What is read of a benchmark's description; the rest is for vla-eval's web page.

    Attributes:
        display_name: Name for readers.
        metric: What ranks its entries.
    """

    display_name: str
    metric: LeaderboardMetric


@dataclass(frozen=True)
class EntryField:
    """The place of a number in an entry.

    Attributes:
        benchmark: Key of the benchmark.
        container: Field of the entry.
        key: Key within that field.
    """

    benchmark: str
    container: Literal["suite_scores", "task_scores"]
    key: str

    @property
    def column(self) -> str:
        """Name of the column of a published table that was made of such entries."""
        return f"{self.container}.{self.key}"


def suite_fields() -> dict[str, EntryField]:
    """Name of each suite that vla-eval has too to its place."""
    return {suite: EntryField(keys.benchmark, "suite_scores", key) for keys in KEYS for suite, key in keys.suites.items()}


def task_fields() -> dict[tuple[str, str], EntryField]:
    """Names of suite and task, of each task that vla-eval has too, to its place."""
    return {task: EntryField(keys.benchmark, "task_scores", key) for keys in KEYS for task, key in keys.tasks.items()}


def _ours() -> dict[tuple[str, str], tuple[tuple[str, ...], str]]:
    """Benchmark and column to our suites and task."""
    return {
        **{(keys.benchmark, "overall_score"): (keys.ranked, "") for keys in KEYS if keys.ranked},
        **{(place.benchmark, place.column): ((suite,), "") for suite, place in suite_fields().items()},
        **{(place.benchmark, place.column): ((suite,), task) for (suite, task), place in task_fields().items()},
    }


#: What parts of a benchmark are in whose own metric is no percentage (leaderboard/scripts/validate.py: they are 0 to 100).
_PERCENT = LeaderboardMetric("success_rate", "%", (0, 100), higher_is_better=True)

_ITSELF = PublishedPaper(
    name="vla-eval's leaderboard",
    title="VLA Model Leaderboard",
    authors="contributors to allenai/vla-evaluation-harness",
    year=2026,
    url="https://allenai.github.io/vla-evaluation-harness/leaderboard/",
)


def read_leaderboard(path: Path) -> Leaderboard:
    """vla-eval's ``leaderboard.json``."""
    return _read(path, TypeAdapter(Leaderboard))


def read_benchmarks(path: Path) -> dict[str, LeaderboardBenchmark]:
    """vla-eval's ``benchmarks.json``: the benchmarks by their keys."""
    return _read(path, TypeAdapter(dict[str, LeaderboardBenchmark]))


def _read(path: Path, form: TypeAdapter[_T]) -> _T:
    try:
        return form.validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise VlarigError(f"{path} cannot be read: {error}; give the path of vla-eval's file") from error
    except ValidationError as error:
        advice = "fetch it again; files in git lfs need `git lfs pull`"
        raise VlarigError(f"{path} is not of vla-eval's form: {first_problem(error)}; {advice}") from error


def write_leaderboard(board: Leaderboard, path: Path) -> None:
    """Write ``board`` as vla-eval's ``leaderboard.json``, sorted and laid out as its own check requires."""
    results = sorted(board.results, key=lambda entry: (entry.benchmark, entry.model))
    seen: set[tuple[str, str, str]] = set()
    for entry in results:
        name = (entry.benchmark, entry.model, entry.weight_type)
        if name in seen:
            raise VlarigError(
                f"two entries are of benchmark, model and weights {' '.join(name)}; give them models of other keys"
            )
        seen.add(name)
    data = board.model_copy(update={"results": results}).model_dump(mode="json", exclude_unset=True)
    try:
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise VlarigError(f"{path} cannot be written: {error}; check that the folder is writable, with space left") from error


def published_tables(board: Leaderboard, benchmarks: dict[str, LeaderboardBenchmark]) -> list[PublishedTable]:
    """The leaderboard as one published table for each benchmark that has entries.

    Columns are called as in the file, ``overall_score`` or for instance ``suite_scores.libero_10``. A model whose weights are shared
    by all benchmarks is a generalist, one that was fine-tuned on this one a specialist. A row's reference is the paper and the table
    that the entry names.
    """
    by_benchmark: dict[str, list[LeaderboardEntry]] = {}
    for entry in board.results:
        if entry.benchmark not in benchmarks:
            known = ", ".join(sorted(benchmarks))
            raise VlarigError(f"{entry.model} has benchmark {entry.benchmark!r}; benchmarks.json beside it knows {known}")
        low, high = benchmarks[entry.benchmark].metric.range
        if entry.overall_score is not None and not low <= entry.overall_score <= high:
            score = f"{entry.model} has an overall score of {entry.overall_score} on {entry.benchmark}"
            raise VlarigError(f"{score}; expected {low:g} to {high:g}")
        by_benchmark.setdefault(entry.benchmark, []).append(entry)
    return [_published_table(key, benchmarks[key], entries) for key, entries in by_benchmark.items()]


def _published_table(key: str, benchmark: LeaderboardBenchmark, entries: Sequence[LeaderboardEntry]) -> PublishedTable:
    values = [_values(entry) for entry in entries]
    names = sorted({name for row in values for name in row}, key=lambda name: (name.partition(".")[0], name))
    ours = _ours()
    return PublishedTable(
        paper=_ITSELF,
        place=f"benchmark {key}",
        title=benchmark.display_name,
        protocol="as in each row's reference",
        columns=tuple(_published_column(key, benchmark, name, ours) for name in names),
        rows=tuple(_published_row(entry, row) for entry, row in zip(entries, values, strict=True)),
        decimals=2,
        notes=tuple(f"{entry.display_name}: {entry.notes}" for entry in entries if entry.notes),
    )


def _values(entry: LeaderboardEntry) -> dict[str, float]:
    """Every score of an entry by its column."""
    overall = {} if entry.overall_score is None else {"overall_score": entry.overall_score}
    suites = {f"suite_scores.{key}": score for key, score in entry.suite_scores.items()}
    return overall | suites | {f"task_scores.{key}": score for key, score in entry.task_scores.items()}


def _published_column(
    key: str, benchmark: LeaderboardBenchmark, name: str, ours: dict[tuple[str, str], tuple[tuple[str, ...], str]]
) -> PublishedColumn:
    group, _, heading = name.rpartition(".")
    metric = benchmark.metric if benchmark.metric.unit == "%" or name == "overall_score" else _PERCENT
    suites, task = ours.get((key, name), ((), ""))
    return PublishedColumn(
        name=name,
        heading=heading,
        group=group,
        benchmark=benchmark.display_name,
        unit=metric.unit,
        better="higher" if metric.higher_is_better else "lower",
        metric=metric.name.replace("_", " "),
        suites=suites,
        task=task,
    )


def _published_row(entry: LeaderboardEntry, values: dict[str, float]) -> PublishedRow:
    reference = ", ".join(filter(None, [entry.reported_paper, entry.reported_table]))
    kind: Kind = "specialist" if entry.weight_type == "finetuned" else "generalist"
    return PublishedRow(entry.display_name, kind, values, reference)
