"""Films of a run: its episodes are simulated again, and their images are encoded as they come."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..benchmarks.registry import load_suite_of_run
from ..envs.errors import VlarigError
from ..results.ledger import Ledger, TaskKey
from ..results.manifest import Manifest
from ..results.records import EpisodeRecord
from ..results.run_files import films_of
from .film import FilmWriter, need_video_extra, read_film, write_contact_sheet
from .replay import WHY_DIFFERENT, Replay, replay_run
from .screen import progress

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
