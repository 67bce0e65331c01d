"""Merging: one run out of several of the same identity, such as shards, or unfinished runs of other machines.

The merged run holds the union of their episodes, each once, and all their sessions and attempts. The merged ledger's table ``origins``
records where a session came from: the name of its run's folder, and its number there. It identifies a session that is merged again, so
merging twice changes nothing. An episode that several runs finished must have the same result in all of them; the merged run keeps the
record of the run that was started first.

A merge is atomic. A new run is made in a hidden folder beside its place, and renamed when it is complete; an existing run is extended
in one transaction. Rows are copied one by one, so a merge takes little memory, however large the runs are.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..envs.errors import VlarigError
from .ledger import Ledger
from .lock import LOCK_NAME, RunLock, lock_holder
from .manifest import MANIFEST_NAME, Manifest, identity_differences
from .planning import surroundings
from .records import TaskKey, differing_fields
from .rows import ATTEMPT, COUNT_FINISHED, INSERT_EPISODE, SELECT_ONE, episode_record, insertion
from .run_files import films_of, run_name, sync
from .schema import CREATE_ORIGINS, LEDGER_NAME, check_file, connect_writable, create_file, plain_errors

#: All sessions, each with where it came from: its own folder where it was not merged in.
_SELECT_SESSIONS = """
SELECT sessions.*, COALESCE(origins.run, :run) AS run, COALESCE(origins.number, sessions.id) AS number
FROM sessions LEFT JOIN origins ON origins.session = sessions.id ORDER BY sessions.id
"""
_SELECT_OWN_SESSIONS = "SELECT *, :run AS run, id AS number FROM sessions ORDER BY id"
_INSERT_SESSION = insertion("sessions", ("git_revision", "host", "workers", "num_envs", "packages", "started", "ended"))
_ATTEMPT = ", ".join(ATTEMPT)
_INSERT_NEW_ATTEMPT = f"""
INSERT INTO attempts ({_ATTEMPT})
SELECT :{_ATTEMPT.replace(", ", ", :")}
WHERE NOT EXISTS (
    SELECT 1 FROM attempts
    WHERE key = :key AND number = :number AND kind = :kind AND message = :message AND session IS :session AND written = :written
)
"""  # noqa: S608
#: The latest attempt at an episode says whether it was given up, and the latest is the one with the highest id.
_SORT_ATTEMPTS = (
    "CREATE TEMP TABLE by_time AS SELECT * FROM attempts ORDER BY written, gave_up, id",
    "DELETE FROM attempts",
    f"INSERT INTO attempts ({_ATTEMPT}) SELECT {_ATTEMPT} FROM by_time ORDER BY rowid",  # noqa: S608
    "DROP TABLE by_time",
)


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        run: Folder of the merged run.
        found: The runs that were merged into it, each with the number of its finished episodes.
        new: Finished episodes that were not in ``run`` before.
    """

    run: Path
    found: Mapping[Path, int]
    new: int


def merge_runs(runs: Sequence[Path], target: Path) -> Merged:
    """Merge runs into ``target``: into a new one, or into one of the same identity, to which missing episodes are added.

    Films are copied too. The runs and their logs are not changed; ``target`` among them is skipped.
    """
    distinct = {run.resolve(): run for run in reversed(runs)}
    sources = [run for place, run in distinct.items() if place != target.resolve()]
    if not sources:
        raise VlarigError(f"there is nothing to merge into {target}; name the folders of other runs")
    manifests = {run: Manifest.load(run) for run in sources}
    sources.sort(key=lambda run: (manifests[run].record.created, str(run)))
    films = [run / "videos" / film for run in sources for film in sorted(films_of(run, ".jpg"))]
    exists = (target / MANIFEST_NAME).exists()
    first = target if exists else sources[0]
    merged = Manifest.load(target) if exists else _merged_manifest([manifests[run] for run in sources], target)
    for run in sources:
        _check_identity(first, merged, run, manifests[run])
        if holder := lock_holder(run):
            raise VlarigError(f"the run {run} is being written by {holder}; wait until it ends, or stop it, then merge")
    if exists:
        if merged.record.shard:
            raise VlarigError(
                f"{target} is {merged.record.part}, which holds its own episodes alone; give another --run to merge into"
            )
        with RunLock(target):
            return _add(target, merged, sources, films, target)
    if target.exists():
        raise VlarigError(f"{target} exists and is no run; give a --run that is new, or the folder of a run to add to")
    with _draft_of(target) as draft:
        merged.save(draft)
        return _add(draft, merged, sources, films, target)


