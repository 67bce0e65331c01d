"""``vlarig doctor``: what this machine lacks, a line for each thing; or why a run is slow, and what to change."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...results.runs import find_run
from ..doctor import examine
from ..reporting.evidence import gather
from ..reporting.explanation import explain


def main(arguments: list[str]) -> int:
    """Print the findings; exit status 1 when something is broken, or is needed and missing on this machine."""
    parser = argparse.ArgumentParser(
        prog="vlarig doctor",
        description="Say in one line each what this machine has (ok), lacks (missing) or could have (optional), and which plug-ins "
        "cannot be used (broken); the exit status is 1 when something is broken, or is needed and missing. With RUN, say where the "
        "time of that run went, why, and what to change; it may be finished, running or killed.",
        epilog="examples: vlarig doctor && vlarig sweep tabletop --policy expert; vlarig doctor runs/NAME",
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="folder of a run, or its name below runs/")
    run: Path | None = parser.parse_args(arguments).run
    if run is None:
        return _machine()
    for line in explain(gather(find_run(run))):
        print(line)
    return 0


def _machine() -> int:
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.mark:<8}  {finding.subject:<{width}}  {finding.text}")
    return int(any(finding.mark in ("missing", "broken") for finding in findings))
