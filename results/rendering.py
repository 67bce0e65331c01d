"""The same table for a terminal, for a Markdown page, and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .tables import RunTable, SuiteTable, Tally

_COLUMNS = ("success %", "95 % interval", "n", "errors", "missing")
_LEGEND = "95 % interval: Wilson; n: finished episodes; errors and missing episodes are counted, not averaged."


def for_terminal(tables: Sequence[RunTable]) -> RenderableType:
    """A block for each run, for a rich console."""
    blocks: list[RenderableType] = []
    for table in tables:
        notes = [Text(note, style="yellow") for note in table.notes]
        blocks += [_terminal_heading(table), _terminal_table(table), *notes, ""]
    return Group(*blocks, Text(_LEGEND, style="dim"))


def _terminal_heading(table: RunTable) -> Text:
    return Text.assemble(
        (table.run, "bold"),
        ("  " + "  ".join(f"{name} {value}" for name, value in _facts(table).items()), "dim"),
    )


def _terminal_table(table: RunTable) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_style="yellow", caption_justify="left")
    if not table.total.complete:
        grid.caption = _progress(table)
    grid.add_column("suite / task", overflow="fold")
    for name in _COLUMNS:
        grid.add_column(name, justify="right", no_wrap=True)
    for suite in table.suites:
        style = "bold" if suite.total.complete else "bold yellow"
        grid.add_row(escape(_suite_label(suite)), *_styled(suite.total), style=style)
        for row in suite.rows:
            grid.add_row("  " + escape(row.label), *_styled(row.tally))
        grid.add_section()
    return grid


def _styled(tally: Tally) -> list[str]:
    rate, interval, n, errors, missing = _cells(tally)
    return [
        rate, interval, n,
        f"[red]{errors}[/red]" if tally.errors else errors,
        f"[yellow]{missing}[/yellow]" if tally.missing else missing,
    ]  # fmt: skip


def for_markdown(tables: Sequence[RunTable]) -> str:
    """A heading and a table for each run, ending with a newline."""
    lines: list[str] = []
    for table in tables:
        lines += [f"### {_markdown_text(table.run)}", ""]
        lines += [", ".join(f"{name} `{value}`" for name, value in _facts(table).items()), ""]
        if not table.total.complete:
            lines += [f"**{_progress(table)}**", ""]
        lines += [_markdown_row(("suite / task", *_COLUMNS)), "|---|" + "---:|" * len(_COLUMNS)]
        for suite in table.suites:
            lines += [_markdown_row((_suite_label(suite), *_cells(suite.total)), bold=True)]
            lines += [_markdown_row((row.label, *_cells(row.tally))) for row in suite.rows]
        lines += [""]
        for note in table.notes:
            lines += [_markdown_text(note), ""]
    return "\n".join([*lines, _LEGEND, ""])


def _markdown_row(cells: Sequence[str], bold: bool = False) -> str:
    mark = "**" if bold else ""
    return f"| {' | '.join(f'{mark}{_markdown_text(cell)}{mark}' for cell in cells)} |"


def _markdown_text(text: str) -> str:
    """``text`` with the characters escaped that Markdown would take for markup."""
    return "".join(f"\\{character}" if character in "\\`*_|<>[]" else character for character in text)


def for_programs(tables: Sequence[RunTable]) -> str:
    """The tables as JSON: a list of runs, rates and intervals as fractions, ending with a newline."""
    return json.dumps([_run_data(table) for table in tables], indent=2, ensure_ascii=False) + "\n"


def _run_data(table: RunTable) -> dict[str, object]:
    identity = table.manifest.identity
    return {
        "run": table.run,
        "policy": identity.policy,
        "policy_options": identity.policy_options,
        "policy_revision": identity.policy_revision,
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


def _cells(tally: Tally) -> tuple[str, ...]:
    """A tally as the text of the columns."""
    counts = (str(tally.finished), str(tally.errors), str(tally.missing))
    if tally.rate is None:
        return ("-", "-", *counts)
    low, high = tally.interval
    return (f"{100 * tally.rate:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", *counts)


def _suite_label(suite: SuiteTable) -> str:
    mark = "" if suite.total.complete else " (incomplete)"
    return f"{suite.suite} {suite.protocol}{mark}"


def _facts(table: RunTable) -> dict[str, str]:
    """What must stand beside the numbers for them to mean something."""
    identity = table.manifest.identity
    revision = identity.policy_revision
    return {
        "policy": " ".join([identity.policy, *(f"{name}={value}" for name, value in sorted(identity.policy_options.items()))]),
        **({"revision": revision if len(revision) <= 24 else f"{revision[:21]}..."} if revision else {}),
        "protocol": ", ".join(dict.fromkeys(suite.protocol for suite in table.suites)),
        "renderer": identity.renderer,
        "seed": str(identity.seed),
    }


def _progress(table: RunTable) -> str:
    total = table.total
    return (
        f"incomplete: {total.finished} of {total.expected} episodes finished, {total.errors} errors, {total.missing} missing; "
        "give the run's command again to finish it"
    )
