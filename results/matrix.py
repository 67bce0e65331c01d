"""Several runs of the same suites as matrices: a line for each run, a column for each task, then all tasks together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .manifest import SuitePlan
from .rendering import progress, rate_cell, run_sheet
from .sheet import Cell, Column, Line, Sheet
from .tables import RunTable, SuiteTable

ALL_TASKS = "all tasks"


def matrix_sheets(named: Sequence[tuple[str, RunTable]]) -> list[Sheet]:
    """A matrix for each suite that several runs have played under one protocol, then the tables of what one run alone has played.

    How many steps of a chunk are run before the policy is queried again is the policy's affair: runs that differ in that alone are in
    one matrix, which says it of each. An empty label means the policy's name, with the run's where two have the same.
    """
    tables = [table for _, table in named]
    played = [_suites(table) for table in tables]
    counts = Counter(key for suites in played for key in suites)
    labels = _labels(named)
    sheets = []
    for key in (key for key in counts if counts[key] > 1):
        rows = [
            (label, table, *suites[key]) for label, table, suites in zip(labels, tables, played, strict=True) if key in suites
        ]
        sheets.append(_matrix(rows))
    for table, suites in zip(tables, played, strict=True):
        alone = tuple(suite for key, (_, suite) in suites.items() if counts[key] == 1)
        sheets += [run_sheet(replace(table, suites=alone))] if alone else []
    return sheets


def _suites(table: RunTable) -> dict[tuple[str, str], tuple[SuitePlan, SuiteTable]]:
    """The run's suites, by their name and what their protocol asks of any policy."""
    plans = table.manifest.identity.suites
    return {plan.conditions: (plan, suite) for plan, suite in zip(plans, table.suites, strict=True)}


def shared_name(plans: Sequence[SuitePlan]) -> str:
    """The protocol of plans that agree in their shared conditions: its name, or that of the one that they are derived from."""
    names = {plan.protocol_name for plan in plans}
    return names.pop() if len(names) == 1 else f"{plans[0].base_protocol}@{plans[0].protocol['version']}"


def _labels(named: Sequence[tuple[str, RunTable]]) -> list[str]:
    labels = [label or table.manifest.identity.policy_label for label, table in named]
    return [
        f"{label} ({table.run})" if labels.count(label) > 1 else label
        for label, (_, table) in zip(labels, named, strict=True)
    ]  # fmt: skip


def _matrix(rows: Sequence[tuple[str, RunTable, SuitePlan, SuiteTable]]) -> Sheet:
    tasks = list(dict.fromkeys(row.label for *_, suite in rows for row in suite.rows))
    seeds = {str(table.manifest.identity.seed) for _, table, *_ in rows}
    renderers = {table.manifest.identity.renderer for _, table, *_ in rows}
    protocols = {plan.protocol_name for _, _, plan, _ in rows}
    differ = len(renderers) > 1 or len(seeds) > 1
    same = {} if differ else {"renderer": min(renderers), "seed": min(seeds)}
    lines = []
    for label, table, plan, suite in rows:
        rates = {row.label: rate_cell(row.tally) for row in suite.rows}
        notes = list(table.notes)
        if not suite.total.complete:
            notes.append(progress(suite.total))
        if len(rates) < len(tasks):
            notes.append(f"{len(rates)} of {len(tasks)} tasks were played: {', '.join(rates)}")
        if len(protocols) > 1:
            count = plan.protocol["n_action_steps"]
            notes.append(f"{count} steps of each chunk are run" if count > 1 else "1 step of each chunk is run")
        if differ:
            notes.append(f"renderer {table.manifest.identity.renderer}, seed {table.manifest.identity.seed}")
        total = replace(
            rate_cell(suite.total), tone="" if suite.total.complete else "warning", footnotes=tuple(notes)
        )  # fmt: skip
        lines.append(Line(label, (*(rates.get(task, Cell()) for task in tasks), total)))
    _, _, _, suite = rows[0]
    return Sheet(
        title=suite.suite,
        corner="policy",
        columns=tuple(Column(name) for name in (*tasks, ALL_TASKS)),
        lines=tuple(lines),
        facts={"protocol": shared_name([plan for _, _, plan, _ in rows])} | same,
        turns=True,
    )
