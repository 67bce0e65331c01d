"""`vlarig page`: runs as a site of static files."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...envs.errors import VlarigError
from ...results.pages.comparing import Which
from ...results.pages.reading import DamagedRunError, RunReader
from ...results.pages.site import Site, SiteOptions
from ...results.pages.writing import check_folder, write_site
from ..command_line import parse
from ..screen import Screen
from .several import find_runs, read_each, report_refused

DESCRIPTION = """Build a site of runs: a leaderboard beside the published numbers, each run, its tasks, its episodes with their films
and actions, and a comparison of each run with the best one that played the same.

The site opens from the disk (open DIR/index.html) and can be put on any web server as it is. It shows the runs' present
contents; give the same command again to bring it up to date. Films are linked, or copied where the disk cannot link. A run that
cannot be read is listed with the reason, and the exit status is 1.

  vlarig page runs/* --out site
  vlarig page before after --out site --title "Before and after" --no-films
"""


@dataclass(frozen=True)
class PageConfig:
    """The command's options."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of runs or of trainings, whose evaluations are runs, or their names below runs/."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the site: new, empty, or an earlier site, which is replaced."""
    title: str = "Results"
    """Title of the site."""
    films: bool = True
    """Whether the site has the runs' films and pictures."""
    comparisons: Which = "best"
    """Pages that compare two runs which played the same: each run with the best one, all pairs, or none."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where a run could not be read, and is listed as such."""
    config = parse(PageConfig, arguments, "vlarig page", DESCRIPTION)
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
