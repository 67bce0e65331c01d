"""Replay: simulate recorded episodes again from their actions, prove the digests, and film them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from ..benchmarks.registry import load_suite
from ..envs.api import Episode, Frames, Needs, Protocol
from ..envs.errors import VlarigError
from ..envs.structure import structure
from ..results.ledger import Ledger
from ..results.manifest import Manifest
from ..results.records import EpisodeRecord
from .film import write_contact_sheet, write_film
from .placement import SimHost, local_hosts
from .workplace import Workplace

#: Image digest of an episode whose policy was shown nothing.
NO_IMAGES = hashlib.sha256().hexdigest()

#: Pictures of an episode on the contact sheet.
SHEET_COLUMNS = 6


@dataclass(frozen=True)
class Replay:
    """An episode that was simulated again.

    Attributes:
        record: What was recorded.
        instruction: The task in words.
        frames: A frame after the reset and after every row: view to ``uint8[steps + 1, h, w, 3]``.
        differences: Fields in which the second simulation differs from the record; empty when it is proven.
    """

    record: EpisodeRecord
    instruction: str
    frames: dict[str, np.ndarray]
    differences: tuple[str, ...]


def replay_run(run: Path, keys: Sequence[str], done: Callable[[Replay], None]) -> None:
    """Simulate episodes of a run again, one after the other, and hand each to ``done``.

    Raises:
        VlarigError: The run or an episode does not exist, or its runtime is not there.
    """
    manifest = Manifest.load(run)
    with Ledger.open_read_only(run) as ledger:
        records = [ledger.record(key) for key in keys]
    asyncio.run(_replay_records(run, manifest, records, done))


def film_run(run: Path, which: str, console: Console) -> None:
    """Film the run's episodes (``failures`` or ``all``) into ``videos/``, and draw one sheet of pictures, ``frames.png``.

    Films that exist already are kept.

    Raises:
        VlarigError: A replayed episode does not match its record, or the ``video`` extra is not installed.
    """
    with Ledger.open_read_only(run) as ledger:
        chosen = [record for record in ledger.records() if which == "all" or not record.success]
    wanted = [record.key for record in chosen if not film_path(run, record.key).exists()]
    sheet: dict[str, tuple[str, list[np.ndarray]]] = {}

    def film(replay: Replay) -> None:
        prove(replay)
        write_replay(run, replay)
        task = f"{replay.record.suite}/{replay.record.task}"
        if task not in sheet:
            sheet[task] = sheet_row(replay)

    if wanted:
        console.print(f"filming {len(wanted)} episodes by simulating them again", highlight=False)
        replay_run(run, wanted, film)
        write_contact_sheet(run / "frames.png", [sheet[task] for task in sorted(sheet)])
        console.print(f"films: {run / 'videos'}, pictures: {run / 'frames.png'}", highlight=False, soft_wrap=True)


def prove(replay: Replay) -> None:
    """Make sure that the second simulation equals the first.

    Raises:
        VlarigError: It does not.
    """
    if replay.differences:
        raise VlarigError(
            f"{replay.record.key} did not replay: {', '.join(replay.differences)} differ from the record; the simulator, its "
            "renderer or the code has changed since, or the env is not deterministic ('vlarig envs check' finds out)"
        )


def film_path(run: Path, key: str) -> Path:
    """Where an episode's film is kept."""
    return run / "videos" / f"{key.replace('/', '_')}.mp4"


def write_replay(run: Path, replay: Replay) -> Path:
    """Write the film of a replayed episode, at the robot's own speed."""
    path = film_path(run, replay.record.key)
    outcome = "success" if replay.record.success else "failure"
    speed = load_suite(replay.record.suite).embodiment.control_frequency
    write_film(path, replay.frames, speed, f"{replay.instruction} - {outcome}")
    return path


def sheet_row(replay: Replay) -> tuple[str, list[np.ndarray]]:
    """A labelled row of the contact sheet: pictures spread over the episode, views side by side."""
    record = replay.record
    views = [replay.frames[view] for view in replay.frames]
    moments = np.linspace(0, len(views[0]) - 1, SHEET_COLUMNS).round().astype(int)
    outcome = "success" if record.success else "failure"
    label = f"{record.task} {record.start}: {replay.instruction} ({outcome}, {record.steps} steps)"
    return label, [np.concatenate([frames[moment] for frames in views], axis=1) for moment in moments]


async def _replay_records(
    run: Path, manifest: Manifest, records: Sequence[EpisodeRecord], done: Callable[[Replay], None]
) -> None:
    for plan in manifest.identity.suites:
        own = [record for record in records if (record.suite, record.protocol) == (plan.name, plan.protocol_name)]
        if not own:
            continue
        suite = load_suite(plan.name)
        workplace = Workplace.of(suite)
        if workplace.runtime.lock_sha256 != manifest.identity.runtimes[suite.runtime]:
            raise VlarigError(
                f"{run} was made with another version of the runtime {suite.runtime!r}, so its episodes need not replay; "
                "install the version of vlarig that made it"
            )
        for bundle in workplace.assets:
            if bundle.identity != manifest.identity.assets.get(bundle.name):
                raise VlarigError(
                    f"{run} was made with other {bundle.name} assets ({manifest.identity.assets.get(bundle.name)}) than are here "
                    f"({bundle.identity}), so its pictures need not replay; point VLARIG_ASSETS at those that it was made with"
                )
        protocol = structure(Protocol, plan.protocol, "the manifest's protocol")
        async with local_hosts(workplace, 1, run / "logs" / "replay") as (host,):
            for record in own:
                episode = suite.episode(suite.task(record.task), record.start, record.repeat, protocol)
                done(await _replay(host, episode, record))


async def _replay(host: SimHost, episode: Episode, record: EpisodeRecord) -> Replay:
    needs = Needs(images=record.image_digest != NO_IMAGES, every_frame=True)
    snapshot = await host.start(0, episode, needs)
    shots: list[Frames] = [snapshot.frames]
    first = 0
    for rows in record.chunks:
        snapshot = (await host.step(0, record.actions[first : first + rows])).snapshot
        shots.append(snapshot.frames)
        first += rows
    again = {
        "outcome": snapshot.outcome,
        "metrics": snapshot.metrics,
        "steps": snapshot.step,
        "state_digest": snapshot.state_digest,
        "image_digest": snapshot.image_digest,
    }
    differences = tuple(name for name, value in again.items() if getattr(record, name) != value)
    frames = {view: np.concatenate([shot.views[view] for shot in shots]) for view in shots[0].views}
    return Replay(record, snapshot.instruction, frames, differences)
