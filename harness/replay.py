"""Replay: simulate recorded episodes again from their actions, prove the digests, and film them as their images come."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from ..benchmarks.registry import load_suite_of_run
from ..envs.api import Episode, Needs, Snapshot
from ..envs.background import run_to_end
from ..envs.errors import VlarigError
from ..results.ledger import Ledger, TaskKey
from ..results.manifest import Manifest, SuitePlan, package_changes
from ..results.records import EpisodeRecord, split_key
from ..results.run_files import films_of
from .children.simulator import WorkerSpec
from .durable_env import DurableEnv, GivenUpError
from .engine import EpisodeQueue
from .film import FilmWriter, need_video_extra, read_film, write_contact_sheet
from .preparation import with_found
from .screen import progress
from .sizing import Machine, choose_size
from .termination import sigterm_interrupts, until_sigterm
from .workers import Worker, local_workers

#: The message where an episode differs from its record.
WHY_DIFFERENT = (
    "an episode differs where the simulator, its renderer or the code has changed since it was recorded, or where its env is not "
    "deterministic ('vlarig envs check' finds out)"
)

#: Episodes under way in a worker: one is simulated while another's images are encoded.
ENVS_PER_WORKER = 2


@dataclass(frozen=True)
class Replay:
    """The result of simulating an episode again.

    Attributes:
        record: The episode's record.
        differences: Fields in which the second simulation differs from the record.
        fault: Why it could not be simulated or watched to its end; empty where it was.
    """

    record: EpisodeRecord
    differences: tuple[str, ...] = ()
    fault: str = ""

    @property
    def proven(self) -> bool:
        """Whether the second simulation equals the first."""
        return not self.differences and not self.fault

    @property
    def verdict(self) -> str:
        """``equal``, ``differs`` or ``failed``."""
        return "failed" if self.fault else "differs" if self.differences else "equal"

    def __str__(self) -> str:
        result = self.fault or ", ".join(self.differences) or f"{self.record.steps} steps, every state and image as recorded"
        return f"{self.verdict:<7} {self.record.key}: {result}"


#: Makes an episode's film, from its record and its instruction. A ``ValueError`` of the film fails the episode, a
#: :class:`~vlarig.envs.errors.VlarigError` ends the whole replay.
Watch = Callable[[EpisodeRecord, str], FilmWriter]


def replay_run(
    run: Path,
    keys: Sequence[str],
    done: Callable[[Replay], None],
    workers: int | None = None,
    watch: Watch | None = None,
) -> None:
    """Simulate episodes of a run again, several side by side; an episode that fails does not stop the others.

    Args:
        run: Folder of the run.
        keys: Keys of the episodes.
        done: Called with the result of each, in the order in which they end.
        workers: Simulator processes; one a core, as far as memory allows, when ``None``.
        watch: Makes an episode's film; without it no images are rendered beside those for the policy.

    Raises:
        KeyboardInterrupt: The user interrupted it, or SIGTERM did.
    """
    manifest = Manifest.load(run)
    with Ledger.open_read_only(run) as ledger:
        for key in sorted(set(keys) - ledger.finished_keys()):
            ledger.record(key)  # says what is known about it
        seen = {record.key for record in ledger.each_record() if record.saw_images}
        parts = [_part(run, manifest, plan, own, seen) for plan in manifest.identity.suites if (own := _keys_of(plan, keys))]
        with sigterm_interrupts():
            run_to_end(until_sigterm(_Replayer(run, ledger, done, watch).replay(parts, workers)))


@dataclass(frozen=True)
class _Part:
    """The episodes of one suite."""

    worker_spec: WorkerSpec
    episodes: list[Episode]


def _keys_of(plan: SuitePlan, keys: Sequence[str]) -> list[str]:
    """Those of the keys that are of the suite."""
    return [key for key in keys if split_key(key)[:2] == (plan.name, plan.protocol_name)]


def _part(run: Path, manifest: Manifest, plan: SuitePlan, keys: Sequence[str], seen: set[str]) -> _Part:
    """The episodes of one suite; ``seen`` are those whose policy was shown images, which only the run's renderer reproduces."""
    suite = load_suite_of_run(plan.name, manifest.record.suites)
    worker_spec = WorkerSpec.of(suite)
    _check_workplace(run, manifest, worker_spec)
    try:
        worker_spec = worker_spec.rendered_by(manifest.identity.renderer.split(), run.name)
    except VlarigError as error:
        if not seen.isdisjoint(keys):
            raise VlarigError(f"the images of {run} cannot be compared: {error}") from None
    suite = with_found(worker_spec)
    parts = [split_key(key) for key in keys]
    return _Part(
        worker_spec,
        [suite.episode_again(task, variant, state, repeat, plan.resolved) for _, _, task, variant, state, repeat in parts],
    )