def take_over(run: Path, source: Path, keys: Collection[str]) -> int:
    """Copy finished episodes of the run in ``source`` into the one in ``run``, with their attempts and sessions; how many.

    All of ``keys`` are copied, or none. The caller holds the lock of ``run``, and has checked that both runs give these episodes the
    same results. The run in ``source`` is not changed, and may be being written.
    """
    path = run / LEDGER_NAME
    if not _has_ledger(source):
        return 0
    with contextlib.closing(connect_writable(path)) as ledger, plain_errors(path, "written"), _reading(source) as other:
        found = [row["key"] for row in other.rows("SELECT key FROM episodes ORDER BY key") if row["key"] in keys]
        if not found:
            return 0
        ledger.execute("BEGIN IMMEDIATE")  # closed before its commit, nothing has happened
        copied = sum(new for _, new in _copied(ledger, run, other, found))
        ledger.execute("COMMIT")
        return copied


def _merged_manifest(manifests: Sequence[Manifest], target: Path) -> Manifest:
    """The manifest of a new merged run: the first run's, for all episodes, with the notes of all runs."""
    config = manifests[0].record.config | {"shard": None, "run": str(target)}
    notes = {name: note for manifest in manifests for name, note in manifest.record.suite_notes.items()}
    return Manifest(
        identity=manifests[0].identity,
        record=surroundings(config, notes, None, manifests[0].record.runtime_packages, manifests[0].record.origins),
    )


def _check_identity(first: Path, wanted: Manifest, run: Path, manifest: Manifest) -> None:
    reasons = "; ".join(
        f"{name} is {one}, not {other}" for name, other, one in identity_differences(wanted.identity, manifest.identity)
    )
    if reasons:
        raise VlarigError(f"{run} has another identity than {first}: {reasons}; only runs of the same identity can be merged")


@contextlib.contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """An empty folder that becomes ``target`` at the end; leftovers of a killed merge are deleted."""
    place = target.resolve()  # which has a name, where "." has none
    draft = place.with_name(f".{place.name}.merging")
    with RunLock(draft):
        try:
            _clear(draft)
            yield draft
            sync(draft)
            draft.rename(place)
            sync(place.parent)
        except OSError as error:
            raise VlarigError(
                f"{target} cannot be written: {error}; check that it is new, and that there is space left"
            ) from error
        finally:
            if draft.exists():
                _clear(draft)
                (draft / LOCK_NAME).unlink(missing_ok=True)
                draft.rmdir()


def _clear(folder: Path) -> None:
    """Delete all but the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()


def _add(folder: Path, manifest: Manifest, runs: Sequence[Path], films: Sequence[Path], target: Path) -> Merged:
    """Add runs and their films to the run that lies in ``folder`` and is called ``target``."""
    path = folder / LEDGER_NAME
    if path.exists():
        check_file(path)
    else:
        create_file(path)
    found = dict.fromkeys(runs, 0)
    new = 0
    conflicts: list[str] = []
    with contextlib.closing(connect_writable(path)) as ledger, plain_errors(path, "written"):
        ledger.execute("BEGIN IMMEDIATE")  # closed before its commit, nothing has happened
        for run in filter(_has_ledger, runs):
            with _reading(run) as source:
                _check_plan(source, manifest)
                for row, is_new in _copied(ledger, target, source):
                    found[run] += 1
                    new += is_new
                    if not is_new and (differing := _differing(ledger, path, source, row)):
                        other = _holder(row["key"], [target, *runs])
                        conflicts.append(f"episode {row['key']} has different results in {other} and {run}: {differing}")
        if conflicts:
            others = f", and {len(conflicts) - 1} more conflict" if len(conflicts) > 1 else ""
            raise VlarigError(
                f"{conflicts[0]} differ{others}; an episode must give the same result every time, so find out which run is wrong "
                "('vlarig runs replay RUN KEY' simulates it again); nothing was merged"
            )
        for statement in _SORT_ATTEMPTS:
            ledger.execute(statement)
        ledger.execute("COMMIT")
    _take_films(films, folder)
    return Merged(target, found, new)


def _has_ledger(run: Path) -> bool:
    return (run / LEDGER_NAME).exists()  # a driver may have been killed before it made one


def _reading(run: Path) -> Ledger:
    return Ledger.open_read_only(run, one_snapshot=True)


def _check_plan(source: Ledger, manifest: Manifest) -> None:
    """Make sure that a ledger holds what its manifest plans."""
    planned = manifest.identity.planned
    for row in source.rows(COUNT_FINISHED):
        if row[4] > planned.get(TaskKey(*row[:4]), 0):
            raise VlarigError(
                f"{source.path.parent} mixes two runs: its ledger holds {row[4]} episodes of {'/'.join(row[:4])}, against its "
                "manifest; restore both from a copy"
            )


def _copied(
    ledger: sqlite3.Connection, target: Path, source: Ledger, keys: Sequence[str] | None = None
) -> Iterator[tuple[sqlite3.Row, bool]]:
    """Add the source's episodes of these keys, or all, with their attempts and sessions; each episode, and whether it is new."""
    where, values = (
        ("", {}) if keys is None else ("WHERE key IN (SELECT value FROM json_each(:keys))", {"keys": json.dumps(keys)})
    )
    ledger.execute(CREATE_ORIGINS)
    sessions = _add_sessions(ledger, target, source)
    for row in source.rows(f"SELECT * FROM episodes {where} ORDER BY key", values):  # noqa: S608
        yield row, bool(ledger.execute(INSERT_EPISODE, dict(row) | {"session": sessions.get(row["session"])}).rowcount)
    for row in source.rows(f"SELECT * FROM attempts {where} ORDER BY id", values):  # noqa: S608
        ledger.execute(_INSERT_NEW_ATTEMPT, dict(row) | {"session": sessions.get(row["session"])})


