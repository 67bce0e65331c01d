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
from ...results.runs import DEFAULT_RUNS, find_run, run_dirs
from ..command_line import parse
from ..screen import Screen

DESCRIPTION = """Look at runs in a browser while they are being written: the site of `vlarig page`, which updates by itself.

It is served to this machine alone, at 127.0.0.1. Without runs it shows all below runs/, also those that begin later. From another
machine, forward the port with ssh: ssh -L 8420:127.0.0.1:8420 HOST.

  vlarig view
  vlarig view runs/expert --port 0
"""


@dataclass(frozen=True)
class ViewConfig:
    """What the command can be told."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of runs, or their names below runs/. Default: all runs below runs/."""
    port: int = 8420
    """Port to serve on; 0 for any that is free."""
    title: str = "Results"
    """Title of the site."""


def main(arguments: list[str]) -> int:
    """Run the command until it is interrupted, and return its exit status."""
    config = parse(ViewConfig, arguments, "vlarig view", DESCRIPTION)
    follower = Follower(_folders(config.runs), SiteOptions(config.title, live=True))
    console = Screen(soft_wrap=True)
    with PageServer(follower, config.port) as server:
        console.print(f"{server.url}  (this machine alone; Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
        finally:
            follower.close()
    return 0


def _folders(runs: tuple[Path, ...]) -> Callable[[], list[Path]]:
    """What gives the folders of the runs: those that were named, or all that there are at the moment.

    Raises:
        VlarigError: A run that was named does not exist, or there is no folder of runs.
    """
    if runs:
        named = list({find_run(run).resolve(): find_run(run) for run in runs}.values())
        return lambda: named
    if not DEFAULT_RUNS.is_dir():
        raise VlarigError(
            f"there is no folder {DEFAULT_RUNS}; sweep something first, or name folders of runs, as in `vlarig view PATH`"
        )
    return lambda: run_dirs(DEFAULT_RUNS)
