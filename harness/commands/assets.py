"""``vlarig assets``: fetch, list and verify simulators' data files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.filesize import decimal
from tyro.conf import Positional, UseAppendAction

from ...envs.errors import VlarigError
from ..assets import bundle as assets
from ..command_line import parse
from ..screen import Screen, progress, report


@dataclass
class Fetch:
    """Download official files from upstream, each checked against upstream's own hash.

    A bundle that is here already takes no time; an interrupted one is made again. For example:

    vlarig assets fetch libero
    """

    names: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME...")]
    """Names of bundles; `vlarig assets list` shows them."""
    url: Annotated[UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="URL")] = ()
    """Where a copy of upstream's archive is (http, https or file), checked in the same way; once for each archive."""

    def run(self) -> None:
        if not self.names:
            raise VlarigError("no assets were named; name one or more, as in: vlarig assets fetch libero")
        if self.url and len(self.names) > 1:
            raise VlarigError(f"--url is for one bundle, but {len(self.names)} were named; fetch them one by one")
        for name in self.names:
            with progress(Screen(stderr=True), f"files of {name}", len(assets.load_bundle(name).files)) as show:
                assets.fetch_bundle(name, self.url, report, lambda files, received: show(files, decimal(received)))


@dataclass
class List:
    """Show the bundles that are known, where each is, and whether its files are official; an archive is not unpacked for that."""

    def run(self) -> None:
        screen = Screen(soft_wrap=True)
        for state in assets.list_bundles():
            screen.print(f"{state.name}: {state.title}")
            if state.bundle is not None:
                screen.print(f"  {state.bundle.folder}")
            if state.archive is not None:
                size = decimal(state.archive.stat().st_size)
                screen.print(f"  {state.archive}")
                screen.print(
                    f"  packed, {size}; unpacked and checked on the first use, or by: vlarig assets verify {state.name}"
                )
            else:
                screen.print(f"  {state.problem or (state.bundle and state.bundle.contents.summary)}")


@dataclass
class Verify:
    """Hash every file and say which are official, stand-ins, missing or corrupt.

    The exit status is 0 when everything is there and whole, 2 when a file is missing or corrupt. For example:

    vlarig assets verify libero
    """

    names: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME...]")] = ()
    """Names of bundles. Default: all that are here."""

    def run(self) -> None:
        states = [assets.inspect_bundle(name, report) for name in self.names or assets.bundle_names()]
        for state in states:
            show_contents(state)
        problems = [state.problem for state in states if state.problem and (self.names or state.bundle is not None)]
        if problems:
            raise VlarigError("; ".join(problems))


def show_contents(state: assets.AssetState) -> None:
    screen = Screen(soft_wrap=True)
    if state.bundle is None:
        screen.print(f"{state.name}: not here")
        return
    contents = state.bundle.contents
    screen.print(f"{state.name}: {state.bundle.folder}")
    screen.print(f"  {contents.official} of {contents.total} files are official")
    note = f", {contents.note}" if contents.note else ""
    for paths, what in (
        (contents.stand_ins, f"stand-ins{note}"), (contents.unverified, "of which upstream publishes no checksum"),
        (contents.missing, "missing"), (contents.corrupt, "corrupt"),
    ):  # fmt: skip
        if paths:
            screen.print(f"  {len(paths)} {what}:")
            for path in paths:
                screen.print(f"    {path}")


COMMANDS: dict[str, type[Fetch | List | Verify]] = {"fetch": Fetch, "list": List, "verify": Verify}

DESCRIPTION = """Simulators' data files (scenes, objects, initial states) come in bundles. For example:

  vlarig assets list
  vlarig assets fetch libero
  vlarig assets verify libero

They are searched in $VLARIG_ASSETS, then where `fetch` puts them.
"""


def main(arguments: list[str]) -> int:
    parse(COMMANDS, arguments, "vlarig assets", DESCRIPTION).run()
    return 0