def _add_sessions(ledger: sqlite3.Connection, target: Path, source: Ledger) -> dict[int | None, int]:
    """Add the source's sessions that are missing; returns the source's ids to the ledger's."""
    named = {_origin(row): row["id"] for row in ledger.execute(_SELECT_SESSIONS, {"run": run_name(target)})}
    merged_before = any(source.rows("SELECT 1 FROM sqlite_master WHERE name = 'origins'"))
    ids: dict[int | None, int] = {}
    for row in source.rows(_SELECT_SESSIONS if merged_before else _SELECT_OWN_SESSIONS, {"run": run_name(source.path.parent)}):
        known = named.get(_origin(row))
        if known is None:
            known = ledger.execute(_INSERT_SESSION, dict(row)).lastrowid
            assert known is not None
            ledger.execute("INSERT INTO origins VALUES (?, ?, ?)", (known, row["run"], row["number"]))
        ids[row["id"]] = known
    return ids


def _origin(row: sqlite3.Row) -> tuple[str, int, str, str]:
    """What identifies a session, in every ledger."""
    return row["run"], row["number"], row["host"], row["started"]


def _differing(ledger: sqlite3.Connection, path: Path, source: Ledger, row: sqlite3.Row) -> str:
    """The fields in which the source's result differs from the ledger's; empty where they are equal."""
    standing = ledger.execute(SELECT_ONE, (row["key"],)).fetchone()
    one, other = episode_record(standing, path, with_actions=True), episode_record(row, source.path, with_actions=True)
    return ", ".join(differing_fields(one, other))


def _holder(key: str, runs: Sequence[Path]) -> Path:
    """The first of the runs that has finished the episode."""
    for run in filter(_has_ledger, runs):
        with _reading(run) as source:
            if any(source.rows("SELECT 1 FROM episodes WHERE key = ?", (key,))):
                return run
    raise AssertionError(f"no run has finished {key}")


def _take_films(films: Sequence[Path], folder: Path) -> None:
    """Add the films and posters that ``folder`` lacks, as hard links where the disk supports them."""
    videos = folder / "videos"
    for film in films:
        if (videos / film.name).exists():
            continue
        draft = videos / f".{film.name}.merging"
        try:
            videos.mkdir(exist_ok=True)
            draft.unlink(missing_ok=True)  # of a merge that was killed; a link to a film must not be written to
            try:
                os.link(film, draft)
            except OSError:
                shutil.copyfile(film, draft)
            draft.replace(videos / film.name)
        except OSError as error:
            raise VlarigError(
                f"the film {film} cannot be copied to {videos}: {error}; free some disk space, then merge again"
            ) from error
        finally:
            draft.unlink(missing_ok=True)
