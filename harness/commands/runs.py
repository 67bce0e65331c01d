"""``vlarig runs``, ``vlarig page`` and ``vlarig view``: list recorded runs, merge, replay and export them, and show them as a site."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ...envs.errors import VlarigError
from ...results.forms.terminal import print_sheets
from ...results.ledger import Ledger
from ...results.manifest import Manifest
from ...results.merging import merge_runs
from ...results.pages.comparing import Which
from ...results.pages.following import Follower
from ...results.pages.reading import DamagedRunError, RunReader
from ...results.pages.serving import PageServer
from ...results.pages.site import Site, SiteOptions
from ...results.pages.writing import check_folder, write_site
from ...results.parquet import export_dataset, export_parquet
from ...results.rendering import LEGEND, run_sheet
from ...results.runs import (
    DEFAULT_RUNS,
    Refused,
    RunSummary,
    evaluations_of,
    find_run,
    find_runs,
    list_runs,
    read_each,
    run_dirs,
)
from ...results.schema import LEDGER_NAME
from ...results.tables import run_table
from ..command_line import parse
from ..film import need_video_extra
from ..replay import WHY_DIFFERENT, Replay, episode_keys, film_of, film_path, film_run, none_left, render_sheet, replay_run
from ..screen import Screen, report_refused

#: Colours of a run's states, and of a replay's verdicts.
_STATES = {"complete": "green", "resumable": "yellow", "being written": "cyan", "unreadable": "red"}
_VERDICTS = {"equal": "green", "differs": "red", "failed": "red"}

LIST_HELP = """List the runs in a folder, latest first: policy, suites, progress, errors and state.

A run is complete, resumable (give its command again), being written by a process now, or unreadable (the reason is
shown below the list). A shard is complete when its own share of the run's episodes is.

  vlarig runs list
  vlarig runs list experiments/october
"""


@dataclass(frozen=True)
class ListConfig:
    """Options of ``vlarig runs list``."""

    directory: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]] = DEFAULT_RUNS
    """Folder that holds the runs."""


def show_list(arguments: list[str]) -> int:
    config = parse(ListConfig, arguments, "vlarig runs list", LIST_HELP)
    console = Screen()
    runs = list_runs(config.directory)
    if runs:
        console.print_table(_table(runs), map(_block, runs))
    else:
        console.print(f"No runs in {config.directory}.")
    for run in runs:
        if run.note:
            verb = "is being written by " if run.state == "being written" else ""
            console.print(f"{run.name}: {verb}{run.note}", style=_STATES[run.state], soft_wrap=True)
    return 0


def _table(runs: Sequence[RunSummary]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("run", "policy", "suites", "finished", "errors", "state", "last change"):
        table.add_column(name, justify="right" if name in ("finished", "errors") else "left", no_wrap=True)
    for run in runs:
        errors = Text(str(run.errors), style="red" if run.errors else "")
        suites = ", ".join(run.suites)
        table.add_row(Text(run.name, "bold"), run.policy, suites, _progress(run), errors, _state(run), _changed(run))
    return table


def _block(run: RunSummary) -> tuple[Text, str]:
    """The same, for a narrow screen: its name and state, and the facts about it."""
    head = Text.assemble((run.name, "bold"), "  ", _state(run))
    facts = [f"{run.policy} in {', '.join(run.suites)}", f"{_progress(run)} finished"] if run.suites else []
    errors = [f"{run.errors} errors"] if run.errors else []
    return head, ", ".join([*facts, *errors, f"last change {_changed(run)}"])


def _progress(run: RunSummary) -> str:
    return "-" if run.state == "unreadable" else f"{run.finished}/{run.expected}"


def _state(run: RunSummary) -> Text:
    part = f"shard {run.shard} " if run.shard else ""
    return Text.assemble(part, (run.state, _STATES[run.state]))


def _changed(run: RunSummary) -> str:
    return run.changed.strftime("%Y-%m-%d %H:%M")


MERGE_HELP = """Merge runs of the same identity into one, and print its table: the shards of a sweep, or what two machines began.

Every episode counts once. An episode that several runs finished must have the same result in all of them; else nothing is merged, and
the message names the episode and the difference. DIR is a new run, or a run of the same identity, to which missing episodes are added.
The merged runs stay as they are. Films are copied too.

The sweep's command, without --shard and with --run DIR, finishes the episodes that the merged run still owes.

  vlarig runs merge runs/tabletop-expert-1f0c9e2b-shard-* --run runs/tabletop-expert
  vlarig runs merge here/expert there/expert --run runs/expert
"""


@dataclass(frozen=True)
class MergeConfig:
    """Options of ``vlarig runs merge``."""

    run: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the merged run."""
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of the runs to merge, or their names below runs/."""


def merge(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where one of several runs could not be read."""
    config = parse(MergeConfig, arguments, "vlarig runs merge", MERGE_HELP)
    if not config.runs:
        raise VlarigError("no run was named; give the folders of runs, as in `vlarig runs merge runs/a runs/b --run runs/ab`")
    console = Screen()
    folders, unknown = find_runs(config.runs)
    readable, refused = read_each(folders, _mergeable)
    merged = merge_runs(readable, config.run)
    for run, count in merged.found.items():
        console.print(f"{run}: {count} finished episodes", soft_wrap=True)
    console.print(f"{merged.run}: {merged.new} of them are new", soft_wrap=True)
    try:
        render_sheet(merged.run)
    except VlarigError as error:
        console.print(f"frames.png is not rendered: {error}", style="yellow", soft_wrap=True)
    table = run_table(merged.run)
    print_sheets(console, [run_sheet(table)], LEGEND)
    if not table.total.complete:
        owed = table.total.expected - table.total.finished
        message = f"{owed} episodes are owed: the sweep's command, without --shard and with --run {merged.run}, runs them"
        console.print(message, soft_wrap=True)
    return report_refused([*unknown, *refused])