def _check_workplace(run: Path, manifest: Manifest, worker_spec: WorkerSpec) -> None:
    """Make sure that the runtime and the assets are those that the run was made with."""
    name = worker_spec.suite.runtime
    if worker_spec.runtime.lock_sha256 != manifest.identity.runtimes[name]:
        changes = package_changes(manifest.record.runtime_packages.get(name, {}), worker_spec.runtime.packages)
        advice = (
            f"restore these packages in {worker_spec.runtime.python}, or adopt an interpreter that has them: vlarig runtime add "
            f"{name} --python PATH"
            if worker_spec.runtime.adopted
            else f"install vlarig {manifest.identity.vlarig_version}, with which it was made, and then: vlarig runtime install {name}"
        )
        raise VlarigError(
            f"{run} was made with other packages in the runtime {name!r} ({changes or 'which ones is not known'}), so its episodes "
            f"need not replay; {advice}"
        )
    for bundle in worker_spec.assets:
        if bundle.identity != manifest.identity.assets.get(bundle.name):
            raise VlarigError(
                f"{run} was made with other {bundle.name} assets ({manifest.identity.assets.get(bundle.name)}) than are here "
                f"({bundle.identity}), so its images need not replay; point VLARIG_ASSETS at those that it was made with"
            )


@dataclass(frozen=True)
class _Replayer:
    """Replays episodes of one run."""

    run: Path
    ledger: Ledger
    done: Callable[[Replay], None]
    watch: Watch | None

    async def replay(self, parts: Sequence[_Part], workers: int | None) -> None:
        for part in parts:
            size = choose_size(part.worker_spec.suite.footprint, part.episodes, Machine.here(), workers, ENVS_PER_WORKER)
            count = min(size.workers, len(part.episodes))
            queue = EpisodeQueue(part.episodes)
            try:
                async with (
                    local_workers(part.worker_spec, count, self.run / "logs" / "replay", size.memory_share) as started,
                    asyncio.TaskGroup() as group,
                ):
                    for worker in started:
                        for local in range(ENVS_PER_WORKER):
                            group.create_task(self._play(worker, local, queue))
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None

    async def _play(self, worker: Worker, local: int, queue: EpisodeQueue) -> None:
        while (episode := await queue.take(worker.number)) is not None:
            # Read only now: the actions of all episodes need not fit into memory.
            self.done(await self._replay(worker, local, episode, self.ledger.record(episode.key)))
            queue.done()

    async def _replay(self, worker: Worker, local: int, episode: Episode, record: EpisodeRecord) -> Replay:
        watched = self.watch is not None
        env = DurableEnv(worker, local, Needs(images=record.saw_images, every_frame=watched, film_views=watched))
        watcher: FilmWriter | None = None
        try:
            async for snapshot in _snapshots(env, episode, record):
                if self.watch is not None:
                    watcher = watcher or self.watch(record, snapshot.instruction)
                    await _film(watcher.add, snapshot.frames.views)
            assert env.snapshot is not None
            replay = Replay(record, _differences(record, env.snapshot))
            if watcher is not None and replay.proven:
                await _film(watcher.finish)
        except GivenUpError as error:
            return Replay(record, fault=str(error).removeprefix(f"{record.key} "))
        else:
            return replay
        finally:
            if watcher is not None:
                watcher.discard()


async def _snapshots(env: DurableEnv, episode: Episode, record: EpisodeRecord) -> AsyncIterator[Snapshot]:
    """Snapshots of the episode after the reset and after every recorded chunk, until it ends.

    Raises:
        GivenUpError: The simulator fails in it, or its env refuses it.
    """
    try:
        yield await env.begin(episode)
        first = 0
        for steps in record.chunks:
            result = await env.step(record.actions[first : first + steps])
            yield result.snapshot
            first += steps
            if result.over:
                return
    except VlarigError as error:
        if env.worker.absence is not None:
            raise
        raise GivenUpError(str(error)) from error


async def _film(write: Callable[..., None], *frames: dict[str, np.ndarray]) -> None:
    """Write to a film beside the event loop; invalid images fail the episode."""
    try:
        await asyncio.to_thread(write, *frames)
    except ValueError as error:
        raise GivenUpError(str(error)) from error


def _differences(record: EpisodeRecord, last: Snapshot) -> tuple[str, ...]:
    """Fields of the record that the last snapshot of a second simulation contradicts."""
    again = _measured(last, last.step)
    return tuple(name for name, value in _measured(record, record.steps).items() if value != again[name])


def _measured(shown: EpisodeRecord | Snapshot, steps: int) -> dict[str, Any]:
    """The fields that a record and a snapshot share, by name."""
    return {
        "outcome": shown.outcome,
        "metrics": {name: repr(float(value)) for name, value in shown.metrics.items()},  # NaN equals NaN
        "steps": steps,
        "primitives": shown.primitives,
        "state_digest": shown.state_digest,
        "image_digest": shown.image_digest,
    }


#: Images of an episode on the contact sheet.
SHEET_COLUMNS = 6

#: Most episodes without a film that are listed one by one.
MOST_LISTED = 20


