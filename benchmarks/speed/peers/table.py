"""Tables in Markdown, of what was measured, and their place in a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells import Cell
from records import Figures, Records, figures

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def render(cells: Sequence[Cell], records: Records) -> str:
    """Every table of which anything was measured, with a heading each."""
    timed = [cell for cell in cells if not cell.killed]
    parts = []
    for policy, suite in dict.fromkeys((cell.policy, cell.suite) for cell in timed):
        chosen = [cell for cell in timed if (cell.policy, cell.suite) == (policy, suite)]
        if table := speed_table(chosen, records):
            parts.append(f"### Policy `{policy}`, `{suite}`\n\n{table}")
    if failures := failure_list(timed, records):
        parts.append(f"### What did not run\n\n{failures}")
    if table := kill_table([cell for cell in cells if cell.killed], records):
        parts.append(f"### A kill -9 in the middle\n\n{table}")
    return "\n\n".join(parts)


def speed_table(cells: Sequence[Cell], records: Records) -> str:
    """Steps a second, CPU and memory, of cells of one suite and policy; empty where nothing was measured."""
    measured = [(cell, numbers) for cell in cells if (numbers := figures(records.of(cell)))]
    if not measured:
        return ""
    baseline = next((numbers.rate for cell, numbers in measured if cell.peer == "upstream" and cell.envs == 1), None)
    rows = [
        [
            f"{cell.peer}, {cell.way}",
            str(cell.episodes),
            _spread(numbers),
            f"{numbers.rate / baseline:.2f}" if baseline else "",
            f"{numbers.cpu_ms:.1f}",
            f"{numbers.memory:,.0f}",
            _further(cell, numbers, measured),
        ]
        for cell, numbers in measured
    ]
    titles = ["", "episodes", "steps/s", "upstream's loop = 1", "CPU ms a step", "MB in all", "MB a further env"]
    return markdown(titles, rows)


def _spread(numbers: Figures) -> str:
    if numbers.turns == 1:
        return f"{numbers.rate:.1f}"
    return f"{numbers.rate:.1f} ({numbers.slowest:.1f} to {numbers.fastest:.1f})"


def _further(cell: Cell, numbers: Figures, measured: Sequence[tuple[Cell, Figures]]) -> str:
    """Memory of an env more, beside the same peer's one env with as many workers: upstream's and vla-eval's envs are processes."""
    alone = next((each for other, each in measured if other.peer == cell.peer and other.envs == 1), None)
    if alone is None or cell.envs == 1 or cell.way == "defaults":
        return ""
    return f"{(numbers.memory - alone.memory) / (cell.envs - 1):,.0f}"


def failure_list(cells: Sequence[Cell], records: Records) -> str:
    """Cells whose commands failed: how, in their own last words."""
    lines = []
    for cell in cells:
        for line in records.of(cell)[:1]:
            if any(line["measured"]["statuses"]):
                message = line["outcome"]["said"] or "nothing"
                lines.append(
                    f"- {cell.peer}, {cell.way} (`{cell.suite}`): exit status {_statuses(line['measured'])}; it said `{message}`"
                )
    return "\n".join(lines)


def kill_table(cells: Sequence[Cell], records: Records) -> str:
    """What a kill cost; empty where nothing was measured."""
    rows = []
    for cell in cells:
        for line in records.of(cell)[:1]:
            first, again = line["begun"]
            rows.append(
                [
                    f"{cell.peer}, {cell.way}",
                    cell.killed if cell.killed == "main" else "the simulator's process",
                    f"{line['after_kill']['episodes']} of {cell.episodes}",
                    _statuses(line["measured"]),
                    str(again),
                    str(first + again - cell.episodes),
                    f"{line['outcome']['episodes']} of {cell.episodes}",
                    line["outcome"]["said"] or line["after_kill"]["said"] or "nothing",
                    str(line["measured"]["left"]),
                ]
            )
    titles = [
        "",
        "killed",
        "result after the kill",
        "exit status",
        "begun by the same command again",
        "begun more than once",
        "result then",
        "it says of that",
        "processes left alive",
    ]
    return markdown(titles, rows) if rows else ""


def _statuses(measured: dict[str, Any]) -> str:
    return ", ".join(map(str, measured["statuses"]))


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *[[each.replace("|", "\\|") for each in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def place(page: Path, text: str) -> None:
    """Put the text between the page's two markers, in the place of what is there."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(
            f"{page} does not have {BEGIN} and {END}, once each and in this order; add them where the tables belong"
        )
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
