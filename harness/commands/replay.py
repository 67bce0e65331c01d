"""``vlarig replay``: simulate recorded episodes again, prove their digests, and film them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from ...results.runs import find_run
from ..replay import Replay, replay_run, write_replay


@dataclass(frozen=True)
class ReplayConfig:
    """Simulate recorded episodes again from their recorded actions, check every digest, and film them.

    The policy is not needed: its actions are in the run. An episode that does not come out exactly as recorded is reported.

    For instance:

      vlarig replay runs/expert tabletop/standard-execute1@1/stack/base/3/0
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run, or its name below runs/."""
    keys: tyro.conf.Positional[tuple[str, ...]]
    """Keys of the episodes; 'vlarig table RUN --format json' and the file names of films show them."""
    video: bool = True
    """Write a film of each into the run's folder videos/."""


def main(arguments: list[str]) -> int:
    """Parse and run; 1 when an episode differs from its record."""
    config = tyro.cli(ReplayConfig, prog="vlarig replay", args=arguments)
    run = find_run(config.run)
    console = Console(highlight=False, soft_wrap=True)
    differing: list[str] = []

    def done(replay: Replay) -> None:
        key = replay.record.key
        if replay.differences:
            differing.append(key)
            console.print(f"[red]differs[/] {key}: {', '.join(replay.differences)}")
        else:
            console.print(f"[green]equal[/]   {key}: {replay.record.steps} steps, every state and image as recorded")
        if config.video:
            console.print(f"        {write_replay(run, replay)}")

    replay_run(run, config.keys, done)
    return 1 if differing else 0
