"""The report of a campaign: ``report.json`` for programs, ``report.md`` for people."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos.blows import TARGETS
from vlarig.results.planning import surroundings

if TYPE_CHECKING:
    from chaos.campaign import Campaign, PlannedStorm
    from chaos.runner import Outcome


def write_report(out: Path, campaign: Campaign, storms: Sequence[PlannedStorm], outcomes: Mapping[str, Outcome]) -> None:
    """Write both files into ``out``, from the storms that are over."""
    suites = campaign.suites
    only = f" --blows {' '.join(campaign.blows)}" if campaign.blows else ""
    by_suite = {
        suite: [outcomes[storm.name] for storm in storms if storm.suite == suite and storm.name in outcomes] for suite in suites
    }
    facts = {
        "repeat": f"python tests/chaos --kills {campaign.kills} --suites {' '.join(suites)} --seed {campaign.seed}{only} --out FOLDER",
        "finished": len(outcomes) == len(storms),
        "git_revision": surroundings({}, {}).git_revision,
        "versions": {"python": platform.python_version(), "vlarig": version("vlarig"), "websockets": version("websockets")},
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "lanes": campaign.lanes,
        "suites": {suite: summary(storms) for suite, storms in by_suite.items()},
        "all": summary([outcome for storms in by_suite.values() for outcome in storms]),
    }
    (out / "report.json").write_text(json.dumps(facts, indent=1) + "\n")
    (out / "report.md").write_text(markdown(facts))


def summary(storms: Sequence[Outcome]) -> dict[str, Any]:
    """The sums over storms."""
    landed: Counter[str] = Counter()
    attempts: Counter[str] = Counter()
    for outcome in storms:
        landed.update(outcome.landed)
        attempts.update(outcome.attempts)
    return {
        "storms": len(storms),
        "kills": sum(count for name, count in landed.items() if name.startswith("kill ")),
        "blows": landed.total(),
        "drivers": sum(outcome.drivers for outcome in storms),
        "runs": sum(outcome.runs for outcome in storms),
        "episodes": sum(outcome.episodes for outcome in storms),
        "differences": [line for outcome in storms for line in outcome.differences],
        "problems": [line for outcome in storms for line in outcome.problems],
        "attempts": dict(sorted(attempts.items())),
        "storm_seconds": round(sum(outcome.seconds for outcome in storms)),
        "landed": {f"{kind} {target}": landed[f"{kind} {target}"] for kind, targets in TARGETS.items() for target in targets},
    }


def markdown(facts: Mapping[str, Any]) -> str:
    """The report as a page."""
    columns: dict[str, Any] = {**facts["suites"], "all": facts["all"]}
    counts = {
        "storms": "storms",
        "kills": "processes killed",
        "blows": "blows in all",
        "drivers": "drivers started",
        "runs": "runs finished and compared",
        "episodes": "episodes compared",
    }
    kinds = sorted({kind for column in columns.values() for kind in column["attempts"]})
    rows = [
        *([title, *(column[name] for column in columns.values())] for name, title in counts.items()),
        ["**differences**", *(len(column["differences"]) for column in columns.values())],
        ["**other problems**", *(len(column["problems"]) for column in columns.values())],
        *([f"attempts charged: {kind}", *(column["attempts"].get(kind, 0) for column in columns.values())] for kind in kinds),
        ["minutes, summed over the storms", *(round(column["storm_seconds"] / 60) for column in columns.values())],
    ]
    landed = [[name, *(column["landed"][name] for column in columns.values())] for name in facts["all"]["landed"]]
    wrong = [f"- {line}" for line in [*facts["all"]["differences"], *facts["all"]["problems"]]]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    state = "" if facts["finished"] else "\n**The campaign is not finished.**\n"
    return "\n".join(
        [
            "# Chaos: sweeps in storms",
            "",
            "Real sweeps were run while processes were killed, stopped, paused, made to hang and to grow, the disk filled, the clock",
            "set off and the ledger torn. After each storm every episode was compared with an",
            "undisturbed run's: keys, outcomes, metrics, steps, actions and digests. Problems are processes left alive, a ledger that",
            "is not sound, an attempt that no blow accounts for, a sweep that ends in more than one sentence.",
            state,
            f"Repeat with `{facts['repeat']}`.",
            f"This was git {facts['git_revision']}, {versions}, {facts['machine']}, {facts['lanes']} storms at a time.",
            "",
            *_table("", columns, rows),
            "",
            "Blows that hit, by what they hit:",
            "",
            *_table("blow", columns, landed),
            *(["", "What went wrong:", "", *wrong] if wrong else []),
            "",
        ]
    )


def _table(title: str, columns: Iterable[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a table."""
    lines = [[title, *columns], [":--", *("--:" for _ in columns)], *rows]
    return [f"| {' | '.join(map(str, cells))} |" for cells in lines]