def film_run(run: Path, which: str, console: Console, workers: int | None = None) -> list[Replay]:
    """Film the run's episodes into ``videos/``, and render one sheet of images, ``frames.png``.

    Films that exist already are kept, so a second call goes on where the first was interrupted. An episode that cannot be filmed, or
    that does not replay, gets no film and does not stop the others.

    Args:
        run: Folder of the run.
        which: ``failures`` or ``all``.
        console: Where progress is shown.
        workers: Simulator processes; one a core, as far as memory allows, when ``None``.

    Returns:
        The episodes that got no film.

    Raises:
        KeyboardInterrupt: The user interrupted it; the message says what is kept.
    """
    need_video_extra()
    chosen = episode_keys(run, which)
    filmed = films_of(run)
    wanted = [key for key in chosen if film_path(run, key).name not in filmed]
    failed: list[Replay] = []
    if wanted:
        before = f"; {len(chosen) - len(wanted)} are filmed already" if len(chosen) > len(wanted) else ""
        console.print(f"filming {_episodes(len(wanted))} by simulating them again{before}", highlight=False)
        played = itertools.count(1)
        with _kept_on_error(run), progress(console, "filming", len(wanted)) as show:

            def done(replay: Replay) -> None:
                if not replay.proven:
                    failed.append(replay)
                show(next(played), f"{len(failed)} failed" if failed else "")

            replay_run(run, wanted, done, workers, partial(film_of, run))
    else:
        console.print(f"nothing was filmed: {none_left(len(chosen), which)}", highlight=False)
    if films_of(run):
        if wanted or not (run / "frames.png").exists():
            render_sheet(run)
        console.print(Text(f"films: {run / 'videos'}, images: {run / 'frames.png'}"), soft_wrap=True)
    _report(failed, console)
    return failed


def none_left(filmed: int, which: str) -> str:
    """Why no episode of ``which`` (``all`` or ``failures``) is left: so many are filmed, or there is none."""
    if filmed:
        return f"{_episodes(filmed)} {'is' if filmed == 1 else 'are'} filmed already"
    return "no episode is finished" if which == "all" else "no finished episode failed"


def episode_keys(run: Path, which: str) -> list[str]:
    """Keys of the run's finished episodes, ``all`` of them or the ``failures``, sorted."""
    with Ledger.open_read_only(run) as ledger:
        return [record.key for record in ledger.records() if which == "all" or not record.success]


def film_path(run: Path, key: str) -> Path:
    return run / "videos" / f"{key.replace('/', '_')}.mp4"


def film_of(run: Path, record: EpisodeRecord, instruction: str) -> FilmWriter:
    """The film of an episode that is simulated again, at the robot's own speed."""
    speed = load_suite_of_run(record.suite, Manifest.load(run).record.suites).embodiment.control_frequency
    return FilmWriter(film_path(run, record.key), speed, f"{'success' if record.success else 'failure'}: {instruction}")


def render_sheet(run: Path) -> None:
    """Render ``frames.png``: for each task, in the suites' order, a row of images from the first of its films.

    Without a film nothing is rendered.
    """
    filmed = films_of(run)
    if not filmed:
        return
    with Ledger.open_read_only(run) as ledger:
        records = [record for record in ledger.records() if film_path(run, record.key).name in filmed]
    shown = {TaskKey(record.suite, record.protocol, record.task, record.variant): record for record in reversed(records)}
    tasks = [
        TaskKey(suite.name, suite.protocol_name, task.name, task.variant)
        for suite in Manifest.load(run).identity.suites
        for task in suite.tasks
    ]
    rows = []
    for record in (shown[task] for task in tasks if task in shown):
        caption, images = read_film(film_path(run, record.key), SHEET_COLUMNS)
        rows.append((f"{record.task} {record.initial_state}, {record.steps} steps, {caption}", images))
    if rows:
        write_contact_sheet(run / "frames.png", rows)


@contextlib.contextmanager
def _kept_on_error(run: Path) -> Iterator[None]:
    """Add to an error that ends filming early which films are kept."""
    try:
        yield
    except VlarigError as error:
        raise VlarigError(f"{error} ({len(films_of(run))} films are kept in {run / 'videos'})") from error
    except KeyboardInterrupt as interrupt:
        kept = f"{len(films_of(run))} films are kept in {run / 'videos'}"
        raise type(interrupt)(f"interrupted; {kept}, and the same command resumes there") from None


def _report(failed: Sequence[Replay], console: Console) -> None:
    if not failed:
        return
    console.print(f"{_episodes(len(failed))} got no film; the same command tries them again:", style="red", highlight=False)
    for replay in failed[:MOST_LISTED]:
        console.print(Text(f"  {replay}"), soft_wrap=True)
    if len(failed) > MOST_LISTED:
        console.print(f"  and {len(failed) - MOST_LISTED} more", highlight=False)
    if any(replay.differences for replay in failed):
        console.print(WHY_DIFFERENT, highlight=False, soft_wrap=True)


def _episodes(count: int) -> str:
    return f"{count} episode{'' if count == 1 else 's'}"
