"""``vlarig doctor``: what this machine lacks, a line for each thing; or why a run is slow, and what to change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...results.runs import evaluations_of, find_run
from ..command_line import parse
from ..doctor import examine
from ..reporting.explanation import explain, gather
from ..screen import Screen

DESCRIPTION = """Say in one line each what this machine has (ok), lacks (missing), could have (optional), or what plug-in is broken.

The exit status is 1 when something is broken, or is needed and missing. With RUN, say where the time of that run went, why, and what to
change; it may be finished, running or killed.

  vlarig doctor
  vlarig doctor runs/NAME
"""


@dataclass(frozen=True)
class DoctorConfig:
    """The command's options."""

    run: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="[RUN]")]] = None
    """Folder of a run, or its name below runs/. Default: check this machine."""


def main(arguments: list[str]) -> int:
    """Print the findings; exit status 1 when something is broken, or is needed and missing on this machine."""
    config = parse(DoctorConfig, arguments, "vlarig doctor", DESCRIPTION)
    screen = Screen(soft_wrap=True)
    if config.run is None:
        return _machine(screen)
    for line in explain(gather((evaluations_of(config.run) or [find_run(config.run)])[-1])):
        screen.print(line)
    return 0


def _machine(screen: Screen) -> int:
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        screen.print(f"{finding.mark:<8}  {finding.subject:<{width}}  {finding.text}")
    return int(any(finding.mark in ("missing", "broken") for finding in findings))
