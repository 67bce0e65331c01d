"""A run's table as a sheet for people, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .grid import Grid
from .sheet import Cell, Column, Line, Sheet, Tone
from .tables import RunTable, SuiteTable, Tally

LEGEND = "95 % interval: Wilson; n: finished episodes; errors and missing episodes are counted, not averaged."


def run_sheet(table: RunTable) -> Sheet:
    """The table of a run: for each suite its total and its tasks."""
    lines: list[Line] = []
    for suite in table.suites:
        tone: Tone = "" if suite.total.complete else "warning"
        lines.append(Line(_suite_label(suite), _cells(suite.total), "total", tone))
        lines += [Line(row.label, _cells(row.tally), "part") for row in suite.rows]
    return Sheet(
        title=table.run,
        corner="suite / task",
        columns=(Column("success %"), Column("errors"), Column("missing")),
        lines=tuple(lines),
        facts=_facts(table),
        warning="" if table.total.complete else progress(table.total),
        notes=tuple(table.notes),
        spread=True,
    )


def grid_sheet(grid: Grid, title: str, tables: Sequence[RunTable], chosen: RunTable | None) -> Sheet:
    """A line for each setting, the best first; where one is chosen, its line on the other half of the initial states."""
    order = sorted(range(len(tables)), key=lambda place: (not tables[place].total.complete, -(tables[place].total.rate or 0.0)))
    lines = [
        Line(
            grid.label(grid.cells[place]),
            _cells(tables[place].total),
            "part",
            "" if tables[place].total.complete else "warning",
        )
        for place in order
    ]
    if grid.chosen is not None and chosen is not None:
        label = f"{grid.label(grid.cells[grid.chosen])}, on the other half"
        lines.append(Line(label, _cells(chosen.total), "total", "" if chosen.total.complete else "warning"))
    return Sheet(
        title=title,
        corner="setting",
        columns=(Column("success %"), Column("errors"), Column("missing")),
        lines=tuple(lines),
        warning="" if chosen else "no setting is chosen: some are incomplete",
        notes=("on half of each task's initial states; the last line is the chosen setting's on the others",) if chosen else (),
        spread=True,
    )


def rate_cell(tally: Tally) -> Cell:
    """The success rate in percent, with its interval and n."""
    if tally.percent is None:
        return Cell("-", n=tally.finished)
    rate, low, high = (f"{number:.1f}" for number in tally.percent)
    return Cell(rate, (low, high), tally.finished)


def _cells(tally: Tally) -> tuple[Cell, ...]:
    return (
        rate_cell(tally),
        Cell(str(tally.errors), tone="error" if tally.errors else ""),
        Cell(str(tally.missing), tone="warning" if tally.missing else ""),
    )


def for_programs(tables: Sequence[RunTable]) -> str:
    """The tables as JSON: a list of runs, rates and intervals as fractions, ending with a newline."""
    return json.dumps([_run_data(table) for table in tables], indent=2) + "\n"


def _run_data(table: RunTable) -> dict[str, object]:
    identity = table.manifest.identity
    return {
        "run": table.run,
        "policy": identity.policy,
        "policy_options": identity.policy_options,
        "policy_revision": identity.policy_revision,
        "policy_privileged": identity.policy_privileged,
        "seed": identity.seed,
        "strict": identity.strict,
        "renderer": identity.renderer,
        "assets": identity.assets,
        "notes": table.notes,
        "vlarig_version": identity.vlarig_version,
        "git_revision": table.manifest.record.git_revision,
        "identity_hash": identity.identity_hash(),
        "shard": table.shard,
        "complete": table.total.complete,
        "suites": [_suite_data(suite) for suite in table.suites],
    }


def _suite_data(suite: SuiteTable) -> dict[str, object]:
    return {
        "suite": suite.suite,
        "protocol": suite.protocol,
        "rule": suite.rule,
        **_tally_data(suite.total),
        "tasks": [{"task": row.task, "variant": row.variant, **_tally_data(row.tally)} for row in suite.rows],
    }


def _tally_data(tally: Tally) -> dict[str, object]:
    low, high = tally.interval
    return {
        "success_rate": tally.rate,
        "interval": [low, high],
        "interval_method": "wilson 95 %",
        "n": tally.finished,
        "successes": tally.successes,
        "errors": tally.errors,
        "missing": tally.missing,
        "expected": tally.expected,
        "complete": tally.complete,
    }


def _suite_label(suite: SuiteTable) -> str:
    mark = "" if suite.total.complete else " (incomplete)"
    return f"{suite.suite} {suite.protocol}{mark}"


def _facts(table: RunTable) -> dict[str, str]:
    identity = table.manifest.identity
    revision = identity.policy_revision
    return {
        "policy": identity.policy_label,
        **({"revision": revision if len(revision) <= 24 else f"{revision[:21]}..."} if revision else {}),
        "protocol": ", ".join(dict.fromkeys(suite.protocol for suite in table.suites)),
        "renderer": identity.renderer,
        "seed": str(identity.seed),
    }


def progress(total: Tally) -> str:
    """How far a run is that is not complete, and what to do."""
    return (
        f"incomplete: {total.finished} of {total.expected} episodes finished, {total.errors} errors, {total.missing} missing; "
        "give the run's command again to finish it"
    )