def _mergeable(folder: Path) -> Path:
    """The folder of a run that can be read; a driver may have been killed before it made a ledger."""
    if (folder / LEDGER_NAME).exists():
        return _readable(folder)
    Manifest.load(folder)
    return folder


REPLAY_HELP = """Simulate recorded episodes again from their recorded actions, check every digest, and film them.

The policy is not needed: its actions are in the run. An episode that does not come out exactly as recorded is reported, and gets no
film. Films are in the run's folder videos/. With --failures or --all those that exist are kept, so that the same command resumes
an interrupted one; episodes that are named are filmed again.

  vlarig runs replay runs/expert tabletop/standard-n_action_steps1@1/stack/base/3/0
  vlarig runs replay runs/expert --failures
  vlarig runs replay runs/expert --all --no-video                # check every episode, film none
"""


@dataclass(frozen=True)
class ReplayConfig:
    """Options of ``vlarig runs replay``."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run, or its name below runs/."""
    keys: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY...")]] = ()
    """Keys of the episodes; the file names of films show them, with _ for /."""
    failures: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Every finished episode that did not succeed."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Every finished episode."""
    video: bool = True
    """Write films."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Simulator processes. Default: one a core, as far as memory allows."""


def replay(arguments: list[str]) -> int:
    """Parse and run; 1 when an episode differs from its record, or could not be simulated or filmed."""
    config = parse(ReplayConfig, arguments, "vlarig runs replay", REPLAY_HELP)
    _check(config)
    run = find_run(config.run)
    console = Screen(soft_wrap=True)
    which = "all" if config.all else "failures"
    if config.video and not config.keys:
        return 1 if film_run(run, which, console, config.workers) else 0
    if config.video:
        need_video_extra()
    failed: list[Replay] = []

    def done(replay: Replay) -> None:
        if not replay.proven:
            failed.append(replay)
        word, space, rest = str(replay).partition(" ")
        console.print(Text.assemble((word, _VERDICTS[replay.verdict]), space, rest))
        if config.video and replay.proven:
            console.print(Text(f"        {film_path(run, replay.record.key)}"))

    keys = list(dict.fromkeys(config.keys)) or episode_keys(run, which)
    if not keys:
        console.print(f"nothing was replayed: {none_left(0, which)}")
    replay_run(run, keys, done, config.workers, partial(film_of, run) if config.video else None)
    if any(replay.differences for replay in failed):
        console.print(WHY_DIFFERENT)
    return 1 if failed else 0


def _check(config: ReplayConfig) -> None:
    """Make sure that the episodes are named in one way."""
    ways = [name for name, given in (("keys", config.keys), ("--failures", config.failures), ("--all", config.all)) if given]
    if len(ways) != 1:
        got = f"got {' and '.join(ways)}" if ways else "no episode was named"
        raise VlarigError(f"{got}; give the keys of episodes, or --failures, or --all")
    if config.workers is not None and config.workers < 1:
        raise VlarigError(f"workers is {config.workers}; expected 1 or more")


EXPORT_HELP = r"""Write the episodes of one or more runs into a Parquet file, a row each; errors and missing episodes have rows too.

  vlarig runs export runs/expert --out expert.parquet
  vlarig runs export runs/* --out episodes.parquet --actions
  vlarig runs export runs/* --out episodes        # a folder as a dataset repository of the Hugging Face Hub has it

  python -c "import duckdb; print(duckdb.sql(\"select task, status, count(*) from 'expert.parquet' group by all\"))"
  python -c "import pandas; print(pandas.read_parquet('expert.parquet').groupby('task').success.mean())"

docs/data.md says what the columns are.
"""


@dataclass(frozen=True)
class ExportConfig:
    """Options of ``vlarig runs export``."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE|FOLDER")]
    """The file, NAME.parquet, or the folder of a dataset repository; what is there is replaced."""
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]] = ()
    """Folders of runs, or their names below runs/."""
    actions: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Add the executed actions, which are most of a ledger."""


def export(arguments: list[str]) -> int:
    """Run the command and return its exit status: 1 where one of several runs could not be read."""
    config = parse(ExportConfig, arguments, "vlarig runs export", EXPORT_HELP)
    if not config.runs:
        raise VlarigError("no run was named; give its folder, as in `vlarig runs export runs/expert --out expert.parquet`")
    folders, unknown = find_runs(config.runs)
    readable, refused = read_each(folders, lambda folder: _readable(folder, config.actions))
    export = export_parquet if config.out.suffix == ".parquet" else export_dataset
    count = export(readable, config.out, config.actions)
    Screen(soft_wrap=True).print(f"{config.out}: {count} episodes")
    return report_refused([*unknown, *refused])


def _readable(folder: Path, with_actions: bool = False) -> Path:
    """The folder of a run whose episodes can all be read, with their actions or without."""
    run_table(folder)
    with Ledger.open_read_only(folder) as ledger:
        for _ in ledger.each_record(with_actions):
            pass
    return folder


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
        readers, refused = read_each(folders, lambda folder: RunReader.open(folder, one_snapshot=True))
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
