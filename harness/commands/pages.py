"""``vlarig page`` and ``vlarig view``: runs as a site, in files or on this machine alone."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...envs.errors import VlarigError
from ...results.pages.comparing import Which
from ...results.pages.following import Follower
from ...results.pages.reading import DamagedRunError, RunReader
from ...results.pages.serving import PageServer
from ...results.pages.site import Site, SiteOptions
from ...results.pages.writing import check_folder, write_site
from ...results.runs import DEFAULT_RUNS, Refused, evaluations_of, find_runs, read_each, run_dirs
from ..command_line import parse
from ..screen import Screen, report_refused

PAGE_HELP = """Build a site of runs: a leaderboard beside the published numbers, each run, its tasks, its episodes with their films
and actions, and a comparison of each run with the best one that played the same.

The site opens from the disk (open DIR/index.html) and can be put on any web server as it is. It shows the runs' present
contents; give the same command again to bring it up to date. Films are linked, or copied where the disk cannot link. A run that
cannot be read is listed with the reason, and the exit status is 1.

  vlarig page runs/* --out site
  vlarig page before after --out site --title "Before and after" --no-films
"""

VIEW_HELP = """Show runs in a browser while they are being written: the site of `vlarig page`, which updates by itself.

It is served to you alone, at 127.0.0.1: the address that is printed has a token in it, which other users of the machine do not have.
Without runs it shows all below runs/, also those that begin later. From another machine, forward the port with ssh
(ssh -L 8420:127.0.0.1:8420 HOST), and open the same address there.

  vlarig view
  vlarig view runs/expert --port 0
"""


@dataclass(frozen=True)
class PageConfig:
    """Options of ``vlarig page``."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of runs or of trainings, whose evaluations are runs, or their names below runs/."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the site: new, empty, or an earlier site, which is replaced."""
    title: str = "Results"
    """Title of the site."""
    films: bool = True
    """Whether the site has the runs' films and images."""
    comparisons: Which = "best"
    """Pages that compare two runs which played the same: each run with the best one, all pairs, or none."""


def page(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where a run could not be read, and is listed as such."""
    config = parse(PageConfig, arguments, "vlarig page", PAGE_HELP)
    if not config.runs:
        raise VlarigError("no run was named; give folders of runs, as in `vlarig page runs/* --out site`")
    if config.out is None:
        raise VlarigError("--out is missing; name the folder of the site, as in `vlarig page runs/* --out site`")
    check_folder(config.out)
    console = Screen(soft_wrap=True)
    options = SiteOptions(config.title, config.films, config.comparisons)
    with contextlib.ExitStack() as stack, console.status("reading the runs") as status:
        folders, unknown = find_runs(config.runs)
        readers, refused = read_each(folders, lambda folder: RunReader.open(folder, one_moment=True))
        refused += unknown
        for reader in readers:
            stack.callback(reader.close)
        while True:
            try:
                site = Site(readers, options, refused)
                written = write_site(site, config.out, lambda count: status.update(f"{count:,} files"))
                break
            except DamagedRunError as damage:  # some damage shows only where an episode's page is made
                readers.remove(damage.reader)
                refused.append((damage.reader.name, str(damage)))
                if not readers:
                    raise
    size = f"{written.size / 1e6:,.1f} MB"
    runs = f"{len(readers)} run{'' if len(readers) == 1 else 's'}"
    console.print(f"{runs}: {written.files:,} files, {size}; {written.changed:,} new or changed, {written.removed:,} removed")
    console.print(f"open {config.out / 'index.html'}")
    return report_refused(refused)


@dataclass(frozen=True)
class ViewConfig:
    """Options of ``vlarig view``."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of runs or of trainings, whose evaluations are runs, or their names below runs/. Default: all runs below runs/."""
    port: int = 8420
    """Port to serve on; 0 for any that is free."""
    title: str = "Results"
    """Title of the site."""


def view(arguments: list[str]) -> int:
    config = parse(ViewConfig, arguments, "vlarig view", VIEW_HELP)
    folders, refused = _folders(config.runs)
    report_refused(refused)
    console = Screen(soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="vlarig-view-") as out:
        follower = Follower(folders, SiteOptions(config.title, live=True), Path(out))
        with contextlib.closing(follower), PageServer(follower, config.port) as server:
            try:
                console.print(f"{server.url}  (for you alone; Ctrl-C ends it)")
                server.serve_forever()
            except KeyboardInterrupt:
                console.print("ended")
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
