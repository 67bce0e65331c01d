"""`vlarig view`: the site of runs in a browser on this machine, following what is being written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...envs.errors import VlarigError
from ...results.pages.following import Follower
from ...results.pages.serving import PageServer
from ...results.pages.site import SiteOptions
from ...results.runs import DEFAULT_RUNS, evaluations_of, run_dirs
from ..command_line import parse
from ..screen import Screen
from .several import Refused, find_runs, report_refused

DESCRIPTION = """Show runs in a browser while they are being written: the site of `vlarig page`, which updates by itself.

It is served to you alone, at 127.0.0.1: the address that is printed has a token in it, which other users of the machine do not have.
Without runs it shows all below runs/, also those that begin later. From another machine, forward the port with ssh
(ssh -L 8420:127.0.0.1:8420 HOST), and open the same address there.

  vlarig view
  vlarig view runs/expert --port 0
"""


@dataclass(frozen=True)
class ViewConfig:
    """The command's options."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of runs or of trainings, whose evaluations are runs, or their names below runs/. Default: all runs below runs/."""
    port: int = 8420
    """Port to serve on; 0 for any that is free."""
    title: str = "Results"
    """Title of the site."""


def main(arguments: list[str]) -> int:
    """Run the command until it is interrupted, and return its exit status."""
    config = parse(ViewConfig, arguments, "vlarig view", DESCRIPTION)
    folders, refused = _folders(config.runs)
    follower = Follower(folders, SiteOptions(config.title, live=True))
    report_refused(refused)
    console = Screen(soft_wrap=True)
    with PageServer(follower, config.port) as server:
        try:
            console.print(f"{server.url}  (for you alone; Ctrl-C ends it)")
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
        finally:
            follower.close()
    return 0


def _folders(runs: tuple[Path, ...]) -> tuple[Callable[[], list[Path]], Refused]:
    """A function that returns the runs' folders, those named or all that exist now; and the names that are no runs."""
    if runs:
        named, refused = find_runs(runs)
        # A training's evaluations come while it is shown.
        return lambda: list(dict.fromkeys([*named, *(folder for run in runs for folder in evaluations_of(run))])), refused
    if not DEFAULT_RUNS.is_dir():
        raise VlarigError(
            f"there is no folder {DEFAULT_RUNS}; sweep something first, or name folders of runs, as in `vlarig view PATH`"
        )
    return lambda: run_dirs(DEFAULT_RUNS), []
