"""``vlarig runs replay``: simulate recorded episodes again, prove their digests, and film them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.text import Text

from ...envs.errors import VlarigError
from ...results.runs import find_run
from ..command_line import parse
from ..film import need_video_extra
from ..replay import WHY_DIFFERENT, Replay, episode_keys, film_of, film_path, film_run, none_left, replay_run
from ..screen import Screen

_STYLES = {"equal": "green", "differs": "red", "failed": "red"}

DESCRIPTION = """Simulate recorded episodes again from their recorded actions, check every digest, and film them.

The policy is not needed: its actions are in the run. An episode that does not come out exactly as recorded is reported, and gets no
film. Films are in the run's folder videos/. With --failures or --all those that exist are kept, so that the same command resumes
an interrupted one; episodes that are named are filmed again.

  vlarig runs replay runs/expert tabletop/standard-n_action_steps1@1/stack/base/3/0
  vlarig runs replay runs/expert --failures
  vlarig runs replay runs/expert --all --no-video                # check every episode, film none
"""


@dataclass(frozen=True)
class ReplayConfig:
    """The command's options."""

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


def main(arguments: list[str]) -> int:
    """Parse and run; 1 when an episode differs from its record, or could not be simulated or filmed."""
    config = parse(ReplayConfig, arguments, "vlarig runs replay", DESCRIPTION)
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
        console.print(Text.assemble((word, _STYLES[replay.verdict]), space, rest))
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
