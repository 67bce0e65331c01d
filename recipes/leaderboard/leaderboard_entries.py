"""Published tables and runs of ours as entries of vla-eval's leaderboard (``leaderboard_form.py``).

Where a number belongs follows leaderboard/benchmarks/*.md of allenai/vla-evaluation-harness@e1ee9ad. The form has no fields for counts,
intervals, seeds and versions and allows none to be added, so an entry of a run has them in its ``notes``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from leaderboard_form import EntryField, LeaderboardEntry, Weights, suite_fields, task_fields
from leaderboard_keys import KEYS
from pydantic import ValidationError

from vlarig.benchmarks.published import Kind, PublishedRow, PublishedTable
from vlarig.benchmarks.registry import load_suite
from vlarig.benchmarks.suite import TRAINING
from vlarig.envs.errors import VlarigError
from vlarig.envs.untrusted import first_problem
from vlarig.results.tables import RunTable, SuiteTable

_WEIGHTS: dict[Kind, Weights] = {
    "specialist": "finetuned",
    "fine-tuned": "finetuned",
    "generalist": "shared",
    "zero-shot": "shared",
}


@dataclass(frozen=True)
class Submission:
    """An entry's facts about a model that a run does not have.

    Attributes:
        model: Key of the model.
        display_name: Name for readers.
        weights: Whether the same weights play all benchmarks or are fine-tuned on this one.
        date_added: Day on which the entry is made.
        curated_by: Who makes it: ``@`` with a name at GitHub, or ``human``.
        params: Size of the model, for instance ``7B``.
        model_paper: Address of the paper that introduces it.
    """

    model: str
    display_name: str
    weights: Weights
    date_added: date
    curated_by: str = "human"
    params: str | None = None
    model_paper: str | None = None


def entries_of_table(table: PublishedTable, date_added: date, curated_by: str = "human") -> list[LeaderboardEntry]:
    """A published table as entries: one for each method and benchmark; columns of benchmarks that vla-eval has not are left out."""
    places, remarked = _column_fields(), {keys.benchmark: keys.remark for keys in KEYS}
    columns = [column.name for column in table.columns if column.name in places]
    if not columns:
        known = ", ".join(places)
        raise VlarigError(
            f"{table.place} of {table.paper.name} has nothing for vla-eval's leaderboard; columns that have are {known}"
        )
    entries = []
    for row in table.rows:
        if row.kind not in _WEIGHTS:
            raise VlarigError(
                f"{table.place} has a row of kind {row.kind!r}; vla-eval's leaderboard takes {', '.join(_WEIGHTS)}"
            )
        scores = {places[name]: row.values[name] for name in columns if name in row.values}
        for benchmark, here in _by_benchmark(scores).items():
            remarks = filter(None, [remarked.get(benchmark), table.protocol])
            added = {"curated_by": curated_by, "date_added": date_added, "notes": "; ".join(remarks)}
            entries.append(_entry(benchmark=benchmark, **_of_row(table, row), **_containers(here), **added))
    return entries


def _column_fields() -> dict[str, EntryField]:
    """Name of a published column to its place."""
    return {
        column: EntryField(keys.benchmark, *place.split(".", 1))  # pyright: ignore[reportArgumentType]
        for keys in KEYS
        for column, place in keys.columns.items()
    }


def _of_row(table: PublishedTable, row: PublishedRow) -> dict[str, Any]:
    paper = table.paper
    fields = {
        "name_in_paper": row.method,
        "weight_type": _WEIGHTS[row.kind],
        "overall_score": None,
        "reported_paper": paper.url,
        "reported_table": table.place,
    }
    if not row.reference:
        key = bibliography_key(paper.authors, paper.year, row.method)
        return {"model": key, "display_name": row.method, "model_paper": paper.url, **fields}
    authors, _, year = row.reference.rpartition(", ")
    key, measured_by = (
        bibliography_key(authors, int(year[:4]), row.method),
        bibliography_key(paper.authors, paper.year, paper.name),
    )
    return {
        "model": f"{key}__{measured_by}",
        "display_name": f"{row.method} (from {paper.name})",
        "model_paper": paper.references.get(row.reference),
        **fields,
    }


def bibliography_key(authors: str, year: int, name: str) -> str:
    """The first author, the year and the name, run together as in BibTeX.

    >>> bibliography_key("Black et al.", 2025, "π0.5")
    'black25pi05'
    """
    words = (authors.split(maxsplit=1)[0], f"{year % 100:02}", name.replace("π", "pi"))
    plain = unicodedata.normalize("NFKD", "".join(words)).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def entries_of_run(run: RunTable, submission: Submission) -> list[LeaderboardEntry]:
    """A run's suites as entries, one for each benchmark; suites that vla-eval has not are left out.

    A suite's score is the rate that ``vlarig table`` shows. An overall score is there where all suites that it is the mean of are.
    """
    places, task_places = suite_fields(), task_fields()
    placed = [suite for suite in run.suites if suite.suite in places]
    if not placed:
        held = ", ".join(suite.suite for suite in run.suites)
        raise VlarigError(f"{run.run} has nothing for vla-eval's leaderboard: it holds {held}; wanted is {', '.join(places)}")
    if run.manifest.identity.policy_privileged:
        (note,) = run.manifest.identity.policy_notes()
        raise VlarigError(f"{run.run} has nothing for vla-eval's leaderboard: {note}; export the run of a policy that does not")
    if run.shard is not None:
        raise VlarigError(f"{run.run} is shard {run.shard} of its run; put the shards together with `vlarig runs merge` first")
    if len({suite.suite for suite in placed}) < len(placed):
        raise VlarigError(
            f"{run.run} holds a suite under several protocols; an entry is of one, so sweep each into a run of its own"
        )
    scores: dict[EntryField, float] = {}
    for suite in placed:
        _check_whole(run, suite)
        scores[places[suite.suite]] = _percent(suite.total.successes, suite.total.finished)
        for row in suite.rows:
            if (suite.suite, row.task) in task_places:
                scores[task_places[suite.suite, row.task]] = _percent(row.tally.successes, row.tally.finished)
    return [
        _entry(
            model=submission.model,
            display_name=submission.display_name,
            params=submission.params,
            model_paper=submission.model_paper,
            benchmark=benchmark,
            weight_type=submission.weights,
            overall_score=_overall(benchmark, here),
            **_containers(here),
            curated_by=submission.curated_by,
            date_added=submission.date_added,
            notes=_notes(run, [suite for suite in placed if places[suite.suite].benchmark == benchmark]),
        )
        for benchmark, here in _by_benchmark(scores).items()
    ]


def _check_whole(run: RunTable, suite: SuiteTable) -> None:
    """A suite's score is one of all its tasks, with as many episodes of each, from initial states for evaluation."""
    if any(row.variant == TRAINING for row in suite.rows):
        raise VlarigError(
            f"{run.run} played {suite.suite} from initial states for training; export a sweep without --initial-states training"
        )
    played = {row.task for row in suite.rows}
    missing = [task.name for task in load_suite(suite.suite).tasks if task.name not in played]
    if missing:
        raise VlarigError(f"{run.run} lacks tasks of {suite.suite}: {', '.join(missing)}; sweep the whole suite to export it")
    total = suite.total
    if not total.complete:
        left = f"{total.finished} of {total.expected} episodes of {suite.suite} finished, {total.errors} errors"
        raise VlarigError(f"{run.run} is incomplete: {left}; give the run's command again to finish it")
    if len({row.tally.finished for row in suite.rows}) > 1:
        counts = ", ".join(f"{row.label} {row.tally.finished}" for row in suite.rows)
        raise VlarigError(
            f"{run.run} has different numbers of episodes for the tasks of {suite.suite}: {counts}; sweep it with --episodes"
        )


def _overall(benchmark: str, scores: dict[EntryField, float]) -> float | None:
    """The mean of the suites by which a benchmark is ranked, where all are there; other scores are not to be averaged."""
    (ranked,) = [keys.ranked for keys in KEYS if keys.benchmark == benchmark]
    places = suite_fields()
    found = [scores[places[name]] for name in ranked if places[name] in scores]
    return round(sum(found) / len(found), 2) if found and len(found) == len(ranked) else None


def _notes(run: RunTable, suites: Sequence[SuiteTable]) -> str:
    """Counts and intervals, what a reader needs to repeat the run, and the remarks on its numbers."""
    identity, record = run.manifest.identity, run.manifest.record
    facts = []
    for suite in suites:
        low, high = suite.total.interval
        rate = f"{suite.total.successes} of {suite.total.finished} episodes"
        facts.append(f"{suite.suite} {suite.protocol}: {rate}, 95 % interval {100 * low:.1f} to {100 * high:.1f} (Wilson)")
    changed = " with uncommitted changes" if record.git_dirty else ""
    commit = f" at commit {record.git_revision}{changed}" if record.git_revision else ""
    facts += [f"vlarig {identity.vlarig_version}{commit}", f"seed {identity.seed}", f"renderer {identity.renderer}"]
    facts += [f"policy revision {identity.policy_revision}"] if identity.policy_revision else []
    facts += [f"runtime {name} {digest}" for name, digest in sorted(identity.runtimes.items())]
    return "; ".join([*facts, *run.notes])


def _entry(**fields: Any) -> LeaderboardEntry:
    try:
        return LeaderboardEntry(**fields)
    except ValidationError as error:
        raise VlarigError(f"vla-eval's leaderboard does not take the entry: {first_problem(error)}") from error


def _by_benchmark(scores: dict[EntryField, float]) -> dict[str, dict[EntryField, float]]:
    grouped: dict[str, dict[EntryField, float]] = {}
    for place, score in scores.items():
        grouped.setdefault(place.benchmark, {})[place] = score
    return grouped


def _containers(scores: dict[EntryField, float]) -> dict[str, dict[str, float]]:
    """One benchmark's scores as the fields of an entry."""
    fields: dict[str, dict[str, float]] = {"suite_scores": {}, "task_scores": {}}
    for place, score in scores.items():
        fields[place.container][place.key] = score
    return fields


def _percent(successes: int, n: int) -> float:
    return round(100 * successes / n, 2)
